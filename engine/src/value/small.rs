//! A byte string that lives inside its owner while it is short.
//!
//! Members of sets and fields of hashes are mostly short: in place they cost neither an
//! allocation nor the cache miss of following a pointer.

use std::fmt;

/// Longest string that is kept in place: what makes the whole 24 bytes.
const INLINE_MAX: usize = 22;

/// A byte string of 24 bytes, plus an allocation where it is longer than 22.
#[derive(Clone)]
pub struct SmallBytes(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_MAX] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<SmallBytes>() == 24);

impl SmallBytes {
    /// A copy of `bytes`.
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        SmallBytes(if bytes.len() <= INLINE_MAX {
            let mut inline = [0; INLINE_MAX];
            inline[..bytes.len()].copy_from_slice(bytes);
            Repr::Inline { len: bytes.len() as u8, bytes: inline }
        } else {
            Repr::Heap(bytes.into())
        })
    }

    /// The string.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..*len as usize],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// Bytes taken beyond the 24.
    pub fn heap_size(&self) -> usize {
        match &self.0 {
            Repr::Inline { .. } => 0,
            Repr::Heap(bytes) => bytes.len(),
        }
    }
}

impl PartialEq for SmallBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for SmallBytes {}

impl PartialOrd for SmallBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SmallBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for SmallBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_strings_come_back() {
        for len in [0, 1, 21, 22, 23, 1000] {
            let bytes = vec![7; len];
            let small = SmallBytes::new(&bytes);
            assert_eq!(small.as_bytes(), bytes);
            assert_eq!(small.heap_size(), if len > 22 { len } else { 0 });
            assert_eq!(small, small.clone());
        }
        assert!(SmallBytes::new(b"b") > SmallBytes::new(&[b'a'; 50]));
    }
}
