//! Streams: adding, trimming, deleting; and what all stream commands share.

use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::{EntryMut, EntryRef};
use crate::number;
use crate::reply::Reply;
use crate::stamp::Stamp;
use crate::value::packed::IntBuf;
use crate::value::stream::{Entry, Id, IdBuf, Keep, NodeLimit, Stream};
use crate::value::{NewValue, Value};

const WRITE: Flags = Flags::WRITE;
const GROW: Flags = Flags::WRITE.union(Flags::DENYOOM);

/// The commands that change a stream's entries.
pub const COMMANDS: &[Command] = &[
    Command::new("XADD", -5, Group::Stream, xadd)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax(
            "key [NOMKSTREAM] [(MAXLEN|MINID) [=|~] threshold [LIMIT count:integer]] \
             (*|id) (field value)...",
        )
        .docs("5.0.0", "O(1), O(N) for N entries trimmed", "Adds an entry to a stream."),
    Command::new("XTRIM", -4, Group::Stream, xtrim)
        .flags(WRITE)
        .keys(Keys::FIRST)
        .syntax("key (MAXLEN|MINID) [=|~] threshold [LIMIT count:integer]")
        .docs("5.0.0", "O(N) for N entries removed", "Removes entries from a stream's start."),
    Command::new("XDEL", -3, Group::Stream, xdel)
        .flags(WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key id...")
        .docs("5.0.0", "O(1) for each entry", "Removes entries from a stream."),
    Command::new("XLEN", 2, Group::Stream, xlen)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("5.0.0", "O(1)", "Returns the number of entries of a stream."),
    Command::new("XSETID", -3, Group::Stream, xsetid)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key last-id [ENTRIESADDED entries-added:integer] [MAXDELETEDID max-deleted-id]")
        .docs("5.0.0", "O(1)", "Sets the last id of a stream, for replication."),
    Command::new(INSERT, -5, Group::Stream, insert)
        .flags(WRITE.union(Flags::INTERNAL).union(Flags::SKIP_MONITOR))
        .keys(Keys::FIRST)
        .syntax("key id (field value)...")
        .docs(
            "7.4.0",
            "O(N) in its node",
            "Adds an entry of another site among those that are there.",
        ),
];

/// Adds an entry in its place, which may be before the last one: how a merge adds it. No client can
/// call it.
pub const INSERT: &str = "ASHLAR.XINSERT";

const INVALID_ID: Error = Error::text("ERR Invalid stream ID specified as stream command argument");
/// Longest text that is looked at as an id.
const ID_TEXT_MAX: usize = 127;
/// Longest entry, in bytes of fields and values.
const ENTRY_BYTES_MAX: usize = 1 << 30;
/// Bounds of the entries that one approximate trim may remove, where no LIMIT is given.
const TRIM_LIMIT_DEFAULT: u64 = 10_000;
const TRIM_LIMIT_MAX: u64 = 1_000_000;

/// The stream of an entry.
pub(super) fn stream_of(entry: EntryRef<'_>) -> Result<&Stream, Error> {
    match entry.big() {
        Some(Value::Stream(stream)) => Ok(stream),
        _ => Err(Error::WrongType),
    }
}

/// The stream of an entry, to change.
pub(super) fn stream_mut<'a>(entry: &'a mut EntryMut<'_>) -> Result<&'a mut Stream, Error> {
    match entry.big_mut() {
        Some(Value::Stream(stream)) => Ok(stream),
        _ => Err(Error::WrongType),
    }
}

/// A new stream, to be inserted.
pub(super) fn new_value(stream: Stream) -> NewValue<'static> {
    NewValue::Big(Box::new(Value::Stream(Box::new(stream))))
}

/// The error for a group that is not there.
pub(super) fn no_group(key: &[u8], group: &[u8]) -> Error {
    Error::quoting("NOGROUP No such key '{}' or consumer group '{}'", &[key, group])
}

