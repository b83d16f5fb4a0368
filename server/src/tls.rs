//! TLS: certificates from files. Connections are `ashlar_replication::tls`.
//!
//! The files are read again when they change, or when a setting about them does; connections that
//! there are go on with what they began with.

mod outgoing;
mod relay;

use crate::config::{Id, Settings, ids};
use ashlar_replication::tls::Secure;
use parking_lot::{Mutex, RwLock};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use ashlar_replication::tls::TlsStream;
pub use outgoing::{Arguments, encrypt};

/// Longest handshake: who is slower than that is cut off.
pub const HANDSHAKE_MS_MAX: i64 = 10_000;

/// The settings that a configuration of TLS is made of.
pub const SETTINGS: &[Id] = &[
    ids::TLS_CERT_FILE,
    ids::TLS_KEY_FILE,
    ids::TLS_CA_CERT_FILE,
    ids::TLS_CA_CERT_DIR,
    ids::TLS_AUTH_CLIENTS,
    ids::TLS_PROTOCOLS,
    ids::TLS_SESSION_CACHING,
    ids::TLS_SESSION_CACHE_SIZE,
    ids::TLS_REPLICATION,
    ids::TLS_CLUSTER,
    ids::TLS_CLIENT_CERT_FILE,
    ids::TLS_CLIENT_KEY_FILE,
];

/// What new connections are accepted and made with.
#[derive(Debug, Default)]
pub struct Tls {
    config: RwLock<Option<Arc<ServerConfig>>>,
    client: RwLock<Option<Arc<ClientConfig>>>,
    cluster: RwLock<Option<Secure>>,
    /// The files that it was made of, with their times and lengths.
    seen: Mutex<Vec<Seen>>,
}

type Seen = (PathBuf, Option<(SystemTime, u64)>);

impl Tls {
    /// The configuration for a new connection; `None` where TLS is off.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.read().clone()
    }

    /// The configuration for a connection to another server; `None` where none is encrypted.
    pub fn client_config(&self) -> Option<Arc<ClientConfig>> {
        self.client.read().clone()
    }

    /// What the links of a cluster are made with; `None` where they are plain.
    pub fn cluster(&self) -> Option<Secure> {
        self.cluster.read().clone()
    }

    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// Says which file or setting is wrong; what was in force before stays so.
    pub fn load(&self, settings: &Settings) -> Result<(), String> {
        let listens = settings.number(ids::TLS_PORT) != 0;
        let clustered = settings.flag(ids::TLS_CLUSTER);
        let connects = settings.flag(ids::TLS_REPLICATION) || clustered;
        let seen = look_at(&files(settings));
        // All are read before one is in force.
        let config = listens.then(|| configure(settings)).transpose()?;
        let client = connects.then(|| outgoing::configure(settings)).transpose()?.map(Arc::new);
        let accepts = clustered.then(|| outgoing::accept(settings)).transpose()?.map(Arc::new);
        *self.config.write() = config.map(Arc::new);
        *self.cluster.write() =
            accepts.zip(client.clone()).map(|(accepts, dials)| Secure { accepts, dials });
        *self.client.write() = client;
        *self.seen.lock() = seen;
        Ok(())
    }

    /// Reads the files again if one of them has changed since they were read.
    pub fn follow(&self, settings: &Settings) {
        if self.config.read().is_none() && self.client.read().is_none() {
            return;
        }
        let now = look_at(&files(settings));
        if *self.seen.lock() == now {
            return;
        }
        match self.load(settings) {
            Ok(()) => tracing::info!("the TLS certificates have changed and were read again"),
            Err(error) => {
                tracing::error!(
                    "the TLS certificates have changed, but the old ones stay: {error}"
                );
                // Looked at again once they change further.
                *self.seen.lock() = now;
            }
        }
    }
}

fn path(settings: &Settings, id: Id) -> Option<PathBuf> {
    Some(PathBuf::from(settings.string(id))).filter(|path| !path.as_os_str().is_empty())
}

