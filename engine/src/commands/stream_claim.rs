//! Streams: entries that were given and not acknowledged, and how others take them over.

use super::stream::{
    no_group, parse_end, parse_id, parse_start, reply_entry, reply_id, stream_mut, stream_of,
};
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::stream::{
    Consumer, ConsumerId, Group as StreamGroup, Id, IdBuf, Pending, Stream,
};

/// The commands about pending entries.
pub const COMMANDS: &[Command] = &[
    Command::new("XPENDING", -3, Group::Stream, xpending)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key group [[IDLE min-idle-time:integer] start end count:integer [consumer]]")
        .docs("5.0.0", "O(N) for N entries returned", "Shows what a group has not acknowledged."),
    Command::new("XCLAIM", -6, Group::Stream, xclaim)
        .flags(Flags::WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax(
            "key group consumer min-idle-time:integer id... [IDLE ms:integer] \
             [TIME unix-time-milliseconds:unix-time] [RETRYCOUNT count:integer] [FORCE] [JUSTID] \
             [LASTID lastid]",
        )
        .docs("5.0.0", "O(log N) for each entry", "Gives pending entries to another consumer."),
    Command::new("XAUTOCLAIM", -6, Group::Stream, xautoclaim)
        .flags(Flags::WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key group consumer min-idle-time:integer start [COUNT count:integer] [JUSTID]")
        .docs("6.2.0", "O(1) if COUNT is small", "Gives entries that pend long to a consumer."),
];

/// Entries that one XAUTOCLAIM looks at for each that it may return.
const ATTEMPTS_PER_ENTRY: usize = 10;
/// Entries that one XAUTOCLAIM may return: what Redis allows.
const AUTOCLAIM_COUNT_MAX: i64 = i64::MAX / 16;

fn xpending(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let range = PendingRange::parse(&args[3..])?;
    let now_ms = cx.now_ms();
    let missing = || no_group(args[1], args[2]);
    let stream = cx.get(args[1]).map(stream_of).transpose()?.ok_or_else(missing)?;
    let group = stream.group(args[2]).ok_or_else(missing)?;
    match range {
        Some(range) => reply_pending_range(reply, group, &range, now_ms),
        None => reply_pending_summary(reply, group),
    }
    Ok(())
}

/// The part of a group's pending entries that XPENDING is asked for.
struct PendingRange<'a> {
    min_idle_ms: i64,
    start: Id,
    end: Id,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> PendingRange<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Option<PendingRange<'a>>, Error> {
        if args.is_empty() {
            return Ok(None);
        }
        if args.len() < 3 || args.len() > 6 {
            return Err(Error::Syntax);
        }
        let (mut min_idle_ms, mut rest) = (0, args);
        if args[0].eq_ignore_ascii_case(b"idle") {
            min_idle_ms = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
            rest = &args[2..];
        }
        let [start, end, count, consumer @ ..] = rest else { return Err(Error::Syntax) };
        let count = number::parse_i64(count).ok_or(Error::NotInteger)?;
        Ok(Some(PendingRange {
            min_idle_ms,
            start: parse_start(start)?,
            end: parse_end(end)?,
            count: usize::try_from(count).unwrap_or(0),
            consumer: consumer.first().copied(),
        }))
    }
}

fn reply_pending_summary(reply: &mut Reply<'_>, group: &StreamGroup) {
    reply.array(4);
    reply.int(group.pending_len() as i64);
    let (first, last) = (group.pending(..).next(), group.pending(..).next_back());
    let (Some((first, _)), Some((last, _))) = (first, last) else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    reply_id(reply, first);
    reply_id(reply, last);
    let busy = |consumer: &&Consumer| !consumer.pending().is_empty();
    reply.array(group.consumers().filter(busy).count());
    for consumer in group.consumers().filter(busy) {
        reply.array(2);
        reply.bulk(consumer.name());
        reply.bulk_int(consumer.pending().len() as i64);
    }
}