/// An unsigned integer as C's `strtoull` takes it: Redis reads the parts of ids so.
fn parse_part(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'+', digits @ ..] => (false, digits),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `ms` or `ms-seq`; the second part is `None` where it is missing.
fn parse_parts(text: &[u8]) -> Option<(u64, Option<&[u8]>)> {
    if text.len() > ID_TEXT_MAX {
        return None;
    }
    let (ms, seq) = match text.iter().position(|&byte| byte == b'-') {
        Some(dash) => (&text[..dash], Some(&text[dash + 1..])),
        None => (text, None),
    };
    Some((parse_part(ms)?, seq))
}

fn parse_seq(text: &[u8]) -> Option<u64> {
    match text {
        [b'-', ..] => None,
        text => parse_part(text),
    }
}

/// Reads an id; `seq` stands in where it has no second part.
pub(super) fn parse_id(text: &[u8], seq: u64) -> Result<Id, Error> {
    let (ms, given) = parse_parts(text).ok_or(INVALID_ID)?;
    let seq = given.map_or(Some(seq), parse_seq).ok_or(INVALID_ID)?;
    Ok(Id::new(ms, seq))
}

/// Reads an id, or `-` and `+` for the smallest and the largest.
pub(super) fn parse_id_or_end(text: &[u8], seq: u64) -> Result<Id, Error> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        text => parse_id(text, seq),
    }
}

/// Reads the start of a range; `(` leaves the id itself out.
pub(super) fn parse_start(text: &[u8]) -> Result<Id, Error> {
    match text {
        [b'(', id @ ..] if !id.is_empty() => {
            parse_id(id, 0)?.next().ok_or(Error::text("ERR invalid start ID for the interval"))
        }
        text => parse_id_or_end(text, 0),
    }
}

/// Reads the end of a range; `(` leaves the id itself out.
pub(super) fn parse_end(text: &[u8]) -> Result<Id, Error> {
    match text {
        [b'(', id @ ..] if !id.is_empty() => {
            parse_id(id, u64::MAX)?.prev().ok_or(Error::text("ERR invalid end ID for the interval"))
        }
        text => parse_id_or_end(text, u64::MAX),
    }
}

/// Replies with an id.
pub(super) fn reply_id(reply: &mut Reply<'_>, id: Id) {
    reply.bulk(id.format(&mut IdBuf::new()));
}

/// Replies with an entry: its id, its fields and values.
pub(super) fn reply_entry(reply: &mut Reply<'_>, entry: Entry<'_>) {
    reply.array(2);
    reply_id(reply, entry.id);
    reply.array(2 * entry.fields.len());
    let mut buf = IntBuf::new();
    for (field, value) in entry.fields {
        reply.bulk(field.as_bytes(&mut buf));
        reply.bulk(value.as_bytes(&mut buf));
    }
}

/// The id that an XADD asks for.
#[derive(Clone, Copy)]
enum NewId {
    /// `*`
    Auto,
    /// `ms-*`
    AutoSeq(u64),
    /// `ms-seq`
    Given(Id),
}

fn parse_new_id(text: &[u8]) -> Result<NewId, Error> {
    match parse_parts(text) {
        Some((ms, Some(b"*"))) => Ok(NewId::AutoSeq(ms)),
        _ => parse_id(text, 0).map(NewId::Given),
    }
}

impl NewId {
    /// The id itself; `None` if it is not above the stream's last one.
    ///
    /// A site takes only the numbers that leave `part` when they are divided by the number of sites,
    /// so that no two sites give the same id.
    fn resolve(self, last: Id, now_ms: i64, part: Option<u64>) -> Option<Id> {
        if let (Some(part), NewId::Auto | NewId::AutoSeq(_)) = (part, self) {
            let of = Stamp::SITES;
            let now = u64::try_from(now_ms).unwrap_or(0);
            let ms = if let NewId::AutoSeq(ms) = self { ms } else { now.max(last.ms) };
            if ms != last.ms {
                return (ms > last.ms).then_some(Id::new(ms, part));
            }
            let next = (last.seq / of).checked_mul(of)?.checked_add(part)?;
            let next = if next > last.seq { next } else { next.checked_add(of)? };
            return Some(Id::new(ms, next));
        }
        let id = match self {
            NewId::Auto => {
                let now = u64::try_from(now_ms).unwrap_or(0);
                if now > last.ms { Id::new(now, 0) } else { last.next()? }
            }
            NewId::AutoSeq(ms) if ms == last.ms => Id::new(ms, last.seq.checked_add(1)?),
            NewId::AutoSeq(ms) => Id::new(ms, 0),
            NewId::Given(id) => id,
        };
        (id > last).then_some(id)
    }
}

