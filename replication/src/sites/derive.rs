//! From a call that ran to what the other sites have to know of it.

use super::element::{Element, Sum};
use super::intent::Intent;
use super::key::{Kind, STRING};
use super::open::Edit;
use super::order;
use super::shown::{Shown, shown};
use super::view::{self, Held};
use ashlar_engine::number;
use ashlar_engine::value::view::View;

/// What the engine holds of a key now.
pub struct Now<'a> {
    /// The value; `None` without the key.
    pub value: Option<Held<'a>>,
    /// When it expires.
    pub expiry: Option<i64>,
    /// The time, Unix milliseconds.
    pub now_ms: i64,
}

/// Brings what is known of a key to what the engine holds. Returns the calls that are needed where the
/// engine's value is not what the sites will agree on.
pub fn derive(
    edit: &mut Edit<'_>,
    key: &[u8],
    now: &Now<'_>,
    intent: &Intent<'_>,
) -> Vec<Vec<Vec<u8>>> {
    let lapsed = edit.key().and_then(|key| key.expiry()).is_some_and(|at| at < now.now_ms);
    let Some(value) = &now.value else {
        // A key that expires does so at every site by itself, unless one has a longer expiry.
        if !lapsed {
            edit.remove_all();
        }
        return Vec::new();
    };
    if lapsed {
        edit.remove_all();
    }
    let kind = value.kind();
    // Of a key that was there before several sites wrote it everything is new.
    let is_new = edit.key().is_none();
    let whole_value = Intent::Replace;
    let intent = match intent {
        Intent::Count(..) | Intent::PushTail | Intent::PushHead => intent,
        _ if is_new => &whole_value,
        _ => intent,
    };
    for other in Kind::ALL {
        if other != kind && other != Kind::Expiry {
            edit.remove_kind(other);
        }
    }
    let mut fixes = Vec::new();
    match (kind, intent) {
        (_, Intent::Expiry) => {}
        (_, Intent::Count(field, delta)) => count(edit, key, value, *field, *delta, &mut fixes),
        (Kind::String, Intent::Compare)
            if edit.get(&[Kind::String as u8]).is_some_and(|one| one.is_live()) => {}
        (Kind::String, _) => edit.write(&[Kind::String as u8], None),
        (Kind::List, _) => list(edit, value, intent),
        (Kind::Stream, Intent::StreamEnds) => stream_ends(edit, value),
        (_, Intent::Members(names)) => {
            for name in names {
                let Some(name) = view::name_of(kind, name) else { continue };
                member(edit, value, &name, true);
            }
        }
        _ => whole(edit, value, *intent == Intent::Replace),
    }
    expiry(edit, now);
    fixes
}

/// One field, member or entry: written if it is there, removed otherwise.
fn member(edit: &mut Edit<'_>, value: &Held<'_>, name: &[u8], force: bool) {
    let Some(bytes) = value.get(name) else { return edit.remove(name) };
    let known = edit.get(name).filter(|known| known.is_live());
    let same = known.as_ref().is_some_and(|known| match shown(value.kind(), known) {
        Some(Shown::Bytes(known)) => known == bytes,
        _ => true,
    });
    let force = force && value.kind() != Kind::Stream;
    if !same || force {
        // Scores are kept here as well, since increments need them.
        edit.write(name, (value.kind() == Kind::Zset).then_some(&bytes));
    }
}

fn whole(edit: &mut Edit<'_>, value: &Held<'_>, force: bool) {
    let kind = value.kind();
    let known: Vec<Vec<u8>> = edit
        .key()
        .map(|key| key.live_of(kind).map(|(name, _)| kind.name(name)).collect())
        .unwrap_or_default();
    for name in known {
        if value.get(&name).is_none() {
            edit.remove(&name);
        }
    }
    value.for_each(|name| member(edit, value, name, force));
}

fn count(
    edit: &mut Edit<'_>,
    key: &[u8],
    value: &Held<'_>,
    field: Option<&[u8]>,
    delta: Sum,
    fixes: &mut Vec<Vec<Vec<u8>>>,
) {
    let kind = value.kind();
    if let (View::Int(int), None) = (&value.0, field)
        && let Some(sum) = edit.count_more(delta.int)
    {
        if sum != *int {
            let agreed = sum.to_string().into_bytes();
            fixes.extend(view::set_call(kind, key, STRING, &agreed));
        }
        return;
    }
    let name = kind.name(field.unwrap_or(b""));
    let Some(after) = value.get(&name) else { return };
    let is_known = edit.get(&name).is_some_and(|element| element.is_live());
    if kind == Kind::Zset {
        if !is_known && after != delta.float.to_le_bytes() {
            return edit.write(&name, Some(&after));
        }
        edit.count(&name, None, delta);
    } else {
        let base = number::parse_i64(&after).map(|after| after.wrapping_sub(delta.int));
        let base = base.unwrap_or(0).to_string();
        if !is_known && base != "0" {
            edit.write(&name, Some(base.as_bytes()));
        }
        edit.count(&name, Some(base.as_bytes()), delta);
    }
    let Some(element) = edit.get(&name) else { return };
    if let Some(Shown::Bytes(agreed)) = shown(kind, &element)
        && agreed != after
    {
        fixes.extend(view::set_call(kind, key, &name, &agreed));
    }
}