fn reply_pending_range(
    reply: &mut Reply<'_>,
    group: &StreamGroup,
    range: &PendingRange<'_>,
    now_ms: i64,
) {
    let consumer = match range.consumer.map(|name| group.find_consumer(name)) {
        Some(None) => return reply.array(0),
        Some(found) => found.and_then(|id| group.consumer(id)),
        None => None,
    };
    let array = reply.deferred_array();
    let mut written = 0;
    let idle_ms = |pending: &Pending| now_ms.saturating_sub(pending.delivered_ms);
    let mut show = |id: Id, pending: &Pending| {
        if written == range.count {
            return false;
        }
        if range.min_idle_ms == 0 || idle_ms(pending) >= range.min_idle_ms {
            written += 1;
            reply.array(4);
            reply_id(reply, id);
            reply.bulk(group.consumer(pending.consumer).map_or(b"", |owner| owner.name()));
            reply.int(idle_ms(pending).max(0));
            reply.int(pending.deliveries as i64);
        }
        true
    };
    if range.start <= range.end {
        match consumer {
            Some(consumer) => consumer
                .pending()
                .range(range.start..=range.end)
                .filter_map(|&id| group.pending_entry(id).map(|pending| (id, pending)))
                .all(|(id, pending)| show(id, pending)),
            None => group.pending(range.start..=range.end).all(|(id, pending)| show(id, pending)),
        };
    }
    reply.close(array, written);
}

/// A minimum idle time; negative ones count as none.
fn parse_min_idle(arg: &[u8], error: Error) -> Result<i64, Error> {
    number::parse_i64(arg).map(|ms| ms.max(0)).ok_or(error)
}

/// How XCLAIM and XAUTOCLAIM hand entries over.
struct Claim<'a> {
    group: &'a [u8],
    consumer: ConsumerId,
    min_idle_ms: i64,
    now_ms: i64,
    delivered_ms: i64,
    retry_count: Option<u64>,
    force: bool,
    just_id: bool,
}

/// What became of an entry that was to be claimed.
enum Claimed {
    /// It changed hands.
    Yes,
    /// It stays whose it was.
    No,
    /// It is no longer in the stream, and not pending any more.
    Gone,
}

impl Claim<'_> {
    /// Claims one entry and replies with it.
    fn claim(&self, stream: &mut Stream, id: Id, reply: &mut Reply<'_>) -> Claimed {
        let exists = stream.contains(id);
        let Some(group) = stream.group_mut(self.group) else { return Claimed::No };
        if !exists {
            return if group.acknowledge(id) { Claimed::Gone } else { Claimed::No };
        }
        let deliveries = match group.pending_entry(id) {
            Some(pending) => {
                let idle_ms = self.now_ms.saturating_sub(pending.delivered_ms);
                if self.min_idle_ms > 0 && idle_ms < self.min_idle_ms {
                    return Claimed::No;
                }
                pending.deliveries
            }
            None if self.force => 1,
            None => return Claimed::No,
        };
        let deliveries = match self.retry_count {
            Some(count) => count,
            None => deliveries.saturating_add(u64::from(!self.just_id)),
        };
        let consumer = self.consumer;
        group.assign(id, Pending { consumer, delivered_ms: self.delivered_ms, deliveries });
        if let Some(consumer) = group.consumer_mut(consumer) {
            consumer.active_ms = Some(self.now_ms);
        }
        match stream.get(id) {
            Some(entry) if !self.just_id => reply_entry(reply, entry),
            _ => reply_id(reply, id),
        }
        Claimed::Yes
    }
}

/// The consumer of that name, created where there is none, and whether it was.
fn join(group: &mut StreamGroup, name: &[u8], now_ms: i64) -> (ConsumerId, bool) {
    let found = group.find_consumer(name);
    let consumer = found.unwrap_or_else(|| group.create_consumer(name, now_ms));
    if let Some(consumer) = group.consumer_mut(consumer) {
        consumer.seen_ms = now_ms;
    }
    (consumer, found.is_none())
}

/// What follows the ids of an XCLAIM.
#[derive(Default)]
struct ClaimOptions {
    delivered_ms: Option<i64>,
    retry_count: Option<u64>,
    force: bool,
    just_id: bool,
    last_id: Id,
}

