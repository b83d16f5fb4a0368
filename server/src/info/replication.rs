//! INFO's section of replication: what follows this server, and what it follows.

use super::{InfoSource, field, fields, line, unix_micros};
use crate::commands::replication::Lag;
use crate::config::ids;
use crate::replication::follower::{Phase, Status};
use crate::replication::{Replica, Replication};
use ashlar_engine::engine::Engine;
use std::sync::atomic::Ordering;

pub(super) fn replication(source: &dyn InfoSource, out: &mut String) {
    let replication = source.replication();
    let status = replication.map(|replication| replication.follower.status()).unwrap_or_default();
    match (source.cluster(), &status.primary) {
        (Some(facts), _) => {
            fields(out, facts.replication);
            return histories(source, out);
        }
        (None, None) => field(out, "role", "master"),
        (None, Some(primary)) => followed(source, primary, &status, out),
    }
    let replicas = replication.map(Replication::replicas).unwrap_or_default();
    field(out, "connected_slaves", replicas.len());
    let now_ms = unix_micros() / 1000;
    for (nth, replica) in replicas.iter().enumerate() {
        let online = replica.online.load(Ordering::Relaxed);
        let state = if online { "online" } else { "send_bulk" };
        let offset = replica.acked.load(Ordering::Relaxed);
        let lag =
            if online { (now_ms - replica.acked_ms.load(Ordering::Relaxed)) / 1000 } else { 0 };
        let (ip, port) = (&replica.ip, replica.port);
        line(
            out,
            format_args!(
                "slave{nth}:ip={ip},port={port},state={state},offset={offset},lag={}{}",
                lag.max(0),
                lag_of(source, replica)
            ),
        );
    }
    histories(source, out);
}

/// The names and the length of the history of changes.
fn histories(source: &dyn InfoSource, out: &mut String) {
    let replication = source.replication();
    let failover = replication.map_or("no-failover", |replication| replication.failover.name());
    field(out, "master_failover_state", failover);
    let feed = replication.map(|replication| &replication.feed);
    let replid =
        feed.map_or_else(|| source.identity().replication_id.clone(), |feed| feed.replid());
    field(out, "master_replid", replid);
    field(out, "master_replid2", "0".repeat(40));
    let here = source.engine().map(Engine::position).unwrap_or_default();
    let by_feed = feed.filter(|feed| feed.is_active()).map(|feed| feed.offset());
    field(out, "master_repl_offset", by_feed.unwrap_or(here.position));
    field(out, "second_repl_offset", -1);
    field(out, "repl_backlog_active", feed.map_or(0, |feed| i32::from(feed.is_active())));
    let size = source.settings().get(&[b"repl-backlog-size"]);
    let size = size.first().map(|(_, size)| String::from_utf8_lossy(size).into_owned());
    field(out, "repl_backlog_size", size.unwrap_or_default());
    let (first, len) = feed.map_or((0, 0), |feed| feed.kept());
    field(out, "repl_backlog_first_byte_offset", first + u64::from(len > 0));
    field(out, "repl_backlog_histlen", len);
    field(out, "history", if here.history.id.is_empty() { "none" } else { &here.history.id });
    field(out, "history_position", here.position);
    field(out, "history_followed", i32::from(here.history.followed));
}

/// What is told of a replica of ashlar besides Redis's fields.
fn lag_of(source: &dyn InfoSource, replica: &Replica) -> String {
    match (source.engine(), source.replication()) {
        (Some(engine), Some(replication)) if replica.native => {
            let lag = Lag::at(engine, replication, replica);
            format!(
                ",kind=ashlar,source={},lag_records={},lag_bytes={},lag_seconds={}",
                lag.state, lag.records, lag.bytes, lag.seconds
            )
        }
        _ => String::new(),
    }
}

/// What a replica tells of its primary.
fn followed(source: &dyn InfoSource, primary: &(String, u16), status: &Status, out: &mut String) {
    let now_ms = unix_micros() / 1000;
    let seconds = |since_ms: i64| (now_ms - since_ms).max(0) / 1000;
    let connected = status.phase == Phase::Connected;
    field(out, "role", "slave");
    field(out, "master_host", &primary.0);
    field(out, "master_port", primary.1);
    field(out, "master_link_status", if connected { "up" } else { "down" });
    let heard = if connected { seconds(status.heard_ms) } else { -1 };
    field(out, "master_last_io_seconds_ago", heard);
    field(out, "master_sync_in_progress", i32::from(status.phase == Phase::Copying));
    field(out, "slave_read_repl_offset", status.offset);
    field(out, "slave_repl_offset", status.offset);
    if status.phase == Phase::Copying {
        field(out, "master_sync_total_bytes", status.copy_bytes);
        field(out, "master_sync_read_bytes", status.copied_bytes);
        let left = status.copy_bytes.saturating_sub(status.copied_bytes);
        field(out, "master_sync_left_bytes", left);
    }
    if !connected {
        field(out, "master_link_down_since_seconds", seconds(status.down_ms));
    }
    field(out, "slave_priority", source.settings().number(ids::REPLICA_PRIORITY));
    field(out, "slave_read_only", i32::from(source.settings().flag(ids::REPLICA_READ_ONLY)));
    field(out, "replica_announced", 1);
}
