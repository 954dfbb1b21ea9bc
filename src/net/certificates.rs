//! Certificates and keys, from PEM files to what TLS is configured with, and again when they have changed.
//!
//! TLS 1.2 and 1.3, with ring's algorithms. Whoever is asked for a certificate has to show one that the given CA has
//! signed; there is no way to look away.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::WebPkiClientVerifier,
};
use thiserror::Error;

/// Bytes of a PEM file at most: the operator may have named the wrong one. All public CAs together are 0.2 MiB.
const PEM_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why files are no certificates. The path is not repeated: the key of the configuration says whose it is.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct BadFile {
    /// Which of them it is.
    pub role: Role,
    /// What is wrong.
    pub reason: String,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The certificate that is shown, and those that lead to its CA.
    Certificate,
    /// Its private key.
    Key,
    /// The certificates of the CAs that the other side's must come from.
    Authority,
}

/// What new connections are made with. Those that stand keep what they began with.
#[derive(Debug)]
pub struct Current<T>(Mutex<Arc<T>>);

impl<T> Current<T> {
    /// Begins with this.
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// What there is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.lock())
    }

    /// Takes another from now on.
    pub fn set(&self, value: Arc<T>) {
        *self.0.lock() = value;
    }
}

/// For clients that connect. With a CA, a client without a certificate of it is refused.
pub fn for_clients(
    (certificate, key): (&Path, &Path),
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, BadFile> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = match client_ca {
        Some(ca) => {
            let roots = Arc::new(authorities(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| bad(Role::Authority, &error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = certificates(certificate, Role::Certificate)?;
    let config = builder.with_single_cert(chain, private_key(key)?);
    config.map(Arc::new).map_err(|error| unusable(&error))
}

/// For the upstream, whose certificate must come from the given CA, or else from one that the system trusts.
pub fn for_upstream(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, BadFile> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = builder.with_root_certificates(ca.map_or_else(system_authorities, authorities)?);
    match own {
        Some((certificate, key)) => {
            let chain = certificates(certificate, Role::Certificate)?;
            let config = builder.with_client_auth_cert(chain, private_key(key)?);
            config.map(Arc::new).map_err(|error| unusable(&error))
        }
        None => Ok(Arc::new(builder.with_no_client_auth())),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn authorities(path: &Path) -> Result<RootCertStore, BadFile> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, Role::Authority)? {
        roots.add(certificate).map_err(|error| bad(Role::Authority, &error))?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, BadFile> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old ones that no longer parse are among those of some systems.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let reason =
            format!("the system has no certificates of public CAs{why}; name a file with the server's CA");
        return Err(BadFile { role: Role::Authority, reason });
    }
    Ok(roots)
}

fn certificates(path: &Path, role: Role) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let text = contents(path).map_err(|error| unreadable(role, &error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| bad(role, &error))?;
    if chain.is_empty() {
        return Err(BadFile { role, reason: "the file holds no certificate in PEM form".into() });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BadFile> {
    let text = contents(path).map_err(|error| unreadable(Role::Key, &error))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            let reason = "the file holds no private key in PEM form (one with a passphrase is not taken)";
            BadFile { role: Role::Key, reason: reason.into() }
        }
        error => bad(Role::Key, &error),
    })
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {PEM_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn bad(role: Role, error: &dyn std::error::Error) -> BadFile {
    BadFile { role, reason: format!("the file is of no use: {error}") }
}

fn unreadable(role: Role, error: &io::Error) -> BadFile {
    BadFile { role, reason: format!("the file cannot be read: {error}") }
}

/// A certificate and a key that are each well-formed.
fn unusable(error: &rustls::Error) -> BadFile {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            BadFile { role: Role::Key, reason: "it is not the key of the certificate".into() }
        }
        error => bad(Role::Certificate, error),
    }
}
