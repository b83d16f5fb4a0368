//! What has to be done without being asked: expiry, eviction settings, memory peaks.

use crate::config::{Settings, ids};
use crate::host::settle;
use crate::persistence::switch;
use crate::shared::Shared;
use ashlar_engine::executor::Executor;
use ashlar_engine::keyspace::EvictionPolicy;
use std::sync::Weak;
use std::sync::atomic::Ordering;

/// Keys that one tick of active expiry deletes at most: about a millisecond of work.
const EXPIRED_KEYS_MAX: usize = 2_000;

/// Ten times a second, on one worker or another: deletes what has expired.
pub fn tick(shared: &Shared, exec: &mut Executor<'_>, now_ms: i64) {
    let stamp = shared.stamp(now_ms);
    crate::cluster::watch::look(shared);
    if let Some(strong) = shared.strong.get() {
        strong.tell();
        strong.look_for_libraries();
        strong.sites().tick(shared, now_ms);
    }
    shared.persistence.tick(&shared.settings, now_ms);
    if let Some(shared) = shared.this.get().and_then(Weak::upgrade) {
        switch::tick(&shared, now_ms);
    }
    if shared.persistence.loading.load(Ordering::Acquire) {
        return;
    }
    if let Some(sites) = shared.sites.as_ref().filter(|sites| sites.links().is_empty()) {
        // Otherwise the links' threads do it.
        sites.promise(shared, exec);
    }
    let is_well = shared.gate().is_none_or(|gate| gate.log.is_well());
    let replication = &shared.replication;
    let limit = shared.settings.output_limits()[1].hard_bytes;
    replication.feed.set_limits(shared.settings.count(ids::REPL_BACKLOG_SIZE), limit);
    replication.tick(&shared.settings, &shared.engine, now_ms);
    // Of a replica's keys the primary says when they expire.
    let decides = is_well && replication.decides() && shared.strong.get().is_none();
    if let Some(strong) = shared.strong.get()
        && shared.active_expire.load(Ordering::Relaxed)
    {
        strong.expire(shared, now_ms);
    }
    // A worker that waits for a script's shards could not tell its clients that it is busy.
    let is_free = !shared.scripts.is_running.load(Ordering::Acquire);
    if decides && is_free && shared.active_expire.load(Ordering::Relaxed) {
        let effort = shared.settings.count(ids::ACTIVE_EXPIRE_EFFORT);
        exec.expire_cycle(&stamp, usize::try_from(effort).unwrap_or(1), EXPIRED_KEYS_MAX);
    }
    settle(shared, exec, &stamp);
}

/// The policy of `maxmemory-policy`.
pub fn eviction_policy(settings: &Settings) -> EvictionPolicy {
    let name = settings.string(ids::MAXMEMORY_POLICY);
    EvictionPolicy::from_name(&name).unwrap_or(EvictionPolicy::NoEviction)
}
