//! Hashes: the expiry of fields, and what reads or sets fields together with it.

use super::expiry_form::ExpiryForm;
use super::hash::{edit, edit_or_create, read, remove_empty, write_value};
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::Value;
use crate::value::hash::{HashMut, HashRef};

/// The latest time at which a field can expire, in milliseconds: 46 bits, as in Redis.
const DEADLINE_MAX_MS: i64 = (1 << 46) - 1;

const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);
const GROW_FAST: Flags = WRITE_FAST.union(Flags::DENYOOM);
const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);

/// A command that sets an expiry.
const fn setter(name: &'static str, run: crate::command::Run) -> Command {
    Command::new(name, -6, Group::Hash, run).flags(GROW_FAST).keys(Keys::FIRST)
}

/// A command for fields and nothing else.
const fn of_fields(name: &'static str, flags: Flags, run: crate::command::Run) -> Command {
    Command::new(name, -5, Group::Hash, run)
        .flags(flags)
        .keys(Keys::FIRST)
        .syntax("key FIELDS numfields:integer field...")
}

/// The commands.
pub const COMMANDS: &[Command] = &[
    setter("HEXPIRE", hexpire)
        .syntax("key seconds:integer [NX|XX|GT|LT] FIELDS numfields:integer field...")
        .docs("7.4.0", "O(N) for N fields", "Lets fields of a hash expire after some seconds."),
    setter("HPEXPIRE", hexpire)
        .syntax("key milliseconds:integer [NX|XX|GT|LT] FIELDS numfields:integer field...")
        .docs("7.4.0", "O(N) for N fields", "Lets fields of a hash expire after milliseconds."),
    setter("HEXPIREAT", hexpire)
        .syntax("key unix-time-seconds:unix-time [NX|XX|GT|LT] FIELDS numfields:integer field...")
        .docs("7.4.0", "O(N) for N fields", "Lets fields of a hash expire at a time in seconds."),
    setter("HPEXPIREAT", hexpire)
        .syntax(
            "key unix-time-milliseconds:unix-time [NX|XX|GT|LT] FIELDS numfields:integer field...",
        )
        .docs("7.4.0", "O(N) for N fields", "Lets fields expire at a time in milliseconds."),
    of_fields("HTTL", READ_FAST, httl).docs(
        "7.4.0",
        "O(N) for N fields",
        "Returns in how many seconds fields of a hash expire.",
    ),
    of_fields("HPTTL", READ_FAST, httl).docs(
        "7.4.0",
        "O(N) for N fields",
        "Returns in how many milliseconds fields of a hash expire.",
    ),
    of_fields("HEXPIRETIME", READ_FAST, httl).docs(
        "7.4.0",
        "O(N) for N fields",
        "Returns the time, in seconds, at which fields of a hash expire.",
    ),
    of_fields("HPEXPIRETIME", READ_FAST, httl).docs(
        "7.4.0",
        "O(N) for N fields",
        "Returns the time, in milliseconds, at which fields of a hash expire.",
    ),
    of_fields("HPERSIST", WRITE_FAST, hpersist).docs(
        "7.4.0",
        "O(N) for N fields",
        "Lets fields of a hash not expire any more.",
    ),
    of_fields("HGETDEL", WRITE_FAST, hgetdel).docs(
        "8.0.0",
        "O(N) for N fields",
        "Returns the values of fields of a hash and removes these.",
    ),
    Command::new("HGETEX", -5, Group::Hash, hgetex)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST)
        .syntax(
            "key [EX seconds:integer|PX milliseconds:integer|EXAT unix-time-seconds:unix-time|\
             PXAT unix-time-milliseconds:unix-time|PERSIST] FIELDS numfields:integer field...",
        )
        .docs("8.0.0", "O(N) for N fields", "Returns values of fields and sets their expiry."),
    Command::new("HSETEX", -6, Group::Hash, hsetex)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax(
            "key [FNX|FXX] [EX seconds:integer|PX milliseconds:integer|\
             EXAT unix-time-seconds:unix-time|PXAT unix-time-milliseconds:unix-time|KEEPTTL] \
             FIELDS numfields:integer (field value)...",
        )
        .docs("8.0.0", "O(N) for N fields", "Sets fields of a hash and their expiry."),
];

