//! SENTINEL, answered by every node of a cluster: each group is a master.

use super::cluster::member;
use crate::cluster::propose;
use crate::cluster::sentinel::{NAME_SETTING, Watch, group_named};
use crate::config::{Caller, ids};
use crate::host::Host;
use crate::registry::{Family, HostCommand};
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::glob;
use ashlar_engine::number::parse_i64;
use ashlar_engine::reply::Reply;
use ashlar_replication::topology::{Change, GroupInfo};

const ASK: Flags = Flags::ADMIN.union(Flags::LOADING).union(Flags::STALE).union(Flags::NOSCRIPT);
/// Waits for the meta group.
const CHANGE: Flags = ASK.union(Flags::NO_MULTI);

const FAMILY: Family =
    Family { group: Group::Sentinel, since: "2.8.4", complexity: "O(N) for N nodes" };

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::container(
    Command::hosted("SENTINEL", -2, Group::Sentinel).docs(
        "2.8.4",
        "",
        "Tells Sentinel clients about groups and their leaders.",
    ),
    SUBCOMMANDS,
)];

const SUBCOMMANDS: &[HostCommand] = &[
    FAMILY.sub("MASTERS", 2, ASK, "", "Lists the groups with their leaders.", masters),
    FAMILY.sub("MASTER", 3, ASK, "master-name", "Tells about a group and its leader.", master),
    FAMILY.sub("REPLICAS", 3, ASK, "master-name", "Lists the replicas of a group.", replicas),
    FAMILY.sub("SLAVES", 3, ASK, "master-name", "Lists the replicas of a group.", replicas),
    FAMILY.sub(
        "SENTINELS",
        3,
        ASK,
        "master-name",
        "Lists the other nodes, as Sentinels.",
        sentinels,
    ),
    FAMILY.sub(
        "GET-MASTER-ADDR-BY-NAME",
        3,
        ASK,
        "master-name",
        "Returns the address of a group's leader.",
        address,
    ),
    FAMILY.sub(
        "CKQUORUM",
        3,
        ASK,
        "master-name",
        "Says whether a majority can be reached.",
        quorum,
    ),
    FAMILY.sub(
        "FAILOVER",
        3,
        CHANGE,
        "master-name",
        "Hands a group's leadership to a replica.",
        failover,
    ),
    FAMILY.sub(
        "RESET",
        3,
        ASK,
        "pattern:pattern",
        "Counts the groups whose names match; there is nothing to forget.",
        reset,
    ),
    FAMILY.sub("MYID", 2, ASK, "", "Returns the node's name.", |host, _, reply| {
        let name = member(host)?.name();
        reply.bulk(ashlar_replication::topology::hex(&name).as_bytes());
        Ok(())
    }),
    FAMILY.sub(
        "IS-MASTER-DOWN-BY-ADDR",
        6,
        ASK,
        "ip:string port:integer current-epoch:integer runid",
        "Says whether this node takes another one for down. It votes for nobody here.",
        is_down,
    ),
    FAMILY.sub(
        "MONITOR",
        6,
        CHANGE,
        "name ip:string port:integer quorum:integer",
        "Gives the group that is led at this address a name.",
        monitor,
    ),
    FAMILY.sub("REMOVE", 3, CHANGE, "master-name", "Takes the name of MONITOR back.", remove),
    FAMILY.sub(
        "SET",
        -5,
        ASK,
        "master-name (option value)...",
        "Sets failover-timeout; a majority is the quorum whatever is set.",
        set,
    ),
    FAMILY.sub(
        "CONFIG",
        -4,
        ASK,
        "(GET pattern:pattern|SET name value)",
        "Returns settings.",
        config,
    ),
    FAMILY.sub(
        "FLUSHCONFIG",
        2,
        ASK,
        "",
        "Does nothing: changes are durable already.",
        |host, _, reply| {
            member(host)?;
            reply.ok();
            Ok(())
        },
    ),
    FAMILY.sub(
        "PENDING-SCRIPTS",
        2,
        ASK,
        "",
        "Lists no scripts: none are run.",
        |host, _, reply| {
            member(host)?;
            reply.array(0);
            Ok(())
        },
    ),
    FAMILY.sub("HELP", 2, ASK, "", "Lists the subcommands.", |_, _, reply| {
        super::help_of(reply, "SENTINEL", SUBCOMMANDS);
        Ok(())
    }),
];

