//! CLUSTER, READONLY, READWRITE, ASKING: the cluster as Redis's clients and tools ask about it, and
//! CLUSTER ASHLAR, by which it is made and changed.

use crate::cluster::view::View;
use crate::cluster::{Member, admin, own, propose, show};
use crate::host::Host;
use crate::registry::{Family, HostCommand, HostRun};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number;
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::{SLOTS, slot_of};
use ashlar_replication::topology::{Change, NodeInfo, SlotRange, parse_hex, ranges};
use std::collections::BTreeSet;
use std::sync::Arc;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = Flags::ADMIN.union(Flags::STALE).union(Flags::NOSCRIPT);
/// Waits for the meta group.
const CHANGE: Flags = ADMIN.union(Flags::NO_MULTI);
/// Keys that GETKEYSINSLOT gives at most.
const KEYS_MAX: i64 = 1 << 20;
const DISABLED: &str = "ERR This instance has cluster support disabled";

const fn connection(name: &'static str, summary: &'static str, run: HostRun) -> HostCommand {
    let command = Command::hosted(name, 1, Group::Cluster).flags(ANY_TIME.union(Flags::FAST));
    HostCommand::new(command.docs("3.0.0", "O(1)", summary), run)
}

const FAMILY: Family =
    Family { group: Group::Cluster, since: "3.0.0", complexity: "O(N) for N nodes or slots" };

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    connection("READONLY", "Lets the connection read from replicas.", |host, _, reply| {
        member(host)?;
        host.session.reads_replicas = true;
        reply.ok();
        Ok(())
    }),
    connection("READWRITE", "Takes READONLY back.", |host, _, reply| {
        member(host)?;
        host.session.reads_replicas = false;
        reply.ok();
        Ok(())
    }),
    // Slots change hands in one step, so no node sends a client on by ASK.
    connection("ASKING", "Announces a command that ASK has redirected.", |host, _, reply| {
        member(host)?;
        reply.ok();
        Ok(())
    }),
    HostCommand::container(
        Command::hosted("CLUSTER", -2, Group::Cluster).docs(
            "3.0.0",
            "",
            "Tells about the cluster.",
        ),
        SUBCOMMANDS,
    ),
];

