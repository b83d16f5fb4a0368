//! What a call asks of a large value, read from the rows that have it.

use super::super::store::ColdError;
use super::directory::{self, Directory, RANKED, STRIDES};
use super::{PART_BYTES_MAX, Reader};
use crate::value::build::read_pair;
use crate::value::hash::Hash;
use crate::value::list::List;
use crate::value::packed::{self, IntBuf};
use crate::value::part::{Ask, Bounds, Found, Part, index_range};
use crate::value::set::Set;
use crate::value::zset::{Window, Zset, rank_range};
use crate::value::{Type, form};
use std::ops::Range;

/// Elements of a sorted set by rank, at most: each may be in a row of its own.
const RANKS_MAX: usize = 1_000;
/// Bytes of a value that tell its type.
const TYPE_BYTES: usize = 2;

/// The part of a value that is asked for. `None` where the whole is to be read: it has no directory, or too much of it is
/// asked for.
pub fn answer(reader: &mut Reader<'_>, seed: u64, ask: &Ask) -> Result<Option<Part>, ColdError> {
    let Some(directory) = reader.head().large else { return Ok(None) };
    let mut start = Vec::new();
    reader.take(reader.head().key_len, TYPE_BYTES, &mut start)?;
    let value_type = form::type_of(&start);
    let value_type = value_type.ok_or_else(|| reader.damaged("its type is unknown"))?;
    let found = match (ask, value_type) {
        (Ask::Head, _) => Some(Found::Nothing),
        (Ask::Members(names), Type::Hash | Type::Set | Type::Zset) => {
            if !directory.has_members() {
                return Ok(None);
            }
            members(reader, directory, seed, value_type, names)?
        }
        (Ask::Range(first, last), Type::List) => {
            if directory.kind != STRIDES {
                return Ok(None);
            }
            let range = index_range(*first, *last, directory.elements as usize);
            elements(reader, directory, range)?
        }
        (Ask::Range(first, last), Type::String) => {
            let range = index_range(*first, *last, directory.elements as usize);
            bytes(reader, range)?
        }
        (Ask::Ranks(bounds, window), Type::Zset) if directory.kind == RANKED => {
            ranks(reader, directory, *bounds, *window)?
        }
        (Ask::Rank(member), Type::Zset) if directory.kind == RANKED => {
            Some(rank(reader, directory, seed, member)?)
        }
        (Ask::Ranks(..) | Ask::Rank(_), Type::Zset) => return Ok(None),
        // The command says that the type is wrong.
        _ => Some(Found::Nothing),
    };
    Ok(found.map(|found| Part { value_type, len: directory.elements as usize, found }))
}

/// Reads from an offset on until `parse` finds a whole element; what it made of it.
fn at_offset<T>(
    reader: &mut Reader<'_>,
    at: usize,
    mut parse: impl FnMut(&[u8]) -> Option<T>,
) -> Result<T, ColdError> {
    if let Some(parsed) = parse(reader.rest_of_row(at)?) {
        return Ok(parsed);
    }
    // It goes on in the next row, or in many.
    let mut bytes = Vec::new();
    loop {
        let more = reader.rest_of_row(at + bytes.len())?;
        if more.is_empty() {
            return Err(reader.damaged("an element is not whole"));
        }
        bytes.extend_from_slice(more);
        if let Some(parsed) = parse(&bytes) {
            return Ok(parsed);
        }
    }
}

fn members(
    reader: &mut Reader<'_>,
    directory: Directory,
    seed: u64,
    value_type: Type,
    names: &[Box<[u8]>],
) -> Result<Option<Found>, ColdError> {
    let (mut fields, mut set, mut scores, mut bytes) = (Hash::new(), Set::new(), Zset::new(), 0);
    for name in names {
        if bytes > PART_BYTES_MAX {
            return Ok(None);
        }
        for at in directory::candidates(reader, directory, seed, name)? {
            // An element of another name counts as none.
            bytes += match value_type {
                Type::Hash => at_offset(reader, at, |row| {
                    let (field, value, end) = read_pair(row, 0)?;
                    let (mut buf, mut second) = (IntBuf::new(), IntBuf::new());
                    if field.as_bytes(&mut buf) == &**name {
                        fields.set(name, value.as_bytes(&mut second));
                    }
                    Some(end)
                }),
                Type::Set => at_offset(reader, at, |row| {
                    let (member, end) = packed::read(row, 0)?;
                    if member.as_bytes(&mut IntBuf::new()) == &**name {
                        set.insert(name);
                    }
                    Some(end)
                }),
                _ => at_offset(reader, at, |row| {
                    let (member, score, end) = Zset::read_element(row, 0)?;
                    if member == &**name {
                        scores.upsert(name, |_| Some(score));
                    }
                    Some(end)
                }),
            }?;
        }
    }
    Ok(Some(match value_type {
        Type::Hash => Found::Fields(fields),
        Type::Set => Found::Members(set),
        _ => Found::Scores(Box::new(scores)),
    }))
}

