//! The index of cold keys as part of a snapshot, so that values on disk outlive the process.
//!
//! A snapshot names the rows that were valid at its cut. A row that it names stays until two later
//! snapshots are durable, as the one before the last is kept, should the last one be damaged. What is
//! given up in between waits in `ColdDb::garbage`. A row is never overwritten while a snapshot may name
//! it: with every cut a new epoch begins, which is part of the row's key, and a key is not written
//! while a row of its with the same epoch waits to be deleted.
//!
//! ```text
//! part:   version u8 = 1 | kind u8 | ...
//! kind 1: length u8 | name of the store | databases u32 | generation u32 of each
//! kind 2: database u32 | count u32 | keys
//! key:    word u64 | tag u16 | epoch u8 | has an expiry u8 | [expiry i64]
//! kind 3: epoch u8 | epochs of this snapshot's rows [32] | of the one before [32]
//! ```
//! Numbers are little-endian; a set of epochs has a bit for each, the lowest first. There is one part of
//! the kinds 1 and 3.
//!
//! What is given up is known to the process alone. After a start, rows of keys that are in no index may
//! still be named by the older one of the two snapshots: new ones get an epoch that neither has. Where
//! there is none, the older snapshot is void, and the host removes it.

use super::Tier;
use super::db::ColdDb;
use super::fingerprint::Fingerprint;
use super::row::RowId;
use super::store::{Batch, ColdError};
use crate::engine::Engine;
use crate::keyspace::Db;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const VERSION: u8 = 1;
const HEAD: u8 = 1;
const KEYS: u8 = 2;
const EPOCHS: u8 = 3;
/// Keys of one part, about: far below the 4 MiB that a part may have, and a shard is locked for them.
const PART_KEYS: usize = 20_000;
/// Rows that one pass of the search for rows without a name looks at.
const SWEEP_ROWS: usize = 5_000;

/// Epochs, a bit each.
type Epochs = [u8; 32];

fn has(epochs: &Epochs, epoch: u8) -> bool {
    epochs[usize::from(epoch) / 8] >> (epoch % 8) & 1 == 1
}

/// A snapshot that is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    /// The period that began with its cut; 0 if it was not taken by this process.
    period: u64,
    /// The epochs of the rows that it names.
    epochs: Epochs,
}

/// The snapshot that is being written.
#[derive(Default)]
pub(super) struct Pending {
    kept: Kept,
    /// The generation of each database at the cut.
    generations: Vec<u32>,
}

impl Pending {
    pub fn new(period: u64, generations: Vec<u32>) -> Pending {
        Pending { kept: Kept { period, epochs: Epochs::default() }, generations }
    }
}

/// The first epoch from `first` on that none of the snapshots has.
fn free_epoch(kept: &[Kept; 2], first: u8) -> Option<u8> {
    let all = (0..=u8::MAX).map(|step| first.wrapping_add(step));
    all.into_iter().find(|epoch| kept.iter().all(|kept| !has(&kept.epochs, *epoch)))
}

impl Tier {
    /// A cut begins: rows of keys that are written from now on get another epoch than those before.
    pub(super) fn next_epoch(&self) {
        let next = self.epoch.load(Ordering::Acquire).wrapping_add(1);
        let free = free_epoch(&self.snapshots.lock(), next);
        // Where there is none, rows that are to stay are known: this process has given them up.
        self.epoch.store(free.unwrap_or(next), Ordering::Release);
    }

