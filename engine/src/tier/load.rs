//! Brings values and names of cold keys into memory.

use super::Tier;
use super::needs::{Name, Names, Needs};
use super::row::{self, ColdValue, RowId};
use super::store::ColdError;
use crate::engine::Engine;
use crate::keyspace::Shard;
use crate::value::{NewValue, form};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a value that tell its type.
const TYPE_BYTES: usize = 2;

/// Values of one shard that are loaded together, and bytes of them above which the rest comes later.
const TOGETHER_MAX: usize = 32;
const TOGETHER_BYTES: usize = 256 << 10;
/// Bytes of values that are read ahead for calls to come: more of them would leave again before their
/// calls run.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// A value that is asked for.
struct Wanted<'a> {
    shard: usize,
    db: u32,
    key: &'a [u8],
    hash: u64,
}

/// What one reading came to.
struct Loaded {
    /// Values that are done with.
    done: usize,
    bytes: usize,
    result: Result<(), ColdError>,
}

/// What reading a row came to.
type Read = Result<Option<ColdValue>, ColdError>;

/// The value of a row, which may be large; none where there is none, or it is damaged.
fn decode(read: &Read) -> Option<NewValue<'_>> {
    form::decode(read.as_ref().ok()?.as_ref()?.value())
}

impl Tier {
    /// Loads what a call lacks. No lock of the engine may be held by this thread. Values that cannot
    /// be decoded or whose rows are damaged are an error, unless their key was changed meanwhile.
    ///
    /// # Errors
    /// The first fault; all other values are loaded nevertheless.
    pub fn load(&self, engine: &Engine, needs: &Needs) -> Result<Names, ColdError> {
        self.load_with(engine, needs, &|_| true)
    }

