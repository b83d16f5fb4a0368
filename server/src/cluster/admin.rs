//! CLUSTER ASHLAR: makes and changes the cluster. `ashlar cluster` speaks it to any node.

use super::{Member, own, propose, route, sites, view::View};
use crate::commands;
use crate::host::Host;
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number::parse_i64;
use ashlar_engine::reply::Reply;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::{SITE_LOSS, SITE_WRITES};
use ashlar_replication::topology::plan::{empty_node, place, rebalance};
use ashlar_replication::topology::{
    Change, GROUPS_MAX, MoveState, NODES_MAX, NodeInfo, Role, SLOTS, SlotRange, Topology, count,
    parse_hex,
};

/// Copies of a group besides the leader's, where the command does not say.
const REPLICAS_DEFAULT: usize = 2;

/// The forms, with what they do.
const FORMS: &[(&str, &str)] = &[
    ("SELF", "Return the description of this node that CREATE and ADDNODE take."),
    ("STATUS", "Return nodes, groups and moves, a line each."),
    (
        "CREATE [GROUPS <n>] [REPLICAS <n>] NODES <description> [<description> ...]",
        "Create a cluster of these nodes. By default as many groups as nodes that keep data, and two \
         replicas or as many as there are nodes for.",
    ),
    ("ADDNODE <description>", "Add a node; it keeps nothing until REBALANCE."),
    (
        "REMOVENODE <node> [SHRINK]",
        "Let other nodes take over what a node keeps; repeated until it answers OK, remove the node.",
    ),
    ("ADDGROUP [<count>]", "Add groups without slots; REBALANCE gives them some."),
    (
        "REBALANCE",
        "Spread replicas, slots and leaders evenly over the nodes, moving as little as can be. Returns the \
         number of changes; replicas and slots move after that.",
    ),
    ("MOVE <first> <last> <group>", "Move slots to a group, with their keys."),
    ("ABORTMOVE <move>", "Give a move up: its slots stay where they are."),
    ("MEMBERS <group> <node> [<node> ...]", "Say which nodes keep a group."),
    ("LEADER <group> <node>", "Say which node leads a group, and hand the leadership over."),
    ("DRAIN <node> <ON|OFF>", "Let a node lead nothing, or let it lead again."),
    (
        "SET <site-writes|site-loss> <value>",
        "Say whether writes wait for members in two sites (both, or majority), and what becomes of them where \
         only one is left (degrade, or refuse).",
    ),
    (
        "SET <site-id|site-name|site-backup> <value>",
        "Make the cluster a site among others: its number from 1 to 255 and its name, both for good, and whether \
         it only follows (yes, or no).",
    ),
];

/// CLUSTER ASHLAR
pub fn run(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let text = "ERR This instance has cluster support disabled";
    let member = host.shared.cluster.get().ok_or(Error::text(text))?.clone();
    let topology = member.topology();
    let name = args[2].to_ascii_uppercase();
    let plan = match (name.as_slice(), &args[3..]) {
        (b"HELP", []) => {
            commands::help(reply, "CLUSTER ASHLAR", FORMS);
            return Ok(());
        }
        (b"SELF", []) => {
            reply.bulk(own::describe(&own::info(host.shared, &*member)).as_bytes());
            return Ok(());
        }
        (b"STATUS", []) => {
            reply.verbatim("txt", &status(&View::new(host.shared, &*member)));
            return Ok(());
        }
        (b"LEADER", [group, node]) => {
            let (group, node) = (a_group(&topology, group)?, a_node(&topology, node)?);
            return propose(host, Change::SetPreferred(group, node), move |_| {
                member.transfer(group, node);
                b"+OK\r\n".to_vec()
            });
        }
        (b"SET", [name, value]) if sites::setting(name, value)?.is_some() => {
            let change = sites::setting(name, value)?;
            return change.map_or(Ok(()), |change| sites::change(host, change));
        }
        (b"REMOVENODE", [node, rest @ ..]) => remove_node(&*member, &topology, node, rest),
        (b"CREATE", rest) => {
            let mut cluster_id = [0; 20];
            getrandom::fill(&mut cluster_id).map_err(|error| refused(error.to_string()))?;
            create(cluster_id, rest).map(|change| (change, b"+OK\r\n".to_vec()))
        }
        (_, rest) => plan(&topology, &name, rest).map(|change| (change, b"+OK\r\n".to_vec())),
    };
    let (change, mut done) = plan?;
    if let Change::Batch { changes, .. } = &change
        && name == b"REBALANCE"
    {
        done = format!(":{}\r\n", changes.len()).into_bytes();
    }
    if matches!(&change, Change::Batch { changes, .. } if changes.is_empty()) {
        reply.raw(&done);
        return Ok(());
    }
    let adds = matches!(change, Change::AddNode(_) | Change::StartMove { .. });
    propose(host, change, move |made| if adds { format!(":{made}\r\n").into_bytes() } else { done })
}

