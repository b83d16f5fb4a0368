//! Streams: reading, alone and as a member of a group.

use super::list_blocking::parse_timeout_ms;
use super::stream::{
    parse_end, parse_id, parse_start, reply_entry, reply_id, stream_mut, stream_of,
};
use super::stream_claim::tell_pending;
use crate::command::{Command, Flags, Group, KeyList, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error, Stop};
use crate::number;
use crate::reply::{Deferred, Reply};
use crate::value::stream::{Id, Pending, Stream};
use smallvec::SmallVec;

/// The commands that read entries.
pub const COMMANDS: &[Command] = &[
    Command::new("XRANGE", -4, Group::Stream, xrange)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key start end [COUNT count:integer]")
        .docs("5.0.0", "O(N) for N entries returned", "Returns the entries of a range of ids."),
    Command::new("XREVRANGE", -4, Group::Stream, xrevrange)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key end start [COUNT count:integer]")
        .docs("5.0.0", "O(N) for N entries returned", "Returns a range of entries, last first."),
    Command::new("XREAD", -4, Group::Stream, xread)
        .flags(Flags::READONLY.union(Flags::BLOCKING).union(Flags::MOVABLE_KEYS))
        .keys(Keys::Custom(stream_keys))
        .syntax("[COUNT count:integer] [BLOCK milliseconds:integer] STREAMS key... id...")
        .docs("5.0.0", "O(N) for N entries returned", "Returns what streams have after given ids."),
    Command::new("XREADGROUP", -7, Group::Stream, xreadgroup)
        .flags(Flags::WRITE.union(Flags::BLOCKING).union(Flags::MOVABLE_KEYS))
        .keys(Keys::Custom(stream_keys))
        .syntax(
            "GROUP group consumer [COUNT count:integer] [BLOCK milliseconds:integer] [NOACK] \
             STREAMS key... id...",
        )
        .docs("5.0.0", "O(N) for N entries returned", "Gives entries to a consumer of a group."),
];

/// Where the keys after STREAMS are.
fn stream_keys(args: &[&[u8]], keys: &mut KeyList) {
    let mut at = 1;
    while let Some(option) = args.get(at) {
        if option.eq_ignore_ascii_case(b"streams") {
            let count = (args.len() - at - 1) / 2;
            keys.extend(at + 1..at + 1 + count);
            return;
        }
        at += match option.to_ascii_lowercase().as_slice() {
            b"block" | b"count" => 2,
            b"group" => 3,
            b"noack" => 1,
            _ => return,
        };
    }
}

fn xrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    range(cx, args, false, reply)
}

fn xrevrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    range(cx, args, true, reply)
}

fn range(cx: &mut Cx<'_>, args: &[&[u8]], reverse: bool, reply: &mut Reply<'_>) -> CmdResult {
    let (start, end) = if reverse { (args[3], args[2]) } else { (args[2], args[3]) };
    let (start, end) = (parse_start(start)?, parse_end(end)?);
    let mut count = usize::MAX;
    for option in args[4..].chunks(2) {
        let [name, value] = option else { return Err(Error::Syntax.into()) };
        if !name.eq_ignore_ascii_case(b"count") {
            return Err(Error::Syntax.into());
        }
        let value = number::parse_i64(value).ok_or(Error::NotInteger)?;
        count = usize::try_from(value).unwrap_or(0);
    }
    let Some(entry) = cx.get(args[1]) else {
        reply.array(0);
        return Ok(());
    };
    let stream = stream_of(entry)?;
    if count == 0 {
        reply.null_array();
    } else {
        reply_range(reply, stream, start, end, reverse, count);
    }
    Ok(())
}

fn reply_range(
    reply: &mut Reply<'_>,
    stream: &Stream,
    start: Id,
    end: Id,
    reverse: bool,
    count: usize,
) {
    let array = reply.deferred_array();
    let mut written = 0;
    for entry in stream.range(start, end, reverse).take(count) {
        reply_entry(reply, entry);
        written += 1;
    }
    reply.close(array, written);
}