/// The trim options of XADD and XTRIM.
#[derive(Clone, Copy)]
struct Trim {
    keep: Keep,
    approx: bool,
    limit: u64,
}

/// What stands before the fields of an XADD, or after the key of an XTRIM.
#[derive(Default)]
struct Options {
    trim: Option<(Keep, bool)>,
    limit: Option<u64>,
    no_create: bool,
    /// The id and where it stands.
    id: Option<(NewId, usize)>,
}

impl Options {
    fn parse(args: &[&[u8]], adding: bool) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut at = 2;
        while let Some(&option) = args.get(at) {
            let value = args.get(at + 1).copied();
            if adding && option == b"*" {
                options.id = Some((NewId::Auto, at));
                break;
            } else if let Some(value) = value.filter(|_| option.eq_ignore_ascii_case(b"maxlen")) {
                at += options.parse_trim(value, args.get(at + 2).copied(), parse_max_len)?;
            } else if let Some(value) = value.filter(|_| option.eq_ignore_ascii_case(b"minid")) {
                at += options.parse_trim(value, args.get(at + 2).copied(), |text| {
                    parse_id(text, 0).map(Keep::From)
                })?;
            } else if let Some(value) = value.filter(|_| option.eq_ignore_ascii_case(b"limit")) {
                let limit = number::parse_i64(value).ok_or(Error::NotInteger)?;
                let limit = u64::try_from(limit)
                    .map_err(|_| Error::text("ERR The LIMIT argument must be >= 0."))?;
                options.limit = Some(limit);
                at += 1;
            } else if adding && option.eq_ignore_ascii_case(b"nomkstream") {
                options.no_create = true;
            } else if adding {
                options.id = Some((parse_new_id(option)?, at));
                break;
            } else {
                return Err(Error::Syntax);
            }
            at += 1;
        }
        Ok(options)
    }

    /// Reads what follows MAXLEN or MINID; returns how many arguments that is.
    fn parse_trim(
        &mut self,
        first: &[u8],
        second: Option<&[u8]>,
        keep: impl Fn(&[u8]) -> Result<Keep, Error>,
    ) -> Result<usize, Error> {
        if self.trim.is_some() {
            return Err(Error::text(
                "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ));
        }
        let (keep, approx, taken) = match (first, second) {
            (b"~", Some(second)) => (keep(second)?, true, 2),
            (b"=", Some(second)) => (keep(second)?, false, 2),
            (first, _) => (keep(first)?, false, 1),
        };
        self.trim = Some((keep, approx));
        Ok(taken)
    }

    /// Checks how the options go together.
    fn trim(&self, node_entries: usize) -> Result<Option<Trim>, Error> {
        let Some((keep, approx)) = self.trim else {
            if self.limit.is_some_and(|limit| limit > 0) {
                return Err(Error::text(
                    "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
                ));
            }
            if self.limit.is_some() {
                return Err(LIMIT_WITHOUT_APPROX);
            }
            return Ok(None);
        };
        let limit = match self.limit {
            Some(_) if !approx => return Err(LIMIT_WITHOUT_APPROX),
            Some(limit) => limit,
            None if !approx => 0,
            None => match (node_entries as u64).saturating_mul(100) {
                0 => TRIM_LIMIT_DEFAULT,
                limit => limit.min(TRIM_LIMIT_MAX),
            },
        };
        Ok(Some(Trim { keep, approx, limit }))
    }
}

const LIMIT_WITHOUT_APPROX: Error =
    Error::text("ERR syntax error, LIMIT cannot be used without the special ~ option");

fn parse_max_len(text: &[u8]) -> Result<Keep, Error> {
    let len = number::parse_i64(text).ok_or(Error::NotInteger)?;
    let len =
        u64::try_from(len).map_err(|_| Error::text("ERR The MAXLEN argument must be >= 0."))?;
    Ok(Keep::Last(len))
}

fn node_limit(cx: &Cx<'_>) -> NodeLimit {
    let config = cx.config();
    NodeLimit { entries: config.stream_node_max_entries, bytes: config.stream_node_max_bytes }
}

fn xadd(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    const TOO_LARGE: Error = Error::text("ERR Elements are too large to be stored");
    let (key, now_ms, nodes) = (args[1], cx.now_ms(), node_limit(cx));
    let part = cx.stream_part();
    let options = Options::parse(args, true)?;
    let trim = options.trim(nodes.entries)?;
    let arity = || Error::arity("xadd");
    let (new_id, id_at) = options.id.ok_or_else(arity)?;
    let fields = &args[id_at + 1..];
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Err(arity().into());
    }
    if matches!(new_id, NewId::Given(Id::MIN)) {
        return Err(Error::text("ERR The ID specified in XADD must be greater than 0-0").into());
    }
    let too_large = fields.iter().map(|part| part.len()).sum::<usize>() > ENTRY_BYTES_MAX;
    let (id, trimmed) = match cx.get_mut(key) {
        Some(mut entry) => {
            let stream = stream_mut(&mut entry)?;
            if stream.last_id() == Id::MAX {
                return Err(Error::text(
                    "ERR The stream has exhausted the last possible ID, unable to add more items",
                )
                .into());
            }
            let id = new_id.resolve(stream.last_id(), now_ms, part).ok_or(Error::text(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ))?;
            if too_large {
                return Err(TOO_LARGE.into());
            }
            stream.append(id, fields, nodes);
            (id, trim.map_or(0, |trim| stream.trim(trim.keep, trim.approx, trim.limit)))
        }
        None if options.no_create => {
            reply.null();
            return Ok(());
        }
        None if too_large => return Err(TOO_LARGE.into()),
        None => {
            let mut stream = Stream::new();
            let id = new_id.resolve(Id::MIN, now_ms, part).ok_or(INVALID_ID)?;
            stream.append(id, fields, nodes);
            let trimmed = trim.map_or(0, |trim| stream.trim(trim.keep, trim.approx, trim.limit));
            cx.insert(key, new_value(stream));
            (id, trimmed)
        }
    };
    tell_added(cx, key, id, fields, trim.filter(|_| trimmed > 0));
    cx.changed(key, Event::STREAM, "xadd");
    if trimmed > 0 {
        cx.notify(Event::STREAM, "xtrim", key);
    }
    cx.ready(key);
    reply_id(reply, id);
    Ok(())
}