    /// From now on snapshots name rows: the store is not emptied, and rows that a snapshot may name are
    /// kept. Before the engine is used.
    pub fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
        self.free_before.store(0, Ordering::Release);
        *self.sweep.lock() = Some(Vec::new());
    }

    /// The cut that has just begun is a snapshot's; all shards are still locked.
    pub(crate) fn begin_snapshot(&self) {
        *self.pending.lock() = std::mem::take(&mut *self.at_cut.lock());
    }

    /// Writes the index as it was at the running cut, in parts. Before the cut is read: it has the cold
    /// keys itself otherwise.
    ///
    /// # Errors
    /// Those of `put`.
    pub(crate) fn write_index(
        &self,
        engine: &Engine,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        put(&self.head())?;
        for number in 0..engine.shard_count() {
            loop {
                let mut rows = Vec::new();
                let mut shard = engine.lock_shard(number);
                // One that was swapped or flushed meanwhile is found where it is now.
                let to_come = |db: &&mut Db| db.cold().is_some_and(ColdDb::is_in_cut);
                let Some(db) = shard.dbs_of_cut().find(to_come) else { break };
                let database = db.number_at_cut();
                if let Some(cold) = db.cold_upkeep() {
                    cold.cut_some(PART_KEYS, &mut rows);
                }
                drop(shard);
                let Some(database) = database.filter(|_| !rows.is_empty()) else { continue };
                let epochs = &mut self.pending.lock().kept.epochs;
                for (row, _) in &rows {
                    epochs[usize::from(row.epoch) / 8] |= 1 << (row.epoch % 8);
                }
                put(&part(database, &rows))?;
            }
        }
        let mut last = vec![VERSION, EPOCHS, self.epoch.load(Ordering::Acquire)];
        last.extend_from_slice(&self.pending.lock().kept.epochs);
        last.extend_from_slice(&self.snapshots.lock()[1].epochs);
        put(&last)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = vec![VERSION, HEAD, self.name.len() as u8];
        head.extend_from_slice(self.name.as_bytes());
        let pending = self.pending.lock();
        head.extend_from_slice(&(pending.generations.len() as u32).to_le_bytes());
        head.extend(pending.generations.iter().flat_map(|generation| generation.to_le_bytes()));
        head
    }

    /// The snapshot whose cut was the last one is durable. Rows that neither it nor the one before names
    /// may go.
    pub(crate) fn end_snapshot(&self) {
        let mut snapshots = self.snapshots.lock();
        *snapshots = [snapshots[1], self.pending.lock().kept];
        self.free_before.store(snapshots[0].period, Ordering::Release);
    }

    /// Rows that snapshots name may go: for the test which shows that this is noticed.
    pub(crate) fn free_all(&self) {
        self.free_before.store(u64::MAX, Ordering::Release);
    }

    /// Takes a part of an index in, while nobody uses the engine; from any thread.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn load_index(self: &Arc<Self>, engine: &Engine, part: &[u8]) -> Result<(), String> {
        let [VERSION, kind, rest @ ..] = part else {
            return Err("the index of cold keys is of an unknown version".to_owned());
        };
        let mut input = Input(rest);
        let databases = engine.config_databases();
        let read = match *kind {
            HEAD => {
                let name = input.u8().and_then(|len| input.bytes(len.into()));
                if name.is_some_and(|name| name != self.name.as_bytes()) {
                    return Err(format!(
                        "its cold keys are in a store of another kind (see `cold-store`): {}",
                        String::from_utf8_lossy(name.unwrap_or_default())
                    ));
                }
                let count = name.and_then(|_| input.u32());
                if count.is_some_and(|count| count != databases) {
                    // Lives of databases are numbered by their count.
                    return Err(format!(
                        "it has cold keys of {} databases, but there are {databases} (see \
                         `databases`)",
                        count.unwrap_or(0)
                    ));
                }
                count.and_then(|count| read_generations(engine, count, &mut input))
            }
            KEYS => self.read_keys(engine, &mut input),
            EPOCHS => self.read_epochs(&mut input),
            _ => None,
        };
        let whole = read.is_some() && input.0.is_empty();
        whole.then_some(()).ok_or("a part of the index of cold keys makes no sense".into())
    }

    fn read_keys(self: &Arc<Self>, engine: &Engine, input: &mut Input<'_>) -> Option<()> {
        let (database, count) = (input.u32()?, input.u32()?);
        if database >= engine.config_databases() {
            return None;
        }
        for _ in 0..count {
            let print = Fingerprint { word: input.u64()?, tag: input.u16()? };
            let epoch = input.u8()?;
            let expiry = match input.u8()? {
                0 => None,
                1 => Some(input.u64()? as i64),
                _ => return None,
            };
            let mut shard = engine.lock_shard(print.slot() % engine.shard_count());
            if !shard.db_mut(database).restore_cold(self, (print, epoch), expiry) {
                return None;
            }
        }
        Some(())
    }

    /// Chooses the epoch of new rows: one that no snapshot has that is kept.
    fn read_epochs(&self, input: &mut Input<'_>) -> Option<()> {
        let (epoch, this, before) = (input.u8()?, input.take::<32>()?, input.take::<32>()?);
        let kept = [before, this].map(|epochs| Kept { period: 0, epochs });
        let free = free_epoch(&kept, epoch);
        self.older_is_void.store(free.is_none(), Ordering::Release);
        self.epoch.store(free.unwrap_or(epoch), Ordering::Release);
        *self.snapshots.lock() = kept;
        Some(())
    }

    /// Whether an older snapshot than the one that was loaded must not be used any more: rows that it
    /// names may be written anew.
    pub(crate) fn older_is_void(&self) -> bool {
        self.older_is_void.load(Ordering::Acquire)
    }

    /// Forgets all cold keys: another snapshot is loaded instead.
    pub(crate) fn clear_index(&self, engine: &Engine) {
        for number in 0..engine.shard_count() {
            let mut shard = engine.lock_shard(number);
            (0..engine.config_databases()).for_each(|db| shard.db_mut(db).clear_cold());
        }
        self.dropped.lock().clear();
        *self.snapshots.lock() = Default::default();
        self.older_is_void.store(false, Ordering::Release);
    }

    /// Deletes some rows that nothing names: those that were written after the last snapshot before a
    /// crash. Only once both snapshots that are kept are of this process. The caller is the tier's one
    /// worker.
    pub(super) fn sweep_orphans(&self, engine: &Engine) -> Result<(), ColdError> {
        if self.snapshots.lock()[0].period == 0 {
            return Ok(());
        }
        let Some(from) = self.sweep.lock().take() else { return Ok(()) };
        let (mut batch, mut seen, mut last) = (Batch::default(), 0, None);
        let end = [0xFF; 4];
        self.store.range_keys(&from, &end, &mut |key, _| {
            seen += 1;
            if seen > SWEEP_ROWS || batch.is_full() {
                last = Some(key.to_vec());
                return false;
            }
            if RowId::from_key(key).is_some_and(|(row, _)| !self.is_known(engine, row)) {
                batch.delete(key.to_vec());
            }
            true
        })?;
        self.stats.deleted_rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.store.apply(&batch)?;
        *self.sweep.lock() = last;
        Ok(())
    }

    fn is_known(&self, engine: &Engine, row: RowId) -> bool {
        let mut shard = engine.lock_shard(row.print.slot() % engine.shard_count());
        let waits = self.dropped.lock().iter().any(|(generation, _)| *generation == row.generation);
        let known = shard.dbs_of_cut().any(|db| {
            db.cold().is_some_and(|cold| cold.generation() == row.generation && cold.knows(row))
        });
        waits || known
    }
}

/// The databases go on with the lives that they had.
fn read_generations(engine: &Engine, databases: u32, input: &mut Input<'_>) -> Option<()> {
    for database in 0..databases {
        // The next lives need numbers too.
        let generation = input.u32().filter(|generation| *generation < u32::MAX / 2)?;
        for number in 0..engine.shard_count() {
            engine.lock_shard(number).db_mut(database).set_generation(generation);
        }
    }
    Some(())
}

fn part(database: u32, rows: &[(RowId, Option<i64>)]) -> Vec<u8> {
    let mut part = vec![VERSION, KEYS];
    part.extend_from_slice(&database.to_le_bytes());
    part.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    for (row, expiry) in rows {
        part.extend_from_slice(&row.print.word.to_le_bytes());
        part.extend_from_slice(&row.print.tag.to_le_bytes());
        part.push(row.epoch);
        part.push(u8::from(expiry.is_some()));
        part.extend(expiry.iter().flat_map(|expiry| expiry.to_le_bytes()));
    }
    part
}

/// What is left of a part.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