fn elements(
    reader: &mut Reader<'_>,
    directory: Directory,
    range: Range<usize>,
) -> Result<Option<Found>, ColdError> {
    let mut list = List::new();
    if range.is_empty() {
        return Ok(Some(Found::Elements(0, list)));
    }
    let (mut index, mut at) = directory::stride(reader, directory, range.start)?;
    let mut bytes = 0;
    while index < range.end {
        if bytes > PART_BYTES_MAX {
            return Ok(None);
        }
        let wanted = index >= range.start;
        let len = at_offset(reader, at, |row| {
            let (element, end) = packed::read(row, 0)?;
            if wanted {
                list.push_back(element.as_bytes(&mut IntBuf::new()));
            }
            Some(end)
        })?;
        bytes += if wanted { len } else { 0 };
        (index, at) = (index + 1, at + len);
    }
    Ok(Some(Found::Elements(range.start, list)))
}

fn bytes(reader: &mut Reader<'_>, range: Range<usize>) -> Result<Option<Found>, ColdError> {
    if range.len() > PART_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let at = reader.head().key_len + TYPE_BYTES + range.start;
    reader.take(at, range.len(), &mut bytes)?;
    Ok(Some(Found::Bytes(range.start, bytes)))
}

/// The first rank in a range of which `is_before` says no; it says yes of all before that.
fn first_rank(
    reader: &mut Reader<'_>,
    directory: Directory,
    mut ranks: Range<usize>,
    is_before: impl Fn(&mut Reader<'_>, f64, usize) -> Result<bool, ColdError>,
) -> Result<usize, ColdError> {
    while !ranks.is_empty() {
        let middle = ranks.start + ranks.len() / 2;
        let (score, at) = directory::ranked(reader, directory, middle)?;
        match is_before(reader, score, at)? {
            true => ranks.start = middle + 1,
            false => ranks.end = middle,
        }
    }
    Ok(ranks.start)
}

/// Elements of a sorted set by rank or score.
fn ranks(
    reader: &mut Reader<'_>,
    directory: Directory,
    bounds: Bounds,
    window: Window,
) -> Result<Option<Found>, ColdError> {
    let len = directory.elements as usize;
    let (bounds, ranks_of) = match bounds {
        Bounds::Rank(start, stop) => (rank_range(len, start, stop), Some(len)),
        Bounds::Score(min, max) => {
            let above = |_: &mut Reader<'_>, score, _| Ok(min.is_above(score));
            let below = |_: &mut Reader<'_>, score, _| Ok(!max.is_below(score));
            let start = first_rank(reader, directory, 0..len, above)?;
            let end = first_rank(reader, directory, 0..len, below)?;
            (start.min(end)..end, None)
        }
    };
    let wanted = window.of(bounds.clone(), ranks_of);
    if wanted.len() > RANKS_MAX {
        return Ok(None);
    }
    let (mut elements, mut bytes, first) = (Box::new(Zset::new()), 0, wanted.start);
    for rank in wanted {
        if bytes > PART_BYTES_MAX {
            return Ok(None);
        }
        let (_, at) = directory::ranked(reader, directory, rank)?;
        bytes += at_offset(reader, at, |row| {
            let (member, score, end) = Zset::read_element(row, 0)?;
            elements.upsert(member, |_| Some(score));
            Some(end)
        })?;
    }
    Ok(Some(Found::Ranks { bounds, first, elements }))
}

/// A member of a sorted set with its rank.
fn rank(
    reader: &mut Reader<'_>,
    directory: Directory,
    seed: u64,
    member: &[u8],
) -> Result<Found, ColdError> {
    let mut elements = Box::new(Zset::new());
    for at in directory::candidates(reader, directory, seed, member)? {
        at_offset(reader, at, |row| {
            let (own, score, _) = Zset::read_element(row, 0)?;
            if own == member {
                elements.upsert(member, |_| Some(score));
            }
            Some(())
        })?;
    }
    let Some(own) = elements.score(member) else {
        return Ok(Found::Ranks { bounds: 0..0, first: 0, elements });
    };
    let len = directory.elements as usize;
    // Elements of one score are in the order of their members.
    let first = first_rank(reader, directory, 0..len, |reader, score, at| {
        if score != own {
            return Ok(score < own);
        }
        at_offset(reader, at, |row| Zset::read_element(row, 0).map(|(other, ..)| other < member))
    })?;
    Ok(Found::Ranks { bounds: 0..0, first, elements })
}
