//! Sets: sorted integers ([`intset`]) or one run of bytes ([`packed`]) while they are small, a hash
//! table that keeps the order of insertion when large ([`Set`]).

mod edit;
pub mod intset;
pub mod packed;

use super::dense::{self, Dense, Entry};
use super::packed::{Elem, Encoded, IntBuf, canonical_int, read_canonical};
use super::part::{Found, Part};
use super::small::SmallBytes;
use super::varint;
use std::fmt;

pub use self::edit::{Builder, Limits, SetMut, draft};

/// A large set.
#[derive(Clone, Default)]
pub struct Set {
    members: Dense<SmallBytes>,
}

impl Set {
    /// The table of its members, to be prefetched from.
    pub(crate) fn table(&self) -> &Dense<SmallBytes> {
        &self.members
    }

    /// A set without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Bytes of memory the set takes; members beyond the first few are estimated by these.
    pub fn memory(&self) -> usize {
        const SAMPLES: usize = 64;
        let sampled: usize = self.members.iter().take(SAMPLES).map(SmallBytes::heap_size).sum();
        let long = sampled * self.len() / self.len().clamp(1, SAMPLES);
        size_of::<Self>() + self.members.memory() + long
    }

    /// Whether it is a member.
    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.members.find(member).is_some()
    }

    /// Adds a member. Returns whether it is new.
    #[inline]
    pub fn insert(&mut self, member: &[u8]) -> bool {
        match self.members.entry(member) {
            Entry::Found(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(SmallBytes::new(member));
                true
            }
        }
    }

    /// Removes a member; the last one takes its position. Returns whether it was there.
    #[inline]
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.members.remove(member).is_some()
    }

    /// The member at a position.
    #[inline]
    pub fn at(&self, position: usize) -> Option<&[u8]> {
        self.members.at(position).map(SmallBytes::as_bytes)
    }

    /// Removes and returns the member at a position; the last one takes its place.
    #[inline]
    pub fn remove_at(&mut self, position: usize) -> Option<SmallBytes> {
        self.members.remove_at(position)
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.members.iter().map(SmallBytes::as_bytes)
    }

    /// Visits up to `count` members and returns the next cursor, as [`Dense::scan`] does.
    pub fn scan<'s>(&'s self, cursor: u64, count: usize, mut visit: impl FnMut(&'s [u8])) -> u64 {
        self.members.scan(cursor, count, |member| visit(member.as_bytes()))
    }

    /// Appends the canonical form: the number of members, then each as [`super::packed`] has it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        self.iter().for_each(|member| Encoded::new(member).push_to(out));
    }

    /// Appends what comes before the first member in the canonical form.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        varint::push(out, self.len() as u64);
    }

    /// Appends the member at a position, in the canonical form; the member.
    pub(super) fn encode_at(&self, position: usize, out: &mut Vec<u8>) -> Option<&[u8]> {
        let member = self.at(position)?;
        Encoded::new(member).push_to(out);
        Some(member)
    }

    /// Reads what [`Set::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, mut at) = varint::read(bytes, 0)?;
        let mut set = Set::new();
        let mut buf = IntBuf::new();
        for _ in 0..count {
            let (member, end) = read_canonical(bytes, at)?;
            if !set.insert(member.as_bytes(&mut buf)) {
                return None;
            }
            at = end;
        }
        (at == bytes.len() && count > 0).then_some(set)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<'a> Extend<Elem<'a>> for Set {
    fn extend<I: IntoIterator<Item = Elem<'a>>>(&mut self, members: I) {
        let mut buf = IntBuf::new();
        for member in members {
            self.insert(member.as_bytes(&mut buf));
        }
    }
}

impl<'a> FromIterator<Elem<'a>> for Set {
    fn from_iter<I: IntoIterator<Item = Elem<'a>>>(members: I) -> Self {
        let mut set = Set::new();
        set.extend(members);
        set
    }
}

