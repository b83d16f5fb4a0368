//! Walks over the keys of a database.

use super::generic::is;
use crate::command::{Command, Flags, Group};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::glob;
use crate::number;
use crate::reply::Reply;
use crate::tier::walk::Met;
use crate::value::Type;

/// Keys a step visits where `COUNT` does not say.
const COUNT_DEFAULT: usize = 10;
/// Buckets a step visits for each key that it is to find: it ends early in a sparse table.
const STEPS_PER_KEY: usize = 10;

const WHOLE: Flags = Flags::READONLY.union(Flags::WHOLE_KEYSPACE);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("KEYS", 2, Group::Generic, keys)
        .flags(WHOLE.union(Flags::DANGEROUS))
        .syntax("pattern:pattern")
        .docs("1.0.0", "O(N) for N keys of the database", "Returns the keys that match a pattern."),
    Command::new("RANDOMKEY", 1, Group::Generic, randomkey).flags(WHOLE).docs(
        "1.0.0",
        "O(1)",
        "Returns a random key of the database.",
    ),
    Command::new("SCAN", -2, Group::Generic, scan)
        .flags(WHOLE)
        .syntax("cursor:integer [MATCH pattern:pattern] [COUNT count:integer] [TYPE type]")
        .docs(
            "2.8.0",
            "O(1) a call, O(N) for all N keys",
            "Walks over the keys of the database, some a call.",
        ),
];

fn keys(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let pattern = args[1];
    let (found, mut count) = (reply.deferred_array(), 0);
    cx.for_each_key(|met| {
        let key = match &met {
            Met::Entry(entry) => entry.key(),
            Met::Cold(name) => &name.key,
            Met::Unknown => return,
        };
        if pattern == b"*" || glob::matches(pattern, key) {
            reply.bulk(key);
            count += 1;
        }
    });
    reply.close(found, count);
    cx.check_cold()
}

fn randomkey(cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.random_key() {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    cx.check_cold()
}

/// A cursor as the client gives it: decimal, with what C's `strtoul` lets through besides.
pub(crate) fn parse_cursor(arg: &[u8]) -> Result<u64, Error> {
    let (negative, digits) = match arg {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() && !arg.is_empty() {
        return Err(Error::text("ERR invalid cursor"));
    }
    let cursor = digits.iter().try_fold(0u64, |cursor, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        cursor.checked_mul(10)?.checked_add(digit)
    });
    let cursor = cursor.ok_or(Error::text("ERR invalid cursor"))?;
    Ok(if negative { cursor.wrapping_neg() } else { cursor })
}

struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    type_name: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Options<'a>, Error> {
        let mut options = Options { pattern: None, count: COUNT_DEFAULT, type_name: None };
        for pair in args.chunks(2) {
            match *pair {
                [option, count] if is(option, "COUNT") => {
                    let count = number::parse_i64(count).ok_or(Error::NotInteger)?;
                    options.count = usize::try_from(count).unwrap_or(0);
                    if options.count == 0 {
                        return Err(Error::Syntax);
                    }
                }
                [option, pattern] if is(option, "MATCH") => {
                    options.pattern = (pattern != b"*").then_some(pattern);
                }
                [option, name] if is(option, "TYPE") => options.type_name = Some(name),
                _ => return Err(Error::Syntax),
            }
        }
        Ok(options)
    }

    fn accepts(&self, key: &[u8], value_type: Type) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
            && self.type_name.is_none_or(|name| is(name, value_type.name()))
    }
}

fn scan(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut cursor = parse_cursor(args[1])?;
    let options = Options::parse(&args[2..])?;
    let mut found = Vec::new();
    let (mut visited, mut steps) = (0, options.count.saturating_mul(STEPS_PER_KEY));
    loop {
        cursor = cx.scan(cursor, |met| {
            visited += 1;
            let (key, value_type) = match met {
                Met::Entry(entry) => (entry.key(), entry.type_of()),
                Met::Cold(name) => (&*name.key, name.value_type),
                Met::Unknown => return,
            };
            if options.accepts(key, value_type) {
                found.push(key);
            }
        });
        steps -= 1;
        if cursor == 0 || steps == 0 || visited >= options.count {
            break;
        }
    }
    cx.check_cold()?;
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(())
}
