//! Each slot is served by exactly one group: the one of the topology takes writes to it and no other
//! one has keys of it (after "Slot ownership" of the Redis cluster specification).

use crate::nodes::world::World;
use ashlar_replication::raft::Group;
use ashlar_replication::runtime::{Data, State};
use ashlar_replication::topology::ranges;

/// Checks the leaders of all groups.
///
/// # Errors
/// The group that does not serve what it has, or has what it does not serve.
pub fn check(world: &World) -> Result<(), String> {
    let topology = world.topology();
    for group in topology.groups.keys().copied() {
        let leader = world.leader_of(group).ok_or(format!("group {group} has no leader"))?;
        let Some(State::Data(data)) = world.replica(leader, group).map(Group::machine) else {
            return Err(format!("group {group} has no data"));
        };
        let own = |slot: &u16| topology.group_of(*slot) == Some(group);
        if let Some(slot) = topology.slots_of(group).find(|slot| data.is_frozen(*slot)) {
            return Err(format!("group {group} has slot {slot} but takes no writes to it"));
        }
        let others = ranges((0..ashlar_engine::slot::SLOTS).filter(|slot| !own(slot)));
        if data.has_keys(&others) {
            return Err(format!("group {group} has keys of slots that are another's"));
        }
    }
    Ok(())
}
