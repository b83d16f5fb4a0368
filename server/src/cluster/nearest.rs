//! Reads of `async` keys, which any member of their group answers: the node that the client is at, if it keeps
//! them; else, or if it may be cut off, the client is sent to the leader.

use super::Member;
use crate::config::{ASYNC_READS_NEAREST, ids};
use crate::host::Host;
use crate::registry::Resolved;
use ashlar_engine::command::{Flags, KeyList};
use ashlar_engine::policy::{Class, Policies};
use ashlar_replication::raft::GroupId;

/// Whether all keys of a command are of one of these classes. A script may touch others than it names, so none
/// of its keys count.
pub fn all_of(policies: &Policies, resolved: &Resolved, args: &[&[u8]], classes: &[Class]) -> bool {
    let command = resolved.command;
    let reads = resolved.host.is_none()
        && command.flags.contains(Flags::READONLY)
        && !command.flags.contains(Flags::BLOCKING);
    if !policies.any() || !reads {
        return false;
    }
    let mut keys = KeyList::new();
    command.keys.positions(args, &mut keys);
    let mut keys = keys.iter().filter_map(|at| args.get(*at));
    keys.all(|key| classes.contains(&policies.class_of(key)))
}

/// Whether this node, which keeps the group and does not lead it, answers a read of its keys.
pub fn answers(
    host: &Host<'_, '_>,
    member: &dyn Member,
    group: GroupId,
    slot: u16,
    resolved: &Resolved,
    args: &[&[u8]],
) -> bool {
    let Some(strong) = host.shared.strong.get() else { return false };
    let policies = host.shared.engine.shard_policies(group as usize);
    if host.shared.settings.number(ids::CLUSTER_ASYNC_READS) != ASYNC_READS_NEAREST
        || host.session.multi.is_some()
        || !all_of(policies, resolved, args, &[Class::Async])
    {
        return false;
    }
    // A replica that has never caught up would answer that there is nothing; one that is cut off gets older and
    // older. While the others elect a leader it may go on: they are done in a moment.
    let answers = strong.has_caught_up(group)
        && !strong.is_frozen(group, slot)
        && (super::live_leader(member, &host.shared.settings, group).is_some()
            || member.has_quorum(group));
    strong.count_nearest(answers);
    answers
}
