//! At most one leader a term (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", figure 3).

use std::collections::BTreeMap;

/// The leaders that were seen.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<(u32, u64), u64>,
}

impl ElectionSafety {
    /// A node leads a group in a term.
    ///
    /// # Errors
    /// If another one did.
    pub fn leads(&mut self, group: u32, term: u64, node: u64) -> Result<(), String> {
        let leader = *self.leaders.entry((group, term)).or_insert(node);
        if leader == node {
            return Ok(());
        }
        Err(format!("nodes {leader} and {node} both lead group {group} in term {term}"))
    }

    /// Elections that were won.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}