/// Removes up to `limit` fields of `key` that have expired, and the key if none is left. Returns
/// their number. It is for writes that find such fields, and for active expiry.
pub(crate) fn purge_fields(cx: &mut Cx<'_>, key: &[u8], limit: usize) -> usize {
    let (now_ms, is_told) = (cx.expiry_now_ms(), cx.is_told());
    let Some(mut entry) = cx.get_mut(key) else { return 0 };
    let Some(Value::Hash(hash)) = entry.big_mut() else { return 0 };
    if !hash.has_expired(now_ms) {
        return 0;
    }
    let mut told: Vec<Vec<u8>> = Vec::new();
    if is_told {
        told.extend(hash.expired_fields(now_ms, limit).into_iter().map(<[u8]>::to_vec));
    }
    let purged = hash.purge(now_ms, limit);
    let is_empty = hash.is_empty();
    if purged > 0 {
        tell_deleted(cx, key, told.iter().map(Vec::as_slice));
        cx.count_expired_fields(purged as u64);
        cx.changed(key, Event::HASH, "hexpired");
        if is_empty {
            remove_empty(cx, key);
        }
    }
    purged
}

/// Tells followers that fields are gone, before what else the call does.
fn tell_deleted<'a>(cx: &mut Cx<'_>, key: &'a [u8], fields: impl Iterator<Item = &'a [u8]>) {
    let args: Vec<&[u8]> = [&b"HDEL"[..], key].into_iter().chain(fields).collect();
    if args.len() > 2 {
        cx.tell_before(&args);
    }
}

/// Tells followers what became of fields that were to expire at `at_ms`, instead of the call.
fn tell_outcomes(cx: &mut Cx<'_>, key: &[u8], fields: &[&[u8]], outcomes: &[Outcome], at_ms: i64) {
    if !cx.is_told() {
        return;
    }
    cx.tell_nothing();
    let of = |wanted| {
        let pairs = fields.iter().zip(outcomes).filter(move |(_, outcome)| **outcome == wanted);
        pairs.map(|(field, _)| *field)
    };
    tell_deleted(cx, key, of(Outcome::Deleted));
    let expiring: Vec<&[u8]> = of(Outcome::Updated).collect();
    if !expiring.is_empty() {
        let (at_ms, count) = (at_ms.to_string(), expiring.len().to_string());
        let words = [b"HPEXPIREAT", key, at_ms.as_bytes(), b"FIELDS", count.as_bytes()];
        cx.tell_before(&words.into_iter().chain(expiring).collect::<Vec<_>>());
    }
}

impl ExpiryForm {
    /// As the name of a command says: `P` is for milliseconds, `AT` and `TIME` for absolute ones.
    fn of_command(name: &[u8]) -> ExpiryForm {
        let ends = |end: &[u8]| {
            name.len().checked_sub(end.len()).is_some_and(|at| name[at..].eq_ignore_ascii_case(end))
        };
        ExpiryForm {
            seconds: !name.get(1).is_some_and(|letter| letter.eq_ignore_ascii_case(&b'P')),
            relative: !ends(b"AT") && !ends(b"TIME"),
        }
    }

    /// The time that an argument of `command` says, in milliseconds.
    fn parse(self, arg: &[u8], now_ms: i64, command: &[u8]) -> Result<i64, Error> {
        let time = number::parse_i64(arg).ok_or(Error::NotInteger)?;
        if time < 0 {
            return Err(Error::text("ERR invalid expire time, must be >= 0"));
        }
        self.at_ms(time, now_ms).filter(|at_ms| *at_ms <= DEADLINE_MAX_MS).ok_or_else(|| {
            let command = String::from_utf8_lossy(command).to_ascii_lowercase();
            Error::owned(format!("ERR invalid expire time in '{command}' command"))
        })
    }

    /// What a reply says of a time in milliseconds.
    fn show(self, at_ms: i64, now_ms: i64) -> i64 {
        let time_ms = if self.relative { at_ms - now_ms } else { at_ms };
        if self.seconds { (time_ms + 999) / 1000 } else { time_ms }
    }
}

const COUNT_OF_SETTERS: &str = "ERR Parameter `numFields` should be greater than 0";
const COUNT_OF_OTHERS: &str = "ERR Number of fields must be a positive integer";

