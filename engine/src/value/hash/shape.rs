//! Small hashes that share the names of their fields.
//!
//! Programs keep records in hashes: many keys, each with the same few fields. The list of names is
//! their [`Shape`], kept once; a hash of that shape has only its values, in the order of the names.
//!
//! ```text
//! shape    names    as elements of `packed`        name   email  visits
//! hash     values   as elements of `packed`        Ada    a@x.y  17
//! ```
//! This is a matter of storage only. What is written to disk, sent to others and compared are always
//! whole pairs ([`pairs`]), so it does not matter which hashes of an engine have a shape.

use super::super::packed::{Elem, Encoded, read, skip};

/// The names of the fields of some small hashes.
#[derive(Debug)]
pub struct Shape {
    hash: u64,
    len: usize,
    names: Box<[u8]>,
}

impl Shape {
    /// A shape of `len` names, as packed elements; `hash` tells it from most others.
    pub fn new(hash: u64, len: usize, names: Vec<u8>) -> Self {
        Shape { hash, len, names: names.into() }
    }

    /// What [`Shape::new`] was told.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no fields, which no hash's shape is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The names, as packed elements.
    pub fn names(&self) -> &[u8] {
        &self.names
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.names.len()
    }

    /// The position of a field.
    #[inline]
    pub fn find(&self, field: &Encoded<'_>) -> Option<usize> {
        let (mut at, mut position) = (0, 0);
        while let Some(end) = skip(&self.names, at) {
            if field.is_at(&self.names, at, end) {
                return Some(position);
            }
            at = end;
            position += 1;
        }
        None
    }
}

/// Where the value at a position starts and ends.
#[inline]
pub fn value_at(values: &[u8], position: usize) -> Option<(usize, usize)> {
    let mut at = 0;
    for _ in 0..position {
        at = skip(values, at)?;
    }
    Some((at, skip(values, at)?))
}

/// The value of a field.
#[inline]
pub fn get<'a>(shape: &Shape, values: &'a [u8], field: &[u8]) -> Option<Elem<'a>> {
    let position = shape.find(&Encoded::new(field))?;
    Some(read(values, value_at(values, position)?.0)?.0)
}

/// Appends the same hash in the form that has its names, see [`super::packed`].
pub fn pairs(shape: &Shape, values: &[u8], out: &mut Vec<u8>) {
    let (mut name, mut value) = (0, 0);
    out.reserve(shape.names.len() + values.len());
    while let (Some(name_end), Some(value_end)) = (skip(&shape.names, name), skip(values, value)) {
        out.extend_from_slice(&shape.names[name..name_end]);
        out.extend_from_slice(&values[value..value_end]);
        (name, value) = (name_end, value_end);
    }
}

/// The fields and values in order.
pub fn iter<'a>(shape: &'a Shape, values: &'a [u8]) -> Iter<'a> {
    Iter { names: &shape.names, name: 0, values, value: 0 }
}

/// The fields and values of a hash with a shape.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    names: &'a [u8],
    name: usize,
    values: &'a [u8],
    value: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Elem<'a>, Elem<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (field, name) = read(self.names, self.name)?;
        let (value, end) = read(self.values, self.value)?;
        (self.name, self.value) = (name, end);
        Some((field, value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed;
    use super::*;

    #[test]
    fn a_hash_with_a_shape_reads_as_its_pairs() {
        let (mut names, mut values, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in [("name", "Ada"), ("12", "7"), ("", ""), ("email", "ada@example.org")]
        {
            let (name, value) = (Encoded::new(name.as_bytes()), Encoded::new(value.as_bytes()));
            name.push_to(&mut names);
            value.push_to(&mut values);
            packed::push(&mut both, &name, &value);
        }
        let shape = Shape::new(1, 4, names);
        let mut written = Vec::new();
        pairs(&shape, &values, &mut written);
        assert_eq!(written, both);
        assert!(iter(&shape, &values).eq(packed::iter(&both)));
        for field in [&b"name"[..], b"12", b"", b"email", b"Ada", b"nam", b"1"] {
            assert_eq!(get(&shape, &values, field), packed::get(&both, field));
        }
        assert_eq!(value_at(&values, 4), None);
    }
}
