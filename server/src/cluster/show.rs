//! The replies that describe the cluster: NODES, SLOTS, SHARDS, INFO, LINKS.

use super::route::port;
use super::view::{Endpoint, Health, View};
use crate::config::{Settings, ids};
use ashlar_engine::reply::Reply;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::SiteWrites;
use ashlar_replication::topology::{GroupInfo, NodeInfo, Role, SLOTS, SlotRange};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The line of a node in CLUSTER NODES, without its end.
///
/// `id host:port@peer-port[,hostname] flags primary ping-sent pong-received epoch link slots...`
pub fn node_line(view: &View<'_>, node: &NodeInfo, encrypted: bool) -> String {
    let mut line = node.hex();
    // Writing to a string can't fail, here and below.
    let _ = match node.role {
        Role::Data => {
            write!(line, " {}:{}@{}", node.host, port(node, encrypted), node.peer_port)
        }
        // Clients have no business with a node that keeps no data.
        Role::Witness => write!(line, " :0@{}", node.peer_port),
    };
    if !node.hostname.is_empty() {
        let _ = write!(line, ",{}", node.hostname);
    }
    let primary = view.primary_of(node.id);
    let health = view.health(node.id);
    let flags = [
        (node.id == view.me, "myself"),
        (primary.is_none(), "master"),
        (primary.is_some(), "slave"),
        (health == Health::Suspected, "fail?"),
        (health == Health::Failed, "fail"),
        (node.role == Role::Witness, "noaddr"),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag).collect();
    let primary = primary.and_then(|primary| view.topology.nodes.get(&primary));
    let primary = primary.map_or_else(|| "-".to_owned(), NodeInfo::hex);
    let link = if health == Health::Online { "connected" } else { "disconnected" };
    let (heard_ms, epoch) = (view.heard_ms(node.id), view.epoch_of(node.id));
    let _ = write!(line, " {} {primary} 0 {heard_ms} {epoch} {link}", flags.join(","));
    for (first, last) in view.slots_of(node.id) {
        let _ = match first == last {
            true => write!(line, " {first}"),
            false => write!(line, " {first}-{last}"),
        };
    }
    line
}

/// CLUSTER NODES
pub fn nodes(view: &View<'_>, alone: &NodeInfo, encrypted: bool) -> String {
    if !view.topology.is_created() {
        let (own, peer) = (port(alone, encrypted), alone.peer_port);
        let (name, host) = (alone.hex(), &alone.host);
        return format!("{name} {host}:{own}@{peer} myself,master - 0 0 0 connected\n");
    }
    view.topology.nodes.values().fold(String::new(), |mut text, node| {
        text.push_str(&node_line(view, node, encrypted));
        text.push('\n');
        text
    })
}

/// CLUSTER INFO
pub fn info(view: &View<'_>, settings: &Settings) -> String {
    let topology = &view.topology;
    let assigned = topology.assigned();
    let (served, lost) = view.served_slots();
    let primaries = topology.nodes.keys().filter(|node| !view.slots_of(**node).is_empty()).count();
    let covered = assigned == SLOTS || !settings.flag(ids::CLUSTER_REQUIRE_FULL_COVERAGE);
    let state = if topology.is_created() && covered && lost == 0 { "ok" } else { "fail" };
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "{name}:{value}\r\n");
    };
    line("cluster_state", &state);
    line("cluster_slots_assigned", &assigned);
    line("cluster_slots_ok", &served);
    line("cluster_slots_pfail", &0);
    line("cluster_slots_fail", &lost);
    line("cluster_known_nodes", &topology.nodes.len().max(1));
    line("cluster_size", &primaries);
    line("cluster_current_epoch", &view.current_epoch());
    line("cluster_my_epoch", &view.epoch_of(view.me));
    line("cluster_stats_messages_sent", &0);
    line("cluster_stats_messages_received", &0);
    line("total_cluster_links_buffer_limit_exceeded", &0);
    line("ashlar_groups", &topology.groups.len());
    let served = topology.groups.keys().filter(|group| view.is_served(**group)).count();
    line("ashlar_groups_served", &served);
    let settled = topology.groups.keys().filter(|group| view.member.is_settled(**group)).count();
    line("ashlar_groups_settled", &settled);
    line("ashlar_moves", &topology.moves.len());
    line("ashlar_topology_version", &topology.version);
    for (site, [up, all]) in sites(view) {
        let state = site_state(up, all);
        line("ashlar_site", &format_args!("name={site},state={state},nodes_up={up},nodes={all}"));
    }
    let (answered, sent_on) = view.member.nearest_reads();
    line("ashlar_nearest_reads", &answered);
    line("ashlar_nearest_reads_sent_on", &sent_on);
    if let Some(writes) = site_writes(view) {
        line("ashlar_site_writes", &writes.name());
    }
    text
}