fn insert(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, fields, nodes) = (args[1], &args[3..], node_limit(cx));
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Err(Error::Syntax.into());
    }
    let id = parse_id(args[2], 0)?;
    cx.tell_nothing();
    match cx.get_mut(key) {
        Some(mut entry) => stream_mut(&mut entry)?.insert(id, fields, nodes),
        None => {
            let mut stream = Stream::new();
            stream.insert(id, fields, nodes);
            cx.insert(key, new_value(stream));
        }
    }
    cx.tell_value(key);
    cx.changed(key, Event::STREAM, "xadd");
    cx.ready(key);
    reply_id(reply, id);
    Ok(())
}

/// Tells followers of an entry under its id, and what a trim left: other servers cut their nodes
/// elsewhere.
fn tell_added(cx: &mut Cx<'_>, key: &[u8], id: Id, fields: &[&[u8]], trim: Option<Trim>) {
    if !cx.is_told() {
        return;
    }
    let mut buf = IdBuf::new();
    let words = [&b"XADD"[..], key, id.format(&mut buf)];
    cx.tell(&words.into_iter().chain(fields.iter().copied()).collect::<Vec<_>>());
    if trim.is_some() {
        tell_trimmed(cx, key);
    }
}

/// Tells followers how many entries a trim left.
fn tell_trimmed(cx: &mut Cx<'_>, key: &[u8]) {
    let stream = cx.peek(key).and_then(|entry| stream_of(entry).ok().map(Stream::len));
    let len = stream.unwrap_or(0).to_string();
    cx.tell(&[b"XTRIM", key, b"MAXLEN", b"=", len.as_bytes()]);
}

