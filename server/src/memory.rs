//! `maxmemory`: makes room before a command that needs some. `maxmemory-clients`: disconnects the
//! clients whose buffers take most.

use crate::alloc;
use crate::config::POLICY_TIER;
use crate::config::ids;
use crate::host::{Host, settle};
use crate::mailbox::Message;
use crate::shared::Shared;
use crate::stats::Counter;
use crate::tier::ColdTier;
use std::sync::atomic::Ordering;

/// Whether a command may take memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Yes,
    /// It is to be refused.
    No,
    /// Values are on their way to disk: it is to be run again once there is room.
    Wait,
}

/// Of `maxmemory`, the part that is free when values begin to be taken out: one of so many.
pub const PRESS_SHARE: usize = 32;

/// Keys that one command evicts at most before it is let through: a client does not pay for what
/// many wrote. The next command goes on.
const EVICTIONS_MAX: usize = 128;

/// Whether memory is below `maxmemory` as it is.
pub fn has_room(shared: &Shared) -> bool {
    let max = usize::try_from(shared.settings.number(ids::MAXMEMORY)).unwrap_or(usize::MAX);
    max == 0 || alloc::used_bytes() <= max
}

/// Makes sure that memory is below `maxmemory`: keys are evicted here and now, or with the policy `tier`
/// values go to disk and the command waits. No
/// lock is held afterwards, so it is not called in the middle of a transaction.
pub fn make_room(host: &mut Host<'_, '_>) -> Room {
    let settings = &host.shared.settings;
    let max = usize::try_from(settings.number(ids::MAXMEMORY)).unwrap_or(usize::MAX);
    let follower = &host.shared.replication.follower;
    let follows = host.session.from_primary && settings.flag(ids::REPLICA_IGNORE_MAXMEMORY)
        || follower.native.load(Ordering::Acquire);
    if follows || max == 0 {
        return Room::Yes;
    }
    if let Some(cold) = &host.shared.cold
        && settings.number(ids::MAXMEMORY_POLICY) == POLICY_TIER
    {
        let room = demote(cold, max, host.stamp.now_ms);
        // What a primary says cannot wait here.
        return if host.session.from_primary && room == Room::Wait { Room::Yes } else { room };
    }
    let evicts = host.shared.strong.get().is_none();
    match alloc::used_bytes() <= max || evicts && evict(host, max) {
        true => Room::Yes,
        false => Room::No,
    }
}

/// Has values taken out before there is none left, and lets a command wait where there is none.
fn demote(cold: &ColdTier, max: usize, now_ms: i64) -> Room {
    let used = cold.used_bytes();
    if used > max - max / PRESS_SHARE {
        cold.press();
        if cold.is_outdated(now_ms) && !cold.is_barren() {
            return Room::Wait;
        }
    }
    match used <= max {
        true => Room::Yes,
        false if cold.is_barren() => Room::No,
        false => Room::Wait,
    }
}

#[cold]
fn evict(host: &mut Host<'_, '_>, max: usize) -> bool {
    let settings = &host.shared.settings;
    let samples = usize::try_from(settings.number(ids::MAXMEMORY_SAMPLES)).unwrap_or(5);
    let policy = crate::upkeep::eviction_policy(settings);
    let mut room = true;
    for nth in 0..EVICTIONS_MAX {
        if alloc::used_bytes() <= max {
            break;
        }
        let stamp = host.shared.stamp(host.stamp.now_ms);
        if host.exec.evict(policy, samples, &stamp).is_none() {
            room = nth > 0;
            break;
        }
        // Freed here and now: the next look at the memory in use has to see it.
        host.exec.effects.garbage.clear();
    }
    // Nobody changed these keys: also who asked for the room is told that they are gone.
    settle(host.shared, host.exec, &host.stamp);
    room || alloc::used_bytes() <= max
}

/// Bytes that `maxmemory-clients` allows all clients together; `None` for any number.
fn clients_max(shared: &Shared) -> Option<usize> {
    let max = match shared.settings.number(ids::MAXMEMORY_CLIENTS) {
        // A percentage of maxmemory, which bounds nothing where there is none.
        percent @ ..0 => {
            let max = i128::from(shared.settings.number(ids::MAXMEMORY));
            i64::try_from(max * -i128::from(percent) / 100).unwrap_or(i64::MAX)
        }
        bytes => bytes,
    };
    usize::try_from(max).ok().filter(|max| *max > 0)
}

/// Disconnects clients while all of them take more than `maxmemory-clients`. Every worker looks
/// once a turn of its loop.
pub fn evict_clients(shared: &Shared, worker: usize) {
    let Some(max) = clients_max(shared) else { return };
    if shared.clients.memory_bytes() <= max {
        return;
    }
    for client in shared.clients.choose_to_evict(max) {
        let bytes = client.memory_bytes();
        tracing::warn!("client {} is evicted: its buffers take {bytes} bytes", client.peer);
        shared.stats.worker(worker).add(Counter::EvictedClients, 1);
        shared.mailboxes[client.address.worker].post(Message::Kill(client.address));
    }
}