fn parse_claim_options(args: &[&[u8]], now_ms: i64) -> Result<ClaimOptions, Error> {
    let mut options = ClaimOptions::default();
    let mut rest = args;
    while let Some((&name, after)) = rest.split_first() {
        let value = after.first().copied();
        let int = |value: &[u8], error| number::parse_i64(value).ok_or(Error::text(error));
        rest = after.get(1..).unwrap_or_default();
        match (name.to_ascii_lowercase().as_slice(), value) {
            (b"force", _) => {
                options.force = true;
                rest = after;
            }
            (b"justid", _) => {
                options.just_id = true;
                rest = after;
            }
            (b"idle", Some(value)) => {
                let idle_ms = int(value, "ERR Invalid IDLE option argument for XCLAIM")?;
                options.delivered_ms = Some(now_ms.saturating_sub(idle_ms));
            }
            (b"time", Some(value)) => {
                let time_ms = int(value, "ERR Invalid TIME option argument for XCLAIM")?;
                options.delivered_ms = Some(time_ms);
            }
            (b"retrycount", Some(value)) => {
                let count = int(value, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                options.retry_count = u64::try_from(count).ok();
            }
            (b"lastid", Some(value)) => options.last_id = parse_id(value, 0)?,
            _ => return Err(Error::quoting("ERR Unrecognized XCLAIM option '{}'", &[name])),
        }
    }
    Ok(options)
}

fn xclaim(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, name, now_ms) = (args[1], args[2], cx.now_ms());
    let missing = || no_group(key, name);
    let mut entry = cx.get_mut(key).ok_or_else(missing)?;
    let stream = stream_mut(&mut entry)?;
    let group = stream.group_mut(name).ok_or_else(missing)?;
    let min_idle =
        parse_min_idle(args[4], Error::text("ERR Invalid min-idle-time argument for XCLAIM"))?;
    let ids: Vec<Id> = args[5..].iter().map_while(|id| parse_id(id, 0).ok()).collect();
    let options = parse_claim_options(&args[5 + ids.len()..], now_ms)?;
    group.last_id = group.last_id.max(options.last_id);
    let (consumer, is_new) = join(group, args[3], now_ms);
    let claim = Claim {
        group: name,
        consumer,
        min_idle_ms: min_idle,
        now_ms,
        delivered_ms: match options.delivered_ms {
            Some(time_ms) if (0..=now_ms).contains(&time_ms) => time_ms,
            _ => now_ms,
        },
        retry_count: options.retry_count,
        force: options.force,
        just_id: options.just_id,
    };
    let array = reply.deferred_array();
    let (mut claimed, mut gone) = (Vec::new(), Vec::new());
    for id in ids {
        match claim.claim(stream, id, reply) {
            Claimed::Yes => claimed.push(id),
            Claimed::Gone => gone.push(id),
            Claimed::No => {}
        }
    }
    reply.close(array, claimed.len());
    tell_claimed(cx, [key, name, args[3]], is_new, &claimed, &gone, options.last_id != Id::MIN);
    after_claim(cx, key, is_new);
    Ok(())
}

/// Tells followers what XCLAIM or XAUTOCLAIM did, instead of the call.
fn tell_claimed(
    cx: &mut Cx<'_>,
    names: [&[u8]; 3],
    is_new: bool,
    claimed: &[Id],
    gone: &[Id],
    moved: bool,
) {
    if !cx.is_told() {
        return;
    }
    cx.tell_nothing();
    let [key, group, _] = names;
    for id in gone {
        cx.tell_before(&[b"XACK", key, group, id.format(&mut IdBuf::new())]);
    }
    tell_pending(cx, names, is_new, claimed, moved);
}

