//! POLICY: which promise holds for which keys, see `ashlar_engine::policy` and docs/policies.md.

use crate::clock;
use crate::cluster::Member;
use crate::cluster::propose::propose_table;
use crate::config::line::quote;
use crate::config::{ASYNC_READS_NEAREST, Settings, ids};
use crate::host::Host;
use crate::registry::{Family, HostCommand};
use crate::replication::Replication;
use crate::shared::Shared;
use crate::strong::tables::Kind;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::policy::{Class, Rule, Table, TierChoice};
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::slot_of;
use ashlar_replication::node::NodeId;
use ashlar_replication::topology::{Change, policies_made};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CHANGE: Flags =
    Flags::WRITE.union(Flags::ADMIN).union(Flags::NOSCRIPT).union(Flags::NO_MULTI);
const LOOK: Flags = Flags::STALE.union(Flags::NOSCRIPT);

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::container(
    Command::hosted("POLICY", -2, Group::Server).docs("7.4.0", "", "Manages the classes of keys."),
    POLICY,
)];

const FAMILY: Family =
    Family { group: Group::Server, since: "7.4.0", complexity: "O(N) for N policies" };

const POLICY: &[HostCommand] = &[
    FAMILY.sub(
        "SET",
        -4,
        CHANGE,
        "pattern (LOCAL|ASYNC|GLOBAL|STRONG) [TTL seconds:integer] [TIER (AUTO|HOT|COLD)]",
        "Sets the class of the keys that match a pattern.",
        set,
    ),
    FAMILY.sub("DEL", -3, CHANGE, "pattern...", "Removes policies.", del),
    FAMILY.sub(
        "LIST",
        2,
        LOOK,
        "",
        "Lists the policies, those that are asked first in front.",
        list,
    ),
    FAMILY.sub("VERSION", 2, LOOK, "", "Returns a number that grows with every change.", version),
    FAMILY.sub("EXPLAIN", 3, LOOK, "key", "Tells what holds for a key, and why.", explain),
    FAMILY.sub("HELP", 2, Flags::LOADING.union(Flags::STALE), "", "Lists the subcommands.", help),
];

/// Whether a class can be promised by this server.
///
/// # Errors
/// Why it cannot.
pub fn check_class(cluster: bool, class: Class) -> Result<(), Error> {
    if class == Class::Strong && !cluster {
        let text = "ERR the class strong needs a cluster: this node alone is no majority of anything \
                    (see cluster-enabled)";
        return Err(Error::text(text));
    }
    Ok(())
}

/// Whether the server is a node of a cluster.
fn is_cluster(settings: &Settings) -> bool {
    let shown = settings.get(&[b"cluster-enabled"]);
    shown.first().is_some_and(|(_, value)| value == b"yes")
}

/// Sets the rules of the configuration, which stand above those that the data brought along, and lets
/// CONFIG REWRITE write the rules as they are.
///
/// # Errors
/// With a class that cannot be promised, or too many rules.
pub fn enter(shared: &Arc<Shared>) -> Result<(), Error> {
    let engine = shared.engine.clone();
    shared.settings.write_policies(move |_| {
        let table = engine.policies().table();
        table.rules().iter().map(line_of).collect()
    });
    let rules = shared.settings.policies();
    if is_cluster(&shared.settings) {
        // What a single node had before it grew into a cluster counts no more.
        shared.engine.policies().replace(Table::default());
    }
    if !rules.is_empty() && is_cluster(&shared.settings) {
        let text = "ERR the nodes of a cluster agree on their policies: set them with POLICY SET, not in the \
                    configuration";
        return Err(Error::text(text));
    }
    rules.iter().try_for_each(|rule| check_class(false, rule.class))?;
    if rules.is_empty() || shared.replication.follower.is_following() {
        return Ok(());
    }
    let changes: Vec<Vec<u8>> = rules.iter().flat_map(change_of).collect();
    let changes: Vec<&[u8]> = changes.iter().map(Vec::as_slice).collect();
    let stamp = shared.stamp(clock::now_ms());
    shared.engine.executor().change_policies(&changes, &stamp).map(drop)
}

