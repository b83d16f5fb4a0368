//! A small hash: fields and values in turn, as elements of [`packed`](crate::value::packed), in
//! insertion order.
//!
//! A field is found by walking over them: up to the limits of the configuration this touches a
//! few cache lines. It has no count of its own, so that a change is one splice.

use super::super::blob::Blob;
use super::super::packed::{Elem, Encoded, read, read_canonical, skip};

/// What [`find`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The field's pair: offsets of the field, of its value, and of what follows.
    At {
        /// Where the field starts.
        field: usize,
        /// Where the value starts.
        value: usize,
        /// Where the pair ends.
        end: usize,
    },
    /// There is none among this number of fields.
    Missing {
        /// Number of fields of the hash.
        len: usize,
    },
}

/// Looks for a field.
pub fn find(bytes: &[u8], field: &Encoded<'_>) -> Found {
    let (mut at, mut len) = (0, 0);
    while let Some(value) = skip(bytes, at) {
        let Some(end) = skip(bytes, value) else { break };
        if field.is_at(bytes, at, value) {
            return Found::At { field: at, value, end };
        }
        at = end;
        len += 1;
    }
    Found::Missing { len }
}

/// The value of a field.
pub fn get<'a>(bytes: &'a [u8], field: &[u8]) -> Option<Elem<'a>> {
    match find(bytes, &Encoded::new(field)) {
        Found::At { value, .. } => Some(read(bytes, value)?.0),
        Found::Missing { .. } => None,
    }
}

/// Number of fields.
pub fn len(bytes: &[u8]) -> usize {
    let (mut at, mut elements) = (0, 0);
    while let Some(next) = skip(bytes, at) {
        at = next;
        elements += 1;
    }
    elements / 2
}

/// Puts `value` in place of the one at offsets `value_at..end`.
pub fn replace(blob: &mut (impl Blob + ?Sized), value_at: usize, end: usize, value: &Encoded<'_>) {
    blob.splice(value_at, end - value_at, &[value.head(), value.body()]);
}

/// Adds a field that is not there yet.
pub fn push(blob: &mut (impl Blob + ?Sized), field: &Encoded<'_>, value: &Encoded<'_>) {
    let end = blob.bytes().len();
    blob.splice(end, 0, &[field.head(), field.body(), value.head(), value.body()]);
}

/// Removes a field. Returns whether it was there.
pub fn remove(blob: &mut (impl Blob + ?Sized), field: &[u8]) -> bool {
    match find(blob.bytes(), &Encoded::new(field)) {
        Found::At { field, end, .. } => {
            blob.splice(field, end - field, &[]);
            true
        }
        Found::Missing { .. } => false,
    }
}

/// The fields and values in order.
pub fn iter(bytes: &[u8]) -> Iter<'_> {
    Iter { bytes, at: 0 }
}

/// Whether `bytes` are a hash: whole pairs in canonical encoding, no field twice, at least one.
pub fn validate(bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut fields = Vec::new();
    while at < bytes.len() {
        let Some((_, value)) = read_canonical(bytes, at) else { return false };
        let Some((_, end)) = read_canonical(bytes, value) else { return false };
        fields.push(&bytes[at..value]);
        at = end;
    }
    let len = fields.len();
    fields.sort_unstable();
    fields.dedup();
    fields.len() == len && len > 0
}

/// The fields and values of a small hash.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Elem<'a>, Elem<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (field, value_at) = read(self.bytes, self.at)?;
        let (value, end) = read(self.bytes, value_at)?;
        self.at = end;
        Some((field, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(blob: &mut Vec<u8>, field: &[u8], value: &[u8]) {
        let (field, value) = (Encoded::new(field), Encoded::new(value));
        match find(blob, &field) {
            Found::At { value: at, end, .. } => replace(blob, at, end, &value),
            Found::Missing { .. } => push(blob, &field, &value),
        }
    }

    #[test]
    fn fields_are_set_replaced_and_removed() {
        let mut blob = Vec::new();
        set(&mut blob, b"a", b"1");
        set(&mut blob, b"12", b"two");
        set(&mut blob, b"", &[b'x'; 300]);
        set(&mut blob, b"a", b"1000000");
        assert!(validate(&blob));
        assert_eq!(len(&blob), 3);
        assert_eq!(get(&blob, b"a"), Some(Elem::Int(1_000_000)));
        assert_eq!(get(&blob, b"12"), Some(Elem::Bytes(b"two")));
        assert_eq!(get(&blob, b""), Some(Elem::Bytes(&[b'x'; 300])));
        // A value is not taken for a field.
        assert_eq!(get(&blob, b"two"), None);
        assert!(remove(&mut blob, b"12"));
        assert!(!remove(&mut blob, b"12"));
        let fields: Vec<_> = iter(&blob).map(|(field, _)| field.to_vec()).collect();
        assert_eq!(fields, [b"a".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let mut twice = Vec::new();
        for elem in [b"f", b"1", b"f", b"2"] {
            Encoded::new(elem).push_to(&mut twice);
        }
        assert!(validate(&twice[..4]));
        for bad in [&[][..], &twice, &twice[..2], &twice[..3], &[0xF3, 1, 0, 1, b'x'], &[0xFF, 0]] {
            assert!(!validate(bad), "{bad:?}");
        }
    }
}