const SUBCOMMANDS: &[HostCommand] = &[
    FAMILY.sub("INFO", 2, ANY_TIME, "", "Returns the cluster's state.", info),
    FAMILY.sub("NODES", 2, ANY_TIME, "", "Lists the nodes with their slots.", nodes),
    FAMILY.sub("SLOTS", 2, ANY_TIME, "", "Maps slots to nodes.", slots),
    FAMILY.sub("SHARDS", 2, ANY_TIME, "", "Lists the groups with slots and nodes.", shards),
    FAMILY.sub("LINKS", 2, ANY_TIME, "", "Lists the links to other nodes.", links),
    FAMILY.sub("MYID", 2, ANY_TIME, "", "Returns the node's name.", my_id),
    FAMILY.sub("MYSHARDID", 2, ANY_TIME, "", "Returns the name of the node's group.", my_shard_id),
    FAMILY.sub(
        "KEYSLOT",
        3,
        ANY_TIME,
        "key:string",
        "Returns the slot of a key.",
        |host, args, reply| {
            member(host)?;
            reply.int(slot_of(args[2]).into());
            Ok(())
        },
    ),
    FAMILY.sub(
        "COUNTKEYSINSLOT",
        3,
        ANY_TIME,
        "slot:integer",
        "Counts the keys in a slot.",
        count_keys,
    ),
    FAMILY.sub(
        "GETKEYSINSLOT",
        4,
        ANY_TIME,
        "slot:integer count:integer",
        "Returns keys in a slot.",
        get_keys,
    ),
    FAMILY.sub("REPLICAS", 3, ADMIN, "node-id", "Lists the replicas of a node.", replicas),
    FAMILY.sub("SLAVES", 3, ADMIN, "node-id", "Lists the replicas of a node.", replicas),
    FAMILY.sub(
        "COUNT-FAILURE-REPORTS",
        3,
        ADMIN,
        "node-id",
        "Counts the reports that a node fails: 1 if it does, as nodes do not report to each other.",
        failure_reports,
    ),
    FAMILY.sub(
        "FAILOVER",
        -2,
        CHANGE,
        "[(FORCE|TAKEOVER)]",
        "Makes this node the leader of what its primary leads.",
        failover,
    ),
    FAMILY.sub(
        "FORGET",
        3,
        CHANGE,
        "node-id",
        "Removes a node that keeps nothing any more.",
        forget,
    ),
    FAMILY.sub(
        "ADDSLOTS",
        -3,
        CHANGE,
        "slot:integer...",
        "Takes slots that nobody has.",
        |host, args, _| {
            let slots = list_of_slots(&args[2..])?;
            add_slots(host, slots)
        },
    ),
    FAMILY.sub(
        "ADDSLOTSRANGE",
        -4,
        CHANGE,
        "(start-slot:integer end-slot:integer)...",
        "Takes ranges of slots that nobody has.",
        |host, args, _| {
            let slots = list_of_ranges(&args[2..], "addslotsrange")?;
            add_slots(host, slots)
        },
    ),
    FAMILY.sub(
        "DELSLOTS",
        -3,
        CHANGE,
        "slot:integer...",
        "Gives empty slots up.",
        |host, args, _| {
            let slots = list_of_slots(&args[2..])?;
            del_slots(host, slots)
        },
    ),
    FAMILY.sub(
        "DELSLOTSRANGE",
        -4,
        CHANGE,
        "(start-slot:integer end-slot:integer)...",
        "Gives ranges of empty slots up.",
        |host, args, _| {
            let slots = list_of_ranges(&args[2..], "delslotsrange")?;
            del_slots(host, slots)
        },
    ),
    FAMILY.sub(
        "BUMPEPOCH",
        2,
        CHANGE,
        "",
        "Gives the groups that this node leads a new epoch.",
        bump_epoch,
    ),
    FAMILY.sub(
        "SAVECONFIG",
        2,
        ADMIN,
        "",
        "Does nothing: the topology is durable already.",
        |host, _, reply| {
            member(host)?;
            reply.ok();
            Ok(())
        },
    ),
    FAMILY.sub(
        "MEET",
        -4,
        CHANGE,
        "ip:string port:integer [cluster-bus-port:integer]",
        "Refused: nodes are added by CLUSTER ASHLAR ADDNODE.",
        |host, _, _| by_other_means(host, "nodes are added by `ashlar cluster add-node`"),
    ),
    FAMILY.sub(
        "REPLICATE",
        3,
        CHANGE,
        "node-id",
        "Refused: replicas are placed by CLUSTER ASHLAR REBALANCE.",
        |host, _, _| by_other_means(host, "replicas are placed by `ashlar cluster rebalance`"),
    ),
    FAMILY.sub(
        "RESET",
        -2,
        CHANGE,
        "[(HARD|SOFT)]",
        "Refused: a node leaves by CLUSTER ASHLAR REMOVENODE.",
        |host, _, _| by_other_means(host, "a node leaves by `ashlar cluster remove-node`"),
    ),
    FAMILY.sub(
        "SETSLOT",
        -4,
        CHANGE,
        "slot:integer (IMPORTING node-id|MIGRATING node-id|NODE node-id|STABLE)",
        "Refused: slots are moved by CLUSTER ASHLAR MOVE.",
        |host, _, _| by_other_means(host, "slots are moved by CLUSTER ASHLAR MOVE, data included"),
    ),
    FAMILY.sub(
        "SET-CONFIG-EPOCH",
        3,
        CHANGE,
        "config-epoch:integer",
        "Refused: epochs follow from elections and changes.",
        |host, _, _| by_other_means(host, "epochs follow from elections and changes of groups"),
    ),
    FAMILY.sub(
        "FLUSHSLOTS",
        2,
        CHANGE,
        "",
        "Refused: empty slots are given up by CLUSTER DELSLOTS.",
        |host, _, _| by_other_means(host, "empty slots are given up by CLUSTER DELSLOTS"),
    ),
    FAMILY.sub(
        "ASHLAR",
        -3,
        CHANGE,
        "subcommand [argument...]",
        "Creates and changes the cluster: see CLUSTER ASHLAR HELP.",
        admin::run,
    ),
    FAMILY.sub("HELP", 2, ANY_TIME, "", "Lists the subcommands.", |_, _, reply| {
        super::help_of(reply, "CLUSTER", SUBCOMMANDS);
        Ok(())
    }),
];

