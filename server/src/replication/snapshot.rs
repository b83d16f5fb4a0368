//! All keys at one moment as an RDB stream, written while calls go on.

use super::feed::Feed;
use crate::clock;
use crate::info::{ASHLAR_VERSION, REDIS_VERSION};
use crate::shared::Shared;
use ashlar_engine::cut::{Cut, Rows};
use ashlar_engine::rdb::{self, Use, Writer};
use ashlar_engine::value::form;
use std::io::{self, Write};
use std::time::Duration;

/// How long to wait before asking again while another cut is running.
const AGAIN: Duration = Duration::from_millis(100);

/// Begins a copy for a replica: the state of this moment, the stream's name, and its offset from
/// which the stream adds what comes later. `alive` is called while another copy has to end first.
///
/// # Errors
/// If `alive` fails.
pub fn begin<'e>(
    shared: &'e Shared,
    replica: u64,
    mut alive: impl FnMut() -> io::Result<()>,
) -> io::Result<(Cut<'e>, String, u64)> {
    let feed: &Feed = &shared.replication.feed;
    loop {
        let start = || {
            shared.engine.set_propagating(true);
            feed.start(replica)
        };
        if let Some((cut, (replid, offset))) = shared.engine.begin_cut(start) {
            return Ok((cut, replid, offset));
        }
        if shared.stopping.load(std::sync::atomic::Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        alive()?;
        std::thread::sleep(AGAIN);
    }
}

/// Writes a copy as an RDB file.
///
/// # Errors
/// If `out` fails.
pub fn write<W: Write>(shared: &Shared, mut cut: Cut<'_>, out: W) -> io::Result<W> {
    let now_ms = clock::now_ms();
    let mut writer = Writer::new(out)?;
    writer.aux("redis-ver", REDIS_VERSION)?;
    writer.aux("redis-bits", "64")?;
    writer.aux("ctime", &(now_ms / 1000).to_string())?;
    writer.aux("ashlar-ver", ASHLAR_VERSION)?;
    for (_, text) in cut.libraries() {
        writer.function(text)?;
    }
    let sizes: Vec<(usize, usize)> = cut.dbs().iter().map(|db| (db.keys, db.expires)).collect();
    let (mut rows, mut value, mut selected) = (Rows::default(), Vec::new(), None);
    loop {
        let more = cut.step(&mut rows);
        for row in rows.iter() {
            if selected != Some(row.db) {
                selected = Some(row.db);
                let (keys, expires) = sizes.get(row.db as usize).copied().unwrap_or_default();
                writer.select(row.db, keys, expires)?;
            }
            let decoded = form::decode(row.value);
            let decoded = decoded.ok_or_else(|| io::Error::other("a key has no readable value"))?;
            value.clear();
            if rdb::encode_value(&decoded, now_ms, &mut value) {
                writer.entry(row.key, &value, row.expiry, Use::Unknown)?;
            }
        }
        rows.clear();
        if !more {
            break;
        }
        if shared.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    if let Some(fault) = cut.fault() {
        return Err(io::Error::other(fault.to_string()));
    }
    writer.finish()
}
