//! TLS to other servers: what this one shows of itself there, and whom it believes.

use super::{authorities, certificates, path, versions};
use crate::config::{Id, Settings, ids};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The configuration of connections to other servers.
///
/// # Errors
/// Says which file or setting is wrong.
pub(super) fn configure(settings: &Settings) -> Result<ClientConfig, String> {
    let trusts = [ids::TLS_CA_CERT_FILE, ids::TLS_CA_CERT_DIR];
    if trusts.iter().all(|id| path(settings, *id).is_none()) {
        return Err("tls-replication needs tls-ca-cert-file or tls-ca-cert-dir".into());
    }
    let file = |client: Id, own: Id| {
        let file = path(settings, client).or_else(|| path(settings, own));
        file.ok_or_else(|| format!("tls-replication needs {}", own.setting().name))
    };
    let cert = file(ids::TLS_CLIENT_CERT_FILE, ids::TLS_CERT_FILE)?;
    let key = file(ids::TLS_CLIENT_KEY_FILE, ids::TLS_KEY_FILE)?;
    let chain = certificates(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key)
        .map_err(|error| format!("no private key in {}: {error}", key.display()))?;
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Signed { roots: authorities(settings)?, algorithms };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions(&settings.string(ids::TLS_PROTOCOLS))?)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("certificate and key do not fit: {error}"))?;
    // A link lasts; each new one is to show that both certificates are still good.
    config.resumption = Resumption::disabled();
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