fn list(edit: &mut Edit<'_>, value: &Held<'_>, intent: &Intent<'_>) {
    let live = edit.key().map_or(0, |key| key.live(Kind::List)) as usize;
    let len = value.items_len();
    let (more, fewer) = (len.saturating_sub(live), live.saturating_sub(len));
    match intent {
        Intent::PushTail if len >= live => {
            let mut last = end(edit, true);
            for item in value.items(live, more) {
                last = Some(put(edit, last.as_deref(), None, &item));
            }
        }
        Intent::PushHead if len >= live => {
            let mut first = end(edit, false);
            for item in value.items(0, more).iter().rev() {
                first = Some(put(edit, None, first.as_deref(), item));
            }
        }
        Intent::PopHead if len <= live => pop(edit, fewer, false),
        Intent::PopTail if len <= live => pop(edit, fewer, true),
        _ => list_whole(edit, &value.items(0, len)),
    }
}

/// The first or the last item's place.
fn end(edit: &Edit<'_>, last: bool) -> Option<Vec<u8>> {
    let mut places = edit.key()?.live_of(Kind::List).map(|(place, _)| place);
    let place = if last { places.next_back() } else { places.next() };
    place.map(<[u8]>::to_vec)
}

fn put(edit: &mut Edit<'_>, before: Option<&[u8]>, after: Option<&[u8]>, item: &[u8]) -> Vec<u8> {
    let stamp = edit.next_stamp();
    let place = order::between(before, after, stamp, edit.site());
    edit.write(&Kind::List.name(&place), Some(item));
    place
}

fn pop(edit: &mut Edit<'_>, count: usize, from_end: bool) {
    let Some(key) = edit.key() else { return };
    let names = key.live_of(Kind::List).map(|(place, _)| Kind::List.name(place));
    let names: Vec<Vec<u8>> =
        if from_end { names.rev().take(count).collect() } else { names.take(count).collect() };
    for name in names {
        edit.remove(&name);
    }
}

/// Compares whole lists: what is between a common start and a common end was changed.
fn list_whole(edit: &mut Edit<'_>, new: &[Vec<u8>]) {
    let old: Vec<(Vec<u8>, Vec<u8>)> = edit.key().map_or_else(Vec::new, |key| {
        let items = key.live_of(Kind::List);
        items.map(|(place, item)| (place.to_vec(), item_of(&item))).collect()
    });
    let start = old.iter().zip(new).take_while(|(old, new)| old.1 == **new).count();
    let rest = old.len().min(new.len()) - start;
    let ends = old.iter().rev().zip(new.iter().rev()).take(rest);
    let end = ends.take_while(|(old, new)| old.1 == **new).count();
    let (gone, come) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    if gone.len() == come.len() {
        // LSET, or LINSERT and LREM of nothing: the items stay in their places.
        for ((place, was), is) in gone.iter().zip(come) {
            if was != is {
                edit.write(&Kind::List.name(place), Some(is));
            }
        }
        return;
    }
    let before = start.checked_sub(1).and_then(|at| old.get(at)).map(|(place, _)| place.clone());
    let after = old.get(old.len() - end).map(|(place, _)| place.clone());
    let mut last = before;
    let mut gone = gone.iter().peekable();
    for item in come {
        // An item that is still there keeps its place; what was skipped is gone.
        let kept = gone.clone().position(|(_, was)| was == item);
        match kept.filter(|_| gone.len() > 0) {
            Some(skipped) => {
                for _ in 0..skipped {
                    if let Some((place, _)) = gone.next() {
                        edit.remove(&Kind::List.name(place));
                    }
                }
                last = gone.next().map(|(place, _)| place.clone());
            }
            None => {
                let next = gone.peek().map(|(place, _)| place.clone()).or_else(|| after.clone());
                last = Some(put(edit, last.as_deref(), next.as_deref(), item));
            }
        }
    }
    for (place, _) in gone {
        edit.remove(&Kind::List.name(place));
    }
}

fn item_of(item: &Element) -> Vec<u8> {
    match shown(Kind::List, item) {
        Some(Shown::Bytes(bytes)) => bytes,
        _ => Vec::new(),
    }
}

/// Entries behind the last one that is known are new; those before the first one are gone.
fn stream_ends(edit: &mut Edit<'_>, value: &Held<'_>) {
    let known = |edit: &Edit<'_>, last: bool| {
        let mut names = edit.key()?.live_of(Kind::Stream).map(|(name, _)| name);
        let name = if last { names.next_back() } else { names.next() };
        name.map(<[u8]>::to_vec)
    };
    let last = known(edit, true);
    for name in value.entries_after(last.as_deref()) {
        edit.write(&name, None);
    }
    let first = value.first_entry();
    while let Some(oldest) = known(edit, false) {
        let name = Kind::Stream.name(&oldest);
        if first.as_ref().is_some_and(|first| name >= *first) {
            break;
        }
        edit.remove(&name);
    }
}

fn expiry(edit: &mut Edit<'_>, now: &Now<'_>) {
    let known = edit.key().and_then(|key| key.expiry());
    if known == now.expiry {
        return;
    }
    let at_ms = now.expiry.unwrap_or(i64::MAX);
    edit.write(&[Kind::Expiry as u8], Some(&at_ms.to_le_bytes()));
    // A site where the key has expired already has let go of its values.
    edit.touch_all();
}
