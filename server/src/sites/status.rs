//! What a site tells of itself: INFO's section, and SITE STATUS.

use super::Sites;
use crate::clock;
use ashlar_replication::sites::clock::ms_of;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Appends the fields, a line each.
pub fn write(sites: &Sites, out: &mut String) {
    let now_ms = clock::now_ms();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string can't fail.
        let _ = write!(out, "{name}:{value}\r\n");
    };
    field("site_id", &sites.id);
    field("site_name", &sites.name);
    let is_backup = sites.is_backup.load(Ordering::Acquire);
    field("site_role", &if is_backup { "backup" } else { "active" });
    let links = sites.links();
    {
        let site = sites.node.site();
        field("site_keys", &site.len());
        field("site_keys_to_forget", &site.undone());
        field("site_elements_forgotten", &site.forgotten);
        field("site_elements_merged", &site.merged);
        field("site_conflicts", &site.conflicts.count());
        field("site_clock_ahead_ms", &site.clock.ahead_ms(now_ms));
        field("site_digest", &format!("{:016x}", site.digest()));
    }
    field("site_clock_refused", &sites.refused_clock.load(Ordering::Relaxed));
    field("site_links", &links.len());
    for (nth, link) in links.iter().enumerate() {
        let (records, bytes, first) = sites.node.site().recent.lag(link.acknowledged());
        // What was changed first and has not arrived: that long it has been waiting.
        let waits_ms = first.map_or(0, |stamp| now_ms.saturating_sub(ms_of(stamp) as i64).max(0));
        let state = if link.up.load(Ordering::Acquire) { "up" } else { "down" };
        let line = format!(
            "name={},id={},host={},port={},state={state},lag_records={records},lag_bytes={bytes},\
             lag_seconds={}.{:03},sent={},fills={},repairs={},heard_ms={}",
            link.name,
            link.id.load(Ordering::Acquire),
            link.host,
            link.port,
            waits_ms / 1_000,
            waits_ms % 1_000,
            link.sent.load(Ordering::Relaxed),
            link.fills.load(Ordering::Relaxed),
            link.repairs.load(Ordering::Relaxed),
            link.heard_ms.load(Ordering::Relaxed),
        );
        field(&format!("site_link{nth}"), &line);
        let error = link.error.lock().clone();
        if !error.is_empty() {
            field(&format!("site_link{nth}_error"), &error.replace(['\r', '\n'], " "));
        }
    }
}
