//! Certificates for tests: an authority, and what it signs, in files.

use crate::process::{Server, free_port, temporary_dir};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::CertificateDer;
use std::path::PathBuf;

/// An authority, and what it signs, in files of a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Authority {
    /// A new one, whose certificate is in `ca.pem`.
    ///
    /// # Panics
    /// If that fails.
    pub fn new() -> Authority {
        let dir = temporary_dir().expect("a directory");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("ca.pem"), root.pem()).expect("a file");
        let der = root.der().clone();
        Authority { dir, issuer: Issuer::new(params, key), root: der }
    }

    /// Its own certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// A certificate for servers and clients, as PEM, with its key, and as DER.
    ///
    /// # Panics
    /// If that fails.
    pub fn sign(&self, name: &str) -> (String, KeyPair, CertificateDer<'static>) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key, certificate.der().clone())
    }

    /// Writes a new certificate of the server, `cert.pem` with `key.pem`.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(&self, name: &str) -> CertificateDer<'static> {
        let (pem, key, der) = self.sign(name);
        std::fs::write(self.dir.join("key.pem"), key.serialize_pem()).expect("a file");
        std::fs::write(self.dir.join("cert.pem"), pem).expect("a file");
        der
    }

    /// Writes a certificate of a client and its key: their paths.
    ///
    /// # Panics
    /// If that fails.
    pub fn write_client(&self) -> (String, String) {
        let (pem, key, _) = self.sign("a client");
        std::fs::write(self.dir.join("client-key.pem"), key.serialize_pem()).expect("a file");
        std::fs::write(self.dir.join("client.pem"), pem).expect("a file");
        (self.path("client.pem"), self.path("client-key.pem"))
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The settings that name the server's certificate and this authority.
    pub fn settings(&self) -> Vec<String> {
        let files = [
            ("--tls-cert-file", "cert.pem"),
            ("--tls-key-file", "key.pem"),
            ("--tls-ca-cert-file", "ca.pem"),
        ];
        files.into_iter().flat_map(|(name, file)| [name.to_owned(), self.path(file)]).collect()
    }

    /// The daemon, which besides its plain port listens to TLS on the port that is returned.
    ///
    /// # Panics
    /// If it does not start.
    pub fn daemon(&self, settings: &[&str]) -> (Server, u16) {
        let port = free_port().expect("a port");
        let (number, files) = (port.to_string(), self.settings());
        let mut all = vec!["--tls-port", &number];
        all.extend(files.iter().map(String::as_str));
        all.extend(settings);
        (Server::ashlar(&all), port)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
