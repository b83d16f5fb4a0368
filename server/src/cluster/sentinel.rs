//! Each group as a Sentinel's master: its name, who leads it and who follows, and the messages that
//! Sentinel clients wait for.
//!
//! There is no separate process. Raft finds that a leader is gone and elects the next one; this tells
//! Sentinel clients of it in their terms. The quorum is always a majority of the group.

use super::route;
use super::view::{Endpoint, Health, View};
use crate::config::{Settings, ids};
use crate::pubsub::Kind;
use crate::shared::Shared;
use ashlar_engine::reply::Reply;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{GroupInfo, NodeInfo, Topology};

/// Start of the cluster's settings that name groups: `sentinel-name-<group>`.
pub const NAME_SETTING: &str = "sentinel-name-";

/// The name of a group: what SENTINEL MONITOR gave it, what the settings say, or one that follows from
/// its number. The first group is `mymaster`, as in every example.
pub fn name_of(topology: &Topology, settings: &Settings, group: GroupId) -> String {
    if let Some(name) = topology.settings.get(&format!("{NAME_SETTING}{group}")) {
        return name.clone();
    }
    let nth = topology.groups.keys().position(|id| *id == group).unwrap_or(usize::MAX);
    let names = settings.string(ids::SENTINEL_MASTER_NAMES);
    match names.split_ascii_whitespace().nth(nth) {
        Some(name) => name.to_owned(),
        None if nth == 0 => "mymaster".to_owned(),
        None => format!("ashlar-{group}"),
    }
}

/// The group of a name.
pub fn group_named<'t>(
    topology: &'t Topology,
    settings: &Settings,
    name: &[u8],
) -> Option<&'t GroupInfo> {
    topology.groups.values().find(|group| name_of(topology, settings, group.id).as_bytes() == name)
}

/// A Sentinel's view: the cluster's, with what takes a node for down.
pub struct Watch<'a> {
    /// The cluster, with `down-after-milliseconds` as the silence that counts.
    pub view: View<'a>,
    /// The settings.
    pub settings: &'a Settings,
}