/// This node as a member of a cluster.
///
/// # Errors
/// Redis's text where cluster mode is off.
pub(super) fn member<'e>(host: &Host<'_, 'e>) -> Result<&'e Arc<dyn Member>, Error> {
    host.shared.cluster.get().ok_or(Error::text(DISABLED))
}

/// The cluster as it is now.
fn view<'e>(host: &Host<'_, 'e>) -> Result<View<'e>, Error> {
    Ok(View::new(host.shared, &**member(host)?))
}

fn by_other_means(host: &mut Host<'_, '_>, how: &str) -> CmdResult {
    member(host)?;
    Err(Error::owned(format!("ERR {how}")).into())
}

fn info(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let text = show::info(&view(host)?, &host.shared.settings);
    reply.verbatim("txt", &text);
    Ok(())
}

fn nodes(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let alone = own::info(host.shared, view.member);
    reply.verbatim("txt", &show::nodes(&view, &alone, host.session.encrypted));
    Ok(())
}

fn slots(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    show::slots(&view(host)?, reply, host.session.encrypted);
    Ok(())
}

fn shards(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    show::shards(&view(host)?, reply);
    Ok(())
}

fn links(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    show::links(&view(host)?, reply);
    Ok(())
}

fn my_id(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let name = member(host)?.name();
    reply.bulk(ashlar_replication::topology::hex(&name).as_bytes());
    Ok(())
}

/// A group's name: the cluster's, with the number of the group in its last bytes.
fn my_shard_id(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let group = view.led_by(view.me).first().copied();
    let group = group.or_else(|| view.topology.groups_of(view.me).next().map(|group| group.id));
    let mut name =
        if view.topology.is_created() { view.topology.cluster_id } else { view.member.name() };
    for (byte, number) in name[16..].iter_mut().zip(group.unwrap_or(0).to_be_bytes()) {
        *byte ^= number;
    }
    reply.bulk(ashlar_replication::topology::hex(&name).as_bytes());
    Ok(())
}

fn slot(arg: &[u8], text: &'static str) -> Result<u16, Error> {
    let slot = number::parse_i64(arg).and_then(|slot| u16::try_from(slot).ok());
    slot.filter(|slot| *slot < SLOTS).ok_or(Error::text(text))
}

fn count_keys(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let member = member(host)?;
    number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let slot = slot(args[2], "ERR Invalid slot")?;
    host.exec.release();
    reply.int(member.count_keys(slot) as i64);
    Ok(())
}

fn get_keys(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    const TEXT: &str = "ERR Invalid slot or number of keys";
    let member = member(host)?;
    let slot = slot(args[2], TEXT)?;
    let count = number::parse_i64(args[3]).filter(|count| *count >= 0).ok_or(Error::text(TEXT))?;
    host.exec.release();
    let keys = member.keys_in_slot(slot, count.min(KEYS_MAX) as usize);
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

/// The node that an argument names.
fn node<'v>(view: &'v View<'_>, arg: &[u8]) -> Result<&'v NodeInfo, Error> {
    let known = parse_hex(arg).and_then(|name| view.topology.node_named(&name));
    known.ok_or_else(|| Error::quoting("ERR Unknown node {}", &[arg]))
}

fn replicas(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let primary = node(&view, args[2])?;
    if view.primary_of(primary.id).is_some() {
        return Err(Error::text("ERR The specified node is not a master").into());
    }
    let lines: Vec<String> = view
        .replicas_of(primary.id)
        .map(|node| show::node_line(&view, node, host.session.encrypted))
        .collect();
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.bulk(line.as_bytes()));
    Ok(())
}

fn failure_reports(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let health = view.health(node(&view, args[2])?.id);
    reply.int((health != crate::cluster::view::Health::Online).into());
    Ok(())
}

