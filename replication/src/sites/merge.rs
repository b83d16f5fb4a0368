//! From what came from another site to the calls that bring the engine to it.

use super::codec::Item;
use super::key::{Key, Kind};
use super::open::Open;
use super::shown::{Shown, shown};
use super::view::{self, Held};

/// A call, to be run on the engine.
pub type Words = Vec<Vec<u8>>;

/// What the engine holds of a key before the merge.
pub struct Before<'a> {
    /// The value; `None` without the key.
    pub value: Option<Held<'a>>,
    /// When it expires.
    pub expiry: Option<i64>,
    /// The time, Unix milliseconds.
    pub now_ms: i64,
    /// What the other site did after this stamp was not known here.
    pub news_after: u64,
}

/// Merges elements of one key, and says which calls bring the engine to what shows then. Adds the
/// names of further elements that changed to `changed`.
pub fn merge(
    open: &mut Open<'_>,
    key: &[u8],
    items: &[Item],
    before: &Before<'_>,
    changed: &mut Vec<Vec<u8>>,
) -> Vec<Words> {
    let was = open.key().and_then(Key::kind);
    let was_lapsed = lapsed(open, before.now_ms);
    let mut calls = Vec::new();
    let mut lists = Vec::new();
    for item in items {
        if let Some(value) = &before.value
            && let Some(bytes) = value.get(&item.name)
        {
            open.hydrate(&item.name, &bytes);
        }
        if Kind::of(&item.name) == Some(Kind::List) {
            lists.extend(join_item(open, key, item, before.news_after));
        } else {
            open.join(&item.name, &item.element, before.news_after);
        }
    }
    let kind = open.key().and_then(Key::kind);
    let is_lapsed = lapsed(open, before.now_ms);
    if let (Some(was), Some(value)) = (was, &before.value)
        && (kind != Some(was) || is_lapsed)
        && value.kind() == was
    {
        // The engine is about to let go of values that are hidden now, or that an expiry takes which may be undone.
        changed.extend(hydrate_all(open, was, value));
    }
    let held = before.value.as_ref().map(Held::kind);
    let is_whole = |kind| held != Some(kind) || was != Some(kind) || was_lapsed;
    let mut kind = kind.filter(|_| !is_lapsed);
    // Of a key that had expired here, and does so no more, the values have gone.
    while let Some(shows) = kind.filter(|kind| is_whole(*kind))
        && undo_lost(open, shows, before, changed)
    {
        kind = open.key().and_then(Key::kind);
    }
    match kind {
        None => {
            if held.is_some() {
                calls.push(words(&[b"DEL", key]));
            }
            return calls;
        }
        Some(kind) if is_whole(kind) => {
            calls.extend(rebuild(open, key, kind, before));
        }
        Some(Kind::List) => calls.extend(lists),
        Some(kind) => {
            let names = items.iter().map(|item| &item.name).filter(|n| Kind::of(n) == Some(kind));
            for name in names {
                calls.extend(bring(open, key, kind, name, before));
            }
        }
    }
    if !calls.is_empty() || open.key().and_then(Key::expiry) != before.expiry {
        calls.extend(expire(open, key, before.expiry));
    }
    // Of a kind that is hidden the engine holds nothing.
    for item in items.iter().filter(|item| Kind::of(&item.name) == kind) {
        open.let_engine_hold(&item.name);
    }
    calls
}

fn lapsed(open: &Open<'_>, now_ms: i64) -> bool {
    open.key().and_then(Key::expiry).is_some_and(|at_ms| at_ms < now_ms)
}

