//! What INFO, ROLE and HELLO say of a node of a cluster.

use super::sentinel::Watch;
use super::show::{site_state, site_writes, sites};
use super::view::{Health, View};
use crate::info::ClusterFacts;
use crate::shared::Shared;
use ashlar_engine::reply::Reply;
use ashlar_replication::topology::NodeInfo;

type Fields = Vec<(String, String)>;

fn add(fields: &mut Fields, name: impl Into<String>, value: impl ToString) {
    fields.push((name.into(), value.to_string()));
}

/// The facts for INFO; `None` outside of cluster mode.
pub fn facts(shared: &Shared) -> Option<ClusterFacts> {
    let member = &**shared.cluster.get()?;
    let view = View::new(shared, member);
    let mut cluster = Fields::new();
    add(&mut cluster, "cluster_enabled", 1);
    for (site, [up, all]) in sites(&view) {
        let state = site_state(up, all);
        add(
            &mut cluster,
            format!("site_{site}"),
            format!("state={state},nodes_up={up},nodes={all}"),
        );
    }
    if let Some(writes) = site_writes(&view) {
        add(&mut cluster, "site_writes", writes.name());
    }
    Some(ClusterFacts {
        replication: replication(&view),
        sentinel: Watch::new(shared, member).info(),
        cluster,
    })
}

/// The role and who is at the other end.
fn replication(view: &View<'_>) -> Fields {
    let mut fields = Fields::new();
    let primary = view.primary_of(view.me).and_then(|primary| view.topology.nodes.get(&primary));
    match primary {
        None => add(&mut fields, "role", "master"),
        Some(primary) => {
            let up = view.health(primary.id) == Health::Online;
            let heard_ms = view.member.silent_ms(primary.id).filter(|_| up);
            let heard = heard_ms.map_or(-1, |ms| i64::try_from(ms / 1000).unwrap_or(i64::MAX));
            add(&mut fields, "role", "slave");
            add(&mut fields, "master_host", &primary.host);
            add(&mut fields, "master_port", primary.port);
            add(&mut fields, "master_link_status", if up { "up" } else { "down" });
            add(&mut fields, "master_last_io_seconds_ago", heard);
            add(&mut fields, "master_sync_in_progress", 0);
            add(&mut fields, "slave_read_repl_offset", own_offset(view));
            add(&mut fields, "slave_repl_offset", own_offset(view));
            add(&mut fields, "slave_priority", 100);
            add(&mut fields, "slave_read_only", 1);
            add(&mut fields, "replica_announced", 1);
        }
    }
    let replicas = followers(view);
    add(&mut fields, "connected_slaves", replicas.len());
    for (nth, node) in replicas.iter().enumerate() {
        let seconds = view.member.silent_ms(node.id).unwrap_or(0) / 1000;
        let (ip, port, offset) = (&node.host, node.port, own_offset(view));
        let text = format!("ip={ip},port={port},state=online,offset={offset},lag={seconds}");
        add(&mut fields, format!("slave{nth}"), text);
    }
    fields
}

/// The nodes that follow this one in a group, and are up.
fn followers<'v>(view: &'v View<'_>) -> Vec<&'v NodeInfo> {
    let led = view.led_by(view.me).iter().filter_map(|group| view.topology.groups.get(group));
    let mut all: Vec<&NodeInfo> = led
        .flat_map(|group| view.followers(group))
        .filter(|node| view.health(node.id) == Health::Online)
        .collect();
    all.sort_by_key(|node| node.id);
    all.dedup_by_key(|node| node.id);
    all
}

/// Entries of all groups that are applied here, added up.
fn own_offset(view: &View<'_>) -> u64 {
    view.topology.groups_of(view.me).map(|group| view.offset(group.id)).sum()
}

/// The role in HELLO.
pub fn role(shared: &Shared) -> Option<&'static str> {
    let member = &**shared.cluster.get()?;
    let view = View::new(shared, member);
    Some(if view.primary_of(view.me).is_some() { "replica" } else { "master" })
}

/// ROLE; `false` outside of cluster mode.
pub fn reply_role(shared: &Shared, reply: &mut Reply<'_>) -> bool {
    let Some(member) = shared.cluster.get() else { return false };
    let view = View::new(shared, &**member);
    let offset = own_offset(&view);
    let primary = view.primary_of(view.me).and_then(|primary| view.topology.nodes.get(&primary));
    let Some(primary) = primary else {
        let replicas = followers(&view);
        reply.array(3);
        reply.bulk(b"master");
        reply.int(offset as i64);
        reply.array(replicas.len());
        for node in replicas {
            reply.array(3);
            reply.bulk(node.host.as_bytes());
            reply.bulk_int(node.port.into());
            reply.bulk_int(offset as i64);
        }
        return true;
    };
    let up = view.health(primary.id) == Health::Online;
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(primary.host.as_bytes());
    reply.int(primary.port.into());
    reply.bulk(if up { b"connected" } else { b"connect" });
    reply.int(offset as i64);
    true
}