fn watch<'e>(host: &Host<'_, 'e>) -> Result<Watch<'e>, Error> {
    Ok(Watch::new(host.shared, &**member(host)?))
}

fn find<'w>(watch: &'w Watch<'_>, name: &[u8]) -> Result<&'w GroupInfo, Error> {
    let group = group_named(&watch.view.topology, watch.settings, name);
    group.ok_or(Error::text("ERR No such master with that name"))
}

fn masters(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    reply.array(watch.view.topology.groups.len());
    watch.view.topology.groups.values().for_each(|group| watch.master_entry(group, reply));
    Ok(())
}

fn master(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    watch.master_entry(find(&watch, args[2])?, reply);
    Ok(())
}

fn replicas(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let group = find(&watch, args[2])?;
    reply.array(watch.view.followers(group).count());
    watch.view.followers(group).for_each(|node| watch.replica_entry(group, node, reply));
    Ok(())
}

fn sentinels(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    find(&watch, args[2])?;
    reply.array(watch.sentinels().count());
    watch.sentinels().for_each(|node| watch.sentinel_entry(node, reply));
    Ok(())
}

fn address(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let group = group_named(&watch.view.topology, watch.settings, args[2]);
    match group.and_then(|group| watch.master(group)) {
        None => reply.null_array(),
        Some(node) => {
            let port = crate::cluster::route::port(node, host.session.encrypted);
            reply.array(2);
            reply.bulk(node.host.as_bytes());
            reply.bulk_int(port.into());
        }
    }
    Ok(())
}

fn quorum(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    use crate::cluster::view::Health;
    let watch = watch(host)?;
    let group = find(&watch, args[2])?;
    let up = |node: &&u64| watch.view.health(**node) == Health::Online;
    let usable = group.members.iter().filter(up).count();
    if watch.view.member.has_quorum(group.id) && usable >= Watch::quorum(group) {
        reply.simple(&format!(
            "OK {usable} usable Sentinels. Quorum and failover authorization can be reached"
        ));
        return Ok(());
    }
    Err(Error::owned(format!(
        "NOQUORUM {usable} usable Sentinels. Not enough available Sentinels to reach the specified \
         quorum for this master. Not enough available Sentinels to reach the majority and authorize a \
         failover"
    ))
    .into())
}

/// The next leader becomes the one that shall lead, so that the leadership stays where it goes.
fn failover(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let group = find(&watch, args[2])?;
    let Some(next) = watch.next_leader(group) else {
        return Err(Error::text("NOGOODSLAVE No suitable replica to promote").into());
    };
    let (member, group) = (member(host)?.clone(), group.id);
    propose(host, Change::SetPreferred(group, next), move |_| {
        member.transfer(group, next);
        b"+OK\r\n".to_vec()
    })
}

fn reset(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let matches = |id: &&u32| glob::matches(args[2], watch.name(**id).as_bytes());
    reply.int(watch.view.topology.groups.keys().filter(matches).count() as i64);
    Ok(())
}

fn is_down(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    use crate::cluster::view::Health;
    let watch = watch(host)?;
    let port = parse_i64(args[3]).ok_or(Error::NotInteger)?;
    parse_i64(args[4]).ok_or(Error::NotInteger)?;
    let port = u16::try_from(port).unwrap_or(0);
    let node = watch.view.topology.node_at(&String::from_utf8_lossy(args[2]), port);
    let down = node.is_some_and(|node| watch.view.health(node.id) != Health::Online);
    reply.array(3);
    reply.int(down.into());
    reply.bulk(b"*");
    reply.int(0);
    Ok(())
}