/// A rule as a line of the configuration.
fn line_of(rule: &Rule) -> Vec<u8> {
    let mut line = b"policy ".to_vec();
    line.extend(quote(&rule.pattern));
    line.extend_from_slice(format!(" {}", rule.class.name()).as_bytes());
    if rule.ttl_seconds > 0 {
        line.extend_from_slice(format!(" ttl {}", rule.ttl_seconds).as_bytes());
    }
    if rule.tier != TierChoice::Auto {
        line.extend_from_slice(format!(" tier {}", rule.tier.name()).as_bytes());
    }
    line
}

/// The change that sets a rule, as arguments of the engine's call.
pub fn change_of(rule: &Rule) -> [Vec<u8>; 5] {
    [
        b"SET".to_vec(),
        rule.pattern.to_vec(),
        rule.class.name().into(),
        rule.ttl_seconds.to_string().into(),
        rule.tier.name().into(),
    ]
}

fn set(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let rule = Rule::parse(&args[2..]).map_err(|text| Error::owned(format!("ERR {text}")))?;
    if host.shared.strong.get().is_some() {
        return change_cluster(host, Change::SetPolicy(rule), |_| b"+OK\r\n".to_vec());
    }
    check_class(false, rule.class)?;
    let change = change_of(&rule);
    let change: Vec<&[u8]> = change.iter().map(Vec::as_slice).collect();
    host.exec.change_policies(&change, &host.stamp)?;
    reply.ok();
    Ok(())
}

fn del(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if host.shared.strong.get().is_some() {
        let patterns = args[2..].iter().map(|pattern| pattern.to_vec()).collect();
        let form = |removed| format!(":{removed}\r\n").into_bytes();
        return change_cluster(host, Change::RemovePolicies(patterns), form);
    }
    let change: Vec<&[u8]> =
        args[2..].iter().flat_map(|pattern| [&b"REMOVE"[..], pattern]).collect();
    let removed = host.exec.change_policies(&change, &host.stamp)?;
    reply.int(removed);
    Ok(())
}

/// Changes the rules of a cluster; the client is answered once each group has taken them over.
fn change_cluster(
    host: &mut Host<'_, '_>,
    change: Change,
    form: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
) -> CmdResult {
    let version = |made| policies_made(made).0;
    propose_table(host, Kind::Policies, change, version, |made| form(policies_made(made).1))
}

/// The rules that POLICY shows: those that the cluster has agreed on, or those of the engine.
fn rules(shared: &Shared) -> Arc<Table> {
    match shared.strong.get() {
        Some(strong) => Arc::new(strong.handle().topology().policies.clone()),
        None => shared.engine.policies().table(),
    }
}

fn list(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let table = rules(host.shared);
    reply.array(table.rules().len());
    for rule in table.rules() {
        reply.map(4);
        reply.bulk(b"pattern");
        reply.bulk(&rule.pattern);
        reply.bulk(b"class");
        reply.bulk(rule.class.name().as_bytes());
        reply.bulk(b"ttl");
        reply.int(i64::try_from(rule.ttl_seconds).unwrap_or(i64::MAX));
        reply.bulk(b"tier");
        reply.bulk(rule.tier.name().as_bytes());
    }
    Ok(())
}

fn version(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let version = rules(host.shared).version();
    reply.int(i64::try_from(version).unwrap_or(i64::MAX));
    Ok(())
}

/// Where the requests for a key go.
struct Route {
    group: String,
    quorum: usize,
    sites: Option<String>,
    members: Vec<String>,
    write: String,
    read: String,
}

fn route(replication: &Replication) -> Route {
    let replicas = replication.replicas();
    let online = replicas.iter().filter(|replica| replica.online.load(Ordering::Acquire));
    let replicas: Vec<String> =
        online.map(|replica| format!("{}:{}", replica.ip, replica.port)).collect();
    let primary = replication.follower.status().primary;
    let first = primary.map_or("self".into(), |(host, port)| format!("{host}:{port}"));
    let own = (first != "self").then(|| "self".to_owned());
    let members: Vec<String> = std::iter::once(first.clone()).chain(own).chain(replicas).collect();
    let read = match members.len() {
        1 => "self".into(),
        _ => format!("{first}, or behind it {}", members[1..].join(" ")),
    };
    Route { group: "single".into(), quorum: 1, sites: None, members, write: first, read }
}

