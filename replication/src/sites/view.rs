//! The engine's values as elements, and elements as calls that write them.

use super::codec::{push_bytes, push_number, read_bytes, read_number};
use super::key::Kind;
use crate::bytes::Reader;
use ashlar_engine::number::{self, FloatBuf};
use ashlar_engine::value::packed::IntBuf;
use ashlar_engine::value::stream::{Id, IdBuf};
use ashlar_engine::value::view::View;

/// A value that the engine holds.
pub struct Held<'a>(pub View<'a>);

impl Held<'_> {
    /// The kind of its elements.
    pub fn kind(&self) -> Kind {
        match &self.0 {
            View::Str(_) | View::Int(_) => Kind::String,
            View::List(_) => Kind::List,
            View::Hash(_) => Kind::Hash,
            View::Set(_) => Kind::Set,
            View::Zset(_) => Kind::Zset,
            View::Stream(_) => Kind::Stream,
        }
    }

    /// Items of a list; 0 for anything else.
    pub fn items_len(&self) -> usize {
        match &self.0 {
            View::List(list) => list.len(),
            _ => 0,
        }
    }

    /// The value of an element by its name, as it is sent; items of lists have no names here.
    pub fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let (kind, rest) = name.split_first()?;
        if Kind::from_number(*kind) != Some(self.kind()) {
            return None;
        }
        match &self.0 {
            View::Str(bytes) => Some(bytes.to_vec()),
            View::Int(int) => Some(int.to_string().into_bytes()),
            View::Hash(hash) => hash.get(rest).map(|value| value.to_vec()),
            View::Set(set) => set.contains(rest).then(Vec::new),
            View::Zset(zset) => zset.score(rest).map(|score| score.to_le_bytes().to_vec()),
            View::List(_) => None,
            View::Stream(stream) => {
                let fields = stream.get(id_of(rest)?)?.fields;
                let mut out = Vec::new();
                push_number(&mut out, fields.len() as u64);
                let mut buf = IntBuf::new();
                for (field, value) in fields {
                    push_bytes(&mut out, field.as_bytes(&mut buf));
                    push_bytes(&mut out, value.as_bytes(&mut buf));
                }
                Some(out)
            }
        }
    }

    /// The names of all elements, but for lists.
    pub fn for_each(&self, mut each: impl FnMut(&[u8])) {
        let kind = self.kind();
        match &self.0 {
            View::Str(_) | View::Int(_) => each(&[kind as u8]),
            View::Hash(hash) => {
                hash.iter().for_each(|(field, _)| each(&kind.name(&field.to_vec())))
            }
            View::Set(set) => set.iter().for_each(|member| each(&kind.name(&member.to_vec()))),
            View::Zset(zset) => zset.for_each(|member, _| each(&kind.name(member))),
            View::List(_) => {}
            View::Stream(stream) => {
                stream.range(Id::MIN, Id::MAX, false).for_each(|entry| each(&entry_name(entry.id)));
            }
        }
    }

    /// Items of a list.
    pub fn items(&self, from: usize, count: usize) -> Vec<Vec<u8>> {
        match &self.0 {
            View::List(list) if count > 0 => {
                list.iter_at(from, false).take(count).map(|item| item.to_vec()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The names of a stream's entries behind one.
    pub fn entries_after(&self, last: Option<&[u8]>) -> Vec<Vec<u8>> {
        let View::Stream(stream) = &self.0 else { return Vec::new() };
        let from = match last.and_then(id_of) {
            None => Some(Id::MIN),
            Some(last) => last.next(),
        };
        let Some(from) = from else { return Vec::new() };
        stream.range(from, Id::MAX, false).map(|entry| entry_name(entry.id)).collect()
    }

    /// The name of a stream's first entry.
    pub fn first_entry(&self) -> Option<Vec<u8>> {
        let View::Stream(stream) = &self.0 else { return None };
        stream.range(Id::MIN, Id::MAX, false).next().map(|entry| entry_name(entry.id))
    }
}

fn entry_name(id: Id) -> Vec<u8> {
    let mut rest = [0; 16];
    rest[..8].copy_from_slice(&id.ms.to_be_bytes());
    rest[8..].copy_from_slice(&id.seq.to_be_bytes());
    Kind::Stream.name(&rest)
}

fn id_of(rest: &[u8]) -> Option<Id> {
    let (ms, seq) = rest.split_at_checked(8)?;
    Some(Id::new(u64::from_be_bytes(ms.try_into().ok()?), u64::from_be_bytes(seq.try_into().ok()?)))
}

/// The name of an element from an argument of a command; `None` where it is none.
pub fn name_of(kind: Kind, arg: &[u8]) -> Option<Vec<u8>> {
    if kind != Kind::Stream {
        return Some(kind.name(arg));
    }
    let text = std::str::from_utf8(arg).ok()?;
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    Some(entry_name(Id::new(ms.parse().ok()?, seq.parse().ok()?)))
}

/// The call that sets an element; `None` where it cannot be one.
pub fn set_call(kind: Kind, key: &[u8], name: &[u8], value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let rest = name.get(1..)?;
    let words: Vec<&[u8]> = match kind {
        Kind::String => vec![b"SET", key, value, b"KEEPTTL"],
        Kind::Hash => vec![b"HSET", key, rest, value],
        Kind::Set => vec![b"SADD", key, rest],
        Kind::Zset => {
            let score = f64::from_le_bytes(value.try_into().ok()?);
            let mut buf = FloatBuf::new();
            let score = number::format_f64(&mut buf, score).to_vec();
            return Some([b"ZADD", key, &score, rest].iter().map(|word| word.to_vec()).collect());
        }
        Kind::Stream => return insert_call(key, rest, value),
        Kind::List | Kind::Expiry => return None,
    };
    Some(words.into_iter().map(<[u8]>::to_vec).collect())
}

fn insert_call(key: &[u8], rest: &[u8], value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let id = id_of(rest)?.format(&mut IdBuf::new()).to_vec();
    let mut words = vec![b"ASHLAR.XINSERT".to_vec(), key.to_vec(), id];
    let mut reader = Reader(value);
    for _ in 0..read_number(&mut reader).ok()? {
        words.push(read_bytes(&mut reader).ok()?.to_vec());
        words.push(read_bytes(&mut reader).ok()?.to_vec());
    }
    Some(words)
}

/// The call that removes an element.
pub fn remove_call(kind: Kind, key: &[u8], name: &[u8]) -> Option<Vec<Vec<u8>>> {
    let rest = name.get(1..)?;
    let command: &[u8] = match kind {
        Kind::String => return Some(vec![b"DEL".to_vec(), key.to_vec()]),
        Kind::Hash => b"HDEL",
        Kind::Set => b"SREM",
        Kind::Zset => b"ZREM",
        Kind::Stream => {
            let id = id_of(rest)?.format(&mut IdBuf::new()).to_vec();
            return Some(vec![b"XDEL".to_vec(), key.to_vec(), id]);
        }
        Kind::List | Kind::Expiry => return None,
    };
    Some(vec![command.to_vec(), key.to_vec(), rest.to_vec()])
}
