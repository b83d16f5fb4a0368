//! A cut of one shard: the keys of a group at one moment.

use super::{BUCKETS_A_STEP, BYTES_A_STEP, Handed, Rows};
use crate::engine::Engine;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A cut of one shard on its way, for another thread to read. Dropped before its end, it lets go of what it
/// has not read yet. See [`Engine::begin_group_cut`].
pub struct GroupCut {
    engine: Arc<Engine>,
    handed: Arc<Handed>,
    shard: usize,
    keys: usize,
    done: bool,
}

impl Engine {
    /// Begins a cut of one shard: it will have the state of this moment, as [`Engine::begin_cut`] has
    /// that of all. `None` while any other cut is running. There is no cold tier.
    ///
    /// The thread must hold no lock of this engine: an executor releases its own first.
    pub fn begin_group_cut(self: &Arc<Engine>, shard: usize) -> Option<GroupCut> {
        if self.tier().is_some() || self.cut_running().swap(true, Ordering::Acquire) {
            return None;
        }
        let handed = Arc::new(Handed::default());
        let mut guard = self.lock_shard(shard);
        guard.begin_saving(&handed);
        let keys = guard.dbs().iter().map(|db| db.len()).sum();
        drop(guard);
        Some(GroupCut { engine: self.clone(), handed, shard, keys, done: false })
    }
}

impl GroupCut {
    /// Keys at the cut: so many rows will come.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Appends some more rows, as [`Cut::step`](super::Cut::step) does, and returns whether there are more.
    pub fn step(&mut self, rows: &mut Rows) -> bool {
        let took = self.handed.take(rows);
        if self.done {
            return took;
        }
        let (mut cold, mut spent) = (Vec::new(), Vec::new());
        let bytes_max = rows.bytes() + BYTES_A_STEP;
        let mut shard = self.engine.lock_shard(self.shard);
        self.done = !shard.save_some(rows, BUCKETS_A_STEP, bytes_max, &mut cold, &mut spent);
        drop(shard);
        // What was handed over before the end is in the queue by now.
        true
    }
}

impl Drop for GroupCut {
    fn drop(&mut self) {
        let mut rows = Rows::default();
        while self.step(&mut rows) {
            rows.clear();
        }
        self.engine.cut_running().store(false, Ordering::Release);
    }
}
