//! What a site tells of itself: INFO's section, and SITE STATUS.

use super::Sites;
use super::groups::ClusterSites;
use super::link::LinkState;
use crate::clock;
use crate::shared::Shared;
use ashlar_replication::sites::clock::ms_of;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::node::SiteNode;
use ashlar_replication::sites::site::Site;
use ashlar_replication::topology::SiteTable;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Appends the fields of this server, or of its cluster; `false` if it is no site.
pub fn write_any(shared: &Shared, out: &mut String) -> bool {
    if let Some(sites) = &shared.sites {
        write(sites, out);
        return true;
    }
    let Some(strong) = shared.strong.get() else { return false };
    let topology = strong.handle().topology();
    if topology.sites.id != 0 {
        write_groups(shared, strong.sites(), &topology.sites, out);
    }
    topology.sites.id != 0
}

/// Appends the fields of a server, a line each.
pub fn write(sites: &Sites, out: &mut String) {
    field(out, "site_id", sites.id);
    field(out, "site_name", &sites.name);
    let is_backup = sites.is_backup.load(Ordering::Acquire);
    field(out, "site_role", if is_backup { "backup" } else { "active" });
    counts(out, &[&*sites.node]);
    field(out, "site_digest", format!("{:016x}", sites.node.site().digest()));
    field(out, "site_clock_refused", sites.refused_clock.load(Ordering::Relaxed));
    links(out, &sites.links(), |_| Some(&*sites.node));
}

/// Appends those of a cluster: of the groups that this node leads.
pub fn write_groups(shared: &Shared, sites: &ClusterSites, table: &SiteTable, out: &mut String) {
    field(out, "site_id", table.id);
    field(out, "site_name", table.shown_name());
    field(out, "site_role", if table.backup { "backup" } else { "active" });
    let groups = sites.led(shared);
    let nodes: Vec<&SiteNode> = groups.iter().map(|group| group.node()).collect();
    counts(out, &nodes);
    field(out, "site_groups", groups.len());
    for (nth, group) in groups.iter().enumerate() {
        let (version, slots) = group.held();
        let line = format!(
            "id={},slots={},version={version},digest={:016x}",
            group.id(),
            super::link::show_slots(&slots).replace(',', " "),
            group.node().site().digest(),
        );
        field(out, &format!("site_group{nth}"), line);
    }
    field(out, "site_clock_refused", sites.refused_clock.load(Ordering::Relaxed));
    links(out, &sites.links(), |id| nodes.iter().copied().find(|node| node.site().id() == id));
}

fn field(out: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a string can't fail.
    let _ = write!(out, "{name}:{value}\r\n");
}

fn counts(out: &mut String, nodes: &[&SiteNode]) {
    let now_ms = clock::now_ms();
    let sum = |of: &dyn Fn(&Site) -> u64| nodes.iter().map(|node| of(&node.site())).sum::<u64>();
    field(out, "site_keys", sum(&|site| site.len() as u64));
    field(out, "site_keys_to_forget", sum(&|site| site.undone() as u64));
    field(out, "site_elements_forgotten", sum(&|site| site.forgotten));
    field(out, "site_elements_merged", sum(&|site| site.merged));
    field(out, "site_conflicts", sum(&|site| site.conflicts.count()));
    let ahead = nodes.iter().map(|node| node.site().clock.ahead_ms(now_ms)).max();
    field(out, "site_clock_ahead_ms", ahead.unwrap_or(0));
}

/// Each link; `node` finds its end here by its number.
fn links<'a>(
    out: &mut String,
    links: &[Arc<LinkState>],
    node: impl Fn(SiteId) -> Option<&'a SiteNode>,
) {
    let now_ms = clock::now_ms();
    field(out, "site_links", links.len());
    for (nth, link) in links.iter().enumerate() {
        let lag = node(link.local).map(|node| node.site().recent.lag(link.acknowledged()));
        let (records, bytes, first) = lag.unwrap_or_default();
        // What was changed first and has not arrived: that long it has been waiting.
        let waits_ms = first.map_or(0, |stamp| now_ms.saturating_sub(ms_of(stamp) as i64).max(0));
        let state = if link.up.load(Ordering::Acquire) { "up" } else { "down" };
        let (host, port) = link.address.lock().clone();
        let line = format!(
            "name={},id={},host={host},port={port},state={state},lag_records={records},lag_bytes={bytes},\
             lag_seconds={}.{:03},sent={},fills={},repairs={},heard_ms={}",
            link.name,
            link.id.load(Ordering::Acquire),
            waits_ms / 1_000,
            waits_ms % 1_000,
            link.sent.load(Ordering::Relaxed),
            link.fills.load(Ordering::Relaxed),
            link.repairs.load(Ordering::Relaxed),
            link.heard_ms.load(Ordering::Relaxed),
        );
        field(out, &format!("site_link{nth}"), &line);
        let error = link.error.lock().clone();
        if !error.is_empty() {
            field(out, &format!("site_link{nth}_error"), error.replace(['\r', '\n'], " "));
        }
    }
}
