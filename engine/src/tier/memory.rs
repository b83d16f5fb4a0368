//! A cold store in memory, for tests and simulation. It can be told to fail, and to lose what was
//! not flushed.

use super::store::{Batch, ColdError, ColdStore, EachRow};
use crate::stamp::Rng;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Hook = dyn Fn() + Send + Sync;

#[derive(Default)]
struct Inner {
    rows: Mutex<Rows>,
    durable: Mutex<Rows>,
    failing: AtomicBool,
    reads: AtomicU64,
    on_read: Mutex<Option<Arc<Hook>>>,
    is_ready: AtomicBool,
}

/// Rows in a map. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Inner>);

impl MemoryStore {
    /// From now on every operation fails, or works again.
    pub fn set_failing(&self, failing: bool) {
        self.0.failing.store(failing, Ordering::Relaxed);
    }

    /// Loses all that was not flushed, as a power cut does.
    pub fn cut_power(&self) {
        *self.0.rows.lock() = self.0.durable.lock().clone();
    }

    /// Loses some of what was not flushed: which rows came to the disk nobody knows.
    pub fn cut_power_partly(&self, random: &mut Rng) {
        let mut rows = self.0.rows.lock();
        let durable = self.0.durable.lock();
        let keys: BTreeSet<&Vec<u8>> = rows.keys().chain(durable.keys()).collect();
        let choose =
            |key: &&Vec<u8>| if random.below(2) == 0 { rows.get(*key) } else { durable.get(*key) };
        let mut choose = choose;
        let left =
            keys.into_iter().filter_map(|key| Some((key.clone(), choose(&key)?.clone()))).collect();
        *rows = left;
    }

    /// Flips a bit in the row `nth % rows`, of its value; `false` where there are no rows.
    pub fn damage(&self, nth: usize) -> bool {
        let mut rows = self.0.rows.lock();
        let at = nth.checked_rem(rows.len());
        let Some(row) = at.and_then(|at| rows.values_mut().nth(at)) else { return false };
        let bit = nth % (row.len() * 8);
        row[bit / 8] ^= 1 << (bit % 8);
        true
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.0.rows.lock().len()
    }

    /// Rows that were read one by one so far.
    pub fn reads(&self) -> u64 {
        self.0.reads.load(Ordering::Relaxed)
    }

    /// From now on this runs when a row has been looked up, before its reader has it: for what happens in the middle
    /// of a read.
    pub fn on_read(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.0.on_read.lock() = Some(Arc::new(hook));
    }

    /// From now on the rows of every other value are at hand, see [`ColdStore::get_ready`].
    pub fn set_ready(&self) {
        self.0.is_ready.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), ColdError> {
        match self.0.failing.load(Ordering::Relaxed) {
            true => Err(ColdError::Failed("told to fail".to_owned())),
            false => Ok(()),
        }
    }
}

impl ColdStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.check()?;
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let row = self.0.rows.lock().get(key).cloned();
        let hook = self.0.on_read.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        Ok(row)
    }

    fn get_ready(&self, key: &[u8]) -> Option<Vec<u8>> {
        // Of the fingerprint, which is behind the generation.
        let is_ready = self.0.is_ready.load(Ordering::Relaxed) && key.get(5)? % 2 == 0;
        self.check().ok().filter(|()| is_ready)?;
        self.0.rows.lock().get(key).cloned()
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        self.check()?;
        let mut rows = self.0.rows.lock();
        for (key, value) in batch.rows() {
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        self.check()?;
        let rows = self.0.rows.lock().clone();
        for (key, value) in rows.range(from.to_vec()..to.to_vec()) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        self.check()?;
        *self.0.durable.lock() = self.0.rows.lock().clone();
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.rows.lock().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        self.0.rows.lock().clear();
        Ok(())
    }
}