impl<'a> Watch<'a> {
    /// The cluster as it is now.
    pub fn new(shared: &'a Shared, member: &'a dyn super::Member) -> Watch<'a> {
        let settings = &shared.settings;
        let down_ms = settings.count(ids::DOWN_AFTER_MILLISECONDS);
        // As a Sentinel does, it names the old master until there is a new one.
        let limits = (down_ms, u64::MAX);
        let view = View::of(member, crate::clock::now_ms(), limits, Endpoint::of(settings));
        Watch { view, settings }
    }

    /// The name of a group.
    pub fn name(&self, group: GroupId) -> String {
        name_of(&self.view.topology, self.settings, group)
    }

    /// The node that is the master of a group.
    pub fn master(&self, group: &GroupInfo) -> Option<&NodeInfo> {
        self.view.topology.nodes.get(&self.view.leader(group.id))
    }

    /// The nodes besides this one: each is a Sentinel.
    pub fn sentinels(&self) -> impl Iterator<Item = &NodeInfo> {
        self.view.topology.nodes.values().filter(|node| node.id != self.view.me)
    }

    /// Members that must agree.
    pub fn quorum(group: &GroupInfo) -> usize {
        group.members.len() / 2 + 1
    }

    fn silent_ms(&self, node: NodeId) -> u64 {
        let silent_ms = self.view.member.silent_ms(node);
        if node == self.view.me { 0 } else { silent_ms.unwrap_or(u64::from(u32::MAX)) }
    }

    fn flags(&self, node: NodeId, role: &str) -> String {
        match self.view.health(node) {
            Health::Online => role.to_owned(),
            Health::Suspected => format!("{role},s_down,disconnected"),
            Health::Failed if role == "master" => format!("{role},s_down,o_down,disconnected"),
            Health::Failed => format!("{role},s_down,disconnected"),
        }
    }

    /// What is common to masters, replicas and sentinels.
    fn common(&self, fields: &mut Fields, node: &NodeInfo, name: &str, role: &str) {
        let silent_ms = self.silent_ms(node.id);
        fields.add("name", name);
        fields.add("ip", &node.host);
        fields.add("port", route::port(node, false));
        fields.add("runid", node.hex());
        fields.add("flags", self.flags(node.id, role));
        fields.add("link-pending-commands", 0);
        fields.add("link-refcount", 1);
        fields.add("last-ping-sent", 0);
        fields.add("last-ok-ping-reply", silent_ms);
        fields.add("last-ping-reply", silent_ms);
        let down_ms = self.settings.count(ids::DOWN_AFTER_MILLISECONDS);
        let health = self.view.health(node.id);
        if health != Health::Online {
            fields.add("s-down-time", silent_ms.saturating_sub(down_ms));
        }
        if health == Health::Failed && role == "master" {
            fields.add("o-down-time", silent_ms.saturating_sub(down_ms));
        }
        fields.add("down-after-milliseconds", down_ms);
    }

    /// SENTINEL MASTER
    pub fn master_entry(&self, group: &GroupInfo, reply: &mut Reply<'_>) {
        let mut fields = Fields::default();
        let unknown = NodeInfo::default();
        let node = self.master(group).unwrap_or(&unknown);
        self.common(&mut fields, node, &self.name(group.id), "master");
        fields.add("info-refresh", self.silent_ms(node.id));
        fields.add("role-reported", "master");
        fields.add("role-reported-time", self.silent_ms(node.id));
        fields.add("config-epoch", self.view.member.term(group.id));
        fields.add("num-slaves", self.view.followers(group).count());
        fields.add("num-other-sentinels", self.sentinels().count());
        fields.add("quorum", Self::quorum(group));
        fields.add("failover-timeout", self.settings.number(ids::FAILOVER_TIMEOUT));
        fields.add("parallel-syncs", 1);
        fields.write(reply);
    }

    /// An element of SENTINEL REPLICAS
    pub fn replica_entry(&self, group: &GroupInfo, node: &NodeInfo, reply: &mut Reply<'_>) {
        let mut fields = Fields::default();
        let unknown = NodeInfo::default();
        let master = self.master(group).unwrap_or(&unknown);
        self.common(
            &mut fields,
            node,
            &format!("{}:{}", node.host, route::port(node, false)),
            "slave",
        );
        fields.add("info-refresh", self.silent_ms(node.id));
        fields.add("role-reported", "slave");
        fields.add("role-reported-time", self.silent_ms(node.id));
        let linked = self.view.known_leader(group.id).is_some()
            && self.view.health(node.id) == Health::Online;
        fields.add("master-link-down-time", 0);
        fields.add("master-link-status", if linked { "ok" } else { "err" });
        fields.add("master-host", &master.host);
        fields.add("master-port", route::port(master, false));
        // One that only learns cannot be promoted.
        fields.add("slave-priority", if group.members.contains(&node.id) { 100 } else { 0 });
        fields.add("slave-repl-offset", self.view.offset(group.id));
        fields.add("replica-announced", 1);
        fields.write(reply);
    }

    /// An element of SENTINEL SENTINELS
    pub fn sentinel_entry(&self, node: &NodeInfo, reply: &mut Reply<'_>) {
        let mut fields = Fields::default();
        self.common(&mut fields, node, &node.hex(), "sentinel");
        fields.add("last-hello-message", self.silent_ms(node.id));
        fields.add("voted-leader", "?");
        fields.add("voted-leader-epoch", 0);
        fields.write(reply);
    }

    /// The member that is to lead a group next: one that is up and leads little.
    pub fn next_leader(&self, group: &GroupInfo) -> Option<NodeId> {
        let up = self.view.followers(group).filter(|node| {
            group.members.contains(&node.id)
                && !node.draining
                && self.view.health(node.id) == Health::Online
        });
        up.min_by_key(|node| (self.view.led_by(node.id).len(), node.id)).map(|node| node.id)
    }

    /// The fields of INFO's section for Sentinels.
    pub fn info(&self) -> Vec<(String, String)> {
        let topology = &self.view.topology;
        let mut fields: Vec<(String, String)> = [
            ("sentinel_masters", topology.groups.len().to_string()),
            ("sentinel_tilt", "0".to_owned()),
            ("sentinel_tilt_since_seconds", "-1".to_owned()),
            ("sentinel_running_scripts", "0".to_owned()),
            ("sentinel_scripts_queue_length", "0".to_owned()),
            ("sentinel_simulate_failure_flags", "0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (nth, group) in topology.groups.values().enumerate() {
            let (host, port) = self
                .master(group)
                .map_or(("", 0), |node| (node.host.as_str(), route::port(node, false)));
            let status = match self.view.health(self.view.leader(group.id)) {
                Health::Online => "ok",
                Health::Suspected => "sdown",
                Health::Failed => "odown",
            };
            let value = format!(
                "name={},status={status},address={host}:{port},slaves={},sentinels={}",
                self.name(group.id),
                self.view.followers(group).count(),
                topology.nodes.len()
            );
            fields.push((format!("master{nth}"), value));
        }
        fields
    }
}

