//! The handle on an engine, and how one is opened.

use super::call::{Call, resolve};
use super::transaction::{Tx, Watch};
use super::value::ReplyValue;
use crate::clock::{Clock, SystemClock};
use crate::commands::string;
use crate::config::EngineConfig;
use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::executor::{Executor, Prefetched};
use crate::journal::Journal;
use crate::keyspace::access::{self, AccessScheme};
use crate::keyspace::{EntryRef, EvictionPolicy, shard_of};
use crate::reply::{Protocol, Reply};
use crate::stamp::{Rng, Stamp};
use crate::upkeep::{Evicted, Expired};
use crate::value::packed::IntBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shards of a store that is not told otherwise: enough that a few threads seldom meet.
const SHARDS: usize = 64;
/// Effort of [`Store::upkeep`], as `active-expire-effort`.
const EXPIRE_EFFORT: usize = 1;
/// Keys that one [`Store::upkeep`] looks at.
const EXPIRE_KEYS_MAX: usize = 20_000;

/// A handle on an engine, with one of its databases selected.
///
/// Handles are cheap to clone and may be used from any number of threads at once.
///
/// ```
/// use ashlar_engine::prelude::*;
///
/// let store = Store::in_memory();
/// store.set("greeting", "hello")?;
/// assert_eq!(store.get("greeting")?, Some(b"hello".to_vec()));
///
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         scope.spawn(|| (0..100).try_for_each(|_| store.incr_by("counter", 1).map(drop)));
///     }
/// });
/// assert_eq!(store.get("counter")?, Some(b"400".to_vec()));
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
    pub(super) db: u32,
}

pub(super) struct Inner {
    pub engine: Arc<Engine>,
    clock: Box<dyn Clock>,
    /// Calls so far; with `seed` it makes the random seed of each.
    calls: AtomicU64,
    seed: u64,
}

impl Inner {
    /// The stamp of a call that is made now.
    pub fn stamp(&self) -> Stamp {
        self.stamp_at(self.clock.now_ms())
    }

    pub fn stamp_at(&self, now_ms: i64) -> Stamp {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Stamp::new(now_ms, Rng::new(self.seed ^ call).next_u64())
    }

    /// Runs a command and leaves its shards locked.
    pub fn run(
        &self,
        executor: &mut Executor<'_>,
        db: u32,
        stamp: &Stamp,
        args: &[&[u8]],
    ) -> Result<ReplyValue, Error> {
        let command = resolve(args)?;
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp3);
        let call =
            crate::executor::Call { command, args, db, stamp, may_block: false, no_touch: false };
        executor.run(&call, Prefetched::NONE, &mut reply);
        ReplyValue::read(&out)
    }
}

/// Opens a [`Store`].
///
/// ```
/// use ashlar_engine::clock::ManualClock;
/// use ashlar_engine::prelude::*;
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let clock = Arc::new(ManualClock::new(0));
/// let store = Store::builder().shards(4).clock(clock.clone()).open();
/// store.set("k", "v")?;
/// store.expire("k", Duration::from_secs(10))?;
/// clock.advance(Duration::from_secs(11));
/// assert_eq!(store.get("k")?, None);
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
pub struct Builder {
    options: EngineOptions,
    clock: Box<dyn Clock>,
    seed: u64,
}

impl Builder {
    /// Number of shards, the unit of locking: a few for each thread, at most
    /// [`SHARDS_MAX`](crate::context::SHARDS_MAX); 64 if not given.
    pub fn shards(mut self, shards: usize) -> Builder {
        self.options.shards = shards;
        self
    }

    /// The settings, under Redis's names.
    pub fn config(mut self, config: EngineConfig) -> Builder {
        self.options.config = config;
        self
    }

    /// Where the time of calls comes from; the system's clock if not given.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Builder {
        self.clock = Box::new(clock);
        self
    }

    /// Seed of the hash tables and of the random choices of commands such as SPOP. Give a random
    /// one where keys come from strangers, so that they cannot choose keys that collide. The
    /// engine has no randomness of its own.
    pub fn seed(mut self, seed: u64) -> Builder {
        self.seed = seed;
        self.options.hash_seed = seed;
        self
    }

    /// Takes a record of every call that changes the data.
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Builder {
        self.options.journal = Some(journal);
        self
    }

    /// Opens an empty store in memory.
    ///
    /// # Panics
    /// As [`Engine::with_options`].
    pub fn open(self) -> Store {
        let engine = Arc::new(Engine::with_options(self.options));
        Store::over(engine, self.clock, self.seed)
    }
}

impl Store {
    /// Opens an empty store in memory, with the default settings.
    pub fn in_memory() -> Store {
        Store::builder().open()
    }

    /// Opens a store with settings of one's own.
    pub fn builder() -> Builder {
        let options = EngineOptions { shards: SHARDS, ..EngineOptions::default() };
        Builder { options, clock: Box::new(SystemClock), seed: 0 }
    }

    /// A handle on an engine that is there already, for example a server's.
    pub fn over(engine: Arc<Engine>, clock: Box<dyn Clock>, seed: u64) -> Store {
        Store { inner: Arc::new(Inner { engine, clock, calls: AtomicU64::new(0), seed }), db: 0 }
    }

