//! Values from their bodies, in any encoding.

use super::bytes::{Bytes, Input};
use super::decode_stream;
use super::listpack::Listpack;
use super::ziplist::{Ziplist, each_of_zipmap, intset};
use super::{Malformed, kind, module_name};
use crate::config::EngineConfig;
use crate::keyspace::{INLINE_BYTES_MAX, Kind};
use crate::number;
use crate::value::hash::{self, HashMut};
use crate::value::holder::{Draft, Holder};
use crate::value::list::{List, codec::Framed, packed as packed_list};
use crate::value::packed::{Elem, IntBuf};
use crate::value::set::{self, SetMut};
use crate::value::zset::{Zset, packed as packed_zset};
use crate::value::{NewValue, Value};

const TWICE: Malformed = Malformed::new("an element is there twice");
const EMPTY: Malformed = Malformed::new("a collection is empty");
const ODD: Malformed = Malformed::new("a value has no partner");
const NO_FLOAT: Malformed = Malformed::new("a score is no number");
const WRONG_TIME: Malformed = Malformed::new("a time is out of range");
/// Nodes of a list: a string of its own, or a packed run of them.
const NODE_PLAIN: u64 = 1;
const NODE_PACKED: u64 = 2;

/// A value that was read and is not in the keyspace yet.
pub struct Decoded(Content);

enum Content {
    Str(Vec<u8>),
    Draft(Draft),
}

impl Decoded {
    /// The value, to be inserted; it is spent then.
    pub fn value(&mut self) -> NewValue<'_> {
        match &mut self.0 {
            Content::Str(bytes) => NewValue::Str(bytes),
            Content::Draft(draft) => draft.value(),
        }
    }
}

/// Reads the value that `body` is, all of it, in the encoding with the number `kind`; the limits of
/// `config` choose its representation.
///
/// # Errors
/// If it is none, or one of a module.
pub fn decode(kind: u8, body: &[u8], config: &EngineConfig) -> Result<Decoded, Malformed> {
    let mut bytes = Bytes::new(body);
    let content = match kind {
        kind::STRING => Content::Str(bytes.string()?.into_owned()),
        kind::MODULE_PRE_GA | kind::MODULE_2 => {
            let name = module_name(bytes.number()?);
            return Err(Malformed(format!("a value of the module type '{name}'").into()));
        }
        _ => Content::Draft(match kind {
            kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
                list(kind, &mut bytes, config)?
            }
            kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => set(kind, &mut bytes, config)?,
            kind::ZSET | kind::ZSET_2 | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => {
                zset(kind, &mut bytes, config)?
            }
            kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => {
                let stream = decode_stream::stream(kind, &mut bytes, config)?;
                Draft::big(Value::Stream(Box::new(stream)))
            }
            _ => hash(kind, &mut bytes, config)?,
        }),
    };
    match bytes.is_empty() {
        true => Ok(Decoded(content)),
        false => Err(Malformed::new("there is more than a value")),
    }
}

/// Calls `each` with the elements of a ziplist or listpack, with their text in `buf`.
fn each_packed(
    is_ziplist: bool,
    bytes: &[u8],
    mut each: impl FnMut(Elem<'_>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    if is_ziplist {
        let mut elements = Ziplist::new(bytes)?;
        while let Some(elem) = elements.next()? {
            each(elem)?;
        }
    } else {
        let mut elements = Listpack::new(bytes)?;
        while let Some(elem) = elements.next()? {
            each(elem)?;
        }
    }
    Ok(())
}

/// The same with two elements at a time.
fn each_pair(
    is_ziplist: bool,
    bytes: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let (mut first_buf, mut second_buf) = (IntBuf::new(), IntBuf::new());
    // The text of a first element that is an integer is in the buffer; a string's is in `bytes`.
    let mut first: Option<Vec<u8>> = None;
    each_packed(is_ziplist, bytes, |elem| match first.take() {
        None => {
            first = Some(elem.as_bytes(&mut first_buf).to_vec());
            Ok(())
        }
        Some(first) => each(&first, elem.as_bytes(&mut second_buf)),
    })?;
    if first.is_some() { Err(ODD) } else { Ok(()) }
}

/// A list on its way: small as long as the limits allow.
enum ListBuilder {
    Small(Vec<u8>, usize),
    Large(List),
}