/// A set of any form, to read.
#[derive(Clone, Copy)]
pub enum SetRef<'a> {
    /// A small one of integers.
    Ints(&'a [u8]),
    /// A small one.
    Packed(&'a [u8]),
    /// A large one.
    Big(&'a Set),
    /// Some members of a large one on disk.
    Part(&'a Part),
}

impl<'a> SetRef<'a> {
    /// Number of members.
    pub fn len(&self) -> usize {
        match self {
            SetRef::Ints(bytes) => intset::len(bytes),
            SetRef::Packed(bytes) => packed::len(bytes),
            SetRef::Big(set) => set.len(),
            SetRef::Part(part) => part.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            SetRef::Packed(bytes) => bytes.is_empty(),
            _ => self.len() == 0,
        }
    }

    /// Whether it is a member.
    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        match self {
            SetRef::Ints(bytes) => {
                canonical_int(member).is_some_and(|member| intset::contains(bytes, member))
            }
            SetRef::Packed(bytes) => packed::contains(bytes, member),
            SetRef::Big(set) => set.contains(member),
            SetRef::Part(part) => match &part.found {
                Found::Members(found) => found.contains(member),
                _ => false,
            },
        }
    }

    /// Whether an element of another collection is a member.
    #[inline]
    pub fn contains_elem(&self, member: Elem<'_>) -> bool {
        match (self, member) {
            (SetRef::Ints(bytes), Elem::Int(int)) => intset::contains(bytes, int),
            _ => self.contains(member.as_bytes(&mut IntBuf::new())),
        }
    }

    /// The member at a position.
    pub fn at(&self, position: usize) -> Option<Elem<'a>> {
        match self {
            SetRef::Ints(bytes) => intset::get(bytes, position).map(Elem::Int),
            SetRef::Packed(bytes) => packed::at(bytes, position).map(|(member, ..)| member),
            SetRef::Big(set) => set.at(position).map(Elem::Bytes),
            SetRef::Part(_) => None,
        }
    }

    /// The members in order.
    pub fn iter(&self) -> Iter<'a> {
        match self {
            SetRef::Ints(bytes) => Iter::Ints(intset::iter(bytes)),
            SetRef::Packed(bytes) => Iter::Packed(packed::iter(bytes)),
            SetRef::Big(set) => Iter::Big(set.members.iter()),
            SetRef::Part(part) => match &part.found {
                Found::Members(found) => Iter::Big(found.members.iter()),
                _ => Iter::Packed(packed::iter(&[])),
            },
        }
    }
}

/// The members of a set.
pub enum Iter<'a> {
    /// Of a small one of integers.
    Ints(intset::Iter<'a>),
    /// Of a small one.
    Packed(packed::Iter<'a>),
    /// Of a large one.
    Big(dense::Iter<'a, SmallBytes>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = Elem<'a>;

    #[inline]
    fn next(&mut self) -> Option<Elem<'a>> {
        match self {
            Iter::Ints(iter) => iter.next().map(Elem::Int),
            Iter::Packed(iter) => iter.next(),
            Iter::Big(iter) => iter.next().map(|member| Elem::Bytes(member.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_agree() {
        let mut ints = vec![2];
        let mut small = Vec::new();
        for n in [3_i64, 70_000, -5, 12] {
            intset::insert(&mut ints, n);
        }
        for member in SetRef::Ints(&ints).iter() {
            packed::push(&mut small, &Encoded::new(&member.to_vec()));
        }
        let large: Set = SetRef::Packed(&small).iter().collect();
        for set in [SetRef::Ints(&ints), SetRef::Packed(&small), SetRef::Big(&large)] {
            let members: Vec<_> = set.iter().map(|member| member.to_vec()).collect();
            assert_eq!(members, [&b"-5"[..], b"3", b"12", b"70000"]);
            assert_eq!(set.len(), 4);
            assert_eq!(set.at(3).unwrap().to_vec(), b"70000");
            assert!(set.at(4).is_none());
            assert!(set.contains(b"12") && !set.contains(b"012") && !set.contains(b""));
        }
    }

    #[test]
    fn the_encoded_form_keeps_the_order() {
        let mut set = Set::new();
        for n in 0..500 {
            assert!(set.insert(format!("a somewhat long member {n}").as_bytes()));
        }
        set.remove(b"a somewhat long member 3");
        assert_eq!(set.remove_at(0).unwrap().as_bytes(), b"a somewhat long member 0");
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let copy = Set::decode(&bytes).unwrap();
        assert!(set.iter().eq(copy.iter()));
        for end in 0..bytes.len() {
            assert!(Set::decode(&bytes[..end]).is_none());
        }
        assert!(Set::decode(&[2, 1, b'a', 1, b'a']).is_none());
        assert!(Set::decode(&[0]).is_none());
    }
}
