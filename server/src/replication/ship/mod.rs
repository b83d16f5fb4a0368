//! Replication between nodes of ashlar: the primary's records, run again with their stamps, so that the
//! replica's state is that of the primary to the byte (docs/replication.md).
//!
//! ```text
//! executor -> ring, log --sender's thread--> frames --receiver's thread--> executor -> own ring, own log
//!                    <------ REPLCONF ACK position FACK durable position ------
//! ```
//! A position counts the records of a history (`ashlar_engine::shipping`). A replica asks for what comes
//! behind its own; it gets a copy of all keys first only if neither ring nor log go back that far,
//! or the histories are not the same. [`wire`] has the frames, [`sender`] serves a replica, and
//! [`receiver`] is one.

pub mod receiver;
pub mod sender;
pub mod wire;

use super::Replication;
use super::feed::new_replid;
use crate::config::{Settings, ids};
use ashlar_engine::engine::Engine;
use ashlar_engine::shipping::Position;
use std::sync::atomic::Ordering;

/// What REPLCONF answers to a node that can do this: it can, too.
pub const SPOKEN: &str = "OK ashlar1";
/// Version of the protocol.
pub const VERSION: &[u8] = b"1";

/// Begins a history of this node's own: at the start, and when it stops following. Its replicas, and
/// those of its primary, go on from what they have.
pub fn begin(engine: &Engine, settings: &Settings) {
    let follows = engine.position().history.followed;
    if follows && engine.has_sites() {
        engine.set_sites_active(true);
    }
    engine.begin_history(&new_replid(), |config| {
        *config = crate::config::engine_config(settings);
    });
}

/// Sees to it that records are kept for replicas.
pub fn turn_on(engine: &Engine) {
    if !engine.shipping().is_on() {
        let mut executor = engine.executor();
        executor.lock_all();
        engine.shipping().turn_on(&new_replid(), engine.journal());
    }
}

/// Enters `repl-backlog-size` and the limit for replicas that are slow.
pub fn set_limits(engine: &Engine, settings: &Settings) {
    let limit = match settings.output_limits()[1].hard_bytes {
        0 => super::feed::PENDING_BYTES_MAX,
        limit => limit.min(super::feed::PENDING_BYTES_MAX),
    };
    engine.shipping().set_limits(settings.count(ids::REPL_BACKLOG_SIZE), limit);
}

/// Lets go of the ring if nobody has followed for long, and this node follows nobody.
pub fn tick(replication: &Replication, settings: &Settings, engine: &Engine, now_ms: i64) {
    let native = replication.replicas().iter().any(|replica| replica.native);
    if native || !engine.shipping().is_on() || replication.follower.is_following() {
        replication.last_native_ms.store(now_ms, Ordering::Relaxed);
        return;
    }
    let ttl_ms = settings.number(ids::REPL_BACKLOG_TTL).saturating_mul(1000);
    if ttl_ms > 0 && now_ms - replication.last_native_ms.load(Ordering::Relaxed) > ttl_ms {
        let mut executor = engine.executor();
        executor.lock_all();
        engine.shipping().turn_off();
    }
}

/// A position as the words of a line.
pub fn line_of(word: &str, here: &Position) -> Vec<u8> {
    let mut line = word.as_bytes().to_vec();
    for word in here.words() {
        line.push(b' ');
        line.extend_from_slice(if word.is_empty() { b"?" } else { &word });
    }
    line.extend_from_slice(b"\r\n");
    line
}
