//! The index of cold keys as part of a snapshot, so that values on disk outlive the process.
//!
//! A snapshot names the rows that were valid at its cut. A row that it names stays until two later
//! snapshots are durable, as the one before the last is kept, should the last one be damaged. What is
//! given up in between waits in `ColdDb::garbage`. A row is never overwritten while a snapshot may name
//! it: with every cut a new epoch begins, which is part of the row's key, and a key is not written
//! while a row of its with the same epoch waits to be deleted.
//!
//! ```text
//! part:   version u8 = 1 | epoch u8 | groups
//! group:  database u32 | generation u32 | count u32 | keys
//! key:    word u64 | tag u16 | epoch u8 | has an expiry u8 | [expiry i64]        all little-endian
//! ```
//! Each database has at least one group, without keys if need be: its generation must not be given to
//! another one.

use super::Tier;
use super::fingerprint::Fingerprint;
use super::row::RowId;
use super::store::{Batch, ColdError};
use crate::engine::Engine;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const VERSION: u8 = 1;
/// Keys of one part: far below the 4 MiB that a part may have.
const PART_KEYS: usize = 100_000;
/// Rows that one pass of the search for rows without a name looks at.
const SWEEP_ROWS: usize = 5_000;

impl Tier {
    /// From now on snapshots name rows: the store is not emptied, and rows that a snapshot may name are
    /// kept. Before the engine is used.
    pub fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
        self.free_before.store(0, Ordering::Release);
        *self.sweep.lock() = Some(Vec::new());
    }

    /// Writes the index as it was at the running cut, in parts. Before the cut is read: it has the cold
    /// keys itself otherwise.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn write_index(
        &self,
        engine: &Engine,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for number in 0..engine.shard_count() {
            let mut at = 0;
            loop {
                let (mut rows, mut more) = (Vec::new(), false);
                let mut shard = engine.lock_shard(number);
                let Some(db) = shard.dbs_of_cut().nth(at) else { break };
                let (generation, named) = (db.generation(), db.number_at_cut());
                if let Some(cold) = db.cold_upkeep() {
                    more = cold.cut_some(PART_KEYS, &mut rows);
                }
                drop(shard);
                // Without a number it was born after the cut.
                if let Some(database) = named {
                    put(&part(self.epoch.load(Ordering::Acquire), database, generation, &rows))?;
                }
                at += usize::from(!more);
            }
        }
        Ok(())
    }

    /// The snapshot whose cut was the last one is durable, or was given up. Rows that neither it nor the
    /// one before names may go.
    pub fn end_snapshot(&self, durable: bool) {
        if durable {
            let mut snapshots = self.snapshots.lock();
            *snapshots = [snapshots[1], self.period()];
            self.free_before.store(snapshots[0], Ordering::Release);
        }
    }

    /// Takes a part of an index in, while nobody uses the engine; from any thread.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load_index(self: &Arc<Self>, engine: &Engine, part: &[u8]) -> Result<(), String> {
        self.read_part(engine, part).ok_or("a part of the index of cold keys makes no sense".into())
    }

    fn read_part(self: &Arc<Self>, engine: &Engine, part: &[u8]) -> Option<()> {
        let mut input = Input(part);
        if input.u8()? != VERSION {
            return None;
        }
        // Rows that are written from now on are of a later epoch than any that a snapshot names.
        self.epoch.fetch_max(input.u8()?, Ordering::AcqRel);
        while !input.0.is_empty() {
            let (database, generation, count) = (input.u32()?, input.u32()?, input.u32()?);
            if database >= engine.config_databases() {
                return None;
            }
            for number in 0..engine.shard_count() {
                engine.lock_shard(number).db_mut(database).set_generation(generation);
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
                let row = RowId { generation, print, epoch };
                if !shard.db_mut(database).restore_cold(self, row, expiry) {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Forgets all cold keys: another snapshot is loaded instead.
    pub fn clear_index(&self, engine: &Engine) {
        for number in 0..engine.shard_count() {
            let mut shard = engine.lock_shard(number);
            (0..engine.config_databases()).for_each(|db| shard.db_mut(db).clear_cold());
        }
        self.dropped.lock().clear();
    }

    /// Deletes some rows that nothing names: those that were written after the last snapshot before a
    /// crash. Only once both snapshots that are kept are of this process. The caller is the tier's one
    /// worker.
    pub(super) fn sweep_orphans(&self, engine: &Engine) -> Result<(), ColdError> {
        if self.snapshots.lock()[0] == 0 {
            return Ok(());
        }
        let Some(from) = self.sweep.lock().take() else { return Ok(()) };
        let (mut batch, mut seen, mut last) = (Batch::default(), 0, None);
        let end = [0xFF; 4];
        self.store.range(&from, &end, &mut |key, _| {
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

fn part(epoch: u8, database: u32, generation: u32, rows: &[(RowId, Option<i64>)]) -> Vec<u8> {
    let mut part = vec![VERSION, epoch];
    part.extend_from_slice(&database.to_le_bytes());
    part.extend_from_slice(&generation.to_le_bytes());
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

impl Input<'_> {
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
