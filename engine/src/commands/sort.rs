//! SORT: the elements of a list, set or sorted set, by themselves or by other keys.

use super::generic::is;
use super::list;
use crate::command::{Command, Flags, Group, KeyList, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::list::Side;
use crate::value::packed::IntBuf;
use crate::value::view::View;

/// Patterns name keys that are no arguments, hence the whole keyspace.
const FLAGS: Flags = Flags::MOVABLE_KEYS.union(Flags::WHOLE_KEYSPACE).union(Flags::DANGEROUS);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("SORT", -2, Group::Generic, sort)
        .flags(FLAGS.union(Flags::WRITE).union(Flags::DENYOOM))
        .keys(Keys::Custom(sort_keys))
        .categories(&["set", "sortedset", "list"])
        .syntax(
            "key [BY by-pattern:pattern] [LIMIT offset:integer count:integer] \
             [GET get-pattern:pattern]... [ASC|DESC] [ALPHA] [STORE destination]",
        )
        .docs(
            "1.0.0",
            "O(N+M*log(M)) for N elements of which M are returned",
            "Sorts the elements of a list, set or sorted set; may store them in a list.",
        ),
    Command::new("SORT_RO", -2, Group::Generic, sort_ro)
        .flags(FLAGS.union(Flags::READONLY))
        .keys(Keys::FIRST)
        .categories(&["set", "sortedset", "list"])
        .syntax(
            "key [BY by-pattern:pattern] [LIMIT offset:integer count:integer] \
             [GET get-pattern:pattern]... [ASC|DESC] [ALPHA]",
        )
        .docs(
            "7.0.0",
            "O(N+M*log(M)) for N elements of which M are returned",
            "Sorts the elements of a list, set or sorted set.",
        ),
];

/// The key, and the last `STORE` destination.
fn sort_keys(args: &[&[u8]], keys: &mut KeyList) {
    keys.push(1);
    let (mut at, mut store) = (2, None);
    while at < args.len() {
        at += match args[at] {
            option if is(option, "LIMIT") => 3,
            option if is(option, "GET") || is(option, "BY") => 2,
            option if is(option, "STORE") => {
                store = Some(at + 1);
                2
            }
            _ => 1,
        };
    }
    keys.extend(store);
}

fn sort(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run(cx, args, reply, true)
}

fn sort_ro(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run(cx, args, reply, false)
}

