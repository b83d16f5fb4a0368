//! The byte form of elements and of what travels between sites and into the log.
//!
//! ```text
//! number    LEB128                               bytes     length number | bytes
//! part      site number | flags u8 | [wrote number] [value bytes] [counted number | since number]
//!           [sum int u64] [sum float u64] [seen number] [seen int u64] [seen float u64]
//! element   removed_at number | parts number | parts
//! item      key bytes | name bytes | element
//! vector    sites number | (site number | stamp number) each
//! slots     ranges number | (first number | last number) each
//! batch     version u8 | from number | to number | vector | [slots] | items number | items
//! ```
//! Slots are there in version 2, which groups of clusters send.
//! `flags` says which of the optional values are there, in this order from the lowest bit: wrote,
//! value, counted, sum int, sum float, seen, seen int, seen float.

use super::element::{Element, Part, SiteId, Sum};
use super::slots::Slots;
use crate::bytes::{Malformed, Reader};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Version of the form.
pub const VERSION: u8 = 1;
/// Version of a batch that says which slots the sender has.
const VERSION_SLOTS: u8 = 2;
/// Most parts of an element: no more sites than this take part.
pub const SITES_MAX: usize = 1_024;

/// What a site knows of others: up to which stamp it has all that each of them did.
pub type Vector = BTreeMap<SiteId, u64>;

/// An element on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// The element's name.
    pub name: Vec<u8>,
    /// All that the sender knows of it.
    pub element: Element,
}

/// What a site sends to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The receiver has to have all that the sender did up to this stamp.
    pub from: u64,
    /// With this batch it has all up to this one.
    pub to: u64,
    /// What the sender has of all sites.
    pub vector: Vector,
    /// The slots that it has, if it is a group of a cluster.
    pub slots: Option<Slots>,
    /// Elements.
    pub items: Vec<Item>,
}

/// Appends a number.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number.
///
/// # Errors
/// If there is none.
pub fn read_number(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// Appends bytes with their length.
pub fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads bytes with their length.
///
/// # Errors
/// If there are fewer.
pub fn read_bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(read_number(reader)?).map_err(|_| Malformed)?;
    reader.take(len)
}

fn read_site(reader: &mut Reader<'_>) -> Result<SiteId, Malformed> {
    SiteId::try_from(read_number(reader)?).map_err(|_| Malformed)
}

/// Reads a number of things that take at least `min_bytes` each.
fn read_count(reader: &mut Reader<'_>, min_bytes: usize) -> Result<usize, Malformed> {
    let count = usize::try_from(read_number(reader)?).map_err(|_| Malformed)?;
    if count > reader.0.len() / min_bytes { Err(Malformed) } else { Ok(count) }
}

fn push_part(out: &mut Vec<u8>, part: &Part) {
    push_number(out, u64::from(part.site));
    let has = [
        part.wrote != 0,
        part.value.is_some(),
        part.counted != 0,
        part.sum.int != 0,
        part.sum.float.to_bits() != 0,
        part.seen != 0,
        part.seen_sum.int != 0,
        part.seen_sum.float.to_bits() != 0,
    ];
    out.push(has.iter().enumerate().fold(0, |flags, (bit, has)| flags | u8::from(*has) << bit));
    if has[0] {
        push_number(out, part.wrote);
    }
    if let Some(value) = &part.value {
        push_bytes(out, value);
    }
    if has[2] {
        push_number(out, part.counted);
        push_number(out, part.since);
    }
    let mut fixed = |has: bool, bits: u64| {
        if has {
            out.extend_from_slice(&bits.to_le_bytes());
        }
    };
    fixed(has[3], part.sum.int as u64);
    fixed(has[4], part.sum.float.to_bits());
    if has[5] {
        push_number(out, part.seen);
    }
    let mut fixed = |has: bool, bits: u64| {
        if has {
            out.extend_from_slice(&bits.to_le_bytes());
        }
    };
    fixed(has[6], part.seen_sum.int as u64);
    fixed(has[7], part.seen_sum.float.to_bits());
}