impl ListBuilder {
    fn push(&mut self, elem: &[u8], limit: packed_list::Limit) {
        if let ListBuilder::Small(bytes, count) = self {
            let framed = Framed::new(elem);
            if limit.allows(bytes.len() + framed.size(), *count + 1) && *count < 0xFFFF {
                packed_list::push_back(bytes, &framed);
                *count += 1;
                return;
            }
            *self = ListBuilder::Large(List::from_packed(bytes));
        }
        if let ListBuilder::Large(list) = self {
            list.push_back(elem);
        }
    }
}

fn list(kind: u8, bytes: &mut Bytes<'_>, config: &EngineConfig) -> Result<Draft, Malformed> {
    let limit = packed_list::Limit::new(config.list_max_listpack_size);
    let mut list = ListBuilder::Small(packed_list::EMPTY.to_vec(), 0);
    let mut buf = IntBuf::new();
    let nodes = if kind == kind::LIST_ZIPLIST { 1 } else { bytes.number()? };
    for _ in 0..nodes {
        let is_packed = match kind {
            kind::LIST => false,
            kind::LIST_QUICKLIST_2 => match bytes.number()? {
                NODE_PLAIN => false,
                NODE_PACKED => true,
                _ => return Err(Malformed::new("a node of a list is of an unknown form")),
            },
            _ => true,
        };
        let node = bytes.string()?;
        if !is_packed {
            list.push(&node, limit);
            continue;
        }
        each_packed(kind != kind::LIST_QUICKLIST_2, &node, |elem| {
            list.push(elem.as_bytes(&mut buf), limit);
            Ok(())
        })?;
    }
    match list {
        ListBuilder::Small(_, 0) => Err(EMPTY),
        ListBuilder::Small(bytes, _) => {
            let mut draft = Draft::packed(Kind::PackedList);
            draft.replace(NewValue::Packed(Kind::PackedList, &bytes));
            Ok(draft)
        }
        ListBuilder::Large(list) => Ok(Draft::big(Value::List(list))),
    }
}

fn set(kind: u8, bytes: &mut Bytes<'_>, config: &EngineConfig) -> Result<Draft, Malformed> {
    let limits = set::Limits::of(config);
    let mut draft = Draft::packed(Kind::IntSet);
    let mut buf = IntBuf::new();
    let mut set = SetMut::of(&mut draft, limits).map_err(|_| EMPTY)?;
    let mut insert = |member: &[u8]| if set.insert(member) { Ok(()) } else { Err(TWICE) };
    match kind {
        kind::SET_INTSET => {
            for int in intset(&bytes.string()?)? {
                insert(buf.format(int).as_bytes())?;
            }
        }
        kind::SET_LISTPACK => {
            each_packed(false, &bytes.string()?, |elem| insert(elem.as_bytes(&mut buf)))?;
        }
        _ => {
            for _ in 0..bytes.number()? {
                insert(&bytes.string()?)?;
            }
        }
    }
    if set.is_empty() { Err(EMPTY) } else { Ok(draft) }
}

fn hash(kind: u8, bytes: &mut Bytes<'_>, config: &EngineConfig) -> Result<Draft, Malformed> {
    let mut draft = Draft::packed(Kind::PackedHash);
    let mut hash = HashMut::of(&mut draft, hash::Limits::of(config)).map_err(|_| EMPTY)?;
    let mut insert = |field: &[u8], value: &[u8]| match hash.set(field, value) {
        true => Ok(()),
        false => Err(TWICE),
    };
    match kind {
        kind::HASH => {
            for _ in 0..bytes.number()? {
                let field = bytes.string()?;
                insert(&field, &bytes.string()?)?;
            }
        }
        kind::HASH_ZIPMAP => each_of_zipmap(&bytes.string()?, insert)?,
        kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
            each_pair(kind == kind::HASH_ZIPLIST, &bytes.string()?, insert)?;
        }
        kind::HASH_METADATA | kind::HASH_METADATA_PRE_GA => {
            expiring_fields(kind == kind::HASH_METADATA, bytes, &mut hash)?;
        }
        kind::HASH_LISTPACK_EX | kind::HASH_LISTPACK_EX_PRE_GA => {
            if kind == kind::HASH_LISTPACK_EX {
                // The earliest time of all, which follows from the fields.
                bytes.millis()?;
            }
            expiring_triples(&bytes.string()?, &mut hash)?;
        }
        unknown => return Err(Malformed(format!("a value of the unknown type {unknown}").into())),
    }
    if hash.is_empty() { Err(EMPTY) } else { Ok(draft) }
}

