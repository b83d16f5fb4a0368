//! What leaders tell the other nodes of their groups.
//!
//! A node without a replica of a group cannot know who leads it, and whether a group's replicas are
//! those that it shall have is known to its leader only. So each leader says so, once a second and
//! whenever it changes.
//!
//! ```text
//! message   list of (group u32 | term u64 | settled epoch u64), to the end
//!           group 4294967295: in the place of the term, the version of the libraries that the node has
//! ```

use ashlar_replication::bytes::Reader;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::DATA_GROUPS_MAX;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// In the place of a group: what follows is about the libraries of functions.
pub const LIBRARIES: GroupId = GroupId::MAX;
/// Bytes of an element.
const BYTES: usize = 20;

/// What a leader says of its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Who says so.
    pub leader: NodeId,
    /// The term that it leads in.
    pub term: u64,
    /// The group's epoch in the topology for which its replicas are those that are named there.
    pub settled_epoch: u64,
}

/// What was heard of each group last: at most one entry a group.
#[derive(Debug, Default)]
pub struct Heard {
    groups: Mutex<BTreeMap<GroupId, Told>>,
    /// The libraries that each node has.
    libraries: Mutex<BTreeMap<NodeId, u64>>,
}

impl Heard {
    /// What is known of a group by hearsay.
    pub fn of(&self, group: GroupId) -> Option<Told> {
        self.groups.lock().get(&group).copied()
    }

    /// The version of the libraries that a node has, as it says; 0 where it has none, or has not said so.
    pub fn libraries_of(&self, node: NodeId) -> u64 {
        self.libraries.lock().get(&node).copied().unwrap_or(0)
    }

    /// Takes a message in. Who led in an earlier term has been replaced since.
    pub fn take(&self, from: NodeId, message: &[u8]) {
        let mut heard = self.groups.lock();
        for part in message.as_chunks::<BYTES>().0 {
            let mut reader = Reader(part);
            let (Ok(group), Ok(term), Ok(settled_epoch)) =
                (reader.u32(), reader.u64(), reader.u64())
            else {
                return;
            };
            if group == LIBRARIES {
                self.libraries.lock().insert(from, term);
                continue;
            }
            let told = Told { leader: from, term, settled_epoch };
            let is_newer = heard.get(&group).is_none_or(|known| known.term <= told.term);
            if is_newer && group as usize <= DATA_GROUPS_MAX {
                heard.insert(group, told);
            }
        }
    }
}

/// The message of a node that leads these groups: number, term, settled epoch.
pub fn message(led: &[(GroupId, u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(led.len() * BYTES);
    for (group, term, settled_epoch) in led {
        bytes.extend_from_slice(&group.to_le_bytes());
        bytes.extend_from_slice(&term.to_le_bytes());
        bytes.extend_from_slice(&settled_epoch.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_leader_counts() {
        let heard = Heard::default();
        heard.take(1, &message(&[(7, 3, 0), (8, 3, 9)]));
        heard.take(2, &message(&[(7, 4, 5)]));
        heard.take(3, &message(&[(7, 2, 8), (u32::MAX, 9, 9)]));
        assert_eq!(heard.of(7), Some(Told { leader: 2, term: 4, settled_epoch: 5 }));
        assert_eq!(heard.of(8), Some(Told { leader: 1, term: 3, settled_epoch: 9 }));
        heard.take(5, &message(&[(LIBRARIES, 6, 0)]));
        assert_eq!((heard.libraries_of(5), heard.libraries_of(1)), (6, 0));
        assert_eq!((heard.of(9), heard.of(u32::MAX)), (None, None));
        // What is cut off is none.
        heard.take(4, &message(&[(9, 1, 1)])[..19]);
        assert_eq!(heard.of(9), None);
    }
}