/// What a site is called of whose nodes so many are up.
pub fn site_state(up: usize, all: usize) -> &'static str {
    match up {
        0 => "lost",
        _ if up == all => "ok",
        _ => "degraded",
    }
}

/// How far writes reach of the groups that this node leads: the worst of them; `None` where there are
/// no sites.
pub fn site_writes(view: &View<'_>) -> Option<SiteWrites> {
    let led =
        view.topology.groups.keys().filter(|group| view.member.leader(**group) == Some(view.me));
    let worst = led.map(|group| view.member.site_writes(*group)).max_by_key(|writes| *writes as u8);
    worst.filter(|_| sites(view).len() > 1)
}

/// The nodes of each site that are up, and all of them, where sites have names.
pub fn sites(view: &View<'_>) -> BTreeMap<String, [usize; 2]> {
    let mut sites: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for node in view.topology.nodes.values().filter(|node| !node.site.is_empty()) {
        let counts = sites.entry(node.site.clone()).or_default();
        counts[0] += usize::from(view.health(node.id) == Health::Online);
        counts[1] += 1;
    }
    sites
}

/// CLUSTER SLOTS: each run of slots with its primary and the replicas.
///
/// Some clients (redis-py) take a node for what they meet it as first, and send what is for all
/// primaries only to those. Where a node leads one group and follows in another, the first slot of
/// each primary therefore comes ahead, without replicas.
pub fn slots(view: &View<'_>, reply: &mut Reply<'_>, encrypted: bool) {
    let mut entries: Vec<(SlotRange, GroupId, bool)> =
        view.topology.all_ranges().into_iter().map(|(range, group)| (range, group, true)).collect();
    if has_mixed_nodes(view) {
        entries = primaries_first(view, &entries);
    }
    reply.array(entries.len());
    for ((first, last), group, with_replicas) in entries {
        let info = view.topology.groups.get(&group);
        let leader = view.topology.nodes.get(&view.leader(group));
        let followers: Vec<&NodeInfo> = info
            .filter(|_| with_replicas)
            .map(|group| view.followers(group).collect())
            .unwrap_or_default();
        // A client that cannot reach a node asks others: those that are down are left out.
        let up = followers.into_iter().filter(|node| view.health(node.id) == Health::Online);
        let nodes: Vec<&NodeInfo> = leader.into_iter().chain(up).collect();
        reply.array(2 + nodes.len());
        reply.int(first.into());
        reply.int(last.into());
        nodes.iter().for_each(|node| slot_node(view, node, reply, encrypted));
    }
}

/// Whether a node leads one group and follows in another.
fn has_mixed_nodes(view: &View<'_>) -> bool {
    view.topology
        .groups
        .values()
        .any(|group| view.followers(group).any(|node| !view.led_by(node.id).is_empty()))
}

fn primaries_first(
    view: &View<'_>,
    entries: &[(SlotRange, GroupId, bool)],
) -> Vec<(SlotRange, GroupId, bool)> {
    let mut seen: Vec<NodeId> = Vec::new();
    let (mut ahead, mut rest) = (Vec::new(), Vec::new());
    for ((first, last), group, _) in entries.iter().copied() {
        let leader = view.leader(group);
        if seen.contains(&leader) {
            rest.push(((first, last), group, true));
            continue;
        }
        seen.push(leader);
        ahead.push(((first, first), group, false));
        if first < last {
            rest.push(((first + 1, last), group, true));
        }
    }
    ahead.extend(rest);
    ahead
}