#[derive(Default)]
struct Options<'a> {
    descending: bool,
    alpha: bool,
    /// Leave the order as it is.
    unsorted: bool,
    limit: Option<(i64, i64)>,
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
    store: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(mut args: &[&'a [u8]], may_store: bool) -> Result<Options<'a>, Error> {
        let mut options = Options::default();
        while let Some((option, rest)) = args.split_first() {
            args = rest;
            match (option, rest) {
                _ if is(option, "ASC") => options.descending = false,
                _ if is(option, "DESC") => options.descending = true,
                _ if is(option, "ALPHA") => options.alpha = true,
                (_, [offset, count, rest @ ..]) if is(option, "LIMIT") => {
                    let number = |arg| number::parse_i64(arg).ok_or(Error::NotInteger);
                    options.limit = Some((number(offset)?, number(count)?));
                    args = rest;
                }
                (_, [pattern, rest @ ..]) if is(option, "BY") => {
                    options.by = Some(pattern);
                    options.unsorted = !pattern.contains(&b'*');
                    args = rest;
                }
                (_, [pattern, rest @ ..]) if is(option, "GET") => {
                    options.get.push(pattern);
                    args = rest;
                }
                (_, [key, rest @ ..]) if may_store && is(option, "STORE") => {
                    options.store = Some(key);
                    args = rest;
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(options)
    }

    /// The part of `len` elements that `LIMIT` selects.
    fn window(&self, len: usize) -> (usize, usize) {
        let Some((offset, count)) = self.limit else { return (0, len) };
        let start = usize::try_from(offset).unwrap_or(0).min(len);
        if known_bugs::is_back(Bug::SortLimitOverflows) {
            return (start, (start as i64).wrapping_add(count).clamp(0, len as i64) as usize);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        (start, start.saturating_add(count).min(len))
    }
}

/// What an element is sorted by.
enum Weight {
    Number(f64),
    /// `None` where the pattern found nothing: before everything else.
    Text(Option<Vec<u8>>),
    /// The element itself.
    Itself,
}

fn run(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>, may_store: bool) -> CmdResult {
    let mut options = Options::parse(&args[2..], may_store)?;
    let (mut elements, is_set) = elements(cx, args[1], &options)?;
    if options.unsorted && is_set && options.store.is_some() {
        // A set has no order to keep, and what is stored must not depend on how it is laid out.
        (options.unsorted, options.alpha, options.by) = (false, true, None);
    }
    if !options.unsorted {
        elements = sorted(cx, elements, &options)?;
    }
    let (start, end) = options.window(elements.len());
    let window = elements.get(start..end).unwrap_or_default();
    // The values that BY and GET name may be on disk: find out before anything is stored.
    if cx.has_cold() {
        each_output(cx, window, &options, |_| ());
        cx.check_cold()?;
    }
    match options.store {
        Some(destination) => store(cx, destination, window, &options, reply),
        None => {
            reply.array(window.len() * options.get.len().max(1));
            each_output(cx, window, &options, |value| match value {
                Some(value) => reply.bulk(value),
                None => reply.null(),
            });
        }
    }
    Ok(())
}

/// The elements of the value of `key`, and whether it is a set.
fn elements(cx: &Cx<'_>, key: &[u8], options: &Options<'_>) -> Result<(Vec<Vec<u8>>, bool), Error> {
    let Some(entry) = cx.get(key) else { return Ok((Vec::new(), false)) };
    let mut elements = Vec::new();
    let mut is_set = false;
    match View::new(&entry, cx.now_ms()) {
        View::List(list) => elements.extend(list.iter().map(|element| element.to_vec())),
        View::Zset(zset) => zset.for_each(|member, _| elements.push(member.to_vec())),
        View::Set(set) => {
            elements.extend(set.iter().map(|member| member.to_vec()));
            is_set = true;
        }
        _ => return Err(Error::WrongType),
    }
    if options.unsorted && options.descending && !is_set {
        elements.reverse();
    }
    Ok((elements, is_set))
}

fn sorted(
    cx: &Cx<'_>,
    elements: Vec<Vec<u8>>,
    options: &Options<'_>,
) -> Result<Vec<Vec<u8>>, Error> {
    let weighted = elements.into_iter().map(|element| {
        let weight = weight(cx, &element, options)?;
        Ok((weight, element))
    });
    let mut weighted = weighted.collect::<Result<Vec<_>, Error>>()?;
    weighted.sort_by(|(a_weight, a), (b_weight, b)| {
        let order = match (a_weight, b_weight) {
            (Weight::Number(x), Weight::Number(y)) => x.total_cmp(y).then_with(|| a.cmp(b)),
            (Weight::Text(x), Weight::Text(y)) => x.cmp(y),
            _ => a.cmp(b),
        };
        if options.descending { order.reverse() } else { order }
    });
    Ok(weighted.into_iter().map(|(_, element)| element).collect())
}

fn weight(cx: &Cx<'_>, element: &[u8], options: &Options<'_>) -> Result<Weight, Error> {
    let text = match options.by {
        None if options.alpha => return Ok(Weight::Itself),
        None => Some(element.to_vec()),
        Some(pattern) => lookup(cx, pattern, element),
    };
    match text {
        text if options.alpha => Ok(Weight::Text(text)),
        None => Ok(Weight::Number(0.0)),
        Some(text) => score(&text).map(Weight::Number),
    }
}

/// Reads a score as C's `strtod` does: after leading space, up to a NUL; nothing is 0.
fn score(text: &[u8]) -> Result<f64, Error> {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    let text = &text[..end];
    if text.is_empty() {
        return Ok(0.0);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(0);
    // 0.0 for -0.0, so that the two are equal in the total order.
    number::parse_f64(&text[start..])
        .map(|score| score + 0.0)
        .ok_or(Error::text("ERR One or more scores can't be converted into double"))
}

/// The string of the key that `pattern` names for an element, or of a field of it (`key->field`).
fn lookup(cx: &Cx<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = memchr::memchr(b'*', pattern)?;
    let (prefix, rest) = (&pattern[..star], &pattern[star + 1..]);
    let (suffix, field) = match memchr::memmem::find(rest, b"->") {
        Some(at) if at + 2 < rest.len() => (&rest[..at], Some(&rest[at + 2..])),
        _ => (rest, None),
    };
    let key = [prefix, element, suffix].concat();
    let entry = cx.get(&key)?;
    match (View::new(&entry, cx.now_ms()), field) {
        (View::Str(bytes), None) => Some(bytes.to_vec()),
        (View::Int(int), None) => Some(IntBuf::new().format(int).as_bytes().to_vec()),
        (View::Hash(hash), Some(field)) => hash.get(field).map(|value| value.to_vec()),
        _ => None,
    }
}

/// Calls `each` with what is returned: the elements, or what `GET` makes of them.
fn each_output(
    cx: &Cx<'_>,
    elements: &[Vec<u8>],
    options: &Options<'_>,
    mut each: impl FnMut(Option<&[u8]>),
) {
    for element in elements {
        if options.get.is_empty() {
            each(Some(element));
        }
        for pattern in &options.get {
            each(lookup(cx, pattern, element).as_deref());
        }
    }
}

fn store(
    cx: &mut Cx<'_>,
    key: &[u8],
    elements: &[Vec<u8>],
    options: &Options<'_>,
    reply: &mut Reply<'_>,
) {
    let mut values = Vec::new();
    each_output(cx, elements, options, |value| values.push(value.unwrap_or_default().to_vec()));
    reply.int(values.len() as i64);
    if values.is_empty() {
        cx.remove_if_expired(key);
        if cx.remove(key) {
            cx.tell(&[b"DEL", key]);
            cx.changed(key, Event::GENERIC, "del");
        }
        return;
    }
    let limit = list::limit_of(cx);
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    list::create(cx, key, Side::Right, &values, limit);
    cx.tell_value(key);
    cx.changed(key, Event::LIST, "sortstore");
}