/// The leadership is handed over and stays here: this node becomes the one that shall lead.
fn failover(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let known =
        |arg: &&[u8]| arg.eq_ignore_ascii_case(b"FORCE") || arg.eq_ignore_ascii_case(b"TAKEOVER");
    if args.len() > 3 || !args[2..].iter().all(known) {
        return Err(Error::Syntax.into());
    }
    let view = view(host)?;
    let Some(primary) = view.primary_of(view.me) else {
        return Err(Error::text("ERR You should send CLUSTER FAILOVER to a replica").into());
    };
    let mine = |group: &&ashlar_replication::raft::GroupId| {
        let info = view.topology.groups.get(group);
        info.is_some_and(|info| info.members.contains(&view.me))
    };
    let groups: Vec<_> = view.led_by(primary).iter().filter(mine).copied().collect();
    if groups.is_empty() {
        return Err(Error::text("ERR this node only learns: it cannot lead").into());
    }
    let changes = groups.iter().map(|group| Change::SetPreferred(*group, view.me)).collect();
    let change = Change::Batch { version: 0, changes };
    let (member, me) = (member(host)?.clone(), view.me);
    propose(host, change, move |_| {
        groups.iter().for_each(|group| member.transfer(*group, me));
        b"+OK\r\n".to_vec()
    })
}

fn forget(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let id = node(&view, args[2])?.id;
    if id == view.me {
        let text = "ERR I tried hard but I can't forget myself...";
        return Err(Error::text(text).into());
    }
    propose(host, Change::RemoveNode(id), |_| b"+OK\r\n".to_vec())
}

const OUT_OF_RANGE: &str = "ERR Invalid or out of range slot";

fn list_of_slots(args: &[&[u8]]) -> Result<Vec<SlotRange>, Error> {
    let mut slots = BTreeSet::new();
    for arg in args {
        let slot = slot(arg, OUT_OF_RANGE)?;
        if !slots.insert(slot) {
            return Err(Error::owned(format!("ERR Slot {slot} specified multiple times")));
        }
    }
    Ok(ranges(slots))
}

fn list_of_ranges(args: &[&[u8]], name: &str) -> Result<Vec<SlotRange>, Error> {
    if !args.len().is_multiple_of(2) {
        return Err(Error::arity(&format!("cluster|{name}")));
    }
    let mut slots = BTreeSet::new();
    for pair in args.chunks_exact(2) {
        let (first, last) = (slot(pair[0], OUT_OF_RANGE)?, slot(pair[1], OUT_OF_RANGE)?);
        if first > last {
            return Err(Error::owned(format!(
                "ERR start slot number {first} is greater than end slot number {last}"
            )));
        }
        for slot in first..=last {
            if !slots.insert(slot) {
                return Err(Error::owned(format!("ERR Slot {slot} specified multiple times")));
            }
        }
    }
    Ok(ranges(slots))
}

fn add_slots(host: &mut Host<'_, '_>, slots: Vec<SlotRange>) -> CmdResult {
    let view = view(host)?;
    let Some(&group) = view.led_by(view.me).first() else {
        return Err(Error::text(
            "ERR this node leads no group that could take slots; `ashlar cluster create` makes groups",
        )
        .into());
    };
    propose(host, Change::Assign { slots, group }, |_| b"+OK\r\n".to_vec())
}

/// Only empty slots are given up: nobody would answer for their keys.
fn del_slots(host: &mut Host<'_, '_>, slots: Vec<SlotRange>) -> CmdResult {
    let view = view(host)?;
    for slot in slots.iter().flat_map(|(first, last)| *first..=*last) {
        let Some(group) = view.topology.group_of(slot) else { continue };
        if view.known_leader(group) != Some(view.me) {
            return Err(Error::owned(format!("ERR slot {slot} is not led by this node")).into());
        }
        host.exec.release();
        if view.member.count_keys(slot) > 0 {
            return Err(Error::owned(format!("ERR slot {slot} has keys")).into());
        }
    }
    propose(host, Change::Assign { slots, group: 0 }, |_| b"+OK\r\n".to_vec())
}

fn bump_epoch(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let view = view(host)?;
    let Some(&group) = view.led_by(view.me).first() else {
        reply.simple(&format!("STILL {}", view.epoch_of(view.me)));
        return Ok(());
    };
    let term = view.member.term(group);
    propose(host, Change::BumpEpoch(group), move |epoch| {
        format!("+BUMPED {}\r\n", epoch + term).into_bytes()
    })
}
