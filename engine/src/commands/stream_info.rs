//! Streams: what they and their groups look like inside.

use super::stream::{reply_entry, reply_id, stream_of};
use super::stream_group::{no_group_for, reply_help, unknown_subcommand};
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::stream::{Consumer, Group as StreamGroup, Id, Progress, Stream};

/// XINFO.
pub const COMMANDS: &[Command] = &[Command::container("XINFO", Group::Stream, XINFO).docs(
    "5.0.0",
    "Depends on subcommand.",
    "Commands that describe streams.",
)];

const XINFO: &[Command] =
    &[
        Command::new("STREAM", -3, Group::Stream, info_stream)
            .flags(Flags::READONLY)
            .keys(Keys::SECOND)
            .syntax("key [FULL [COUNT count:integer]]")
            .docs("5.0.0", "O(N) for N blocks of entries", "Describes a stream."),
        Command::new("GROUPS", 3, Group::Stream, info_groups)
            .flags(Flags::READONLY)
            .keys(Keys::SECOND)
            .syntax("key")
            .docs("5.0.0", "O(N) for N groups", "Lists the groups of a stream."),
        Command::new("CONSUMERS", 4, Group::Stream, info_consumers)
            .flags(Flags::READONLY)
            .keys(Keys::SECOND)
            .syntax("key group")
            .docs("5.0.0", "O(N) for N consumers", "Lists the consumers of a group."),
        Command::new("HELP", 2, Group::Stream, help)
            .flags(Flags::LOADING.union(Flags::STALE))
            .docs("5.0.0", "O(1)", "Lists the subcommands."),
    ];

/// Entries that XINFO STREAM FULL shows of each list, where it is not told how many.
const FULL_COUNT_DEFAULT: usize = 10;

fn find<'a>(cx: &'a Cx<'_>, key: &[u8]) -> Result<&'a Stream, Error> {
    cx.get(key).map(stream_of).transpose()?.ok_or(Error::NoSuchKey)
}

fn info_stream(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let stream = find(cx, args[2])?;
    let unknown = || unknown_subcommand(args[1], "XINFO");
    match &args[3..] {
        [] => {
            reply.map(10);
            reply_frame(reply, stream);
            reply.bulk(b"groups");
            reply.int(stream.groups().len() as i64);
            for (name, reverse) in [(&b"first-entry"[..], false), (b"last-entry", true)] {
                reply.bulk(name);
                match stream.range(Id::MIN, Id::MAX, reverse).next() {
                    Some(entry) => reply_entry(reply, entry),
                    None => reply.null(),
                }
            }
        }
        [full, rest @ ..] if full.eq_ignore_ascii_case(b"full") => {
            let count = match rest {
                [] => FULL_COUNT_DEFAULT,
                [name, count] if name.eq_ignore_ascii_case(b"count") => {
                    match number::parse_i64(count).ok_or(Error::NotInteger)? {
                        0 => usize::MAX,
                        count => usize::try_from(count).unwrap_or(FULL_COUNT_DEFAULT),
                    }
                }
                _ => return Err(unknown().into()),
            };
            reply_full(reply, stream, count);
        }
        _ => return Err(unknown().into()),
    }
    Ok(())
}

/// The seven fields that both forms of XINFO STREAM begin with.
fn reply_frame(reply: &mut Reply<'_>, stream: &Stream) {
    reply.bulk(b"length");
    reply.int(stream.len() as i64);
    reply.bulk(b"radix-tree-keys");
    reply.int(stream.block_count() as i64);
    reply.bulk(b"radix-tree-nodes");
    reply.int(radix_tree_nodes(stream) as i64);
    reply.bulk(b"last-generated-id");
    reply_id(reply, stream.last_id());
    reply.bulk(b"max-deleted-entry-id");
    reply_id(reply, stream.max_deleted_id());
    reply.bulk(b"entries-added");
    reply.int(stream.entries_added() as i64);
    reply.bulk(b"recorded-first-entry-id");
    reply_id(reply, stream.first_id());
}

/// Nodes of the radix tree that Redis would keep the blocks in: keys are ids of 16 bytes, runs of
/// bytes without a branch are one node.
fn radix_tree_nodes(stream: &Stream) -> usize {
    let keys: Vec<[u8; 16]> = stream
        .block_ids()
        .map(|id| (u128::from(id.ms) << 64 | u128::from(id.seq)).to_be_bytes())
        .collect();
    match keys.is_empty() {
        true => 1,
        false => nodes_below(&keys, 0),
    }
}