fn refused(text: impl Into<String>) -> Error {
    Error::owned(format!("ERR {}", text.into()))
}

fn a_number(arg: &[u8], max: usize) -> Result<usize, Error> {
    let number = parse_i64(arg).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number <= max).ok_or(Error::NotInteger)
}

/// A node by its number or its name.
fn a_node(topology: &Topology, arg: &[u8]) -> Result<NodeId, Error> {
    let named = parse_hex(arg).and_then(|name| topology.node_named(&name)).map(|node| node.id);
    let number = parse_i64(arg).and_then(|id| NodeId::try_from(id).ok());
    let id = named.or(number).filter(|id| topology.nodes.contains_key(id));
    id.ok_or_else(|| Error::quoting("ERR Unknown node {}", &[arg]))
}

fn a_group(topology: &Topology, arg: &[u8]) -> Result<GroupId, Error> {
    let id = parse_i64(arg).and_then(|id| GroupId::try_from(id).ok());
    let id = id.filter(|id| topology.groups.contains_key(id));
    id.ok_or_else(|| Error::quoting("ERR Unknown group {}", &[arg]))
}

/// The change of a command that needs nothing but the topology.
fn plan(topology: &Topology, name: &[u8], args: &[&[u8]]) -> Result<Change, Error> {
    let batch = |changes| Change::Batch { version: topology.version, changes };
    Ok(match (name, args) {
        (b"ADDNODE", [description]) => Change::AddNode(own::parse(description).map_err(refused)?),
        (b"ADDGROUP", []) => Change::Batch { version: 0, changes: add_groups(topology, 1)? },
        (b"ADDGROUP", [number]) => {
            let changes = add_groups(topology, a_number(number, GROUPS_MAX)?)?;
            Change::Batch { version: 0, changes }
        }
        (b"REBALANCE", []) => batch(rebalance(topology).map_err(refused)?),
        (b"MOVE", [first, last, group]) => {
            let slot = |arg| a_number(arg, SLOTS - 1).map(|slot| slot as u16);
            let text = "ERR Invalid or out of range slot";
            let range = slot(first).and_then(|first| Ok((first, slot(last)?)));
            let range = range.map_err(|_| Error::text(text))?;
            let to = a_group(topology, group)?;
            let from =
                topology.group_of(range.0).ok_or_else(|| refused("nobody has these slots"))?;
            Change::StartMove { slots: vec![range], from, to }
        }
        (b"ABORTMOVE", [id]) => Change::AbortMove(parse_i64(id).ok_or(Error::NotInteger)? as u64),
        (b"MEMBERS", [group, nodes @ ..]) => {
            let members =
                nodes.iter().map(|node| a_node(topology, node)).collect::<Result<_, _>>()?;
            Change::SetMembers { group: a_group(topology, group)?, members, learners: Vec::new() }
        }
        (b"DRAIN", [node, state]) => {
            let draining = match state.to_ascii_lowercase().as_slice() {
                b"on" => true,
                b"off" => false,
                _ => return Err(Error::Syntax),
            };
            drain(topology, a_node(topology, node)?, draining)
        }
        (b"SET", [name, value]) => {
            let text = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
            let (name, value) = (text(name), text(value));
            let values: &[&str] = match name.as_str() {
                SITE_WRITES => &["both", "majority", ""],
                SITE_LOSS => &["degrade", "refuse", ""],
                _ => {
                    return Err(refused(
                        "the cluster has the settings site-writes, site-loss, site-id, site-name and site-backup",
                    ));
                }
            };
            if !values.contains(&value.as_str()) {
                let values = format!(
                    "{name} takes {} or {}, or \"\" for {}",
                    values[0], values[1], values[0]
                );
                return Err(refused(values));
            }
            Change::Set(name, value)
        }
        _ => {
            return Err(Error::text(
                "ERR unknown subcommand or wrong number of arguments. Try CLUSTER ASHLAR HELP.",
            ));
        }
    })
}

