//! The handle on an engine, and how one is opened.

use super::call::{Call, resolve};
use super::keeper::{Durability, Keeper, unix_ms};
use super::transaction::{Tx, Watch};
use super::value::ReplyValue;
use crate::clock::{Clock, SystemClock};
use crate::command::Flags;
use crate::commands::string;
use crate::config::EngineConfig;
use crate::disk::RealDisk;
use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::executor::{Executor, Prefetched};
use crate::journal::Journal;
use crate::keyspace::access::{self, AccessScheme};
use crate::keyspace::{EntryRef, EvictionPolicy};
use crate::reply::{Protocol, Reply};
use crate::stamp::{Rng, Stamp};
use crate::storage::{Directory, RecoverOptions, Recovering, Saved, Storage, StorageError};
use crate::tier::Tier;
use crate::tier::store::{ColdError, StoreKind, open_durable};
use crate::upkeep::{Evicted, Expired};
use crate::value::packed::IntBuf;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    /// Where there is a directory.
    keeper: Option<Keeper>,
}

impl Inner {
    /// Waits until a change is as safe as it has to be.
    #[inline]
    pub fn settle(&self, log_index: u64) -> Result<(), Error> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| keeper.settle(log_index))
    }

    /// Whether changes are taken at present.
    fn takes_changes(&self) -> bool {
        self.keeper.as_ref().is_none_or(|keeper| keeper.refusal().is_none())
    }

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
        if let Some(keeper) = &self.keeper
            && command.flags.contains(Flags::WRITE)
            && let Some(refusal) = keeper.refusal()
        {
            return Err(refusal);
        }
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
    durability: Durability,
    cold_store: Option<(StoreKind, u64)>,
    cold_after: Option<Duration>,
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

    /// Where values go that leave memory; its seed has to be that of the store.
    pub fn tier(mut self, tier: Arc<Tier>) -> Builder {
        self.options.tier = Some(tier);
        self
    }

    /// Keeps values on disk that are not in memory, for a store with a directory ([`Builder::open_in`]), in
    /// its folder `cold`. `memory_bytes` is for the cold store's caches and buffers. Values leave memory
    /// once they have not been used for as long as [`Builder::cold_after`] says, or by
    /// [`Tier::make_room`] of [`Engine::tier`].
    ///
    /// ```
    /// use ashlar_engine::embedded::Call;
    /// use ashlar_engine::prelude::*;
    /// use ashlar_engine::tier::store::StoreKind;
    ///
    /// # let path = std::env::temp_dir().join(format!("ashlar-doc-cold-{}", std::process::id()));
    /// let open = || Store::builder().cold_store(StoreKind::Fjall, 8 << 20).open_in(&path);
    /// let store = open()?;
    /// store.set("k", "v")?;
    /// let tier = store.engine().tier().ok_or("no tier")?;
    /// tier.make_room(store.engine(), 0, 1, usize::MAX, &|| 1_000)?;
    /// store.snapshot()?;
    /// drop(store);
    ///
    /// // The value is on disk; a read brings it back.
    /// let store = open()?;
    /// assert_eq!(store.get("k")?, Some(b"v".to_vec()));
    /// # drop(store);
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cold_store(mut self, kind: StoreKind, memory_bytes: u64) -> Builder {
        self.cold_store = Some((kind, memory_bytes));
        self
    }

    /// How long a value is not used before it leaves memory; for ever if not given.
    pub fn cold_after(mut self, idle: Duration) -> Builder {
        self.cold_after = Some(idle);
        self
    }

    /// Takes a record of every call that changes the data.
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Builder {
        self.options.journal = Some(journal);
        self
    }

    /// How safe a change is once its call has returned, for a store with a directory.
    pub fn durability(mut self, durability: Durability) -> Builder {
        self.durability = durability;
        self
    }

    /// Opens the store that is kept in the directory `path`, which is created if it is missing. The
    /// tables' seed is the directory's; a journal cannot be given.
    ///
    /// ```
    /// use ashlar_engine::embedded::Durability;
    /// use ashlar_engine::prelude::*;
    ///
    /// # let path = std::env::temp_dir().join(format!("ashlar-doc-builder-{}", std::process::id()));
    /// let store = Store::builder().durability(Durability::Always).open_in(&path)?;
    /// store.set("k", "on the disk when this returns")?;
    /// # drop(store);
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If another process uses the directory, if it is damaged, or if the disk fails.
    ///
    /// # Panics
    /// As [`Engine::with_options`].
    pub fn open_in(self, path: impl AsRef<Path>) -> Result<Store, StorageError> {
        // The engine has no random source: the time and the process tell one opening from another.
        let random = Rng::new(unix_ms() as u64 ^ self.seed).next_u64();
        let random = random ^ u64::from(std::process::id()).rotate_left(32);
        let directory = Directory::open(Arc::new(RealDisk), path.as_ref(), random)?;
        let options =
            EngineOptions { hash_seed: directory.hash_seed(), journal: None, ..self.options };
        let mut options = options;
        if let Some((kind, memory_bytes)) = self.cold_store {
            let folder = path.as_ref().join("cold").join(kind.name());
            let opened = std::fs::create_dir_all(&folder)
                .map_err(|error| ColdError::Failed(error.to_string()))
                .and_then(|()| open_durable(kind, &folder, memory_bytes));
            let opened = opened.map_err(|error| StorageError::Io(error.to_string()))?;
            options.tier = Some(Tier::new(opened, kind.name(), directory.hash_seed()));
        }
        if let Some(tier) = &options.tier {
            tier.set_durable();
        }
        let engine = Arc::new(Engine::with_options(options));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let recover = RecoverOptions {
            threads,
            zeroed: self.durability == Durability::Always,
            ..RecoverOptions::default()
        };
        let (storage, _) = directory.recover(&engine, &recover, &Recovering::default())?;
        let keeper = Keeper::start(storage, self.durability, self.cold_after)
            .map_err(|error| StorageError::Io(format!("can't start a thread: {error}")))?;
        Ok(Store::with(engine, self.clock, self.seed ^ random, Some(keeper)))
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
    /// Opens the store that is kept in the directory `path`, with the default settings: a change is
    /// on the disk a second after its call ([`Durability::Everysec`]). The directory is created if
    /// it is missing, and has one process at a time.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let path = std::env::temp_dir().join(format!("ashlar-doc-open-{}", std::process::id()));
    /// let store = Store::open(&path)?;
    /// store.set("k", "v")?;
    /// drop(store);
    ///
    /// let store = Store::open(&path)?;
    /// assert_eq!(store.get("k")?, Some(b"v".to_vec()));
    /// # drop(store);
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Builder::open_in`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store, StorageError> {
        Store::builder().open_in(path)
    }

    /// Opens an empty store in memory, with the default settings.
    pub fn in_memory() -> Store {
        Store::builder().open()
    }

    /// Opens a store with settings of one's own.
    pub fn builder() -> Builder {
        let options = EngineOptions { shards: SHARDS, ..EngineOptions::default() };
        let durability = Durability::default();
        Builder {
            options,
            clock: Box::new(SystemClock),
            seed: 0,
            durability,
            cold_store: None,
            cold_after: None,
        }
    }

    /// A handle on an engine that is there already, for example a server's.
    pub fn over(engine: Arc<Engine>, clock: Box<dyn Clock>, seed: u64) -> Store {
        Store::with(engine, clock, seed, None)
    }

    fn with(
        engine: Arc<Engine>,
        clock: Box<dyn Clock>,
        seed: u64,
        keeper: Option<Keeper>,
    ) -> Store {
        let inner = Inner { engine, clock, calls: AtomicU64::new(0), seed, keeper };
        Store { inner: Arc::new(inner), db: 0 }
    }

    /// Takes a snapshot of a store with a directory, and returns when it is durable: the next start
    /// then has less of the log to run again. It is done now and then without being asked for.
    /// `None` for a store in memory.
    ///
    /// # Errors
    /// If one is on its way already, or the disk fails.
    pub fn snapshot(&self) -> Result<Option<Saved>, StorageError> {
        let Some(keeper) = &self.inner.keeper else { return Ok(None) };
        let now_ms = self.inner.clock.now_ms();
        keeper.storage().snapshot(now_ms, || (), || true).map(Some)
    }

    /// The store's directory, where it has one.
    pub fn storage(&self) -> Option<&Storage> {
        self.inner.keeper.as_ref().map(Keeper::storage)
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
        let shard = engine.lock_shard(engine.shard_of(key));
        let db = shard.db(self.db);
        let Some(ptr) = db.find(hash, key) else {
            let cold = db.find_cold(hash, key).is_some();
            drop(shard);
            return if cold { self.get_cold(key, read) } else { Ok(None) };
        };
        if ptr.is_backed() && db.use_cached(hash, engine.hot_threshold()) {
            drop(shard);
            self.promote(key);
            return self.get_with(key, read);
        }
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

    /// The string value of a key whose value is on disk.
    #[cold]
    fn get_cold<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Error> {
        let value = self.call(&[b"GET", key])?.into_bytes()?;
        Ok(value.map(|value| read(&value)))
    }

    /// A key that was read from disk is used so often that it stays in memory.
    #[cold]
    fn promote(&self, key: &[u8]) {
        let engine = &*self.inner.engine;
        let mut shard = engine.lock_shard(engine.shard_of(key));
        let promoted = shard.db_mut(self.db).promote(engine.hasher().hash(key), key);
        if promoted && let Some(tier) = engine.tier() {
            tier.stats.promotions.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cold]
    fn delete_expired(&self, key: &[u8], now_ms: i64) {
        if !self.inner.takes_changes() {
            return;
        }
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
        self.load(&keys)?;
        let mut tx = Tx::begin(self, &keys);
        let result = work(&tx);
        self.inner.settle(tx.end())?;
        result
    }

    /// Loads the values of keys that are on disk, so that a transaction finds them in memory.
    pub(super) fn load(&self, keys: &[&[u8]]) -> Result<(), Error> {
        if self.inner.engine.tier().is_none() {
            return Ok(());
        }
        let loaded = self.inner.engine.executor().load_keys(self.db, keys);
        loaded.map_err(|error| Error::owned(format!("ERR {error}")))
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
        if !self.inner.takes_changes() {
            return Expired::default();
        }
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
        if !executor.effects.lapsed.get_mut().is_empty() && self.inner.takes_changes() {
            executor.delete_lapsed(&stamp);
        }
        executor.release();
        self.inner.settle(executor.effects.log_index)?;
        reply
    }
}
