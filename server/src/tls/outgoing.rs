//! TLS between servers: what this one shows of itself to others, and whom it believes.

use super::{add_authorities, authorities, certificates, path, versions};
use crate::config::{Id, Settings, ids};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The configuration of connections to other servers.
///
/// # Errors
/// Says which file or setting is wrong.
pub(super) fn configure(settings: &Settings) -> Result<ClientConfig, String> {
    let trusts = [ids::TLS_CA_CERT_FILE, ids::TLS_CA_CERT_DIR];
    let wants = match settings.flag(ids::TLS_REPLICATION) {
        true => "tls-replication",
        false => "tls-cluster",
    };
    if trusts.iter().all(|id| path(settings, *id).is_none()) {
        return Err(format!("{wants} needs tls-ca-cert-file or tls-ca-cert-dir"));
    }
    let file = |client: Id, own: Id| {
        let file = path(settings, client).or_else(|| path(settings, own));
        file.ok_or_else(|| format!("{wants} needs {}", own.setting().name))
    };
    let cert = file(ids::TLS_CLIENT_CERT_FILE, ids::TLS_CERT_FILE)?;
    let key = file(ids::TLS_CLIENT_KEY_FILE, ids::TLS_KEY_FILE)?;
    let versions = versions(&settings.string(ids::TLS_PROTOCOLS))?;
    dialling(authorities(settings)?, Some((&cert, &key)), &versions)
}

/// Connections to servers that one of `roots` has signed, to which this one shows its certificate, if
/// it has one.
fn dialling(
    roots: RootCertStore,
    own: Option<(&Path, &Path)>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, String> {
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Signed { roots, algorithms }));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("no private key in {}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("certificate and key do not fit: {error}"))?
        }
    };
    // A link lasts; each new one is to show that both certificates are still good.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What the command line says about TLS: `--tls`, `--cacert`, `--cert` and `--key`, as of redis-cli.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    wanted: bool,
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Arguments {
    /// Takes an option in, with the value behind it if it has one; `false` if it is none of these.
    ///
    /// # Errors
    /// If the value is missing.
    pub fn take(
        &mut self,
        word: &str,
        value: impl FnOnce() -> Result<String, String>,
    ) -> Result<bool, String> {
        let place = match word {
            "--tls" => {
                self.wanted = true;
                return Ok(true);
            }
            "--cacert" => &mut self.authorities,
            "--cert" => &mut self.certificate,
            "--key" => &mut self.key,
            _ => return Ok(false),
        };
        *place = Some(value()?.into());
        Ok(true)
    }

    /// The configuration of the connections; `None` where they are plain.
    ///
    /// # Errors
    /// Says what is missing or which file is wrong.
    pub fn config(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        if !self.wanted {
            return Ok(None);
        }
        let file = self.authorities.as_deref().ok_or("--tls needs --cacert")?;
        let mut roots = RootCertStore::empty();
        add_authorities(&mut roots, file)?;
        let own = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
            (None, None) => None,
            _ => return Err("--cert and --key go together".into()),
        };
        dialling(roots, own, rustls::ALL_VERSIONS).map(|config| Some(Arc::new(config)))
    }
}

/// What nodes of a cluster accept each other with: whatever clients may do, a node shows a certificate.
///
/// # Errors
/// Says which file or setting is wrong.
pub(super) fn accept(settings: &Settings) -> Result<ServerConfig, String> {
    let mut config = super::accepting(settings, "tls-cluster", b"yes")?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Makes a connection encrypted; its timeouts are those of the handshake. What is returned has what
/// the peer says and takes what it is told, in plain: a thread goes between (`relay`).
///
/// # Errors
/// If the peer has no certificate that is good, or speaks no TLS.
pub fn encrypt(mut tcp: TcpStream, config: Arc<ClientConfig>) -> io::Result<UnixStream> {
    let peer = tcp.peer_addr()?;
    let name = ServerName::from(peer.ip());
    let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        let done = tls.complete_io(&mut tcp);
        done.map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))?;
    }
    super::relay::start(tcp, tls.into(), peer.to_string())
}

/// Believes servers whose certificate is signed by an authority of this one, whatever name is in
/// it: addresses of nodes change, and Redis asks its peers for no more.
#[derive(Debug)]
struct Signed {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Signed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
