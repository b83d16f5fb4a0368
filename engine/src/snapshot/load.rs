//! Loads a snapshot into an engine, with several threads.
//!
//! Each thread takes the next frames off the source, one thread at a time, then checks and decodes
//! them and makes the entries without any lock; only to put a batch of them into the hash tables
//! does it lock their shards. The tables get their size at once.

use super::format::Kind;
use super::read::{Reader, Unit};
use super::{Info, SnapshotError};
use crate::cut::Row;
use crate::engine::Engine;
use crate::keyspace::Loose;
use crate::value::form;
use parking_lot::Mutex;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Fewest bytes that a key takes in a snapshot: tables do not get larger than its length allows,
/// whatever number of keys it claims.
const KEY_BYTES_MIN: u64 = 13;
/// Entries ahead of which the bucket is asked for.
const PREFETCH_AHEAD: usize = 12;

/// How far loading has come; other threads may look.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the snapshot, if that is known.
    pub total_bytes: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Keys loaded.
    pub keys: AtomicU64,
    /// Set to give loading up.
    pub cancelled: AtomicBool,
}

/// What was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// What the snapshot says about itself.
    pub info: Info,
    /// Keys.
    pub keys: u64,
    /// Bytes of the snapshot.
    pub bytes: u64,
}

/// Loads a snapshot into an engine that has no keys and that nobody else uses yet. `cold` gets the
/// parts of the cold tier's index, from any of the threads. `len` is the length of the source where
/// it is known; the source must end there.
///
/// # Errors
/// If the snapshot cannot be read, is damaged, or does not fit the engine. Some of its keys are
/// there then: the engine is of no more use.
pub fn load<R: Read + Send>(
    engine: &Engine,
    source: R,
    len: Option<u64>,
    threads: usize,
    progress: &Progress,
    cold: &(dyn Fn(&[u8]) -> Result<(), String> + Sync),
) -> Result<Loaded, SnapshotError> {
    progress.total_bytes.store(len.unwrap_or(0), Ordering::Relaxed);
    let reader = Reader::new(source)?;
    let info = reader.info().clone();
    prepare(engine, &info, len)?;
    let loading = Loading {
        engine,
        id: reader.id(),
        reader: Mutex::new(reader),
        failed: AtomicBool::new(false),
        progress,
        cold,
    };
    let keys = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(|| loading.work())).collect();
        let own = loading.work();
        threads.into_iter().fold(own, |sum, thread| {
            let keys = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(sum? + keys?)
        })
    })?;
    let reader = loading.reader.into_inner();
    let damaged = |what| SnapshotError::Damaged(u32::MAX, what);
    if reader.total() != Some(keys) || info.keys() != keys {
        return Err(damaged("it has another number of keys than it says"));
    }
    let bytes = reader.bytes();
    if len.is_some_and(|len| len != bytes) {
        return Err(damaged("it goes on after its end"));
    }
    Ok(Loaded { info, keys, bytes })
}

/// Checks that a snapshot fits the engine, and gives the tables their size.
fn prepare(engine: &Engine, info: &Info, len: Option<u64>) -> Result<(), SnapshotError> {
    let databases = engine.config().databases;
    let shards = engine.shard_count() as u64;
    let mut room = len.unwrap_or(0) / KEY_BYTES_MIN;
    for db in &info.dbs {
        if db.db >= databases {
            return Err(SnapshotError::Unfit(format!(
                "it has keys in database {}, but there are only {databases} (see `databases`)",
                db.db
            )));
        }
        let keys = db.keys.min(room);
        room -= keys;
        let (keys, expires) = (keys / shards, db.expires.min(keys) / shards);
        for number in 0..engine.shard_count() {
            engine.lock_shard(number).db_mut(db.db).reserve(keys as usize, expires as usize);
        }
    }
    Ok(())
}

struct Loading<'a, R> {
    engine: &'a Engine,
    id: u64,
    reader: Mutex<Reader<R>>,
    /// A thread met an error: the others end, too.
    failed: AtomicBool,
    progress: &'a Progress,
    cold: &'a (dyn Fn(&[u8]) -> Result<(), String> + Sync),
}

/// An entry on its way into a shard.
struct Place {
    shard: usize,
    db: u32,
    hash: u64,
    entry: Option<Loose>,
}

impl<R: Read> Loading<'_, R> {
    /// What each thread does; returns how many keys it loaded.
    fn work(&self) -> Result<u64, SnapshotError> {
        let result = self.take_units();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn take_units(&self) -> Result<u64, SnapshotError> {
        let (mut unit, mut batch, mut keys) = (Unit::default(), Vec::new(), 0);
        while !self.failed.load(Ordering::Relaxed) {
            if self.progress.cancelled.load(Ordering::Relaxed) {
                return Err(SnapshotError::Unfit("loading was given up".into()));
            }
            let mut reader = self.reader.lock();
            let more = reader.next_unit(&mut unit)?;
            self.progress.bytes.store(reader.bytes(), Ordering::Relaxed);
            drop(reader);
            if !more {
                break;
            }
            match unit.verify(self.id)? {
                Kind::Cold => (self.cold)(unit.payload(0)).map_err(SnapshotError::Unfit)?,
                kind @ (Kind::Rows | Kind::Large) => {
                    let rows = unit.rows(kind, |row| self.make(&row, &mut batch))?;
                    self.put(&mut batch, unit.number)?;
                    self.progress.keys.fetch_add(rows, Ordering::Relaxed);
                    keys += rows;
                }
                Kind::Libraries => {
                    let read = self.engine.libraries().decode(&unit.joined());
                    let what = "the libraries of functions cannot be read";
                    read.ok_or(SnapshotError::Damaged(unit.number, what))?;
                }
                Kind::Policies => {
                    let read = self.engine.policies().decode(&unit.joined());
                    let what = "the policies cannot be read";
                    read.ok_or(SnapshotError::Damaged(unit.number, what))?;
                }
                Kind::Info | Kind::End => {
                    return Err(SnapshotError::Damaged(unit.number, "a frame out of place"));
                }
            }
            unit.trim();
        }
        Ok(keys)
    }

    /// Makes the entry of a row.
    fn make(&self, row: &Row<'_>, batch: &mut Vec<Place>) -> Result<(), &'static str> {
        let databases = self.engine.config_databases();
        if row.db >= databases {
            return Err("a row is in a database that is not announced");
        }
        let value = form::decode(row.value).ok_or("a value cannot be read")?;
        let hash = self.engine.hasher().hash(row.key);
        let shard = self.engine.shard_of(row.key);
        let entry = Some(Loose::new(row.key, value, row.expiry, row.access));
        batch.push(Place { shard, db: row.db, hash, entry });
        Ok(())
    }

    /// Puts entries into their shards.
    fn put(&self, batch: &mut Vec<Place>, frame: u32) -> Result<(), SnapshotError> {
        if self.engine.shard_count() > 1 {
            batch.sort_unstable_by_key(|place| place.shard);
        }
        for run in batch.chunk_by_mut(|a, b| a.shard == b.shard) {
            let mut shard = self.engine.lock_shard(run[0].shard);
            for at in 0..run.len() {
                if let Some(ahead) = run.get(at + PREFETCH_AHEAD) {
                    shard.db(ahead.db).prefetch_bucket(ahead.hash);
                }
                let place = &mut run[at];
                if let Some(entry) = place.entry.take()
                    && !shard.db_mut(place.db).adopt(place.hash, entry)
                {
                    return Err(SnapshotError::Damaged(frame, "a key is there twice"));
                }
            }
        }
        batch.clear();
        Ok(())
    }
}
