//! Publish and subscribe.

use crate::host::Host;
use crate::pubsub::Kind;
use crate::registry::HostCommand;
use crate::session::{NAME_BYTES, SUBSCRIPTIONS_MAX};
use ashlar_engine::command::{Command, Flags, Group, Keys};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::glob;
use ashlar_engine::reply::Reply;

const PUBSUB: Flags = Flags::PUBSUB.union(Flags::LOADING).union(Flags::STALE);
const SUBSCRIBE: Flags = PUBSUB.union(Flags::NOSCRIPT);

const fn command(
    name: &'static str,
    arity: i32,
    syntax: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, arity, Group::PubSub).flags(SUBSCRIBE).syntax(syntax).docs(
        "2.0.0",
        "O(N) for N channels",
        summary,
    )
}

const fn introspection(name: &'static str, syntax: &'static str, summary: &'static str) -> Command {
    Command::hosted(name, -2, Group::PubSub).flags(PUBSUB).syntax(syntax).docs(
        "2.8.0",
        "O(N) for N channels",
        summary,
    )
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        command("SUBSCRIBE", -2, "channel...", "Listens to channels."),
        |host, args, reply| subscribe(host, Kind::Channel, args, reply),
    ),
    HostCommand::new(
        command("PSUBSCRIBE", -2, "pattern...", "Listens to the channels that match patterns."),
        |host, args, reply| subscribe(host, Kind::Pattern, args, reply),
    ),
    HostCommand::new(
        command("SSUBSCRIBE", -2, "shardchannel...", "Listens to shard channels.").keys(Keys::None),
        |host, args, reply| subscribe(host, Kind::Shard, args, reply),
    ),
    HostCommand::new(
        command("UNSUBSCRIBE", -1, "[channel...]", "Stops listening to channels, or to all."),
        |host, args, reply| unsubscribe(host, Kind::Channel, args, reply),
    ),
    HostCommand::new(
        command("PUNSUBSCRIBE", -1, "[pattern...]", "Stops listening to patterns, or to all."),
        |host, args, reply| unsubscribe(host, Kind::Pattern, args, reply),
    ),
    HostCommand::new(
        command("SUNSUBSCRIBE", -1, "[shardchannel...]", "Stops listening to shard channels."),
        |host, args, reply| unsubscribe(host, Kind::Shard, args, reply),
    ),
    HostCommand::new(
        Command::hosted("PUBLISH", 3, Group::PubSub)
            .flags(PUBSUB.union(Flags::FAST).union(Flags::MAY_REPLICATE))
            .syntax("channel message")
            .docs("2.0.0", "O(N+M) for N subscribers and M patterns", "Sends a message."),
        |host, args, reply| publish(host, Kind::Channel, args, reply),
    ),
    HostCommand::new(
        Command::hosted("SPUBLISH", 3, Group::PubSub)
            .flags(PUBSUB.union(Flags::FAST).union(Flags::MAY_REPLICATE))
            .syntax("shardchannel message")
            .docs("7.0.0", "O(N) for N subscribers", "Sends a message to a shard channel."),
        |host, args, reply| publish(host, Kind::Shard, args, reply),
    ),
    HostCommand::container(
        Command::hosted("PUBSUB", -2, Group::PubSub).docs(
            "2.8.0",
            "",
            "Tells about channels and their subscribers.",
        ),
        &[
            HostCommand::new(
                introspection("CHANNELS", "[pattern]", "Lists channels that have subscribers."),
                |host, args, reply| channels(host, Kind::Channel, args, reply),
            ),
            HostCommand::new(
                introspection("SHARDCHANNELS", "[pattern]", "Lists shard channels."),
                |host, args, reply| channels(host, Kind::Shard, args, reply),
            ),
            HostCommand::new(
                introspection("NUMSUB", "[channel...]", "Counts the subscribers of channels."),
                |host, args, reply| numsub(host, Kind::Channel, args, reply),
            ),
            HostCommand::new(
                introspection("SHARDNUMSUB", "[shardchannel...]", "The same for shard channels."),
                |host, args, reply| numsub(host, Kind::Shard, args, reply),
            ),
            HostCommand::new(
                introspection("NUMPAT", "", "Counts the patterns that are subscribed to."),
                |host, _, reply| {
                    reply.int(host.shared.pubsub.patterns() as i64);
                    Ok(())
                },
            ),
            HostCommand::new(introspection("HELP", "", "Lists the subcommands."), help),
        ],
    ),
];