/// Tells followers that a consumer (`names`: key, group, consumer) is new, when and how often these
/// entries were delivered to it, and how far the group has come where that has changed.
pub(super) fn tell_pending(
    cx: &mut Cx<'_>,
    names: [&[u8]; 3],
    is_new: bool,
    ids: &[Id],
    moved: bool,
) {
    let [key, name, consumer] = names;
    if is_new {
        cx.tell_before(&[b"XGROUP", b"CREATECONSUMER", key, name, consumer]);
    }
    let mut told: Vec<Vec<Vec<u8>>> = Vec::new();
    if let Some(stream) = cx.peek(key).and_then(|entry| stream_of(entry).ok())
        && let Some(group) = stream.group(name)
    {
        let last_id = group.last_id.to_string().into_bytes();
        let text = |number: String| number.into_bytes();
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        for &id in ids.iter().filter(|id| stream.contains(**id)) {
            let Some(pending) = group.pending_entry(id) else { continue };
            let mut args = words(&[b"XCLAIM", key, name, consumer, b"0"]);
            args.push(text(id.to_string()));
            args.extend([b"TIME".to_vec(), text(pending.delivered_ms.to_string())]);
            args.extend([b"RETRYCOUNT".to_vec(), text(pending.deliveries.to_string())]);
            args.extend(words(&[b"FORCE", b"JUSTID", b"LASTID", &last_id]));
            told.push(args);
        }
        if moved {
            let read = group.entries_read.map_or("-1".into(), |read| read.to_string());
            let args = [b"XGROUP", &b"SETID"[..], key, name, &last_id, b"ENTRIESREAD"];
            told.push([words(&args), vec![text(read)]].concat());
        }
    }
    for args in told {
        cx.tell_before(&args.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
}

/// Even an attempt in vain is logged: the consumer's time is part of the state.
fn after_claim(cx: &mut Cx<'_>, key: &[u8], is_new: bool) {
    cx.add_dirty(1);
    if is_new {
        cx.notify(Event::STREAM, "xgroup-createconsumer", key);
    }
}

/// The options of XAUTOCLAIM: the count, and whether it replies with ids alone.
fn parse_autoclaim_options(args: &[&[u8]]) -> Result<(usize, bool), Error> {
    const COUNT: Error = Error::text("ERR COUNT must be > 0");
    let (mut count, mut just_id) = (100, false);
    let mut rest = args;
    while let Some((&name, after)) = rest.split_first() {
        rest = after;
        if name.eq_ignore_ascii_case(b"justid") {
            just_id = true;
        } else if let Some((value, after)) =
            after.split_first().filter(|_| name.eq_ignore_ascii_case(b"count"))
        {
            rest = after;
            count = match number::parse_i64(value) {
                Some(count @ 1..=AUTOCLAIM_COUNT_MAX) => count as usize,
                Some(count @ 1..) if known_bugs::is_back(Bug::AutoclaimOverflows) => {
                    count.wrapping_mul(ATTEMPTS_PER_ENTRY as i64) as usize
                }
                _ => return Err(COUNT),
            };
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok((count, just_id))
}

fn xautoclaim(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, name, now_ms) = (args[1], args[2], cx.now_ms());
    let min_idle_ms =
        parse_min_idle(args[4], Error::text("ERR Invalid min-idle-time argument for XAUTOCLAIM"))?;
    let start = parse_start(args[5])?;
    let (mut count, just_id) = parse_autoclaim_options(&args[6..])?;
    let missing = || no_group(key, name);
    let mut entry = cx.get_mut(key).ok_or_else(missing)?;
    let stream = stream_mut(&mut entry)?;
    let group = stream.group_mut(name).ok_or_else(missing)?;
    let (consumer, is_new) = join(group, args[3], now_ms);
    // One more than it looks at: where the next call goes on.
    let attempts = count.saturating_mul(ATTEMPTS_PER_ENTRY);
    let candidates = group.pending(start..).map(|(id, _)| id).take(attempts.saturating_add(1));
    let candidates: Vec<Id> = candidates.collect();
    let claim = Claim {
        group: name,
        consumer,
        min_idle_ms,
        now_ms,
        delivered_ms: now_ms,
        retry_count: None,
        force: false,
        just_id,
    };
    // The id to go on from comes first in the reply and is known last.
    let mut body = Vec::new();
    let mut entries = Reply::new(&mut body, reply.protocol());
    let (mut claimed, mut gone) = (Vec::new(), Vec::new());
    let mut next = Id::MIN;
    for (attempt, &id) in candidates.iter().enumerate() {
        if count == 0 || attempt == attempts {
            next = id;
            break;
        }
        match claim.claim(stream, id, &mut entries) {
            Claimed::Yes => claimed.push(id),
            Claimed::Gone => gone.push(id),
            Claimed::No => continue,
        }
        count -= 1;
    }
    reply.array(3);
    reply_id(reply, next);
    reply.array(claimed.len());
    reply.raw(&body);
    reply.array(gone.len());
    for &id in &gone {
        reply_id(reply, id);
    }
    tell_claimed(cx, [key, name, args[3]], is_new, &claimed, &gone, false);
    after_claim(cx, key, is_new);
    Ok(())
}
