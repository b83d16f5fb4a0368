//! The id of a stream entry.

use crate::value::varint;
use std::fmt;

/// Milliseconds and a number within them; ids only grow within a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Usually the time of the entry, in milliseconds since 1970.
    pub ms: u64,
    /// Tells entries of one millisecond apart.
    pub seq: u64,
}

impl Id {
    /// The smallest id, which no entry has.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The largest id.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// The id of these two parts.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Id { ms, seq }
    }

    /// The id that follows; `None` after the largest.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The id before; `None` before the smallest.
    pub fn prev(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// Writes `ms-seq` to `buf` and returns it.
    pub fn format(self, buf: &mut IdBuf) -> &[u8] {
        let mut digits = itoa::Buffer::new();
        let mut len = 0;
        let mut put = |part: &[u8]| {
            buf.0[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        };
        put(digits.format(self.ms).as_bytes());
        put(b"-");
        put(digits.format(self.seq).as_bytes());
        &buf.0[..len]
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        varint::push(out, self.ms);
        varint::push(out, self.seq);
    }

    pub(super) fn decode(bytes: &[u8], at: usize) -> Option<(Id, usize)> {
        let (ms, at) = varint::read(bytes, at)?;
        let (seq, at) = varint::read(bytes, at)?;
        Some((Id { ms, seq }, at))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Room for an id's text: two integers of up to 20 digits.
#[derive(Debug)]
pub struct IdBuf([u8; 41]);

impl IdBuf {
    /// An empty one.
    pub fn new() -> Self {
        IdBuf([0; 41])
    }
}

impl Default for IdBuf {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_step_over_the_parts() {
        assert_eq!(Id::new(1, u64::MAX).next(), Some(Id::new(2, 0)));
        assert_eq!(Id::new(2, 0).prev(), Some(Id::new(1, u64::MAX)));
        assert_eq!(Id::MAX.next(), None);
        assert_eq!(Id::MIN.prev(), None);
        let text = Id::MAX.to_string();
        assert_eq!(Id::MAX.format(&mut IdBuf::new()), text.as_bytes());
    }
}