fn xtrim(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let options = Options::parse(args, false)?;
    if options.trim.is_none() && options.limit.unwrap_or(0) == 0 {
        return Err(
            Error::text("ERR syntax error, XTRIM must be called with a trimming strategy").into()
        );
    }
    let trim = options.trim(cx.config().stream_node_max_entries)?.ok_or(Error::Syntax)?;
    let trimmed = match cx.get_mut(args[1]) {
        Some(mut entry) => stream_mut(&mut entry)?.trim(trim.keep, trim.approx, trim.limit),
        None => 0,
    };
    if trimmed > 0 {
        if cx.is_told() {
            tell_trimmed(cx, args[1]);
        }
        cx.changed(args[1], Event::STREAM, "xtrim");
    }
    reply.int(trimmed as i64);
    Ok(())
}

fn xdel(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(mut entry) = cx.get_mut(args[1]) else {
        reply.int(0);
        return Ok(());
    };
    let stream = stream_mut(&mut entry)?;
    let ids: Vec<Id> = args[2..].iter().map(|id| parse_id(id, 0)).collect::<Result<_, _>>()?;
    let deleted = ids.into_iter().filter(|&id| stream.delete(id)).count();
    if deleted > 0 {
        cx.changed(args[1], Event::STREAM, "xdel");
    }
    reply.int(deleted as i64);
    Ok(())
}

fn xlen(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let len = match cx.get(args[1]) {
        Some(entry) => stream_of(entry)?.len(),
        None => 0,
    };
    reply.int(len as i64);
    Ok(())
}

fn xsetid(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let id = parse_id(args[2], 0)?;
    let (mut entries_added, mut max_deleted) = (None, Id::MIN);
    for option in args[3..].chunks(2) {
        let [name, value] = option else { return Err(Error::Syntax.into()) };
        if name.eq_ignore_ascii_case(b"entriesadded") {
            let count = number::parse_i64(value).ok_or(Error::NotInteger)?;
            let positive = Error::text("ERR entries_added must be positive");
            entries_added = Some(u64::try_from(count).map_err(|_| positive)?);
        } else if name.eq_ignore_ascii_case(b"maxdeletedid") {
            max_deleted = parse_id(value, 0)?;
            if id < max_deleted {
                return Err(Error::text(
                    "ERR The ID specified in XSETID is smaller than the provided \
                     max_deleted_entry_id",
                )
                .into());
            }
        } else {
            return Err(Error::Syntax.into());
        }
    }
    let mut entry = cx.get_mut(args[1]).ok_or(Error::NoSuchKey)?;
    let stream = stream_mut(&mut entry)?;
    if id < stream.max_deleted_id() {
        return Err(Error::text(
            "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        )
        .into());
    }
    if !stream.is_empty() && id < stream.top_id() {
        return Err(Error::text(
            "ERR The ID specified in XSETID is smaller than the target stream top item",
        )
        .into());
    }
    if entries_added.is_some_and(|count| !stream.is_empty() && count < stream.len()) {
        return Err(Error::text(
            "ERR The entries_added specified in XSETID is smaller than the target stream length",
        )
        .into());
    }
    stream.set_last_id(id);
    if let Some(count) = entries_added {
        stream.set_entries_added(count);
    }
    if max_deleted != Id::MIN {
        stream.set_max_deleted_id(max_deleted);
    }
    cx.changed(args[1], Event::STREAM, "xsetid");
    reply.ok();
    Ok(())
}