fn monitor(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let (name, ip) =
        (String::from_utf8_lossy(args[2]).into_owned(), String::from_utf8_lossy(args[3]));
    let port =
        parse_i64(args[4]).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let quorum = parse_i64(args[5]).ok_or(Error::text("ERR Invalid quorum"))?;
    if quorum <= 0 {
        return Err(Error::text("ERR Quorum must be 1 or greater.").into());
    }
    let port = port.ok_or(Error::text("ERR Invalid port number"))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(Error::text("ERR Invalid master name").into());
    }
    let topology = &watch.view.topology;
    if group_named(topology, watch.settings, args[2]).is_some() {
        return Err(Error::text("ERR Duplicate master name.").into());
    }
    let node = topology.node_at(&ip, port);
    let unnamed = |id: &&u32| !topology.settings.contains_key(&format!("{NAME_SETTING}{id}"));
    let group = node.and_then(|node| watch.view.led_by(node.id).iter().find(unnamed));
    let Some(group) = group else {
        return Err(Error::text("ERR no group without such a name is led at this address").into());
    };
    propose(host, Change::Set(format!("{NAME_SETTING}{group}"), name), |_| b"+OK\r\n".to_vec())
}

fn remove(host: &mut Host<'_, '_>, args: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    let setting = format!("{NAME_SETTING}{}", find(&watch, args[2])?.id);
    if !watch.view.topology.settings.contains_key(&setting) {
        let text = "ERR the name is not of SENTINEL MONITOR: a group always has one";
        return Err(Error::text(text).into());
    }
    propose(host, Change::Set(setting, String::new()), |_| b"+OK\r\n".to_vec())
}

fn set(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let watch = watch(host)?;
    find(&watch, args[2])?;
    let unknown = |option: &[u8]| {
        Error::quoting("ERR Unknown option or number of arguments for SENTINEL SET '{}'", &[option])
    };
    for pair in args[3..].chunks(2) {
        let [option, value] = pair else { return Err(unknown(pair[0]).into()) };
        let name = option.to_ascii_lowercase();
        match name.as_slice() {
            b"quorum" | b"parallel-syncs" => {
                let valid = parse_i64(value).is_some_and(|number| number > 0);
                if !valid {
                    let form = "ERR Invalid argument '{}' for SENTINEL SET '{}'";
                    return Err(Error::quoting(form, &[value, option]).into());
                }
            }
            b"failover-timeout" | b"down-after-milliseconds" => {
                let pairs = [(name.as_slice(), *value)];
                let set = host.shared.settings.set(&pairs, Caller::Local);
                set.map_err(|error| Error::owned(error.to_string()))?;
            }
            _ => return Err(unknown(option).into()),
        }
    }
    reply.ok();
    Ok(())
}

fn config(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    member(host)?;
    if !args[2].eq_ignore_ascii_case(b"GET") || args.len() != 4 {
        return Err(Error::text(
            "ERR Only SENTINEL CONFIG GET <option> is supported: nodes are configured by CONFIG SET",
        )
        .into());
    }
    let settings = &host.shared.settings;
    let all = [
        ("resolve-hostnames", "no".to_owned()),
        ("announce-hostnames", "no".to_owned()),
        ("announce-ip", settings.string(ids::CLUSTER_ANNOUNCE_IP)),
        ("announce-port", settings.string(ids::CLUSTER_ANNOUNCE_PORT)),
        ("sentinel-user", String::new()),
        ("sentinel-pass", String::new()),
        ("loglevel", settings.string(ids::LOGLEVEL)),
    ];
    let pattern = args[3].to_ascii_lowercase();
    let wanted: Vec<_> =
        all.iter().filter(|(name, _)| glob::matches(&pattern, name.as_bytes())).collect();
    reply.map(wanted.len());
    for (name, value) in wanted {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}
