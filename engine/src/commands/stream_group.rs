//! Streams: consumer groups, their members and acknowledgements.

use super::stream::{new_value, parse_id, parse_id_or_end, stream_mut, stream_of};
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::stream::{Id, Stream};

const WRITE: Flags = Flags::WRITE;
const GROW: Flags = Flags::WRITE.union(Flags::DENYOOM);

/// The commands about groups.
pub const COMMANDS: &[Command] = &[
    Command::container("XGROUP", Group::Stream, XGROUP).docs(
        "5.0.0",
        "Depends on subcommand.",
        "Commands about consumer groups.",
    ),
    Command::new("XACK", -4, Group::Stream, xack)
        .flags(WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key group:string id...")
        .docs("5.0.0", "O(log N) for each entry", "Acknowledges entries that a group was given."),
];

const XGROUP: &[Command] =
    &[
        Command::new("CREATE", -5, Group::Stream, create)
            .flags(GROW)
            .keys(Keys::SECOND)
            .syntax("key group (id|$) [MKSTREAM] [ENTRIESREAD entries-read:integer]")
            .docs("5.0.0", "O(1)", "Creates a consumer group."),
        Command::new("SETID", -5, Group::Stream, set_id)
            .flags(WRITE)
            .keys(Keys::SECOND)
            .syntax("key group (id|$) [ENTRIESREAD entries-read:integer]")
            .docs("5.0.0", "O(1)", "Sets the last id that a group was given."),
        Command::new("DESTROY", 4, Group::Stream, destroy)
            .flags(WRITE)
            .keys(Keys::SECOND)
            .syntax("key group")
            .docs("5.0.0", "O(N) for N pending entries", "Removes a consumer group."),
        Command::new("CREATECONSUMER", 5, Group::Stream, create_consumer)
            .flags(GROW)
            .keys(Keys::SECOND)
            .syntax("key group consumer")
            .docs("6.2.0", "O(1)", "Creates a consumer in a group."),
        Command::new("DELCONSUMER", 5, Group::Stream, delete_consumer)
            .flags(WRITE)
            .keys(Keys::SECOND)
            .syntax("key group consumer")
            .docs("5.0.0", "O(N) for N pending entries", "Removes a consumer from a group."),
        Command::new("HELP", 2, Group::Stream, help)
            .flags(Flags::LOADING.union(Flags::STALE))
            .docs("5.0.0", "O(1)", "Lists the subcommands."),
    ];

/// What SETID and CREATE take besides the id.
#[derive(Default)]
struct Options {
    make_stream: bool,
    entries_read: Option<u64>,
}

fn parse_options(args: &[&[u8]], creating: bool) -> Result<Options, Error> {
    let mut options = Options::default();
    let mut rest = &args[5..];
    while let Some((&name, after)) = rest.split_first() {
        rest = after;
        if creating && name.eq_ignore_ascii_case(b"mkstream") {
            options.make_stream = true;
        } else if let Some((value, after)) =
            after.split_first().filter(|_| name.eq_ignore_ascii_case(b"entriesread"))
        {
            rest = after;
            options.entries_read = match number::parse_i64(value).ok_or(Error::NotInteger)? {
                -1 => None,
                count => {
                    let error = "ERR value for ENTRIESREAD must be positive or -1";
                    Some(u64::try_from(count).map_err(|_| Error::text(error))?)
                }
            };
        } else {
            return Err(unknown_subcommand(args[1], "XGROUP"));
        }
    }
    Ok(options)
}

/// The error for arguments that no form of a subcommand has.
pub(super) fn unknown_subcommand(name: &[u8], container: &str) -> Error {
    /// Bytes of the name that the error repeats.
    const SHOWN_MAX: usize = 128;
    Error::quoting(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {} HELP.",
        &[&name[..name.len().min(SHOWN_MAX)], container.as_bytes()],
    )
}

const NO_KEY: Error = Error::text(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to \
     use the MKSTREAM option to create an empty stream automatically.",
);

/// The error for a group that a subcommand needs.
pub(super) fn no_group_for(key: &[u8], group: &[u8]) -> Error {
    Error::quoting("NOGROUP No such consumer group '{}' for key name '{}'", &[group, key])
}

fn create(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    const EXISTS: Error = Error::text("BUSYGROUP Consumer Group name already exists");
    let options = parse_options(args, true)?;
    let (key, name, id) = (args[2], args[3], args[4]);
    match cx.get_mut(key) {
        Some(mut entry) => {
            let stream = stream_mut(&mut entry)?;
            let id = if id == b"$" { stream.last_id() } else { parse_id(id, 0)? };
            if !stream.create_group(name, id, options.entries_read) {
                return Err(EXISTS.into());
            }
        }
        None if !options.make_stream => return Err(NO_KEY.into()),
        None => {
            let id = if id == b"$" { Id::MIN } else { parse_id(id, 0)? };
            let mut stream = Stream::new();
            stream.create_group(name, id, options.entries_read);
            cx.insert(key, new_value(stream));
            cx.modified(key);
        }
    }
    cx.add_dirty(1);
    cx.notify(Event::STREAM, "xgroup-create", key);
    reply.ok();
    Ok(())
}

fn set_id(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let options = parse_options(args, false)?;
    if args.len() != 5 && args.len() != 7 {
        return Err(unknown_subcommand(args[1], "XGROUP").into());
    }
    let (key, name, id) = (args[2], args[3], args[4]);
    let mut entry = cx.get_mut(key).ok_or(NO_KEY)?;
    let stream = stream_mut(&mut entry)?;
    let last_id = stream.last_id();
    let group = stream.group_mut(name).ok_or_else(|| no_group_for(key, name))?;
    group.last_id = if id == b"$" { last_id } else { parse_id_or_end(id, 0)? };
    group.entries_read = options.entries_read;
    cx.add_dirty(1);
    cx.notify(Event::STREAM, "xgroup-setid", key);
    reply.ok();
    Ok(())
}

fn destroy(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[2];
    let mut entry = cx.get_mut(key).ok_or(NO_KEY)?;
    let destroyed = stream_mut(&mut entry)?.destroy_group(args[3]);
    if destroyed {
        cx.add_dirty(1);
        cx.notify(Event::STREAM, "xgroup-destroy", key);
        // Those who wait for entries of the group are to learn that it is gone.
        cx.ready(key);
    }
    reply.int(destroyed.into());
    Ok(())
}

fn create_consumer(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, name, now_ms) = (args[2], args[3], cx.now_ms());
    let mut entry = cx.get_mut(key).ok_or(NO_KEY)?;
    let stream = stream_mut(&mut entry)?;
    let group = stream.group_mut(name).ok_or_else(|| no_group_for(key, name))?;
    let is_new = group.find_consumer(args[4]).is_none();
    if is_new {
        group.create_consumer(args[4], now_ms);
        cx.add_dirty(1);
        cx.notify(Event::STREAM, "xgroup-createconsumer", key);
    }
    reply.int(is_new.into());
    Ok(())
}