/// The same in a cluster.
fn route_in(member: &dyn Member, key: &[u8], class: Class, nearest: bool) -> Route {
    let topology = member.topology();
    let group = topology.group_of(slot_of(key)).and_then(|group| topology.groups.get(&group));
    let place = |id: NodeId| {
        let node = topology.nodes.get(&id);
        node.map_or_else(|| format!("node {id}"), |node| format!("{}:{}", node.host, node.port))
    };
    let Some(group) = group else {
        let nowhere = || "nowhere: no group has its slot".to_owned();
        let (members, group) = (Vec::new(), "none".into());
        return Route { group, quorum: 0, sites: None, members, write: nowhere(), read: nowhere() };
    };
    let nodes = group.members.iter().filter_map(|id| topology.nodes.get(id));
    let mut sites: Vec<&str> = nodes.map(|node| node.site.as_str()).collect();
    sites.retain(|site| !site.is_empty());
    sites.sort_unstable();
    sites.dedup();
    if class == Class::Global {
        sites = topology.sites.peers.keys().map(String::as_str).collect();
    }
    let leader = member.leader(group.id).map_or_else(|| "none at the moment".into(), place);
    Route {
        group: group.id.to_string(),
        quorum: group.members.len() / 2 + 1,
        sites: (!sites.is_empty()).then(|| sites.join(" ")),
        members: group.replicas().map(place).collect(),
        read: match class {
            Class::Local | Class::Global => format!("{leader}, which asks nobody"),
            Class::Async if nearest => {
                format!("any member that is not cut off, as it knows the key, else {leader}")
            }
            Class::Async => format!("{leader}, which asks nobody"),
            Class::Strong => {
                format!("{leader}, or after READONLY any member, as it knows the key")
            }
        },
        write: leader,
    }
}

fn explain(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[2];
    let table = rules(host.shared);
    let rule = table.find(key);
    let of_rule = rule.map(|rule| rule.class);
    let policies = host.shared.engine.policies_of(key);
    let class = of_rule.unwrap_or(policies.default_class());
    let route = match host.shared.cluster.get() {
        Some(member) => {
            let nearest = host.shared.settings.number(ids::CLUSTER_ASYNC_READS);
            route_in(&**member, key, class, nearest == ASYNC_READS_NEAREST)
        }
        None => route(&host.shared.replication),
    };
    reply.map(13);
    reply.bulk(b"key");
    reply.bulk(key);
    reply.bulk(b"class");
    reply.bulk(class.name().as_bytes());
    reply.bulk(b"rule");
    match rule {
        Some(rule) => reply.bulk(&rule.pattern),
        None => reply.null(),
    }
    reply.bulk(b"version");
    reply.int(i64::try_from(table.version()).unwrap_or(i64::MAX));
    reply.bulk(b"applied");
    reply.int(i64::try_from(policies.version()).unwrap_or(i64::MAX));
    reply.bulk(b"group");
    reply.bulk(route.group.as_bytes());
    reply.bulk(b"members");
    reply.array(route.members.len());
    route.members.iter().for_each(|member| reply.bulk(member.as_bytes()));
    reply.bulk(b"sites");
    let all: &[u8] = match class {
        Class::Global => b"all",
        Class::Local | Class::Async | Class::Strong => b"own",
    };
    reply.bulk(route.sites.as_ref().map_or(all, |sites| sites.as_bytes()));
    reply.bulk(b"quorum");
    reply.int(route.quorum as i64);
    reply.bulk(b"tier");
    reply.bulk(rule.map_or("auto", |rule| rule.tier.name()).as_bytes());
    reply.bulk(b"ttl");
    reply.int(rule.map_or(0, |rule| i64::try_from(rule.ttl_seconds).unwrap_or(i64::MAX)));
    reply.bulk(b"write");
    reply.bulk(route.write.as_bytes());
    reply.bulk(b"read");
    reply.bulk(route.read.as_bytes());
    Ok(())
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    super::help(
        reply,
        "POLICY",
        &[
            (
                "SET <pattern> <local|async|global|strong> [TTL <seconds>] [TIER <auto|hot|cold>]",
                "Set the class of the keys that match <pattern>.",
            ),
            ("DEL <pattern> [<pattern> ...]", "Remove policies."),
            ("LIST", "List the policies, those that are asked first in front."),
            ("VERSION", "Return a number that grows with every change."),
            ("EXPLAIN <key>", "Tell what holds for <key>, and why."),
        ],
    );
    Ok(())
}