/// New groups stand where the first one does; rebalancing spreads them.
fn add_groups(topology: &Topology, number: usize) -> Result<Vec<Change>, Error> {
    let first = topology.groups.values().next();
    let first = first.ok_or_else(|| refused("there is no cluster yet; see CREATE"))?;
    let group = ashlar_replication::topology::GroupInfo { id: 0, config_epoch: 0, ..first.clone() };
    Ok((0..number).map(|_| Change::AddGroup(group.clone())).collect())
}

/// A node that drains hands what it leads to other members, where there are any.
fn drain(topology: &Topology, node: NodeId, draining: bool) -> Change {
    let mut changes = vec![Change::Drain(node, draining)];
    let led = topology.groups.values().filter(|group| draining && group.preferred == node);
    for group in led {
        let can_lead = |other: &&NodeId| {
            let other = topology.nodes.get(other);
            other.is_some_and(|other| {
                other.id != node && other.role == Role::Data && !other.draining
            })
        };
        let fewest = |node: &&NodeId| {
            topology.groups.values().filter(|group| group.preferred == **node).count()
        };
        if let Some(next) = group.members.iter().filter(can_lead).min_by_key(fewest) {
            changes.push(Change::SetPreferred(group.id, *next));
        }
    }
    // What else changes meanwhile does not matter.
    Change::Batch { version: 0, changes }
}

/// `[GROUPS n] [REPLICAS n] NODES description...`
fn create(cluster_id: [u8; 20], mut args: &[&[u8]]) -> Result<Change, Error> {
    let (mut groups, mut replicas) = (None, None);
    loop {
        match args {
            [name, number, rest @ ..] if name.eq_ignore_ascii_case(b"GROUPS") => {
                groups = Some(a_number(number, GROUPS_MAX)?);
                args = rest;
            }
            [name, number, rest @ ..] if name.eq_ignore_ascii_case(b"REPLICAS") => {
                replicas = Some(a_number(number, NODES_MAX)?);
                args = rest;
            }
            [name, rest @ ..] if name.eq_ignore_ascii_case(b"NODES") => {
                args = rest;
                break;
            }
            _ => return Err(Error::Syntax),
        }
    }
    if args.is_empty() || args.len() > NODES_MAX {
        return Err(refused(format!("a cluster has from 1 to {NODES_MAX} nodes")));
    }
    let mut nodes: Vec<NodeInfo> =
        args.iter().map(|arg| own::parse(arg)).collect::<Result<_, _>>().map_err(refused)?;
    for (id, node) in (1..).zip(&mut nodes) {
        node.id = id;
    }
    let data = nodes.iter().filter(|node| node.role == Role::Data).count();
    let replicas = replicas.unwrap_or(REPLICAS_DEFAULT.min(data.saturating_sub(1)));
    let (groups, slots) = place(&nodes, groups.unwrap_or(data), replicas).map_err(refused)?;
    Ok(Change::Create { cluster_id, nodes, groups, slots })
}

