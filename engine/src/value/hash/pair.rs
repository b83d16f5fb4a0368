//! A field and its value, as a large hash holds them.

use crate::value::dense::Keyed;

/// Longest field and value together that are kept in place: what makes the whole 32 bytes.
const INLINE_MAX: usize = 29;

/// A field and its value in 32 bytes, plus one allocation where both together exceed 29.
#[derive(Clone)]
pub struct Pair(Repr);

#[derive(Clone)]
enum Repr {
    Inline { field_len: u8, len: u8, bytes: [u8; INLINE_MAX] },
    Heap { field_len: usize, bytes: Box<[u8]> },
}

const _: () = assert!(size_of::<Pair>() == 32);

impl Pair {
    /// A pair of copies.
    #[inline]
    pub fn new(field: &[u8], value: &[u8]) -> Self {
        let len = field.len() + value.len();
        Pair(if len <= INLINE_MAX {
            let mut bytes = [0; INLINE_MAX];
            bytes[..field.len()].copy_from_slice(field);
            bytes[field.len()..len].copy_from_slice(value);
            Repr::Inline { field_len: field.len() as u8, len: len as u8, bytes }
        } else {
            let mut bytes = Vec::with_capacity(len);
            bytes.extend_from_slice(field);
            bytes.extend_from_slice(value);
            Repr::Heap { field_len: field.len(), bytes: bytes.into_boxed_slice() }
        })
    }

    /// The field.
    #[inline]
    pub fn field(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { field_len, bytes, .. } => &bytes[..*field_len as usize],
            Repr::Heap { field_len, bytes } => &bytes[..*field_len],
        }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { field_len, len, bytes } => &bytes[*field_len as usize..*len as usize],
            Repr::Heap { field_len, bytes } => &bytes[*field_len..],
        }
    }

    /// Replaces the value, in place where it fits.
    #[inline]
    pub fn set_value(&mut self, value: &[u8]) {
        match &mut self.0 {
            Repr::Inline { field_len, len, bytes }
                if *field_len as usize + value.len() <= INLINE_MAX =>
            {
                let end = *field_len as usize + value.len();
                bytes[*field_len as usize..end].copy_from_slice(value);
                *len = end as u8;
            }
            Repr::Heap { field_len, bytes } if *field_len + value.len() == bytes.len() => {
                bytes[*field_len..].copy_from_slice(value);
            }
            _ => *self = Pair::new(self.field(), value),
        }
    }

    /// Bytes taken beyond the 32.
    pub fn heap_size(&self) -> usize {
        match &self.0 {
            Repr::Inline { .. } => 0,
            Repr::Heap { bytes, .. } => bytes.len(),
        }
    }
}

impl Keyed for Pair {
    #[inline]
    fn key(&self) -> &[u8] {
        self.field()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_length_replace_one_another() {
        for field_len in [0, 5, 28, 29, 30, 300] {
            let field = vec![b'f'; field_len];
            let mut pair = Pair::new(&field, b"");
            for value_len in [0, 1, 1, 24, 29, 0, 30, 30, 1000, 999, 3] {
                let value = vec![b'v'; value_len];
                pair.set_value(&value);
                assert_eq!((pair.field(), pair.value()), (&field[..], &value[..]));
            }
        }
    }
}