fn delete_consumer(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, name) = (args[2], args[3]);
    let mut entry = cx.get_mut(key).ok_or(NO_KEY)?;
    let stream = stream_mut(&mut entry)?;
    let group = stream.group_mut(name).ok_or_else(|| no_group_for(key, name))?;
    let pending = group.delete_consumer(args[4]);
    if pending.is_some() {
        cx.add_dirty(1);
        cx.notify(Event::STREAM, "xgroup-delconsumer", key);
    }
    reply.int(pending.unwrap_or(0) as i64);
    Ok(())
}

fn help(_: &mut Cx<'_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply_help(
        reply,
        "XGROUP",
        &[
            "CREATE <key> <group> <id|$> [MKSTREAM] [ENTRIESREAD <count>]",
            "    Adds a group that is given the entries after <id>, `$` being the last one.",
            "    MKSTREAM makes an empty stream where the key does not exist.",
            "SETID <key> <group> <id|$> [ENTRIESREAD <count>]",
            "    Has the group go on after <id>.",
            "DESTROY <key> <group>",
            "    Removes the group with all it has pending.",
            "CREATECONSUMER <key> <group> <consumer>",
            "    Adds a consumer to the group.",
            "DELCONSUMER <key> <group> <consumer>",
            "    Removes the consumer with all it has pending.",
        ],
    );
    Ok(())
}

/// The reply of a HELP subcommand.
pub(super) fn reply_help(reply: &mut Reply<'_>, container: &str, lines: &[&str]) {
    reply.array(lines.len() + 3);
    reply.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for line in lines {
        reply.simple(line);
    }
    reply.simple("HELP");
    reply.simple("    Prints this help.");
}

fn xack(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let has_group = match cx.get(args[1]) {
        Some(entry) => stream_of(entry)?.group(args[2]).is_some(),
        None => false,
    };
    if !has_group {
        reply.int(0);
        return Ok(());
    }
    let ids: Vec<Id> = args[3..].iter().map(|id| parse_id(id, 0)).collect::<Result<_, _>>()?;
    let mut acknowledged = 0;
    if let Some(mut entry) = cx.get_mut(args[1])
        && let Some(group) = stream_mut(&mut entry)?.group_mut(args[2])
    {
        acknowledged = ids.into_iter().filter(|&id| group.acknowledge(id)).count();
    }
    cx.add_dirty(acknowledged as u64);
    reply.int(acknowledged as i64);
    Ok(())
}
