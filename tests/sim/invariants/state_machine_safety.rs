//! No two replicas apply different entries at one index (Ongaro and Ousterhout, figure 3): this
//! covers log matching and leader completeness as far as they have an effect.

use std::collections::BTreeMap;

/// The entries that were applied: their checksums by group and index.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    applied: BTreeMap<(u32, u64), (u32, u64)>,
}

impl StateMachineSafety {
    /// A node applied an entry.
    ///
    /// # Errors
    /// If another node applied another entry at the same index.
    pub fn applied(&mut self, node: u64, group: u32, index: u64, sum: u32) -> Result<(), String> {
        let (first, by) = *self.applied.entry((group, index)).or_insert((sum, node));
        if first == sum {
            return Ok(());
        }
        Err(format!("nodes {by} and {node} applied different entries {index} of group {group}"))
    }

    /// Entries that were applied somewhere.
    pub fn len(&self) -> usize {
        self.applied.len()
    }
}