/// From where on a stream is to be read.
#[derive(Clone, Copy)]
enum After {
    /// After this id.
    Id(Id),
    /// After the last one when the command first runs (`$`).
    End,
    /// The last entry itself (`+`).
    LastEntry,
    /// After what the group has been given (`>`).
    Group,
}

/// The arguments of XREAD and XREADGROUP.
struct ReadArgs<'a> {
    count: usize,
    blocks: bool,
    no_ack: bool,
    /// The group and the consumer.
    group: Option<(&'a [u8], &'a [u8])>,
    keys: &'a [&'a [u8]],
    ids: &'a [&'a [u8]],
}

impl<'a> ReadArgs<'a> {
    fn parse(args: &'a [&'a [u8]], now_ms: i64, grouped: bool) -> Result<ReadArgs<'a>, Error> {
        let mut read = ReadArgs {
            count: usize::MAX,
            blocks: false,
            no_ack: false,
            group: None,
            keys: &[],
            ids: &[],
        };
        let mut at = 1;
        while let Some(&option) = args.get(at) {
            let rest = &args[at + 1..];
            let is =
                |name: &[u8], values| rest.len() >= values && option.eq_ignore_ascii_case(name);
            if is(b"block", 1) {
                parse_timeout_ms(rest[0], now_ms)?;
                read.blocks = true;
                at += 1;
            } else if is(b"count", 1) {
                let count = number::parse_i64(rest[0]).ok_or(Error::NotInteger)?;
                read.count = match usize::try_from(count) {
                    Ok(0) | Err(_) => usize::MAX,
                    Ok(count) => count,
                };
                at += 1;
            } else if is(b"streams", 1) {
                read.split_streams(rest, grouped)?;
                break;
            } else if is(b"group", 2) {
                if !grouped {
                    return Err(only_for_groups("GROUP"));
                }
                read.group = Some((rest[0], rest[1]));
                at += 2;
            } else if is(b"noack", 0) {
                if !grouped {
                    return Err(only_for_groups("NOACK"));
                }
                read.no_ack = true;
            } else {
                return Err(Error::Syntax);
            }
            at += 1;
        }
        if read.keys.is_empty() {
            return Err(Error::Syntax);
        }
        if grouped && read.group.is_none() {
            return Err(Error::text("ERR Missing GROUP option for XREADGROUP"));
        }
        Ok(read)
    }

    fn split_streams(&mut self, rest: &'a [&'a [u8]], grouped: bool) -> Result<(), Error> {
        if !rest.len().is_multiple_of(2) {
            let (name, symbol) = if grouped { ("xreadgroup", '>') } else { ("xread", '$') };
            return Err(Error::owned(format!(
                "ERR Unbalanced '{name}' list of streams: for each stream key an ID or \
                 '{symbol}' must be specified."
            )));
        }
        (self.keys, self.ids) = rest.split_at(rest.len() / 2);
        Ok(())
    }
}

fn only_for_groups(option: &str) -> Error {
    Error::owned(format!(
        "ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."
    ))
}

fn parse_after(text: &[u8], grouped: bool) -> Result<After, Error> {
    let meaningless = |sign| {
        Error::owned(format!(
            "ERR The {sign} ID is meaningless in the context of XREADGROUP: you want to read the \
             history of this consumer by specifying a proper ID, or use the > ID to get new \
             messages. The {sign} ID would just return an empty result set."
        ))
    };
    match text {
        b"$" if grouped => Err(meaningless('$')),
        b"+" if grouped => Err(meaningless('+')),
        b"$" => Ok(After::End),
        b"+" => Ok(After::LastEntry),
        b">" if grouped => Ok(After::Group),
        b">" => Err(Error::text(
            "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
             <consumer> option.",
        )),
        text => match parse_id(text, 0)? {
            Id::MAX if grouped => Ok(After::Group),
            id => Ok(After::Id(id)),
        },
    }
}

