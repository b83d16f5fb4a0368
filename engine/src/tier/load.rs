//! Brings values and names of cold keys into memory, or parts of large values.

use super::Tier;
use super::large::{self, Reader};
use super::needs::{Brought, ColdPart, Name, Needs, Want};
use super::row::{self, ColdValue, RowId};
use super::store::ColdError;
use crate::engine::Engine;
use crate::keyspace::Shard;
use crate::value::part::Part;
use crate::value::{NewValue, Value, form};
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
/// Largest value that is brought in because parts of it are asked for often.
const OFTEN_BYTES_MAX: usize = 64 << 20;

/// A value that is asked for.
struct Wanted<'a> {
    shard: usize,
    hash: u64,
    want: &'a Want,
}

/// What one reading came to.
struct Loaded {
    /// Values that are done with.
    done: usize,
    bytes: usize,
    result: Result<(), ColdError>,
}

/// What was read of a row.
enum Content {
    /// Another key, which has the same fingerprint.
    Other,
    /// A value as bytes.
    Bytes(ColdValue),
    /// A large value, with its access data and the bytes that were read.
    Large(Option<Box<Value>>, u32, usize),
    /// What was asked for of a large value, and the bytes that were read.
    Part(Option<Box<Part>>, usize),
}

impl Content {
    /// Bytes that were read.
    fn bytes(&self) -> usize {
        match self {
            Content::Other => 0,
            Content::Bytes(value) => value.body.len(),
            Content::Large(_, _, bytes) | Content::Part(_, bytes) => *bytes,
        }
    }
}

/// What is to go into memory.
enum Decoded<'a> {
    Other,
    Value { value: NewValue<'a>, access: u32, bytes: usize },
    Part { part: Box<Part>, bytes: usize },
}

/// What was read, ready for memory: to make it may take a while.
fn decode(read: &mut Result<Content, ColdError>) -> Result<Decoded<'_>, ColdError> {
    let content = read.as_mut().map_err(|error| error.clone())?;
    let bytes = content.bytes();
    let decoded = match content {
        Content::Other => Some(Decoded::Other),
        Content::Bytes(cold) => {
            let access = cold.access;
            form::decode(cold.value()).map(|value| Decoded::Value { value, access, bytes })
        }
        Content::Large(large, access, _) => {
            let value = large.take().map(NewValue::Big);
            value.map(|value| Decoded::Value { value, access: *access, bytes })
        }
        Content::Part(part, _) => part.take().map(|part| Decoded::Part { part, bytes }),
    };
    decoded.ok_or_else(|| ColdError::Damaged("it cannot be decoded".to_owned()))
}

