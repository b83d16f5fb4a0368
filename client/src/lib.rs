//! Hot values in the memory of your own process, kept current by the server.
//!
//! A [`NearCache`] answers a read from memory (L1), and asks ashlar (L2, which may bring the value in
//! from its cold store, L3) for what it does not have. The server remembers what was read and says
//! when it changes, so a hit costs no round trip and is not stale. It works with ashlar and with any
//! server that knows RESP3 and CLIENT TRACKING (Redis 6 and later).
//!
//! ```no_run
//! use ashlar_client::{NearCache, Options};
//!
//! let cache = NearCache::connect("127.0.0.1:6379", Options::default())?;
//! cache.set(b"greeting", b"hello")?;
//! assert_eq!(cache.get(b"greeting")?.as_deref(), Some(&b"hello"[..])); // from the server
//! assert_eq!(cache.get(b"greeting")?.as_deref(), Some(&b"hello"[..])); // from memory
//! assert_eq!(cache.stats().hits, 1);
//! # Ok::<(), ashlar_client::Error>(())
//! ```
//!
//! A [`ClusterNearCache`] does the same with all nodes of a cluster.
//!
//! # What it promises
//!
//! - Values and invalidations come on one connection, in the server's order, and one thread applies
//!   them in that order: a value that was invalidated is never served again, whatever reads are on
//!   their way at that moment.
//! - Whoever has written through the cache reads what it wrote, or something newer.
//! - A connection that is lost takes everything with it: nothing could say any more what is
//!   current. Reads fail until there is a new connection, which the next read tries to make.
//! - A connection that dies without a word (a pulled cable) is found out after at most twice
//!   [`Options::ping_every`]. Until then hits may be stale.
//! - What another client wrote may be served in its old form until the invalidation has arrived:
//!   a network's delay, as with every cache of this kind.
//! - Memory is bounded: [`Options::entries_max`], [`Options::bytes_max`], [`Options::ttl_max`].

mod cache;
mod cluster;
mod connection;
mod near;
mod resp;

pub use cluster::ClusterNearCache;
pub use near::{NearCache, Options, Stats};
pub use resp::Value;

use std::fmt;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no connection, or it was lost: the command may have run or not. Try again.
    Disconnected(String),
    /// The server refused the command; its text.
    Refused(String),
    /// The server said what no server should; the connection is given up.
    Protocol(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Disconnected(why) => write!(f, "not connected: {why}"),
            Error::Refused(text) => f.write_str(text),
            Error::Protocol(what) => write!(f, "not understood: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Disconnected(error.to_string())
    }
}