fn read_part(reader: &mut Reader<'_>) -> Result<Part, Malformed> {
    let site = read_site(reader)?;
    let flags = reader.u8()?;
    let has = |bit: u8| flags & 1 << bit != 0;
    let wrote = if has(0) { read_number(reader)? } else { 0 };
    let value = if has(1) { Some(read_bytes(reader)?.into()) } else { None };
    let (counted, since) =
        if has(2) { (read_number(reader)?, read_number(reader)?) } else { (0, 0) };
    let int = if has(3) { reader.u64()? as i64 } else { 0 };
    let float = if has(4) { f64::from_bits(reader.u64()?) } else { 0.0 };
    let sum = Sum { int, float };
    let seen = if has(5) { read_number(reader)? } else { 0 };
    let int = if has(6) { reader.u64()? as i64 } else { 0 };
    let float = if has(7) { f64::from_bits(reader.u64()?) } else { 0.0 };
    let seen_sum = Sum { int, float };
    Ok(Part { site, wrote, value, counted, since, sum, seen, seen_sum })
}

/// Appends an element.
pub fn push_element(out: &mut Vec<u8>, element: &Element) {
    push_number(out, element.removed_at());
    push_number(out, element.parts().len() as u64);
    element.parts().iter().for_each(|part| push_part(out, part));
}

/// Reads an element.
///
/// # Errors
/// If the bytes are none.
pub fn read_element(reader: &mut Reader<'_>) -> Result<Element, Malformed> {
    let removed_at = read_number(reader)?;
    let count = read_count(reader, 2)?;
    if count > SITES_MAX {
        return Err(Malformed);
    }
    let mut parts = SmallVec::<[Part; 1]>::with_capacity(count);
    for _ in 0..count {
        let part = read_part(reader)?;
        if parts.last().is_some_and(|last| last.site >= part.site) {
            return Err(Malformed);
        }
        parts.push(part);
    }
    Ok(Element::from_parts(parts, removed_at))
}

/// Appends an element with its name and key.
pub fn push_item(out: &mut Vec<u8>, key: &[u8], name: &[u8], element: &Element) {
    push_bytes(out, key);
    push_bytes(out, name);
    push_element(out, element);
}

/// Reads an item.
///
/// # Errors
/// If the bytes are none.
pub fn read_item(reader: &mut Reader<'_>) -> Result<Item, Malformed> {
    let (key, name) = (read_bytes(reader)?.to_vec(), read_bytes(reader)?.to_vec());
    if super::key::Kind::of(&name).is_none() {
        return Err(Malformed);
    }
    Ok(Item { key, name, element: read_element(reader)? })
}

/// Appends a vector.
pub fn push_vector(out: &mut Vec<u8>, vector: &Vector) {
    push_number(out, vector.len() as u64);
    for (site, stamp) in vector {
        push_number(out, u64::from(*site));
        push_number(out, *stamp);
    }
}

/// Reads a vector.
///
/// # Errors
/// If the bytes are none.
pub fn read_vector(reader: &mut Reader<'_>) -> Result<Vector, Malformed> {
    let count = read_count(reader, 2)?;
    (0..count).map(|_| Ok((read_site(reader)?, read_number(reader)?))).collect()
}

impl Batch {
    /// The largest stamp in it.
    pub fn last_stamp(&self) -> u64 {
        let elements = self.items.iter().map(|item| item.element.last_stamp());
        elements.chain(self.vector.values().copied()).fold(self.to, u64::max)
    }

    /// The batch as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.slots.is_some() { VERSION_SLOTS } else { VERSION }];
        push_number(&mut out, self.from);
        push_number(&mut out, self.to);
        push_vector(&mut out, &self.vector);
        if let Some(slots) = &self.slots {
            slots.encode(&mut out);
        }
        push_number(&mut out, self.items.len() as u64);
        for item in &self.items {
            push_item(&mut out, &item.key, &item.name, &item.element);
        }
        out
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Batch, Malformed> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if ![VERSION, VERSION_SLOTS].contains(&version) {
            return Err(Malformed);
        }
        let (from, to) = (read_number(&mut reader)?, read_number(&mut reader)?);
        let vector = read_vector(&mut reader)?;
        let slots = match version {
            VERSION => None,
            _ => Some(Slots::decode(&mut reader)?),
        };
        let count = read_count(&mut reader, 5)?;
        let mut items = Vec::with_capacity(count.min(1_024));
        for _ in 0..count {
            items.push(read_item(&mut reader)?);
        }
        reader.end()?;
        Ok(Batch { from, to, vector, slots, items })
    }
}