impl Tier {
    /// Loads what a call lacks. No lock of the engine may be held by this thread. Values that cannot
    /// be decoded or whose rows are damaged are an error, unless their key was changed meanwhile.
    ///
    /// # Errors
    /// The first fault; all other values are loaded nevertheless.
    pub fn load(&self, engine: &Engine, needs: &Needs) -> Result<Brought, ColdError> {
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
    ) -> Result<Brought, ColdError> {
        let mut brought = Brought::default();
        let parts = &mut brought.parts;
        let mut result = self.load_values(engine, &needs.values, &|_| room(true), parts);
        let ahead = |bytes| bytes < AHEAD_BYTES_MAX && room(false);
        drop(self.load_values(engine, &needs.ahead, &ahead, parts));
        for &row in &needs.names {
            match self.load_name(row) {
                Ok(Some(name)) => drop(brought.names.insert(row, Arc::new(name))),
                Ok(None) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| brought).map_err(|error| self.failed(error))
    }

    /// Loads values, those of one shard together: its lock is taken before and after the reads, in which none
    /// is held. Before each reading `room` gets the bytes so far.
    fn load_values(
        &self,
        engine: &Engine,
        values: &[Want],
        room: &dyn Fn(usize) -> bool,
        parts: &mut Vec<Arc<ColdPart>>,
    ) -> Result<(), ColdError> {
        let mut wanted: SmallVec<[Wanted<'_>; TOGETHER_MAX]> = SmallVec::new();
        for want in values {
            let (shard, hash) = (engine.shard_of(&want.key), engine.hasher().hash(&want.key));
            wanted.push(Wanted { shard, hash, want });
        }
        wanted.sort_by_key(|wanted| (wanted.shard, wanted.hash));
        wanted.dedup_by(|a, b| {
            a.want.db == b.want.db && a.want.key == b.want.key && a.want.ask == b.want.ask
        });
        let (mut result, mut bytes) = (Ok(()), 0);
        for of_shard in wanted.chunk_by(|a, b| a.shard == b.shard) {
            for together in of_shard.chunks(TOGETHER_MAX) {
                let mut left = together;
                while !left.is_empty() {
                    if !room(bytes) {
                        return result;
                    }
                    let loaded = self.load_some(engine, left, parts);
                    left = &left[loaded.done..];
                    bytes += loaded.bytes;
                    result = result.and(loaded.result);
                }
            }
        }
        result
    }

    /// Loads the first of `wanted`, all of one shard, until they have [`TOGETHER_BYTES`].
    fn load_some(
        &self,
        engine: &Engine,
        wanted: &[Wanted<'_>],
        parts: &mut Vec<Arc<ColdPart>>,
    ) -> Loaded {
        let Some(number) = wanted.first().map(|first| first.shard) else {
            return Loaded { done: 0, bytes: 0, result: Ok(()) };
        };
        let mut shard = engine.lock_shard(number);
        let rows: SmallVec<[Option<(RowId, u64)>; TOGETHER_MAX]> = wanted
            .iter()
            .map(|wanted| shard.db_mut(wanted.want.db).begin_load(wanted.hash, &wanted.want.key))
            .collect();
        drop(shard);
        let (mut reads, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
        for (row, wanted) in rows.into_iter().zip(wanted) {
            if bytes >= TOGETHER_BYTES {
                // What was begun goes on with the next call: it has the same number then.
                break;
            }
            reads.push(row.map(|begun| {
                let read = self.read_content(begun.0, wanted.want);
                bytes += read.as_ref().map_or(0, Content::bytes);
                (begun, read)
            }));
        }
        let decoded: SmallVec<[_; TOGETHER_MAX]> = reads
            .iter_mut()
            .map(|read| read.as_mut().map(|(begun, read)| (*begun, decode(read))))
            .collect();
        let (done, mut result) = (decoded.len(), Ok(()));
        let mut shard = engine.lock_shard(number);
        for (wanted, decoded) in wanted.iter().zip(decoded) {
            let Some((begun, decoded)) = decoded else { continue };
            let loaded = self.finish_load(&mut shard, (wanted.hash, wanted.want), begun, decoded);
            match loaded {
                Ok(part) => parts.extend(part),
                Err(error) => result = result.and(Err(error)),
            }
        }
        Loaded { done, bytes, result }
    }

    /// Reads what is wanted of a row.
    fn read_content(&self, row: RowId, want: &Want) -> Result<Content, ColdError> {
        let missing = || ColdError::Damaged("it is missing".to_owned());
        let mut reader = Reader::open(&*self.store, row)?.ok_or_else(missing)?;
        let head = *reader.head();
        if head.large.is_none() {
            let value = reader.value(usize::MAX)?;
            let is_own = value.key() == &*want.key;
            return Ok(if is_own { Content::Bytes(value) } else { Content::Other });
        }
        if !reader.is_of(&want.key)? {
            return Ok(Content::Other);
        }
        let worth_all = want.often && head.body_len <= OFTEN_BYTES_MAX;
        if let Some(ask) = want.ask.as_ref().filter(|_| !worth_all)
            && let Some(part) = large::answer(&mut reader, self.seed, ask)?
        {
            return Ok(Content::Part(Some(Box::new(part)), reader.bytes()));
        }
        let value = reader.build()?.map(Box::new);
        Ok(Content::Large(value, head.access, head.body_len))
    }

    /// Brings a value in under the shard's lock, where it has one row and that is at hand, and returns its bytes;
    /// `None` where it has to be read by somebody who may wait for the disk. Faults are left to that one.
    pub(crate) fn load_ready(
        &self,
        engine: &Engine,
        shard: &mut Shard,
        want: &Want,
    ) -> Option<usize> {
        let hash = engine.hasher().hash(&want.key);
        let Some(begun) = shard.db_mut(want.db).begin_load(hash, &want.key) else {
            return Some(0);
        };
        let value = self.ready_value(begun.0).filter(|value| value.key() == &*want.key)?;
        let bytes = value.body.len();
        let mut read = Ok(Content::Bytes(value));
        self.finish_load(shard, (hash, want), begun, decode(&mut read)).ok()?;
        self.stats.ready_loads.fetch_add(1, Ordering::Relaxed);
        Some(bytes)
    }

    fn ready_value(&self, row: RowId) -> Option<ColdValue> {
        let first = self.store.get_ready(&row.key(0))?;
        let reader = Reader::of(&*self.store, row, first).ok()?;
        let is_one = reader.head().large.is_none() && reader.head().rows() == 1;
        if is_one { reader.value(usize::MAX).ok() } else { None }
    }

    /// The same as [`Tier::load`] under the shard's lock, for calls that must not let go of it.
    pub(crate) fn load_locked(
        &self,
        engine: &Engine,
        shard: &mut Shard,
        want: &Want,
    ) -> Result<Option<Arc<ColdPart>>, ColdError> {
        let hash = engine.hasher().hash(&want.key);
        let Some(begun) = shard.db_mut(want.db).begin_load(hash, &want.key) else {
            return Ok(None);
        };
        let mut read = self.read_content(begun.0, want);
        self.stats.locked_loads.fetch_add(1, Ordering::Relaxed);
        self.finish_load(shard, (hash, want), begun, decode(&mut read))
            .map_err(|error| self.failed(error))
    }

    /// Brings what was read into memory, or hands out a part, unless the key was changed meanwhile.
    fn finish_load(
        &self,
        shard: &mut Shard,
        (hash, want): (u64, &Want),
        (row, number): (RowId, u64),
        decoded: Result<Decoded<'_>, ColdError>,
    ) -> Result<Option<Arc<ColdPart>>, ColdError> {
        let (database, key) = (shard.db_mut(want.db), &*want.key);
        let is_part = matches!(decoded, Ok(Decoded::Part { .. }));
        // The number of a part's read stays known: it tells whether the part is still that of the key.
        let is_valid = match is_part {
            true => database.is_read(row, number),
            false => database.end_load(row, number),
        };
        if !is_valid {
            self.stats.stale_loads.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        match decoded {
            Ok(Decoded::Part { part, bytes }) => {
                self.stats.parts.fetch_add(1, Ordering::Relaxed);
                self.stats.part_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                let (key, part) = (key.into(), *part);
                let part = |ask| Arc::new(ColdPart { row, number, key, ask, part });
                return Ok(want.ask.clone().map(part));
            }
            Ok(Decoded::Value { value, access, bytes }) => {
                database.insert_cached(hash, key, row, value, access);
                self.stats.loads.fetch_add(1, Ordering::Relaxed);
                self.stats.load_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Ok(Decoded::Other) => database.set_absent(key),
            Err(ColdError::Damaged(what)) => {
                let key = String::from_utf8_lossy(key);
                return Err(ColdError::Damaged(format!("the value of key '{key}': {what}")));
            }
            Err(error) => return Err(error),
        }
        Ok(None)
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
