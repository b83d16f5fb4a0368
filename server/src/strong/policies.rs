//! A change of the classes of keys, on its way from the meta group to the groups with data.
//!
//! ```text
//! POLICY SET -> meta group -> topology here -> POLICIES in each group -> reply
//! ```
//! Each group takes the rules at one place of its log, the same on all replicas: that is the barrier. Whoever
//! leads a group that was not reached has it take them (`runtime/steward.rs` of the replication crate), so a
//! node that dies in the middle of this leaves nothing half done for long.

use ashlar_replication::raft::{Answer, GroupId};
use ashlar_replication::runtime::{Event, Handle, policies_request};
use ashlar_replication::topology::Topology;
use parking_lot::Mutex;
use std::sync::Arc;

/// Told which groups have not taken the rules yet.
pub type Spread = Box<dyn FnOnce(Vec<GroupId>) + Send>;

/// Those who wait until the topology here has rules of a version: clients that have changed them, which are
/// parked meanwhile, so there are no more than these.
#[derive(Default)]
pub struct Waiting(Mutex<Vec<(u64, Spread)>>);

impl Waiting {
    /// Has all groups take the rules once they are here, at least those of that version.
    pub fn spread(&self, handle: &Arc<Handle>, version: u64, done: Spread) {
        let topology = handle.topology();
        if topology.policies.version() >= version {
            return spread(handle, &topology, done);
        }
        self.0.lock().push((version, done));
    }

    /// The topology here has changed.
    pub fn arrived(&self, handle: &Arc<Handle>, topology: &Topology) {
        let here = |(version, _): &mut (u64, Spread)| *version <= topology.policies.version();
        let due: Vec<(u64, Spread)> = self.0.lock().extract_if(.., here).collect();
        due.into_iter().for_each(|(_, done)| spread(handle, topology, done));
    }
}

fn spread(handle: &Arc<Handle>, topology: &Topology, done: Spread) {
    let groups: Vec<GroupId> = topology.groups.keys().copied().collect();
    if groups.is_empty() {
        return done(Vec::new());
    }
    let left = Arc::new(Mutex::new((groups.len(), Vec::new(), Some(done))));
    for group in groups {
        let left = left.clone();
        let taken = Box::new(move |answer: Answer| {
            let mut left = left.lock();
            left.0 -= 1;
            if !matches!(answer, Answer::Reply(_)) {
                left.1.push(group);
            }
            if left.0 == 0
                && let Some(done) = left.2.take()
            {
                done(std::mem::take(&mut left.1));
            }
        });
        let request = Box::new(policies_request(&topology.policies));
        handle.ask_or_refuse(Event::Submit(group, request, taken));
    }
}
