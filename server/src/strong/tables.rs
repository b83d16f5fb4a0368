//! A change of a table that all groups have, on its way from the meta group to the groups with data: the classes
//! of keys, and the sites.
//!
//! ```text
//! POLICY SET -> meta group -> topology here -> POLICIES in each group -> reply
//! SITE ADD   -> meta group -> topology here -> SITES in each group    -> reply
//! ```
//! Each group takes the table at one place of its log, the same on all replicas: that is the barrier. Whoever
//! leads a group that was not reached has it take it (`runtime/steward.rs` of the replication crate), so a
//! node that dies in the middle of this leaves nothing half done for long. As there, classes come behind the sites:
//! a group is a site before it has keys of the class `global`.

use ashlar_replication::raft::{Answer, GroupId, Request};
use ashlar_replication::runtime::{Done, Event, Handle, policies_request, sites_request};
use ashlar_replication::topology::Topology;
use parking_lot::Mutex;
use std::sync::Arc;

/// Told which groups have not taken the table yet.
pub type Spread = Box<dyn FnOnce(Vec<GroupId>) + Send>;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The classes of keys.
    Policies,
    /// What the cluster is among the sites, and which others there are.
    Sites,
}

impl Kind {
    fn version(self, topology: &Topology) -> u64 {
        match self {
            Kind::Policies => topology.policies.version(),
            Kind::Sites => topology.sites.version,
        }
    }

    fn request(self, topology: &Topology) -> Request {
        match self {
            Kind::Policies => policies_request(&topology.policies),
            Kind::Sites => sites_request(&topology.sites),
        }
    }
}

/// Those who wait until the topology here has a table of a version: clients that have changed it, which are
/// parked meanwhile, so there are no more than these.
#[derive(Default)]
pub struct Waiting(Mutex<Vec<(Kind, u64, Spread)>>);

impl Waiting {
    /// Has all groups take the table once it is here, at least that of that version.
    pub fn spread(&self, handle: &Arc<Handle>, kind: Kind, version: u64, done: Spread) {
        let topology = handle.topology();
        if kind.version(&topology) >= version {
            return spread(handle, kind, &topology, done);
        }
        self.0.lock().push((kind, version, done));
    }

    /// The topology here has changed.
    pub fn arrived(&self, handle: &Arc<Handle>, topology: &Arc<Topology>) {
        let here =
            |(kind, version, _): &mut (Kind, u64, Spread)| *version <= kind.version(topology);
        let due: Vec<(Kind, u64, Spread)> = self.0.lock().extract_if(.., here).collect();
        due.into_iter().for_each(|(kind, _, done)| spread(handle, kind, topology, done));
    }
}

fn spread(handle: &Arc<Handle>, kind: Kind, topology: &Arc<Topology>, done: Spread) {
    let groups: Vec<GroupId> = topology.groups.keys().copied().collect();
    if groups.is_empty() {
        return done(Vec::new());
    }
    let left = Arc::new(Mutex::new((groups.len(), Vec::new(), Some(done))));
    for group in groups {
        let left = left.clone();
        let taken: Done = Box::new(move |answer: Answer| {
            let mut left = left.lock();
            left.0 -= 1;
            if !is_done(&answer) {
                left.1.push(group);
            }
            if left.0 == 0
                && let Some(done) = left.2.take()
            {
                done(std::mem::take(&mut left.1));
            }
        });
        if kind == Kind::Sites || topology.sites.version == 0 {
            submit(handle, group, kind.request(topology), taken);
            continue;
        }
        let first = Kind::Sites.request(topology);
        let (then, topology) = (handle.clone(), topology.clone());
        let behind = move |answer: Answer| match is_done(&answer) {
            true => submit(&then, group, kind.request(&topology), taken),
            false => taken(answer),
        };
        submit(handle, group, first, Box::new(behind));
    }
}

fn submit(handle: &Handle, group: GroupId, request: Request, done: Done) {
    handle.ask_or_refuse(Event::Submit(group, Box::new(request), done));
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Reply(reply) if !reply.starts_with(b"-"))
}
