//! The byte form of a large value ([`super::form`]), made in steps: whoever writes it out holds the lock of its shard
//! for one step at a time. The value must not change in between.

use super::{Value, form};

/// How far a value has been written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steps {
    begun: bool,
    /// The next element, chunk of a list, or byte of a string.
    next: usize,
}

/// Whether a value can be written in steps. A stream cannot.
pub fn can_step(value: &Value) -> bool {
    !matches!(value, Value::Stream(_))
}

/// Elements of a value, or bytes of a string.
pub fn len(value: &Value) -> usize {
    match value {
        Value::Str(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Hash(hash) => hash.len(),
        Value::Set(set) => set.len(),
        Value::Zset(zset) => zset.len(),
        Value::Stream(stream) => stream.len() as usize,
    }
}

impl Steps {
    /// Appends about `bytes` more of the form to `out`, one element at least, and tells each field, member or element
    /// (a list's without its name) with the offset in `out` where it begins. Says whether there is more.
    pub fn step(
        &mut self,
        value: &Value,
        bytes: usize,
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8], usize),
    ) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            head(value, out);
        }
        let end = out.len() + bytes;
        match value {
            Value::Str(text) => {
                let part = &text[self.next..text.len().min(self.next + bytes)];
                out.extend_from_slice(part);
                self.next += part.len();
                self.next < text.len()
            }
            Value::List(list) => loop {
                if !list.encode_chunk(self.next, out, &mut |at| each(&[], at)) {
                    return false;
                }
                self.next += 1;
                if out.len() >= end {
                    return true;
                }
            },
            Value::Hash(hash) => self.elements(end, out, each, |at, out| hash.encode_at(at, out)),
            Value::Set(set) => self.elements(end, out, each, |at, out| set.encode_at(at, out)),
            Value::Zset(zset) => self.elements(end, out, each, |at, out| zset.encode_at(at, out)),
            Value::Stream(_) => false,
        }
    }

    fn elements<'v>(
        &mut self,
        end: usize,
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8], usize),
        encode: impl Fn(usize, &mut Vec<u8>) -> Option<&'v [u8]>,
    ) -> bool {
        loop {
            let at = out.len();
            let Some(name) = encode(self.next, out) else { return false };
            each(name, at);
            self.next += 1;
            if out.len() >= end {
                return true;
            }
        }
    }
}

/// Appends what comes before the first element.
fn head(value: &Value, out: &mut Vec<u8>) {
    out.push(form::BIG);
    match value {
        Value::Str(_) => out.push(form::BIG_STR),
        Value::List(list) => {
            out.push(form::BIG_LIST);
            list.encode_head(out);
        }
        Value::Hash(hash) => {
            out.push(form::BIG_HASH);
            hash.encode_head(out);
        }
        Value::Set(set) => {
            out.push(form::BIG_SET);
            set.encode_head(out);
        }
        Value::Zset(zset) => {
            out.push(form::BIG_ZSET);
            zset.encode_head(out);
        }
        Value::Stream(_) => {}
    }
}
