//! `server.tls` and `upstream.tls`: names of PEM files, and what TLS is configured with once they are read.
//!
//! They are read when the configuration is checked, so that a file of no use stops the start like any other wrong value;
//! when it is put to use; and whenever the operator says that they have changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

use crate::net::certificates::{self, BadFile, Role};

/// `server.tls`. Certificate and key go together, and the CA with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerTls {
    /// The chain that clients are shown; none: no TLS.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Who must have signed a client's certificate; none: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// `upstream.tls`. Certificate and key go together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// Who must have signed the server's certificate; none: one of the system's CAs.
    pub ca: Option<PathBuf>,
    /// The chain that the server is shown; none: no certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Who the server must prove to be, in place of the URL's host.
    pub server_name: Option<String>,
}

/// Why TLS cannot be configured as it is written.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct TlsProblem {
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl ServerTls {
    /// Reads the files; `None` is no TLS.
    pub fn read(&self) -> Result<Option<Arc<ServerConfig>>, TlsProblem> {
        let own = pair(self.cert.as_deref(), self.key.as_deref(), ["server.tls.cert", "server.tls.key"])?;
        match (own, &self.client_ca) {
            (Some(own), client_ca) => {
                certificates::for_clients(own, client_ca.as_deref()).map(Some).map_err(|error| {
                    problem(error, ["server.tls.cert", "server.tls.key", "server.tls.client_ca"])
                })
            }
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let reason = "clients are not asked for certificates without TLS; set server.tls.cert".into();
                Err(TlsProblem { key: "server.tls.client_ca", reason })
            }
        }
    }
}

impl UpstreamTls {
    /// Reads the files.
    pub fn read(&self) -> Result<Arc<ClientConfig>, TlsProblem> {
        let own = pair(self.cert.as_deref(), self.key.as_deref(), ["upstream.tls.cert", "upstream.tls.key"])?;
        certificates::for_upstream(self.ca.as_deref(), own)
            .map_err(|error| problem(error, ["upstream.tls.cert", "upstream.tls.key", "upstream.tls.ca"]))
    }

    /// Who the server at `host` must prove to be.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, TlsProblem> {
        let (name, key) = match &self.server_name {
            Some(name) => (name.as_str(), "upstream.tls.server_name"),
            None => (host, "upstream.url"),
        };
        ServerName::try_from(name.to_owned()).map_err(|_| {
            let reason = "expected a host name or an IP address, as it stands in the server's certificate";
            TlsProblem { key, reason: reason.into() }
        })
    }

    /// A key that is set.
    pub(super) fn any(&self) -> Option<&'static str> {
        [
            ("upstream.tls.ca", self.ca.is_some()),
            ("upstream.tls.cert", self.cert.is_some()),
            ("upstream.tls.key", self.key.is_some()),
            ("upstream.tls.server_name", self.server_name.is_some()),
        ]
        .iter()
        .find_map(|(key, is_set)| is_set.then_some(*key))
    }
}

/// A certificate and its key, or neither.
fn pair<'a>(
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
    names: [&'static str; 2],
) -> Result<Option<(&'a Path, &'a Path)>, TlsProblem> {
    let [cert_name, key_name] = names;
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(TlsProblem { key: cert_name, reason: format!("it needs its {key_name}") }),
        (None, Some(_)) => Err(TlsProblem { key: key_name, reason: format!("it needs its {cert_name}") }),
    }
}

fn problem(BadFile { role, reason }: BadFile, [cert, key, ca]: [&'static str; 3]) -> TlsProblem {
    let key = match role {
        Role::Certificate => cert,
        Role::Key => key,
        Role::Authority => ca,
    };
    TlsProblem { key, reason }
}
