//! Writes of the engine's own upkeep. They are calls like any other, so that the journal has them
//! and a replay removes the same keys; no client can make them.

use super::hash_ttl::purge_fields;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::CmdResult;
use crate::reply::Reply;
use crate::sites::RECORD;

const FLAGS: Flags = Flags::WRITE.union(Flags::INTERNAL).union(Flags::SKIP_MONITOR);

/// Deletes the keys that are past their expiry by the stamp.
pub const EXPIRE: &str = "ASHLAR.EXPIRE";
/// Deletes keys to make room.
pub const EVICT: &str = "ASHLAR.EVICT";
/// Deletes fields of hashes that are past their expiry by the stamp.
pub const EXPIRE_FIELDS: &str = "ASHLAR.EXPIREFIELDS";

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new(EXPIRE, -2, Group::Generic, expire)
        .flags(FLAGS.union(Flags::BLIND))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("7.4.0", "O(N) for N keys", "Deletes the keys that have expired."),
    Command::new(EVICT, -2, Group::Generic, evict)
        .flags(FLAGS.union(Flags::BLIND))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("7.4.0", "O(N) for N keys", "Deletes keys to make room."),
    Command::new(EXPIRE_FIELDS, -2, Group::Hash, expire_fields)
        .flags(FLAGS)
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("7.4.0", "O(N) for N fields", "Deletes the fields of hashes that have expired."),
    Command::new(RECORD, 3, Group::Generic, site)
        .flags(FLAGS.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key record")
        .docs("7.4.0", "O(N) for N elements", "Takes in what the sites know of a key."),
];

/// Most fields of a hash that one call deletes.
pub const FIELDS_MAX: usize = 1_024;

fn expire(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    cx.tell_nothing();
    let expired = args[1..].iter().filter(|key| cx.remove_if_expired(key)).count();
    reply.int(expired as i64);
    Ok(())
}

fn evict(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut evicted = 0;
    cx.tell_nothing();
    for key in &args[1..] {
        if cx.remove_if_expired(key) {
            evicted += 1;
        } else if cx.remove(key) {
            cx.count_evicted(1);
            cx.tell(&[b"DEL", key]);
            cx.changed(key, Event::EVICTED, "evicted");
            evicted += 1;
        }
    }
    reply.int(evicted);
    Ok(())
}

fn expire_fields(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    cx.tell_nothing();
    let expired: usize = args[1..].iter().map(|key| purge_fields(cx, key, FIELDS_MAX)).sum();
    reply.int(expired as i64);
    Ok(())
}

/// The state beside a key, see [`crate::sites`]; a host without sites has no use for it.
fn site(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    cx.tell_nothing();
    if let Some(sites) = cx.sites {
        sites.restore(args[1], args[2]);
    }
    // Also who keeps no such state hands the record on: its log and its replicas go in step.
    cx.add_dirty(1);
    reply.ok();
    Ok(())
}