/// Nodes of the tree of sorted keys that are equal up to `depth`; the recursion ends with the key.
fn nodes_below(keys: &[[u8; 16]], depth: usize) -> usize {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return 0 };
    let common = first.iter().zip(last).skip(depth).take_while(|(a, b)| a == b).count();
    let run = usize::from(common > 0);
    let branch = depth + common;
    if branch == first.len() {
        return run + 1;
    }
    let children = keys.chunk_by(|a, b| a[branch] == b[branch]);
    run + 1 + children.map(|keys| nodes_below(keys, branch + 1)).sum::<usize>()
}

fn reply_full(reply: &mut Reply<'_>, stream: &Stream, count: usize) {
    reply.map(9);
    reply_frame(reply, stream);
    reply.bulk(b"entries");
    let entries = reply.deferred_array();
    let mut written = 0;
    for entry in stream.range(Id::MIN, Id::MAX, false).take(count) {
        reply_entry(reply, entry);
        written += 1;
    }
    reply.close(entries, written);
    reply.bulk(b"groups");
    reply.array(stream.groups().len());
    let progress = stream.progress();
    for (name, group) in stream.groups() {
        reply.map(7);
        reply.bulk(b"name");
        reply.bulk(name);
        reply_position(reply, group, progress);
        reply.bulk(b"pel-count");
        reply.int(group.pending_len() as i64);
        reply.bulk(b"pending");
        reply.array(group.pending_len().min(count));
        for (id, pending) in group.pending(..).take(count) {
            reply.array(4);
            reply_id(reply, id);
            reply.bulk(group.consumer(pending.consumer).map_or(b"", Consumer::name));
            reply.int(pending.delivered_ms);
            reply.int(pending.deliveries as i64);
        }
        reply.bulk(b"consumers");
        reply.array(group.consumers().len());
        for consumer in group.consumers() {
            reply_full_consumer(reply, group, consumer, count);
        }
    }
}

/// Where a group stands: three fields.
fn reply_position(reply: &mut Reply<'_>, group: &StreamGroup, progress: Progress) {
    reply.bulk(b"last-delivered-id");
    reply_id(reply, group.last_id);
    reply.bulk(b"entries-read");
    match group.entries_read {
        Some(count) => reply.int(count as i64),
        None => reply.null(),
    }
    reply.bulk(b"lag");
    match progress.lag(group.entries_read, group.last_id) {
        Some(lag) => reply.int(lag),
        None => reply.null(),
    }
}

fn reply_full_consumer(
    reply: &mut Reply<'_>,
    group: &StreamGroup,
    consumer: &Consumer,
    count: usize,
) {
    reply.map(5);
    reply.bulk(b"name");
    reply.bulk(consumer.name());
    reply.bulk(b"seen-time");
    reply.int(consumer.seen_ms);
    reply.bulk(b"active-time");
    reply.int(consumer.active_ms.unwrap_or(-1));
    reply.bulk(b"pel-count");
    reply.int(consumer.pending().len() as i64);
    reply.bulk(b"pending");
    reply.array(consumer.pending().len().min(count));
    for &id in consumer.pending().iter().take(count) {
        let pending = group.pending_entry(id);
        reply.array(3);
        reply_id(reply, id);
        reply.int(pending.map_or(0, |pending| pending.delivered_ms));
        reply.int(pending.map_or(0, |pending| pending.deliveries as i64));
    }
}

fn info_groups(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let stream = find(cx, args[2])?;
    let progress = stream.progress();
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"consumers");
        reply.int(group.consumers().len() as i64);
        reply.bulk(b"pending");
        reply.int(group.pending_len() as i64);
        reply_position(reply, group, progress);
    }
    Ok(())
}

fn info_consumers(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let now_ms = cx.now_ms();
    let stream = find(cx, args[2])?;
    let group = stream.group(args[3]).ok_or_else(|| no_group_for(args[2], args[3]))?;
    let since = |then_ms: i64| now_ms.saturating_sub(then_ms).max(0);
    reply.array(group.consumers().len());
    for consumer in group.consumers() {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(consumer.name());
        reply.bulk(b"pending");
        reply.int(consumer.pending().len() as i64);
        reply.bulk(b"idle");
        reply.int(since(consumer.seen_ms));
        reply.bulk(b"inactive");
        reply.int(consumer.active_ms.map_or(-1, since));
    }
    Ok(())
}

fn help(_: &mut Cx<'_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply_help(
        reply,
        "XINFO",
        &[
            "STREAM <key> [FULL [COUNT <count>]]",
            "    Describes the stream; FULL adds its entries, groups and consumers, up to <count>",
            "    of each list (10 unless told, 0 for all).",
            "GROUPS <key>",
            "    Lists the groups of the stream.",
            "CONSUMERS <key> <group>",
            "    Lists the consumers of the group.",
        ],
    );
    Ok(())
}