/// The next step of a node's removal: first others take over, and once their groups say that they have,
/// the node goes.
fn remove_node(
    member: &dyn Member,
    topology: &Topology,
    node: &[u8],
    options: &[&[u8]],
) -> Result<(Change, Vec<u8>), Error> {
    let id = a_node(topology, node)?;
    let shrink = match options {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"SHRINK") => true,
        _ => return Err(Error::Syntax),
    };
    let keeps = topology.groups_of(id).count();
    if keeps > 0 {
        let changes = empty_node(topology, id, shrink).map_err(refused)?;
        let change = Change::Batch { version: topology.version, changes };
        return Ok((change, format!("+MOVING {keeps}\r\n").into_bytes()));
    }
    let unsettled = topology.groups.keys().filter(|group| !member.is_settled(**group)).count();
    if unsettled > 0 {
        return Err(Error::owned(format!(
            "TRYAGAIN {unsettled} groups are still being taken over"
        )));
    }
    Ok((Change::RemoveNode(id), b"+OK\r\n".to_vec()))
}

fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

fn range((first, last): &SlotRange) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// CLUSTER ASHLAR STATUS: for people, and for scripts that take it apart by `name=`.
pub fn status(view: &View<'_>) -> String {
    let topology = &view.topology;
    if !topology.is_created() {
        return "no cluster\n".to_owned();
    }
    let mut lines = vec![format!(
        "cluster id={} version={} nodes={} groups={} slots={} moves={} release={}",
        ashlar_replication::topology::hex(&topology.cluster_id),
        topology.version,
        topology.nodes.len(),
        topology.groups.len(),
        topology.assigned(),
        topology.moves.len(),
        topology.release()
    )];
    for node in topology.nodes.values() {
        lines.push(node_status(view, node));
    }
    for group in topology.groups.values() {
        let leader =
            view.known_leader(group.id).map_or("-".to_owned(), |leader| leader.to_string());
        let ranges = topology.ranges_of(group.id);
        let mut line = format!(
            "group={} leader={leader} preferred={} members={} learners={} term={} slots={} ranges={}",
            group.id,
            group.preferred,
            list(&group.members),
            list(&group.learners),
            view.member.term(group.id),
            count(&ranges),
            list(ranges.iter().map(range))
        );
        for (is, word) in [
            (!view.member.has_quorum(group.id), " no-quorum"),
            (!view.member.is_settled(group.id), " unsettled"),
        ] {
            line.push_str(if is { word } else { "" });
        }
        lines.push(line);
    }
    for one in topology.moves.values() {
        let state = match one.state {
            MoveState::Copying => "copying",
            MoveState::Switching => "switching",
        };
        let (from, to) = (one.from, one.to);
        let slots = list(one.slots.iter().map(range));
        lines.push(format!("move={} from={from} to={to} state={state} ranges={slots}", one.id));
    }
    for (name, value) in &topology.settings {
        lines.push(format!("setting={name} value={value}"));
    }
    for (name, value) in sites::settings(&topology.sites) {
        lines.push(format!("setting={name} value={value}"));
    }
    lines.join("\n") + "\n"
}

fn node_status(view: &View<'_>, node: &NodeInfo) -> String {
    let health = match view.health(node.id) {
        super::view::Health::Online => "online",
        super::view::Health::Suspected => "suspected",
        super::view::Health::Failed => "failed",
    };
    let keeps = list(view.topology.groups_of(node.id).map(|group| group.id));
    let mut line = format!(
        "node={} state={health} address={}:{}@{} leads={} keeps={keeps} version={} name={}",
        node.id,
        node.host,
        route::port(node, false),
        node.peer_port,
        list(view.led_by(node.id)),
        node.version,
        node.hex()
    );
    if !node.site.is_empty() {
        line.push_str(&format!(" site={}", node.site));
    }
    for (is, word) in [
        (node.id == view.me, " me"),
        (node.role == Role::Witness, " witness"),
        (node.draining, " draining"),
    ] {
        line.push_str(if is { word } else { "" });
    }
    line
}
