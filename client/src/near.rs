//! The near cache: what programs use.

use crate::Error;
use crate::cache::Cache;
use crate::connection::Connection;
use crate::resp::Value;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a cache is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most values that are kept.
    pub entries_max: usize,
    /// Most bytes of keys and values that are kept, with 128 for each entry.
    pub bytes_max: usize,
    /// Longest time that a value is kept without being asked for anew, however current.
    pub ttl_max: Duration,
    /// Silence after which the server is asked for a sign of life. One that does not answer for
    /// as long again is gone.
    pub ping_every: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// The database.
    pub database: u32,
    /// With a cluster: for how long a request is tried while nobody answers for its key.
    pub retry_for: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            entries_max: 100_000,
            bytes_max: 64 << 20,
            ttl_max: Duration::from_secs(300),
            ping_every: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(5),
            credentials: None,
            database: 0,
            retry_for: Duration::from_secs(5),
        }
    }
}

/// What a cache has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads that were answered from memory.
    pub hits: u64,
    /// Reads that went to the server.
    pub misses: u64,
    /// Keys that the server declared invalid; "all of them" counts as one.
    pub invalidations: u64,
    /// Entries that were dropped because of that.
    pub invalidated_entries: u64,
    /// Entries that had to make room.
    pub evictions: u64,
    /// Connections that were lost.
    pub disconnections: u64,
    /// Entries that were dropped because of that.
    pub disconnected_entries: u64,
    /// Entries now.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Stats {
    /// Those of two caches together.
    pub(crate) fn plus(&self, other: &Stats) -> Stats {
        Stats {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            invalidations: self.invalidations + other.invalidations,
            invalidated_entries: self.invalidated_entries + other.invalidated_entries,
            evictions: self.evictions + other.evictions,
            disconnections: self.disconnections + other.disconnections,
            disconnected_entries: self.disconnected_entries + other.disconnected_entries,
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    invalidations: AtomicU64,
    invalidated_entries: AtomicU64,
    evictions: AtomicU64,
    disconnections: AtomicU64,
    disconnected_entries: AtomicU64,
}

impl Counters {
    pub fn invalidated(&self, keys: u64, entries: u64) {
        self.invalidations.fetch_add(keys, Ordering::Relaxed);
        self.invalidated_entries.fetch_add(entries, Ordering::Relaxed);
    }

    pub fn evicted(&self, entries: u64) {
        self.evictions.fetch_add(entries, Ordering::Relaxed);
    }

    pub fn lost(&self, entries: usize) {
        self.disconnected_entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.disconnections.fetch_add(1, Ordering::Release);
    }
}

/// A cache of one server's strings, for all threads of a program. See the [crate's](crate)
/// description for what it promises.
#[derive(Debug)]
pub struct NearCache {
    address: String,
    options: Options,
    cache: Arc<Cache>,
    counters: Arc<Counters>,
    connection: RwLock<Arc<Connection>>,
    /// Held while a new connection is made, so that only one is.
    connecting: Mutex<()>,
}

impl NearCache {
    /// Connects to a server, `host:port`.
    ///
    /// # Errors
    /// If it cannot be reached, refuses the credentials, or knows no client-side caching.
    pub fn connect(address: &str, options: Options) -> Result<NearCache, Error> {
        let cache = Arc::new(Cache::new(options.entries_max, options.bytes_max));
        let counters = Arc::new(Counters::default());
        let connection = Connection::open(address, &options, &cache, &counters)?;
        Ok(NearCache {
            address: address.to_owned(),
            options,
            cache,
            counters,
            connection: RwLock::new(connection),
            connecting: Mutex::new(()),
        })
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Other bounds from now on.
    pub(crate) fn bound(&self, entries_max: usize, bytes_max: usize) {
        self.cache.bound(entries_max, bytes_max);
    }

    /// Forgets all keys but these.
    pub(crate) fn keep(&self, keep: impl Fn(&[u8]) -> bool) {
        self.cache.keep(keep);
    }

    /// The connection, or a new one where it was lost.
    pub(crate) fn connection(&self) -> Result<Arc<Connection>, Error> {
        let current = self.connection.read().clone();
        if current.is_alive() {
            return Ok(current);
        }
        let _one_at_a_time = self.connecting.lock();
        let current = self.connection.read().clone();
        if current.is_alive() {
            return Ok(current);
        }
        let fresh = Connection::open(&self.address, &self.options, &self.cache, &self.counters)?;
        *self.connection.write() = fresh.clone();
        Ok(fresh)
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.read().is_alive()
    }

    /// The string of a key; `None` where there is no such key. From memory if it is there.
    ///
    /// # Errors
    /// If there is no connection and none can be made, and if the key holds something else than a
    /// string.
    pub fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, Error> {
        let connection = self.connection.read().clone();
        // Looked at after the entry: while the connection lives, what was found is current.
        if let Some(value) = self.cache.get(key, Instant::now())
            && connection.is_alive()
        {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(value);
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        match self.connection()?.get(key)? {
            Value::Bulk(bytes) => Ok(Some(bytes.into())),
            Value::Null => Ok(None),
            _ => Err(Error::Protocol("a reply to GET that is no string")),
        }
    }

    /// Sets the string of a key, on the server. The next read has it, or something newer.
    ///
    /// # Errors
    /// If there is no connection, or the server refuses; if the connection is lost before the
    /// reply, the key may be set or not.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.connection()?.call(&[b"SET", key, value], &[key]).map(drop)
    }

    /// Deletes a key, on the server; whether it was there.
    ///
    /// # Errors
    /// As [`NearCache::set`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let reply = self.connection()?.call(&[b"DEL", key], &[key])?;
        Ok(reply != Value::Int(0))
    }

    /// Runs any command on the server, and keeps nothing of its reply. `keys` are those that it
    /// changes: they are read anew afterwards. (Others hear of it from the server in any case.)
    ///
    /// # Errors
    /// As [`NearCache::set`].
    pub fn call(&self, args: &[&[u8]], keys: &[&[u8]]) -> Result<Value, Error> {
        self.connection()?.call(args, keys)
    }

    /// What the cache has done, and its size.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (entries, bytes) = self.cache.size();
        Stats {
            hits: get(&self.counters.hits),
            misses: get(&self.counters.misses),
            invalidations: get(&self.counters.invalidations),
            invalidated_entries: get(&self.counters.invalidated_entries),
            evictions: get(&self.counters.evictions),
            disconnections: get(&self.counters.disconnections),
            disconnected_entries: get(&self.counters.disconnected_entries),
            entries,
            bytes,
        }
    }
}

impl Drop for NearCache {
    fn drop(&mut self) {
        self.connection.read().close();
    }
}
