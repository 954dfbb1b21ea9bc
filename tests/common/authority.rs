//! Certificates of a CA that one test makes up, and clients that believe it.

use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::{Client, Wire};

/// A CA, and what it has signed, in a directory that goes with it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

/// The files of a certificate.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names are fine");
        // One of the same name would be taken for a forgery, and not for a stranger.
        let name = format!("a test's own CA, {}", fastrand::u64(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let directory = tempfile::tempdir().expect("a directory for certificates");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("a writable directory");
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// The file of its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Signs a certificate for these names, which may be addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.and_then(|params| params.signed_by(&key, &self.issuer)).expect("names");
        let file = |kind: &str| self.directory.path().join(format!("{}-{kind}.pem", names[0]));
        let identity = Identity { cert: file("cert"), key: file("key") };
        fs::write(&identity.cert, certificate.pem()).expect("a writable directory");
        fs::write(&identity.key, key.serialize_pem()).expect("a writable directory");
        identity
    }

    /// For clients that believe nobody else.
    pub(crate) fn trust(&self, own: Option<&Identity>) -> Arc<ClientConfig> {
        self.trust_by(own, rustls::DEFAULT_VERSIONS)
    }

    /// The same, by some versions of TLS only.
    pub(crate) fn trust_by(
        &self,
        own: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ca())).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions that there are")
            .with_root_certificates(roots);
        let config = match own {
            Some(Identity { cert, key }) => {
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(vec![certificate(cert)], key).expect("they fit")
            }
            None => builder.with_no_client_auth(),
        };
        Arc::new(config)
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// A connection over TLS on which both sides have greeted. In TLS 1.3 a server may still turn down what it was shown: that
/// comes with the first answer.
pub(crate) fn tls(address: SocketAddr, trust: &Arc<ClientConfig>) -> io::Result<Client> {
    greet(TcpStream::connect(address)?, trust)
}

/// The same on a connection that stands.
pub(crate) fn greet(mut socket: TcpStream, trust: &Arc<ClientConfig>) -> io::Result<Client> {
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::clone(trust), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Client::over(StreamOwned::new(session, socket))
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> socket2::SockRef<'_> {
        (&self.sock).into()
    }

    fn finish_sending(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.shutdown(Shutdown::Write)
    }
}