/// The fields after `FIELDS numfields`, with which `args` begin.
fn parse_fields<'b, 'a>(
    args: &'b [&'a [u8]],
    count_error: &'static str,
) -> Result<&'b [&'a [u8]], Error> {
    let misplaced =
        Error::text("ERR Mandatory argument FIELDS is missing or not at the right position");
    let [word, count, fields @ ..] = args else { return Err(misplaced) };
    if !word.eq_ignore_ascii_case(b"FIELDS") {
        return Err(misplaced);
    }
    let count = number::parse_i64(count).filter(|count| *count > 0);
    let count = count.ok_or(Error::text(count_error))?;
    if count != fields.len() as i64 {
        return Err(Error::text(
            "ERR The `numfields` parameter must match the number of arguments",
        ));
    }
    Ok(fields)
}

/// When HEXPIRE and its like set an expiry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfNone,
    IfAny,
    IfLater,
    IfEarlier,
}

impl Condition {
    fn parse(arg: &[u8]) -> Option<Condition> {
        let named = |name: &[u8]| arg.eq_ignore_ascii_case(name);
        Some(match () {
            () if named(b"NX") => Condition::IfNone,
            () if named(b"XX") => Condition::IfAny,
            () if named(b"GT") => Condition::IfLater,
            () if named(b"LT") => Condition::IfEarlier,
            () => return None,
        })
    }

    fn holds(self, old_ms: Option<i64>, new_ms: i64) -> bool {
        match (self, old_ms) {
            (Condition::Always, _) => true,
            (Condition::IfNone, old) => old.is_none(),
            (Condition::IfAny, old) => old.is_some(),
            (Condition::IfLater, old) => old.is_some_and(|old_ms| new_ms > old_ms),
            (Condition::IfEarlier, old) => old.is_none_or(|old_ms| new_ms < old_ms),
        }
    }
}

/// What became of a field whose expiry was to be set; the numbers are the replies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    NoField = -2,
    Refused = 0,
    Updated = 1,
    Deleted = 2,
}

/// Lets a field expire; one whose time has come is removed at once.
fn expire_field(
    hash: &mut HashMut<'_>,
    field: &[u8],
    at_ms: i64,
    condition: Condition,
    now_ms: i64,
) -> Outcome {
    if hash.get(field).is_none() {
        return Outcome::NoField;
    }
    let old_ms = hash.big().and_then(|hash| hash.deadline(field));
    if !condition.holds(old_ms, at_ms) {
        return Outcome::Refused;
    }
    if at_ms <= now_ms {
        hash.remove(field);
        return Outcome::Deleted;
    }
    hash.expiring().set_deadline(field, at_ms);
    Outcome::Updated
}

/// Tells of what was done to the fields of `key`.
fn report(cx: &mut Cx<'_>, key: &[u8], outcomes: &[Outcome], is_empty: bool) {
    if outcomes.contains(&Outcome::Updated) || outcomes.contains(&Outcome::Deleted) {
        let is_deleted = outcomes.contains(&Outcome::Deleted);
        cx.changed(key, Event::HASH, if is_deleted { "hdel" } else { "hexpire" });
        if is_empty {
            remove_empty(cx, key);
        }
    }
}

/// Refuses a key that holds another type before anything else is looked at.
fn check_type(cx: &Cx<'_>, key: &[u8]) -> Result<(), Error> {
    match cx.peek(key) {
        Some(entry) => HashRef::of(entry, cx.now_ms()).map(|_| ()),
        None => Ok(()),
    }
}

fn hexpire(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (name, key, now_ms) = (args[0], args[1], cx.now_ms());
    check_type(cx, key)?;
    let at_ms = ExpiryForm::of_command(name).parse(args[2], now_ms, name)?;
    let (condition, rest) = match Condition::parse(args[3]) {
        Some(condition) => (condition, &args[4..]),
        None => (Condition::Always, &args[3..]),
    };
    let fields = parse_fields(rest, COUNT_OF_SETTERS)?;
    let due_ms = cx.expiry_now_ms();
    let result = edit(cx, key, |hash| {
        let expire = |field: &&[u8]| expire_field(hash, field, at_ms, condition, due_ms);
        let outcomes: Vec<Outcome> = fields.iter().map(expire).collect();
        Ok((outcomes, hash.is_empty()))
    })?;
    reply.array(fields.len());
    let Some((outcomes, is_empty)) = result else {
        fields.iter().for_each(|_| reply.int(Outcome::NoField as i64));
        return Ok(());
    };
    outcomes.iter().for_each(|outcome| reply.int(*outcome as i64));
    tell_outcomes(cx, key, fields, &outcomes, at_ms);
    report(cx, key, &outcomes, is_empty);
    Ok(())
}