    /// The same; before each reading of 256 KiB and one value more, `room` is asked, with `true`
    /// for values that are needed now, for which it waits. If it says `false`, the rest is left out.
    ///
    /// # Errors
    /// As [`Tier::load`]. Faults of values that are not needed now are left to those who need them.
    pub fn load_with(
        &self,
        engine: &Engine,
        needs: &Needs,
        room: &dyn Fn(bool) -> bool,
    ) -> Result<Names, ColdError> {
        let mut result = self.load_values(engine, &needs.values, &|_| room(true));
        let ahead = |bytes| bytes < AHEAD_BYTES_MAX && room(false);
        drop(self.load_values(engine, &needs.ahead, &ahead));
        let mut names = Names::default();
        for &row in &needs.names {
            match self.load_name(row) {
                Ok(Some(name)) => drop(names.insert(row, Arc::new(name))),
                Ok(None) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| names).map_err(|error| self.failed(error))
    }

    /// Loads values, those of one shard together: its lock is taken before and after the reads, in which none
    /// is held. Before each reading `room` gets the bytes so far.
    fn load_values(
        &self,
        engine: &Engine,
        values: &[(u32, Box<[u8]>)],
        room: &dyn Fn(usize) -> bool,
    ) -> Result<(), ColdError> {
        let mut wanted: SmallVec<[Wanted<'_>; TOGETHER_MAX]> = SmallVec::new();
        for (db, key) in values {
            let (shard, hash) = (engine.shard_of(key), engine.hasher().hash(key));
            wanted.push(Wanted { shard, db: *db, key, hash });
        }
        wanted.sort_unstable_by_key(|wanted| (wanted.shard, wanted.hash));
        wanted.dedup_by(|a, b| a.db == b.db && a.key == b.key);
        let (mut result, mut bytes) = (Ok(()), 0);
        for of_shard in wanted.chunk_by(|a, b| a.shard == b.shard) {
            for together in of_shard.chunks(TOGETHER_MAX) {
                let mut left = together;
                while !left.is_empty() {
                    if !room(bytes) {
                        return result;
                    }
                    let loaded = self.load_some(engine, left);
                    left = &left[loaded.done..];
                    bytes += loaded.bytes;
                    result = result.and(loaded.result);
                }
            }
        }
        result
    }

    /// Loads the first of `wanted`, all of one shard, until they have [`TOGETHER_BYTES`].
    fn load_some(&self, engine: &Engine, wanted: &[Wanted<'_>]) -> Loaded {
        let Some(number) = wanted.first().map(|first| first.shard) else {
            return Loaded { done: 0, bytes: 0, result: Ok(()) };
        };
        let mut shard = engine.lock_shard(number);
        let rows: SmallVec<[Option<(RowId, u64)>; TOGETHER_MAX]> = wanted
            .iter()
            .map(|wanted| shard.db_mut(wanted.db).begin_load(wanted.hash, wanted.key))
            .collect();
        drop(shard);
        let (mut reads, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
        for row in rows {
            if bytes >= TOGETHER_BYTES {
                // What was begun goes on with the next call: it has the same number then.
                break;
            }
            reads.push(row.map(|begun| {
                let read = row::read(&*self.store, begun.0, usize::MAX);
                bytes += read.as_ref().map_or(0, |v| v.as_ref().map_or(0, |v| v.body.len()));
                (begun, read)
            }));
        }
        let decoded: SmallVec<[Option<NewValue<'_>>; TOGETHER_MAX]> =
            reads.iter().map(|read| read.as_ref().and_then(|(_, read)| decode(read))).collect();
        let mut result = Ok(());
        let mut shard = engine.lock_shard(number);
        for ((wanted, read), decoded) in wanted.iter().zip(&reads).zip(decoded) {
            let Some((begun, read)) = read else { continue };
            let name = (wanted.db, wanted.key);
            let loaded = self.finish_load(&mut shard, wanted.hash, name, *begun, (read, decoded));
            result = result.and(loaded);
        }
        Loaded { done: reads.len(), bytes, result }
    }

    /// The same under the shard's lock, for calls that must not let go of it.
    pub(crate) fn load_locked(
        &self,
        engine: &Engine,
        shard: &mut Shard,
        db: u32,
        key: &[u8],
    ) -> Result<(), ColdError> {
        let hash = engine.hasher().hash(key);
        let Some((row, number)) = shard.db_mut(db).begin_load(hash, key) else { return Ok(()) };
        let read = row::read(&*self.store, row, usize::MAX);
        self.stats.locked_loads.fetch_add(1, Ordering::Relaxed);
        let decoded = decode(&read);
        self.finish_load(shard, hash, (db, key), (row, number), (&read, decoded))
            .map_err(|error| self.failed(error))
    }

    fn finish_load(
        &self,
        shard: &mut Shard,
        hash: u64,
        (db, key): (u32, &[u8]),
        (row, number): (RowId, u64),
        (read, decoded): (&Read, Option<NewValue<'_>>),
    ) -> Result<(), ColdError> {
        let database = shard.db_mut(db);
        if !database.end_load(row, number) {
            self.stats.stale_loads.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let damaged = |what: &str| {
            let key = String::from_utf8_lossy(key);
            ColdError::Damaged(format!("the value of key '{key}' {what}"))
        };
        let value = read.as_ref().map_err(Clone::clone)?;
        let value = value.as_ref().ok_or_else(|| damaged("is missing"))?;
        if value.key() != key {
            database.set_absent(key);
            return Ok(());
        }
        let decoded = decoded.ok_or_else(|| damaged("cannot be decoded"))?;
        database.insert_cached(hash, key, row, decoded, value.access);
        self.stats.loads.fetch_add(1, Ordering::Relaxed);
        self.stats.load_bytes.fetch_add(value.body.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The name of a row; `None` where it is gone.
    pub(super) fn load_name(&self, row: RowId) -> Result<Option<Name>, ColdError> {
        self.stats.names.fetch_add(1, Ordering::Relaxed);
        let Some(value) = row::read(&*self.store, row, TYPE_BYTES)? else { return Ok(None) };
        let value_type = form::type_of(value.value());
        let value_type = value_type
            .ok_or_else(|| ColdError::Damaged("the type of a value is unknown".to_owned()))?;
        Ok(Some(Name { key: value.key().into(), value_type }))
    }
}