/// Adds a field that expires at `at_ms`, or never where that is 0.
fn insert_expiring(
    hash: &mut HashMut<'_>,
    field: &[u8],
    value: &[u8],
    at_ms: u64,
) -> Result<(), Malformed> {
    let at_ms = i64::try_from(at_ms).map_err(|_| WRONG_TIME)?;
    if !hash.set(field, value) {
        return Err(TWICE);
    }
    if at_ms != 0 {
        hash.expiring().set_deadline(field, at_ms);
    }
    Ok(())
}

fn expiring_fields(
    is_relative: bool,
    bytes: &mut Bytes<'_>,
    hash: &mut HashMut<'_>,
) -> Result<(), Malformed> {
    let first_ms = if is_relative { bytes.millis()? as u64 } else { 1 };
    for _ in 0..bytes.number()? {
        // One more than the milliseconds since the earliest time; 0 is never.
        let at_ms = match bytes.number()? {
            0 => 0,
            after => first_ms.checked_add(after - 1).ok_or(WRONG_TIME)?,
        };
        let field = bytes.string()?;
        insert_expiring(hash, &field, &bytes.string()?, at_ms)?;
    }
    Ok(())
}

fn expiring_triples(bytes: &[u8], hash: &mut HashMut<'_>) -> Result<(), Malformed> {
    let mut elements = Listpack::new(bytes)?;
    let (mut field_buf, mut value_buf) = (IntBuf::new(), IntBuf::new());
    while let Some(field) = elements.next()? {
        let value = elements.expect()?;
        let at_ms = u64::try_from(elements.int()?).map_err(|_| WRONG_TIME)?;
        let (field, value) = (field.as_bytes(&mut field_buf), value.as_bytes(&mut value_buf));
        insert_expiring(hash, field, value, at_ms)?;
    }
    Ok(())
}

/// A sorted set on its way: small as long as the limits allow.
struct ZsetBuilder<'a> {
    small: Vec<u8>,
    large: Option<Box<Zset>>,
    config: &'a EngineConfig,
}

impl ZsetBuilder<'_> {
    fn insert(&mut self, member: &[u8], score: f64) -> Result<(), Malformed> {
        if score.is_nan() {
            return Err(NO_FLOAT);
        }
        let config = self.config;
        if self.large.is_none() {
            let count = packed_zset::len(&self.small);
            let fits = member.len()
                <= config.zset_max_listpack_value.min(packed_zset::MEMBER_LEN_MAX)
                && count < config.zset_max_listpack_entries.min(packed_zset::COUNT_MAX)
                && self.small.len() + packed_zset::size_max(member) <= INLINE_BYTES_MAX;
            if fits {
                if packed_zset::find(&self.small, member).is_some() {
                    return Err(TWICE);
                }
                packed_zset::insert(&mut self.small, member, score);
                return Ok(());
            }
        }
        let small = &self.small;
        let large = self.large.get_or_insert_with(|| Box::new(Zset::from_packed(small)));
        match large.upsert(member, |old| old.is_none().then_some(score)) {
            None => Ok(()),
            Some(_) => Err(TWICE),
        }
    }
}

fn zset(kind: u8, bytes: &mut Bytes<'_>, config: &EngineConfig) -> Result<Draft, Malformed> {
    let mut zset = ZsetBuilder { small: packed_zset::EMPTY.to_vec(), large: None, config };
    match kind {
        kind::ZSET | kind::ZSET_2 => {
            for _ in 0..bytes.number()? {
                let member = bytes.string()?;
                let score = if kind == kind::ZSET_2 { bytes.f64()? } else { text_score(bytes)? };
                zset.insert(&member, score)?;
            }
        }
        _ => each_pair(kind == kind::ZSET_ZIPLIST, &bytes.string()?, |member, score| {
            zset.insert(member, number::parse_f64(score).ok_or(NO_FLOAT)?)
        })?,
    }
    match zset.large {
        Some(large) => Ok(Draft::big(Value::Zset(large))),
        None if packed_zset::len(&zset.small) == 0 => Err(EMPTY),
        None => {
            let mut draft = Draft::packed(Kind::PackedZset);
            draft.replace(NewValue::Packed(Kind::PackedZset, &zset.small));
            Ok(draft)
        }
    }
}

/// A score as versions before 4.0 wrote it: a length or a special value, and digits.
fn text_score(bytes: &mut Bytes<'_>) -> Result<f64, Malformed> {
    match bytes.byte()? {
        253 => Err(NO_FLOAT),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        len => number::parse_f64(bytes.take(len.into())?).ok_or(NO_FLOAT),
    }
}
