//! A node's simulated disk: what was written in a batch is durable some time later, or not at all.

use ashlar_replication::node::Batch;
use ashlar_replication::raft::{GroupId, LogRecord};
use ashlar_tests::random::Random;
use std::collections::BTreeMap;

/// The disk of one node; it outlives the node's process.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The records of the node's log that are durable.
    pub records: Vec<LogRecord>,
    /// The newest snapshot of each group.
    pub snapshots: BTreeMap<GroupId, (u64, Vec<u8>)>,
    /// Batches on their way, in order.
    pending: Vec<Batch>,
    /// Whether nothing can be written at the moment.
    pub full: bool,
}

impl Disk {
    /// A batch is written; it is not durable yet.
    pub fn write(&mut self, batch: Batch) {
        self.pending.push(batch);
    }

    /// Whether something is on its way.
    pub fn is_writing(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The batches up to `number` are durable.
    pub fn complete(&mut self, number: u64) {
        while self.pending.first().is_some_and(|batch| batch.number <= number) {
            let batch = self.pending.remove(0);
            self.keep_snapshots(&batch);
            self.records.extend(batch.records);
        }
    }

    fn keep_snapshots(&mut self, batch: &Batch) {
        for snapshot in &batch.snapshots {
            self.snapshots.insert(snapshot.group, (snapshot.index, snapshot.data.clone()));
        }
    }

    /// The process died: of what was on its way, the front part may be there all the same, the
    /// last record of it torn. The checksum of the log finds a torn record; `accept_torn` is the
    /// bug that does without it.
    pub fn crash(&mut self, random: &mut Random, accept_torn: bool) {
        let pending = std::mem::take(&mut self.pending);
        let whole = random.below(pending.len() + 1);
        for (nth, batch) in pending.into_iter().enumerate() {
            if nth > whole {
                break;
            }
            // Snapshots are files of their own, durable before the records that name them.
            if nth < whole || random.chance(50) {
                self.keep_snapshots(&batch);
            } else {
                break;
            }
            let kept = if nth < whole {
                batch.records.len()
            } else {
                random.below(batch.records.len() + 1)
            };
            let torn = batch.records.get(kept).cloned();
            self.records.extend(batch.records.into_iter().take(kept));
            if let (true, Some(mut torn)) = (accept_torn && nth == whole, torn) {
                if let Some(byte) = torn.0.last_mut() {
                    *byte ^= 0x55;
                }
                self.records.push(torn);
            }
        }
        self.full = false;
    }
}