fn slot_node(view: &View<'_>, node: &NodeInfo, reply: &mut Reply<'_>, encrypted: bool) {
    reply.array(4);
    match view.endpoint.name(node) {
        Some(name) => reply.bulk(name.as_bytes()),
        None => reply.null(),
    }
    reply.int(port(node, encrypted).into());
    reply.bulk(node.hex().as_bytes());
    let with_hostname = !node.hostname.is_empty() && view.endpoint != Endpoint::Hostname;
    let more = [
        (view.endpoint != Endpoint::Ip, "ip", &node.host),
        (with_hostname, "hostname", &node.hostname),
    ];
    let more: Vec<_> = more.iter().filter(|(is, ..)| *is).collect();
    reply.map(more.len());
    for (_, name, value) in more {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// CLUSTER SHARDS: each group with its slots and its nodes. A node may be in several.
pub fn shards(view: &View<'_>, reply: &mut Reply<'_>) {
    reply.array(view.topology.groups.len());
    for group in view.topology.groups.values() {
        let ranges = view.topology.ranges_of(group.id);
        let leader = view.leader(group.id);
        let leader = view.topology.nodes.get(&leader).filter(|node| node.role == Role::Data);
        let nodes: Vec<&NodeInfo> = leader.into_iter().chain(view.followers(group)).collect();
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2 * ranges.len());
        for (first, last) in ranges {
            reply.int(first.into());
            reply.int(last.into());
        }
        reply.bulk(b"nodes");
        reply.array(nodes.len());
        for node in nodes {
            shard_node(view, group, node, reply);
        }
    }
}

fn shard_node(view: &View<'_>, group: &GroupInfo, node: &NodeInfo, reply: &mut Reply<'_>) {
    let ports = [("port", node.port), ("tls-port", node.tls_port)];
    let ports: Vec<_> = ports.iter().filter(|(_, port)| *port != 0).collect();
    reply.map(6 + ports.len() + usize::from(!node.hostname.is_empty()));
    let text = |reply: &mut Reply<'_>, name: &str, value: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    text(reply, "id", &node.hex());
    for (name, port) in ports {
        reply.bulk(name.as_bytes());
        reply.int((*port).into());
    }
    text(reply, "ip", &node.host);
    text(reply, "endpoint", view.endpoint.name(node).unwrap_or_default());
    if !node.hostname.is_empty() {
        text(reply, "hostname", &node.hostname);
    }
    let role = if view.leader(group.id) == node.id { "master" } else { "replica" };
    text(reply, "role", role);
    reply.bulk(b"replication-offset");
    reply.int(i64::try_from(view.offset(group.id)).unwrap_or(i64::MAX));
    let health = if view.health(node.id) == Health::Online { "online" } else { "failed" };
    text(reply, "health", health);
}

/// CLUSTER LINKS: to and from each node that is heard of. When a link was made and how much waits in
/// it is not kept.
pub fn links(view: &View<'_>, reply: &mut Reply<'_>) {
    let linked = |node: &&NodeInfo| node.id != view.me && view.health(node.id) == Health::Online;
    let nodes: Vec<&NodeInfo> = view.topology.nodes.values().filter(linked).collect();
    reply.array(2 * nodes.len());
    for node in nodes {
        for direction in ["to", "from"] {
            reply.map(6);
            let name = node.hex();
            for (field, value) in [("direction", direction), ("node", &name)] {
                reply.bulk(field.as_bytes());
                reply.bulk(value.as_bytes());
            }
            reply.bulk(b"create-time");
            reply.int(0);
            reply.bulk(b"events");
            reply.bulk(b"r");
            for field in ["send-buffer-allocated", "send-buffer-used"] {
                reply.bulk(field.as_bytes());
                reply.int(0);
            }
        }
    }
}