fn httl(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (clock, now_ms) = (ExpiryForm::of_command(args[0]), cx.now_ms());
    let hash = read(cx, args[1])?;
    let fields = parse_fields(&args[2..], COUNT_OF_OTHERS)?;
    reply.array(fields.len());
    for field in fields {
        let deadline = match hash {
            HashRef::Big(hash, _) => hash.deadline(field),
            HashRef::Packed(_) | HashRef::Shaped(..) | HashRef::Part(_) => None,
        };
        reply.int(match deadline {
            _ if hash.get(field).is_none() => -2,
            None => -1,
            Some(at_ms) => clock.show(at_ms, now_ms),
        });
    }
    Ok(())
}

fn hpersist(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    check_type(cx, key)?;
    let fields = parse_fields(&args[2..], COUNT_OF_OTHERS)?;
    let persist = |hash: &mut HashMut<'_>, field: &[u8]| {
        let is_there = hash.get(field).is_some();
        let was_expiring = hash.big_mut().and_then(|hash| hash.persist(field)).is_some();
        match (is_there, was_expiring) {
            (false, _) => -2,
            (true, false) => -1,
            (true, true) => 1,
        }
    };
    let outcomes: Option<Vec<i64>> =
        edit(cx, key, |hash| Ok(fields.iter().map(|field| persist(hash, field)).collect()))?;
    let outcomes = outcomes.unwrap_or_else(|| vec![-2; fields.len()]);
    if outcomes.contains(&1) {
        cx.changed(key, Event::HASH, "hpersist");
    }
    reply.array(outcomes.len());
    outcomes.into_iter().for_each(|outcome| reply.int(outcome));
    Ok(())
}

fn hgetdel(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    check_type(cx, key)?;
    let fields = parse_fields(&args[2..], COUNT_OF_OTHERS)?;
    reply.array(fields.len());
    let result = edit(cx, key, |hash| {
        let mut removed = 0;
        for field in fields {
            write_value(hash.get(field), reply);
            removed += u64::from(hash.remove(field));
        }
        Ok((removed, hash.is_empty()))
    })?;
    let Some((removed, is_empty)) = result else {
        fields.iter().for_each(|_| reply.null());
        return Ok(());
    };
    if removed > 0 {
        cx.tell_nothing();
        tell_deleted(cx, key, fields.iter().copied());
        cx.changed(key, Event::HASH, "hdel");
        cx.add_dirty(removed - 1);
        if is_empty {
            remove_empty(cx, key);
        }
    }
    Ok(())
}

/// What HGETEX does to the fields.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    Persist,
    Expire(i64),
}

fn hgetex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (name, key, now_ms) = (args[0], args[1], cx.now_ms());
    check_type(cx, key)?;
    let (clock, persist) =
        (ExpiryForm::of_option(args[2]), args[2].eq_ignore_ascii_case(b"PERSIST"));
    let skip = if clock.is_some() { 4 } else { 2 + usize::from(persist) };
    let fields = parse_fields(args.get(skip..).unwrap_or_default(), COUNT_OF_OTHERS)?;
    let change = match clock {
        Some(clock) => Change::Expire(clock.parse(args[3], now_ms, name)?),
        None if persist => Change::Persist,
        None => Change::Nothing,
    };
    reply.array(fields.len());
    let mut outcomes = Vec::new();
    let mut persisted = false;
    let result = edit(cx, key, |hash| {
        for field in fields {
            write_value(hash.get(field), reply);
            match change {
                Change::Nothing => {}
                Change::Persist => {
                    let old = hash.big_mut().and_then(|hash| hash.persist(field));
                    persisted |= old.is_some();
                }
                Change::Expire(at_ms) => {
                    outcomes.push(expire_field(hash, field, at_ms, Condition::Always, now_ms));
                }
            }
        }
        Ok(hash.is_empty())
    })?;
    match result {
        None => fields.iter().for_each(|_| reply.null()),
        Some(_) if persisted => {
            let count = fields.len().to_string();
            let words = [b"HPERSIST", key, b"FIELDS", count.as_bytes()];
            cx.tell(&words.into_iter().chain(fields.iter().copied()).collect::<Vec<_>>());
            cx.changed(key, Event::HASH, "hpersist");
        }
        Some(is_empty) => {
            if let Change::Expire(at_ms) = change {
                tell_outcomes(cx, key, fields, &outcomes, at_ms);
            }
            report(cx, key, &outcomes, is_empty);
        }
    }
    Ok(())
}

