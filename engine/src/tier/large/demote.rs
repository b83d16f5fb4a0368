//! Writes a large value in steps: its shard is locked for one of them at a time.
//!
//! The entry is marked before, as those of all values that leave. A change takes the mark away, so that what was written
//! so far is garbage; the value stays, and leaves another time.

use super::super::Tier;
use super::super::demote::Leaving;
use super::super::row::{COLD_BYTES_MAX, Head};
use super::super::store::ColdError;
use super::{Builder, Writer};
use crate::engine::Engine;
use crate::keyspace::EntryPtr;
use crate::value::Value;
use crate::value::steps::{Steps, can_step, len};

/// Bytes of a value that are copied under the lock of its shard at a time.
const STEP_BYTES: usize = 64 << 10;

/// Elements of a sorted set's order that are copied so.
const STEP_RANKS: usize = 4096;

/// Whether an entry's value can be written in steps.
pub fn can_write(entry: EntryPtr) -> bool {
    entry.big().is_some_and(can_step)
}

/// What is to be written of a value beside its elements.
struct Progress {
    steps: Steps,
    directory: Builder,
    /// Bytes of the stream so far.
    written: usize,
    len: usize,
}

/// What a step came to.
enum Step {
    More,
    Last,
    /// The value was changed, or is too large.
    Over,
}

impl Tier {
    /// Writes a marked value and says how long its body is; `None` where it was changed meanwhile, or is too large.
    pub(in super::super) fn write_large(
        &self,
        engine: &Engine,
        one: &Leaving,
    ) -> Result<Option<Head>, ColdError> {
        let write = self.next_number() as u32;
        let mut writer = Writer::new(self.store(), one.row, write);
        let key = one.value.key();
        writer.push(key)?;
        let (mut bytes, mut progress) = (Vec::new(), None);
        loop {
            bytes.clear();
            let step = self.step(engine, one, &mut progress, &mut bytes);
            writer.push(&bytes)?;
            match step {
                Step::More => {}
                Step::Last => break,
                Step::Over => return Ok(None),
            }
        }
        let Some(Progress { mut directory, written, len, .. }) = progress else { return Ok(None) };
        let large = Some(directory.write(len, written, &mut writer)?);
        let mut rank = 0;
        while one.is_ranked && rank < len {
            bytes.clear();
            let Some(next) = self.rank_step(engine, one, (rank, &directory), &mut bytes) else {
                return Ok(None);
            };
            writer.push(&bytes)?;
            rank = next;
        }
        let (expiry, access) = (one.value.expiry, one.value.access);
        let head = Head { write, expiry, access, key_len: key.len(), body_len: written, large };
        writer.finish(head)?;
        Ok(Some(head))
    }

    /// Copies some more of a value, under the lock of its shard.
    fn step(
        &self,
        engine: &Engine,
        one: &Leaving,
        progress: &mut Option<Progress>,
        bytes: &mut Vec<u8>,
    ) -> Step {
        let key = one.value.key();
        let shard = engine.lock_shard(one.shard);
        let entry = shard.dbs().iter().find_map(|db| db.marked(one.row, key));
        let Some(value) = entry.and_then(|entry| entry.big()) else { return Step::Over };
        let Progress { steps, directory, written, .. } =
            progress.get_or_insert_with(|| Progress::new(self.seed(), value, key.len()));
        let start = *written;
        let more = steps.step(value, STEP_BYTES, bytes, &mut |member, at| {
            directory.add(member, start + at);
        });
        *written += bytes.len();
        match more {
            _ if *written > COLD_BYTES_MAX => Step::Over,
            true => Step::More,
            false => Step::Last,
        }
    }
}

impl Tier {
    /// Copies some more of a sorted set's order, under the lock of its shard, and says from where to go on. `None` where it
    /// was changed.
    fn rank_step(
        &self,
        engine: &Engine,
        one: &Leaving,
        (rank, directory): (usize, &Builder),
        bytes: &mut Vec<u8>,
    ) -> Option<usize> {
        let shard = engine.lock_shard(one.shard);
        let entry = shard.dbs().iter().find_map(|db| db.marked(one.row, one.value.key()));
        let Some(Value::Zset(zset)) = entry.and_then(|entry| entry.big()) else { return None };
        let end = zset.len().min(rank + STEP_RANKS);
        zset.for_ranks(rank..end, |score, position| directory.rank(score, position, bytes));
        Some(end)
    }
}

impl Progress {
    fn new(seed: u64, value: &Value, key_len: usize) -> Progress {
        let len = len(value);
        let directory = Builder::new(seed, value.type_of(), len);
        Progress { steps: Steps::default(), directory, written: key_len, len }
    }
}