/// The id after which an XREAD reads.
fn after_in(stream: Option<&Stream>, after: After) -> Id {
    match (after, stream) {
        (After::Id(id), _) => id,
        (_, None) => Id::MIN,
        (After::LastEntry, Some(stream)) if !stream.is_empty() => {
            stream.top_id().prev().unwrap_or(Id::MIN)
        }
        (_, Some(stream)) => stream.last_id(),
    }
}

/// The array or map of streams in a reply, begun with its first member.
#[derive(Default)]
struct Streams {
    open: Option<Deferred>,
    len: usize,
}

impl Streams {
    fn begin(&mut self, reply: &mut Reply<'_>, key: &[u8]) {
        let resp3 = reply.is_resp3();
        self.open.get_or_insert_with(|| {
            if resp3 { reply.deferred_map() } else { reply.deferred_array() }
        });
        self.len += 1;
        if !resp3 {
            reply.array(2);
        }
        reply.bulk(key);
    }

    /// Ends the reply; without any stream the client waits, if it asked for that.
    fn finish(self, cx: &Cx<'_>, reply: &mut Reply<'_>, blocks: bool) -> CmdResult {
        match self.open {
            Some(open) => reply.close(open, self.len),
            None if blocks && cx.may_block() => return Err(Stop::WouldBlock),
            None => reply.null_array(),
        }
        Ok(())
    }
}

fn xread(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let read = ReadArgs::parse(args, cx.now_ms(), false)?;
    let mut starts: SmallVec<[Id; 8]> = SmallVec::new();
    for (key, id) in read.keys.iter().zip(read.ids) {
        let stream = cx.get(key).map(stream_of).transpose()?;
        starts.push(after_in(stream, parse_after(id, false)?));
    }
    let mut streams = Streams::default();
    for (key, after) in read.keys.iter().zip(starts) {
        let Some(stream) = cx.peek(key).map(stream_of).transpose()? else { continue };
        let Some(start) = after.next() else { continue };
        if after >= stream.last_id() || after >= stream.top_id() {
            continue;
        }
        streams.begin(reply, key);
        reply_range(reply, stream, start, Id::MAX, false, read.count);
    }
    streams.finish(cx, reply, read.blocks)
}

/// The arguments to run a blocked XREAD with again: `$` and `+` mean the ids of now, not of then.
/// `None` where the arguments can stay as they are.
pub fn resolve_block_args(cx: &Cx<'_>, args: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    if !args.first()?.eq_ignore_ascii_case(b"xread") {
        return None;
    }
    let read = ReadArgs::parse(args, cx.now_ms(), false).ok()?;
    if !read.ids.iter().any(|id| matches!(*id, b"$" | b"+")) {
        return None;
    }
    let mut resolved: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
    let first_id = args.len() - read.ids.len();
    for (at, (key, id)) in read.keys.iter().zip(read.ids).enumerate() {
        if matches!(*id, b"$" | b"+") {
            let stream = cx.peek(key).map(stream_of).transpose().ok()?;
            let after = after_in(stream, parse_after(id, false).ok()?);
            resolved[first_id + at] = after.to_string().into_bytes();
        }
    }
    Some(resolved)
}

fn xreadgroup(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let read = ReadArgs::parse(args, cx.now_ms(), true)?;
    let (group, consumer) = read.group.ok_or(Error::Syntax)?;
    let mut starts: SmallVec<[After; 8]> = SmallVec::new();
    for (key, id) in read.keys.iter().zip(read.ids) {
        let stream = cx.get(key).map(stream_of).transpose()?;
        if stream.and_then(|stream| stream.group(group)).is_none() {
            return Err(Error::quoting(
                "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option",
                &[key, group],
            )
            .into());
        }
        starts.push(parse_after(id, true)?);
    }
    let mut streams = Streams::default();
    for (key, after) in read.keys.iter().zip(starts) {
        let member = Member { key, group, consumer };
        read_as_member(cx, member, after, &read, &mut streams, reply)?;
    }
    streams.finish(cx, reply, read.blocks)
}

/// Ids of entries that a consumer was given.
type Given = SmallVec<[Id; 16]>;