/// What comes between the key and the fields of HSETEX.
#[derive(Default)]
struct SetOptions {
    /// Whether all fields (FXX) or none of them (FNX) must be there.
    wanted: Option<bool>,
    deadline: Option<i64>,
    keep: bool,
}

/// The options and the fields with their values.
fn parse_hsetex<'b, 'a>(
    args: &'b [&'a [u8]],
    now_ms: i64,
) -> Result<(SetOptions, &'b [&'a [u8]]), Error> {
    let mut options = SetOptions::default();
    let mut at = 2;
    while let Some(option) = args.get(at) {
        let named = |name: &[u8]| option.eq_ignore_ascii_case(name);
        let clock = ExpiryForm::of_option(option);
        if named(b"FIELDS") {
            let pairs = args.get(at + 2..).filter(|pairs| pairs.len() >= 2);
            let pairs = pairs.ok_or_else(|| Error::arity("hsetex"))?;
            let count = number::parse_i64(args[at + 1]);
            let count = count.filter(|count| (1..=i64::from(i32::MAX)).contains(count));
            let count = count.ok_or(Error::text("ERR invalid number of fields"))?;
            if pairs.len() as i64 != 2 * count {
                return Err(Error::arity("hsetex"));
            }
            return Ok((options, pairs));
        } else if named(b"FXX") || named(b"FNX") {
            if options.wanted.replace(named(b"FXX")).is_some() {
                return Err(Error::text("ERR Only one of FXX or FNX arguments can be specified"));
            }
        } else if clock.is_some() || named(b"KEEPTTL") {
            if options.keep || options.deadline.is_some() {
                return Err(Error::text(
                    "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
                ));
            }
            options.keep = clock.is_none();
            if let Some(clock) = clock {
                at += 1;
                let time = args.get(at).ok_or(Error::text("ERR missing expire time"))?;
                options.deadline = Some(clock.parse(time, now_ms, args[0])?);
            }
        } else {
            return Err(Error::quoting("ERR unknown argument: {}", &[option]));
        }
        at += 1;
    }
    Err(Error::arity("hsetex"))
}

/// Tells followers what HSETEX did, in commands that also Redis 7.4 knows.
fn tell_set(
    cx: &mut Cx<'_>,
    key: &[u8],
    options: &SetOptions,
    pairs: std::slice::ChunksExact<'_, &[u8]>,
    outcomes: &[Outcome],
) {
    if !cx.is_told() {
        return;
    }
    if options.keep {
        // HSET makes forget when fields expire.
        return cx.tell_value(key);
    }
    cx.tell_nothing();
    let set = pairs.clone().flatten().copied();
    cx.tell_before(&[&b"HSET"[..], key].into_iter().chain(set).collect::<Vec<_>>());
    if let Some(at_ms) = options.deadline {
        let fields: Vec<&[u8]> = pairs.map(|pair| pair[0]).collect();
        tell_outcomes(cx, key, &fields, outcomes, at_ms);
    }
}

fn hsetex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, now_ms) = (args[1], cx.now_ms());
    let (options, pairs) = parse_hsetex(args, now_ms)?;
    let pairs = pairs.chunks_exact(2);
    if options.wanted == Some(true) && read(cx, key)?.is_empty() {
        reply.int(0);
        return Ok(());
    }
    let result = edit_or_create(cx, key, |hash| {
        let wanted = options.wanted;
        let is_there = |field| hash.get(field).is_some();
        if wanted.is_some_and(|wanted| pairs.clone().any(|pair| is_there(pair[0]) != wanted)) {
            return Ok(None);
        }
        let mut outcomes = Vec::new();
        for pair in pairs.clone() {
            if options.keep {
                hash.set_keeping_deadline(pair[0], pair[1]);
            } else {
                hash.set(pair[0], pair[1]);
            }
            if let Some(at_ms) = options.deadline {
                outcomes.push(expire_field(hash, pair[0], at_ms, Condition::Always, now_ms));
            }
        }
        Ok(Some((outcomes, hash.is_empty())))
    })?;
    reply.int(result.is_some().into());
    if let Some((outcomes, is_empty)) = result {
        tell_set(cx, key, &options, pairs.clone(), &outcomes);
        cx.changed(key, Event::HASH, "hset");
        cx.add_dirty(pairs.len() as u64 - 1);
        report(cx, key, &outcomes, is_empty);
    }
    Ok(())
}