fn files(settings: &Settings) -> Vec<PathBuf> {
    let ids = [
        ids::TLS_CERT_FILE,
        ids::TLS_KEY_FILE,
        ids::TLS_CA_CERT_FILE,
        ids::TLS_CA_CERT_DIR,
        ids::TLS_CLIENT_CERT_FILE,
        ids::TLS_CLIENT_KEY_FILE,
    ];
    ids.into_iter().filter_map(|id| path(settings, id)).collect()
}

fn look_at(files: &[PathBuf]) -> Vec<Seen> {
    let look = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok();
        let stamp = metadata.and_then(|file| Some((file.modified().ok()?, file.len())));
        (file.clone(), stamp)
    };
    files.iter().map(look).collect()
}

fn configure(settings: &Settings) -> Result<ServerConfig, String> {
    let mut config = accepting(settings, "tls-port", &settings.show(ids::TLS_AUTH_CLIENTS))?;
    config.session_storage = match settings.flag(ids::TLS_SESSION_CACHING) {
        true => {
            let size = settings.count(ids::TLS_SESSION_CACHE_SIZE);
            ServerSessionMemoryCache::new(usize::try_from(size).unwrap_or(0).max(1))
        }
        false => Arc::new(NoServerSessionStorage {}),
    };
    Ok(config)
}

/// What `wants` has connections accepted with; `auth` is whether a certificate is asked for, as
/// `tls-auth-clients` says it.
fn accepting(settings: &Settings, wants: &str, auth: &[u8]) -> Result<ServerConfig, String> {
    let need =
        |id: Id| path(settings, id).ok_or_else(|| format!("{wants} needs {}", id.setting().name));
    let (cert, key) = (need(ids::TLS_CERT_FILE)?, need(ids::TLS_KEY_FILE)?);
    let chain = certificates(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key)
        .map_err(|error| format!("no private key in {}: {error}", key.display()))?;
    let provider = Arc::new(ring::default_provider());
    let versions = versions(&settings.string(ids::TLS_PROTOCOLS))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let builder = match auth {
        b"no" => builder.with_no_client_auth(),
        auth => {
            let roots = Arc::new(authorities(settings)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match auth {
                b"optional" => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            let verifier =
                verifier.build().map_err(|error| format!("tls-ca-cert-file: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key do not fit: {error}"))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| format!("{}: {error}", file.display()))?;
    if chain.is_empty() {
        return Err(format!("no certificate in {}", file.display()));
    }
    Ok(chain)
}

/// Who is trusted to sign clients' certificates.
fn authorities(settings: &Settings) -> Result<RootCertStore, String> {
    let mut files: Vec<PathBuf> = path(settings, ids::TLS_CA_CERT_FILE).into_iter().collect();
    if let Some(dir) = path(settings, ids::TLS_CA_CERT_DIR) {
        let entries = std::fs::read_dir(&dir)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        files.extend(entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_file()));
    }
    if files.is_empty() {
        return Err(
            "tls-auth-clients needs tls-ca-cert-file or tls-ca-cert-dir, unless it is `no`".into(),
        );
    }
    let mut roots = RootCertStore::empty();
    for file in files {
        add_authorities(&mut roots, &file)?;
    }
    Ok(roots)
}

fn add_authorities(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// `tls-protocols`, for instance `TLSv1.2 TLSv1.3`; nothing means both.
fn versions(text: &str) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let mut versions = Vec::new();
    for word in text.split_ascii_whitespace() {
        versions.push(match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => &rustls::version::TLS12,
            "tlsv1.3" => &rustls::version::TLS13,
            _ => return Err(format!("tls-protocols: '{word}' is not TLSv1.2 or TLSv1.3")),
        });
    }
    if versions.is_empty() {
        versions.extend(rustls::ALL_VERSIONS);
    }
    Ok(versions)
}

/// The connection for a thread that waits: a socket with what is decrypted.
///
/// # Errors
/// If there are no descriptors or threads left.
pub fn into_plain(stream: TlsStream) -> io::Result<UnixStream> {
    let (tcp, tls) = stream.into_parts();
    let tcp = std::net::TcpStream::from(OwnedFd::from(tcp));
    let peer = tcp.peer_addr().map_or_else(|_| "a replica".into(), |peer| peer.to_string());
    relay::start(tcp, tls, peer)
}