/// Names and values of an entry, all of them strings.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn add(&mut self, name: &'static str, value: impl ToString) {
        self.0.push((name, value.to_string()));
    }

    fn write(&self, reply: &mut Reply<'_>) {
        reply.map(self.0.len());
        for (name, value) in &self.0 {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
    }
}

fn publish(shared: &Shared, channel: &str, text: &str) {
    tracing::info!("{channel} {text}");
    shared.pubsub.publish(Kind::Channel, channel.as_bytes(), text.as_bytes(), &shared.mailboxes);
}

/// A group has another leader; `old` is the last one that was known. Publishes `+switch-master`.
pub fn on_leader_change(shared: &Shared, group: GroupId, old: Option<NodeId>, new: NodeId) {
    let Some(member) = shared.cluster.get() else { return };
    let topology = member.topology();
    let Some(info) = topology.groups.get(&group) else { return };
    let old = old.unwrap_or(info.preferred);
    let (Some(old), Some(new)) = (topology.nodes.get(&old), topology.nodes.get(&new)) else {
        return;
    };
    if old.id == new.id {
        return;
    }
    let name = name_of(&topology, &shared.settings, group);
    let text = format!(
        "{name} {} {} {} {}",
        old.host,
        route::port(old, false),
        new.host,
        route::port(new, false)
    );
    publish(shared, "+switch-master", &text);
}

/// A node has been silent for `down-after-milliseconds`, or is heard of again. Publishes `+sdown`, `-sdown`, and for leaders `+odown` and `-odown` where a
/// majority goes on without it: once for each group, as each group is a master to Sentinel clients.
pub fn on_node_state(shared: &Shared, node: NodeId, down: bool) {
    let Some(member) = shared.cluster.get() else { return };
    let watch = Watch::new(shared, &**member);
    let topology = &watch.view.topology;
    let Some(info) = topology.nodes.get(&node) else { return };
    let sign = if down { '+' } else { '-' };
    let (host, port) = (&info.host, route::port(info, false));
    for group in topology.groups_of(node) {
        let name = watch.name(group.id);
        if watch.view.leader(group.id) == node {
            let master = format!("master {name} {host} {port}");
            publish(shared, &format!("{sign}sdown"), &master);
            if !down {
                publish(shared, "-odown", &master);
            } else if member.has_quorum(group.id) {
                let quorum = Watch::quorum(group);
                publish(shared, "+odown", &format!("{master} #quorum {quorum}/{quorum}"));
            }
        } else if let Some(master) = watch.master(group) {
            let text = format!(
                "slave {host}:{port} {host} {port} @ {name} {} {}",
                master.host,
                route::port(master, false)
            );
            publish(shared, &format!("{sign}sdown"), &text);
        }
    }
}
