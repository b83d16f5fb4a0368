//! A change of the libraries of functions, on its way to the nodes.
//!
//! ```text
//! FUNCTION LOAD -> meta group -> topology of each node -> its engine -> LEADS to all others -> reply
//! ```
//! The libraries come with the topology, so every node has them sooner or later. Who has loaded a function
//! calls it next, and maybe at another node: so the client is answered once all nodes that are heard of have
//! said that they have it.

use ashlar_replication::node::NodeId;
use parking_lot::Mutex;

/// Told which nodes have not said that they have the libraries.
pub type Everywhere = Box<dyn FnOnce(Vec<NodeId>) + Send>;

/// One who waits until all nodes have libraries of a version.
struct Waiter {
    version: u64,
    until_us: u64,
    done: Everywhere,
}

/// Those who wait: clients that have changed the libraries, which are parked meanwhile, so there are no more
/// than these.
#[derive(Default)]
pub struct Waiting(Mutex<Vec<Waiter>>);

impl Waiting {
    /// Has `done` told once there is no node left that lacks that version, or the time is over.
    pub fn wait(&self, version: u64, until_us: u64, done: Everywhere) {
        self.0.lock().push(Waiter { version, until_us, done });
    }

    /// Looks whether anybody has waited for long enough; `lacking` lists the nodes without a version.
    pub fn look(&self, now_us: u64, lacking: impl Fn(u64) -> Vec<NodeId>) {
        let mut due = Vec::new();
        {
            let mut waiting = self.0.lock();
            let mut at = 0;
            while let Some(waiter) = waiting.get(at) {
                let left = lacking(waiter.version);
                if left.is_empty() || waiter.until_us <= now_us {
                    due.push((waiting.swap_remove(at).done, left));
                } else {
                    at += 1;
                }
            }
        }
        due.into_iter().for_each(|(done, left)| done(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn each_is_told_in_its_time() {
        let (waiting, told) = (Waiting::default(), Arc::new(Mutex::new(Vec::new())));
        for (version, until_us) in [(1, 100), (2, 100), (3, 100)] {
            let told = told.clone();
            let done = Box::new(move |left| told.lock().push((version, left)));
            waiting.wait(version, until_us, done);
        }
        // Node 7 has version 1, node 8 has version 2.
        let lacking = |version: u64| {
            let nodes: [(NodeId, u64); 2] = [(7, 1), (8, 2)];
            nodes.into_iter().filter(|(_, has)| *has < version).map(|(node, _)| node).collect()
        };
        waiting.look(50, lacking);
        assert_eq!(*told.lock(), [(1, vec![])]);
        waiting.look(100, lacking);
        told.lock().sort();
        assert_eq!(*told.lock(), [(1, vec![]), (2, vec![7]), (3, vec![7, 8])]);
        waiting.look(200, |_| Vec::new());
        assert_eq!(told.lock().len(), 3);
    }
}
