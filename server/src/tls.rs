//! TLS for clients: certificates from files, and a connection over a socket that does not block.
//!
//! rustls keeps no socket: bytes are handed to it and taken from it, which suits the workers' loop.
//! The files are read again when they change, or when a setting about them does; connections that
//! there are go on with what they began with.

use crate::config::{Id, Settings, ids};
use mio::net::TcpStream;
use parking_lot::{Mutex, RwLock};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Longest handshake: who is slower than that is cut off.
pub const HANDSHAKE_MS_MAX: i64 = 10_000;
/// Most bytes that a client sends until its handshake is done: certificates are a few thousand.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;
/// Most bytes that wait, encrypted, for a socket that takes no more. What is beyond waits in the
/// connection's backlog, which has its own limits.
const PENDING_BYTES_MAX: usize = 64 << 10;

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
];

/// What new connections are accepted with.
#[derive(Debug, Default)]
pub struct Tls {
    config: RwLock<Option<Arc<ServerConfig>>>,
    /// The files that it was made of, with their times and lengths.
    seen: Mutex<Vec<Seen>>,
}

type Seen = (PathBuf, Option<(SystemTime, u64)>);

impl Tls {
    /// The configuration for a new connection; `None` where TLS is off.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.read().clone()
    }

    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// Says which file or setting is wrong; what was in force before stays so.
    pub fn load(&self, settings: &Settings) -> Result<(), String> {
        if settings.number(ids::TLS_PORT) == 0 {
            return Ok(());
        }
        let seen = look_at(&files(settings));
        let config = configure(settings)?;
        *self.config.write() = Some(Arc::new(config));
        *self.seen.lock() = seen;
        Ok(())
    }

    /// Reads the files again if one of them has changed since they were read.
    pub fn follow(&self, settings: &Settings) {
        if self.config.read().is_none() {
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
    let ids = [ids::TLS_CERT_FILE, ids::TLS_KEY_FILE, ids::TLS_CA_CERT_FILE, ids::TLS_CA_CERT_DIR];
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
    let need =
        |id: Id| path(settings, id).ok_or_else(|| format!("tls-port needs {}", id.setting().name));
    let (cert, key) = (need(ids::TLS_CERT_FILE)?, need(ids::TLS_KEY_FILE)?);
    let chain = certificates(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key)
        .map_err(|error| format!("no private key in {}: {error}", key.display()))?;
    let provider = Arc::new(ring::default_provider());
    let versions = versions(&settings.string(ids::TLS_PROTOCOLS))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let auth = settings.show(ids::TLS_AUTH_CLIENTS);
    let builder = match &*auth {
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
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key do not fit: {error}"))?;
    config.session_storage = match settings.flag(ids::TLS_SESSION_CACHING) {
        true => {
            let size = settings.count(ids::TLS_SESSION_CACHE_SIZE);
            ServerSessionMemoryCache::new(usize::try_from(size).unwrap_or(0).max(1))
        }
        false => Arc::new(NoServerSessionStorage {}),
    };
    Ok(config)
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
        for certificate in certificates(&file)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(roots)
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

/// An encrypted connection.
#[derive(Debug)]
pub struct TlsStream {
    /// The socket below.
    pub tcp: TcpStream,
    tls: ServerConnection,
    /// Bytes that came during the handshake.
    handshake_bytes: usize,
    /// Whether the peer sends nothing more.
    ended: bool,
}

impl TlsStream {
    /// A connection that was just accepted.
    ///
    /// # Errors
    /// If the configuration does not allow one.
    pub fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(PENDING_BYTES_MAX));
        Ok(TlsStream { tcp, tls, handshake_bytes: 0, ended: false })
    }

    /// Whether the peers have not agreed yet.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the last read gave all that there will be.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn has_pending(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends encrypted bytes, as many as the socket takes.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send_pending(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes, if the socket takes it.
    pub fn say_goodbye(&mut self) {
        self.tls.send_close_notify();
        // The connection is closed in any case.
        drop(self.send_pending());
    }

    /// Takes encrypted bytes from the socket; `false` where there are none for now.
    fn receive(&mut self) -> io::Result<bool> {
        let got = match self.tls.read_tls(&mut self.tcp) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.ended |= got == 0;
        let handshaking = self.tls.is_handshaking();
        if let Err(error) = self.tls.process_new_packets() {
            // The alert says why, if it still gets through.
            drop(self.send_pending());
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if handshaking {
            self.handshake_bytes += got;
            if self.handshake_bytes > HANDSHAKE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless handshake"));
            }
        }
        self.send_pending()?;
        Ok(got != 0)
    }
}

impl Read for TlsStream {
    /// Fills the buffer as far as there is anything, so that less than a full buffer means, as with
    /// a plain socket, that the socket has been emptied.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.tls.reader().read(&mut buf[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.ended || !self.receive()? {
                        break;
                    }
                }
                Err(error) if filled == 0 => return Err(error),
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        if filled == 0 && !self.ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let taken = self.tls.writer().write(buf)?;
        self.send_pending()?;
        // A full buffer and a socket that takes nothing.
        if taken == 0 && !buf.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(taken)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()
    }
}