#[derive(Clone, Copy)]
struct Member<'a> {
    key: &'a [u8],
    group: &'a [u8],
    consumer: &'a [u8],
}

/// Reads one stream for a consumer.
fn read_as_member(
    cx: &mut Cx<'_>,
    member: Member<'_>,
    after: After,
    read: &ReadArgs<'_>,
    streams: &mut Streams,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let now_ms = cx.now_ms();
    let Some(mut entry) = cx.get_mut(member.key) else { return Ok(()) };
    let stream = stream_mut(&mut entry)?;
    let Some(group) = stream.group_mut(member.group) else { return Ok(()) };
    let found = group.find_consumer(member.consumer);
    let consumer = found.unwrap_or_else(|| group.create_consumer(member.consumer, now_ms));
    if let Some(consumer) = group.consumer_mut(consumer) {
        consumer.seen_ms = now_ms;
    }
    let (mut given, mut moved) = (Given::new(), false);
    match after {
        After::Id(after) => {
            streams.begin(reply, member.key);
            given = reply_history(stream, member, after, read.count, now_ms, reply);
        }
        _ if stream.group(member.group).is_some_and(|group| stream.top_id() > group.last_id) => {
            streams.begin(reply, member.key);
            given = reply_new(stream, member, read, now_ms, reply);
            moved = true;
        }
        _ => {}
    }
    if cx.is_told() {
        cx.tell_nothing();
        if read.no_ack && moved {
            given.clear();
        }
        let names = [member.key, member.group, member.consumer];
        tell_pending(cx, names, found.is_none(), &given, moved);
    }
    // Even an attempt in vain is logged: the consumer's time is part of the state.
    cx.add_dirty(1);
    if found.is_none() {
        cx.notify(Event::STREAM, "xgroup-createconsumer", member.key);
    }
    Ok(())
}

/// Replies with entries that the group has not been given, and gives them to the consumer.
fn reply_new(
    stream: &mut Stream,
    member: Member<'_>,
    read: &ReadArgs<'_>,
    now_ms: i64,
    reply: &mut Reply<'_>,
) -> Given {
    let progress = stream.progress();
    let Some(start) = stream.group(member.group).and_then(|group| group.last_id.next()) else {
        reply.array(0);
        return Given::new();
    };
    let mut given = Given::new();
    let array = reply.deferred_array();
    for entry in stream.range(start, Id::MAX, false).take(read.count) {
        given.push(entry.id);
        reply_entry(reply, entry);
    }
    reply.close(array, given.len());
    let Some(group) = stream.group_mut(member.group) else { return given };
    let Some(consumer) = group.find_consumer(member.consumer) else { return given };
    for &id in &given {
        group.entries_read = progress.after_reading(group.entries_read, id);
        group.last_id = id;
        if !read.no_ack {
            group.assign(id, Pending { consumer, delivered_ms: now_ms, deliveries: 1 });
        }
    }
    if !read.no_ack
        && let Some(consumer) = group.consumer_mut(consumer)
    {
        consumer.active_ms = Some(now_ms);
    }
    given
}

/// Replies with entries that the consumer was given before and has not acknowledged.
fn reply_history(
    stream: &mut Stream,
    member: Member<'_>,
    after: Id,
    count: usize,
    now_ms: i64,
    reply: &mut Reply<'_>,
) -> Given {
    let pending: Given = stream
        .group(member.group)
        .and_then(|group| group.consumer(group.find_consumer(member.consumer)?))
        .zip(after.next())
        .map(|(consumer, start)| consumer.pending().range(start..).take(count).copied().collect())
        .unwrap_or_default();
    reply.array(pending.len());
    for &id in &pending {
        let Some(entry) = stream.get(id) else {
            reply.array(2);
            reply_id(reply, id);
            reply.null_array();
            continue;
        };
        reply_entry(reply, entry);
        let group = stream.group_mut(member.group);
        if let Some((delivered_ms, deliveries)) = group.and_then(|g| g.pending_entry_mut(id)) {
            *delivered_ms = now_ms;
            *deliveries = deliveries.saturating_add(1);
        }
    }
    pending
}