fn words(words: &[&[u8]]) -> Words {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Removes what the engine should hold and does not, so that it is gone everywhere: the sender would have told
/// its value, if it had known of it. Says whether there was anything.
fn undo_lost(
    open: &mut Open<'_>,
    kind: Kind,
    before: &Before<'_>,
    changed: &mut Vec<Vec<u8>>,
) -> bool {
    let Some(state) = open.key() else { return false };
    let is_lost =
        |name: &Vec<u8>| before.value.as_ref().and_then(|value| value.get(name)).is_none();
    let held = state.live_of(kind).filter(|(_, one)| shown(kind, one) == Some(Shown::Held));
    let lost: Vec<Vec<u8>> = held.map(|(name, _)| kind.name(name)).filter(is_lost).collect();
    for name in &lost {
        open.undo(name, before.now_ms);
    }
    changed.extend_from_slice(&lost);
    !lost.is_empty()
}

fn hydrate_all(open: &mut Open<'_>, kind: Kind, value: &Held<'_>) -> Vec<Vec<u8>> {
    let names: Vec<Vec<u8>> = open.key().map_or_else(Vec::new, |state| {
        state.live_of(kind).map(|(name, _)| kind.name(name)).collect()
    });
    for name in &names {
        if let Some(bytes) = value.get(name) {
            open.hydrate(name, &bytes);
        }
    }
    names
}

/// Merges an item of a list; the call that puts it into or takes it out of the engine's list, as that
/// is before.
fn join_item(open: &mut Open<'_>, key: &[u8], item: &Item, news_after: u64) -> Option<Words> {
    let place = &item.name[1..];
    let value_of = |open: &Open<'_>| {
        let element = open.get(&item.name)?;
        match shown(Kind::List, &element) {
            Some(Shown::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    };
    let before = value_of(open);
    open.join(&item.name, &item.element, news_after);
    let after = value_of(open);
    if before == after {
        return None;
    }
    let state = open.key()?;
    // Most items come and go at the ends.
    let is_last = state.live_of(Kind::List).next_back().is_none_or(|(last, _)| last <= place);
    let live = state.live(Kind::List) as usize;
    let index = match is_last {
        true => live - usize::from(after.is_some()),
        false => state.live_of(Kind::List).take_while(|(other, _)| *other < place).count(),
    };
    let call = match (&before, &after) {
        (None, Some(value)) if is_last => words(&[b"RPUSH", key, value]),
        (None, Some(value)) if index == 0 => words(&[b"LPUSH", key, value]),
        (Some(_), None) if index == 0 => words(&[b"LPOP", key]),
        (Some(_), None) if is_last => words(&[b"RPOP", key]),
        (before, after) => {
            let (index, removed) = (index.to_string(), u8::from(before.is_some()).to_string());
            let name = ashlar_engine::commands::list::SPLICE.as_bytes();
            let mut call = words(&[name, key, index.as_bytes(), removed.as_bytes()]);
            call.extend(after.clone());
            call
        }
    };
    Some(call)
}

/// The calls that set an element of the engine's value to what shows.
fn bring(
    open: &Open<'_>,
    key: &[u8],
    kind: Kind,
    name: &[u8],
    before: &Before<'_>,
) -> Option<Words> {
    let element = open.get(name);
    let held = before.value.as_ref().and_then(|value| value.get(name));
    let shows = element.and_then(|element| shown(kind, &element));
    match (shows, held) {
        (None, Some(_)) => view::remove_call(kind, key, name),
        (Some(Shown::Bytes(bytes)), Some(held)) if bytes == held => None,
        (Some(Shown::Bytes(_)), Some(_)) if matches!(kind, Kind::Set | Kind::Stream) => None,
        (Some(Shown::Bytes(bytes)), _) => view::set_call(kind, key, name, &bytes),
        (None, None) | (Some(Shown::Held), _) => None,
    }
}

/// The calls that write a whole value anew.
fn rebuild(open: &Open<'_>, key: &[u8], kind: Kind, before: &Before<'_>) -> Vec<Words> {
    let mut calls = Vec::new();
    if before.value.is_some() {
        calls.push(words(&[b"DEL", key]));
    }
    let Some(state) = open.key() else { return calls };
    for (name, element) in state.live_of(kind) {
        let name = kind.name(name);
        let value = match shown(kind, &element) {
            Some(Shown::Bytes(value)) => Some(value),
            _ => before.value.as_ref().and_then(|value| value.get(&name)),
        };
        let Some(value) = value else { continue };
        match kind {
            Kind::List => calls.push(words(&[b"RPUSH", key, &value])),
            kind => calls.extend(view::set_call(kind, key, &name, &value)),
        }
    }
    calls
}

/// The call that sets the expiry. The calls before it may have made the key anew, so it is set again
/// where there is one.
fn expire(open: &Open<'_>, key: &[u8], held: Option<i64>) -> Option<Words> {
    match open.key().and_then(Key::expiry) {
        None if held.is_none() => None,
        None => Some(words(&[b"PERSIST", key])),
        Some(at_ms) => Some(words(&[b"PEXPIREAT", key, at_ms.to_string().as_bytes()])),
    }
}