    /// A handle on another database of the same engine.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// let other = store.db(1)?;
    /// other.set("k", "v")?;
    /// assert_eq!((store.get("k")?, other.exists("k")?), (None, true));
    /// assert!(store.db(16).is_err());
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such database; `databases` in the settings says how many there are.
    pub fn db(&self, number: u32) -> Result<Store, Error> {
        if number >= self.inner.engine.config().databases {
            return Err(Error::text("ERR DB index is out of range"));
        }
        Ok(Store { inner: self.inner.clone(), db: number })
    }

    /// The engine below, for what has no method here.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    /// The string value of a key, copied.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.get_with(key, <[u8]>::to_vec)
    }

    /// What `read` makes of the string value of a key, without copying it. The key's shard is
    /// locked meanwhile: `read` should be short, and must not call the store.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.set("k", "four")?;
    /// assert_eq!(store.get_with("k", |value| value.len())?, Some(4));
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type.
    #[inline]
    pub fn get_with<T>(
        &self,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let (key, engine) = (key.as_ref(), &*self.inner.engine);
        let hash = engine.hasher().hash(key);
        let now_ms = self.inner.clock.now_ms();
        let shard = engine.lock_shard(shard_of(key, engine.shard_count()));
        let db = shard.db(self.db);
        let Some(ptr) = db.find(hash, key) else { return Ok(None) };
        if ptr.expired(now_ms) {
            drop(shard);
            self.delete_expired(key, now_ms);
            return Ok(None);
        }
        match engine.access_scheme() {
            AccessScheme::Recency => {
                let recency = access::recency(now_ms);
                if ptr.access() != recency {
                    ptr.set_access(recency);
                }
            }
            AccessScheme::Frequency => {
                let random = self.inner.stamp_at(now_ms).seed;
                let settings = engine.config().frequency;
                ptr.set_access(access::frequency_touch(ptr.access(), now_ms, settings, random));
            }
        }
        let mut buf = IntBuf::new();
        string::string(EntryRef::new(ptr, db), &mut buf).map(|bytes| Some(read(bytes)))
    }

    #[cold]
    fn delete_expired(&self, key: &[u8], now_ms: i64) {
        let mut executor = self.inner.engine.executor();
        executor.effects.lapsed.get_mut().push((self.db, key.into()));
        executor.delete_lapsed(&self.inner.stamp_at(now_ms));
    }

    /// Runs several calls as one: no other thread sees or changes anything of `keys` in between.
    /// With no keys the whole store is locked, and the calls may be on any key.
    ///
    /// The calls that ran before an error stay done, as in Redis: check first, then change.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.set("from", "10")?;
    /// let moved = store.transaction(&["from", "to"], |tx| {
    ///     if tx.get("from")? != Some(b"10".to_vec()) {
    ///         return Ok(false);
    ///     }
    ///     tx.incr_by("from", -10)?;
    ///     tx.incr_by("to", 10)?;
    ///     Ok(true)
    /// })?;
    /// assert!(moved);
    /// assert!(store.transaction(&["from"], |tx| tx.get("elsewhere")).is_err());
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `work`. A call on a key that is not one of `keys` is refused.
    pub fn transaction<K: AsRef<[u8]>, T>(
        &self,
        keys: &[K],
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        work(&Tx::begin(self, &keys))
    }

    /// Watches keys from now on, for a change that depends on what is read meanwhile: it is made
    /// only if no one else has changed them.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.set("k", "1")?;
    /// let watch = store.watch(&["k"]);
    /// let old = store.get("k")?;
    /// store.set("k", "another's")?;
    /// assert_eq!(watch.commit(&["k"], |tx| tx.set("k", "2"))?, None);
    ///
    /// let watch = store.watch(&["k"]);
    /// assert!(watch.commit(&["k"], |tx| tx.set("k", "2"))?.is_some());
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    pub fn watch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Watch {
        Watch::begin(self, keys.iter().map(|key| key.as_ref().into()).collect())
    }

    /// Deletes some of the keys and hash fields that have expired. Without it they are not seen
    /// either, but take memory until they are asked for. Call it about ten times a second, and
    /// again at once while it reports `unfinished`; a call takes a few milliseconds at the most.
    pub fn upkeep(&self) -> Expired {
        let stamp = self.inner.stamp();
        self.inner.engine.executor().expire_cycle(&stamp, EXPIRE_EFFORT, EXPIRE_KEYS_MAX)
    }

    /// Deletes the key that `policy` would have go first, among a sample of `samples` keys (5 is
    /// Redis's default) and the best of samples before; `None` if none may go.
    pub fn evict(&self, policy: EvictionPolicy, samples: usize) -> Option<Evicted> {
        self.inner.engine.executor().evict(policy, samples, &self.inner.stamp())
    }
}

impl Call for Store {
    fn call(&self, args: &[&[u8]]) -> Result<ReplyValue, Error> {
        let stamp = self.inner.stamp();
        let mut executor = self.inner.engine.executor();
        let reply = self.inner.run(&mut executor, self.db, &stamp, args);
        if !executor.effects.lapsed.get_mut().is_empty() {
            executor.delete_lapsed(&stamp);
        }
        executor.release();
        reply
    }
}