const NAMES: [[&str; 2]; 3] =
    [["subscribe", "unsubscribe"], ["psubscribe", "punsubscribe"], ["ssubscribe", "sunsubscribe"]];

/// What the third part of the reply counts.
fn count(host: &Host<'_, '_>, kind: Kind) -> i64 {
    let [channels, patterns, shard] = &host.session.subscriptions;
    let count = match kind {
        Kind::Shard => shard.len(),
        _ => channels.len() + patterns.len(),
    };
    count as i64
}

fn subscribe(
    host: &mut Host<'_, '_>,
    kind: Kind,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) -> CmdResult {
    if host.session.in_transaction && !reply.is_resp3() {
        let name = NAMES[kind as usize][0].to_ascii_uppercase();
        return Err(Error::owned(format!("ERR {name} is not allowed in a transaction")).into());
    }
    for &channel in &args[1..] {
        let known = &mut host.session.subscriptions[kind as usize];
        if !known.contains(channel) {
            if known.len() >= SUBSCRIPTIONS_MAX {
                return Err(Error::text("ERR too many subscriptions").into());
            }
            known.insert(channel.into());
            host.session.name_bytes[1] += channel.len() + NAME_BYTES;
            host.session.publish();
            host.shared.pubsub.subscribe(kind, channel, &host.session.client);
        }
        reply.push(3);
        reply.bulk(NAMES[kind as usize][0].as_bytes());
        reply.bulk(channel);
        reply.int(count(host, kind));
    }
    Ok(())
}

fn unsubscribe(
    host: &mut Host<'_, '_>,
    kind: Kind,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) -> CmdResult {
    let name = NAMES[kind as usize][1].as_bytes();
    let mut channels: Vec<Box<[u8]>> = args[1..].iter().map(|channel| (*channel).into()).collect();
    if channels.is_empty() {
        channels = host.session.subscriptions[kind as usize].iter().cloned().collect();
        channels.sort_unstable();
    }
    for channel in &channels {
        if host.session.subscriptions[kind as usize].remove(channel) {
            host.session.name_bytes[1] -= channel.len() + NAME_BYTES;
            host.shared.pubsub.unsubscribe(kind, channel, &host.session.client);
        }
        reply.push(3);
        reply.bulk(name);
        reply.bulk(channel);
        reply.int(count(host, kind));
    }
    if channels.is_empty() {
        reply.push(3);
        reply.bulk(name);
        reply.null();
        reply.int(count(host, kind));
    }
    Ok(())
}

fn publish(
    host: &mut Host<'_, '_>,
    kind: Kind,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) -> CmdResult {
    let shared = host.shared;
    shared.replication.feed.push(&[args[0], args[1], args[2]]);
    if let Some(member) = shared.cluster.get() {
        // Subscribers of a channel may be at any node, those of a shard channel at its group's.
        let slot = ashlar_engine::slot::slot_of(args[1]);
        let group = member.topology().group_of(slot).filter(|_| kind == Kind::Shard);
        member.publish(group, args[1], args[2]);
    }
    reply.int(shared.pubsub.publish(kind, args[1], args[2], &shared.mailboxes) as i64);
    Ok(())
}

fn channels(
    host: &mut Host<'_, '_>,
    kind: Kind,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) -> CmdResult {
    if args.len() > 3 {
        return Err(Error::arity("pubsub|channels").into());
    }
    let mut channels = host.shared.pubsub.channels(kind);
    if let Some(pattern) = args.get(2) {
        channels.retain(|channel| glob::matches(pattern, channel));
    }
    reply.array(channels.len());
    channels.iter().for_each(|channel| reply.bulk(channel));
    Ok(())
}

fn numsub(host: &mut Host<'_, '_>, kind: Kind, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.array(2 * (args.len() - 2));
    for channel in &args[2..] {
        reply.bulk(channel);
        reply.int(host.shared.pubsub.subscribers(kind, channel) as i64);
    }
    Ok(())
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    super::help(
        reply,
        "PUBSUB",
        &[
            ("CHANNELS [<pattern>]", "Return the currently active channels matching a pattern."),
            ("NUMPAT", "Return number of subscriptions to patterns."),
            ("NUMSUB [<channel> ...]", "Return the number of subscribers for channels."),
            ("SHARDCHANNELS [<pattern>]", "Return the active shard channels matching a pattern."),
            ("SHARDNUMSUB [<channel> ...]", "Return the number of subscribers for shard channels."),
        ],
    );
    Ok(())
}
