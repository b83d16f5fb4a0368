//! The packed form of a small sorted set: one run of bytes, sorted by score and then by member.
//!
//! ```text
//! count u16 | prefix length u8 | prefix | element ...
//! element: tag u8 | length (body forms 11) | body | score
//! tag:     sss p bbbb
//!          sss   score: 0 zero  1 i8  2 i16  3 i24  4 i32  5 i48  6 f32  7 f64, little-endian
//!          p     the member is the prefix followed by the body
//!          bbbb  body: 0..=10 that many bytes  11 a length follows (u8, or FF and a u16)
//!                12 i8  13 i16  14 i32  15 i64: the decimal form of that integer
//! ```
//! Members of one sorted set often differ only in their last bytes (`member:1`, `member:2`), so
//! the bytes that they share are kept once. A member that starts with the prefix is always stored
//! without it, and an integer or a score always in the fewest bytes: equal members have equal
//! bytes, and a search compares bytes without decoding them.

use std::cmp::Ordering;
use std::ops::Range;

use smallvec::SmallVec;

use super::RangeSpec;
use crate::value::blob::Blob;
use crate::value::packed::{Elem, IntBuf, canonical_int};

/// Longest member a packed sorted set can hold; the keyspace's own limit is lower.
pub const MEMBER_LEN_MAX: usize = 0xFFFF;
/// Most elements that the count can express.
pub const COUNT_MAX: usize = 0xFFFF;
/// An empty sorted set to start from.
pub const EMPTY: [u8; 3] = [0; 3];

/// A shared prefix shorter than this is not worth the bytes that say so.
const PREFIX_LEN_MIN: usize = 2;
const PREFIX_LEN_MAX: usize = 0xFF;
const HAS_PREFIX: u8 = 0x10;
const MEMBER_BITS: u8 = 0x1F;
const LITERAL_MAX: usize = 10;
const BODY_LONG: u8 = 11;
const BODY_INT8: u8 = 12;
const SCORE_WIDTH: [usize; 8] = [0, 1, 2, 3, 4, 6, 4, 8];
const SCORE_F32: u8 = 6;
const SCORE_F64: u8 = 7;

/// Room for a member that is stored in parts.
pub type MemberBuf = SmallVec<[u8; 128]>;

/// One element, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Where its bytes start and end.
    at: usize,
    end: usize,
    prefix: &'a [u8],
    tail: Elem<'a>,
    /// Its score.
    pub score: f64,
}

impl<'a> Item<'a> {
    /// The member as one string; `buf` holds it where it is not stored as one.
    pub fn member<'b>(&self, buf: &'b mut MemberBuf) -> &'b [u8]
    where
        'a: 'b,
    {
        if let (true, Elem::Bytes(bytes)) = (self.prefix.is_empty(), self.tail) {
            return bytes;
        }
        buf.clear();
        buf.extend_from_slice(self.prefix);
        buf.extend_from_slice(self.tail.as_bytes(&mut IntBuf::new()));
        buf
    }

    fn cmp_member(&self, other: &[u8]) -> Ordering {
        let shared = self.prefix.len().min(other.len());
        let (head, rest) = other.split_at(shared);
        self.prefix.cmp(head).then_with(|| self.tail.as_bytes(&mut IntBuf::new()).cmp(rest))
    }

    /// Whether the element comes before `(score, member)`.
    fn is_before(&self, score: f64, member: &[u8]) -> bool {
        self.score < score || (self.score == score && self.cmp_member(member) == Ordering::Less)
    }
}

/// The header, and where the elements start.
#[derive(Clone, Copy)]
struct Header<'a> {
    count: usize,
    prefix: &'a [u8],
    start: usize,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let &[low, high, prefix_len] = bytes.first_chunk()?;
        let start = EMPTY.len() + prefix_len as usize;
        let prefix = bytes.get(EMPTY.len()..start)?;
        Some(Header { count: u16::from_le_bytes([low, high]) as usize, prefix, start })
    }
}

/// The encoded member of one element: tag (without the score), length where it needs one, body.
struct MemberCode<'a> {
    tag: u8,
    len: SmallVec<[u8; 3]>,
    body: SmallVec<[u8; 8]>,
    rest: &'a [u8],
}

impl<'a> MemberCode<'a> {
    fn new(member: &'a [u8], prefix: &[u8]) -> Self {
        let (flag, tail) = match member.strip_prefix(prefix) {
            Some(tail) if !prefix.is_empty() => (HAS_PREFIX, tail),
            _ => (0, member),
        };
        let mut code =
            MemberCode { tag: flag, len: SmallVec::new(), body: SmallVec::new(), rest: &[] };
        if let Some(int) = canonical_int(tail) {
            let (form, width) = int_form(int);
            if width < tail.len() {
                code.tag |= form;
                code.body.extend_from_slice(&int.to_le_bytes()[..width]);
                return code;
            }
        }
        code.rest = tail;
        if tail.len() <= LITERAL_MAX {
            code.tag |= tail.len() as u8;
        } else {
            code.tag |= BODY_LONG;
            if tail.len() < 0xFF {
                code.len.push(tail.len() as u8);
            } else {
                debug_assert!(tail.len() <= MEMBER_LEN_MAX);
                code.len.push(0xFF);
                code.len.extend_from_slice(&(tail.len() as u16).to_le_bytes());
            }
        }
        code
    }

    /// Whether the element at the start of `bytes` has this member.
    #[inline]
    fn matches(&self, bytes: &[u8]) -> bool {
        let Some((&tag, bytes)) = bytes.split_first() else { return false };
        tag & MEMBER_BITS == self.tag
            && bytes
                .strip_prefix(self.len.as_slice())
                .and_then(|bytes| bytes.strip_prefix(self.body.as_slice()))
                .is_some_and(|bytes| bytes.starts_with(self.rest))
    }

    fn size(&self) -> usize {
        1 + self.len.len() + self.body.len() + self.rest.len()
    }

    fn with_score(&self, score: f64) -> SmallVec<[u8; 128]> {
        let mut out = SmallVec::new();
        let (form, bytes) = score_code(score);
        out.push(self.tag | form << 5);
        out.extend_from_slice(&self.len);
        out.extend_from_slice(&self.body);
        out.extend_from_slice(self.rest);
        out.extend_from_slice(&bytes[..SCORE_WIDTH[form as usize]]);
        out
    }
}

fn int_form(int: i64) -> (u8, usize) {
    match int {
        -0x80..=0x7F => (BODY_INT8, 1),
        -0x8000..=0x7FFF => (BODY_INT8 + 1, 2),
        -0x8000_0000..=0x7FFF_FFFF => (BODY_INT8 + 2, 4),
        _ => (BODY_INT8 + 3, 8),
    }
}

fn score_code(score: f64) -> (u8, [u8; 8]) {
    // A negative zero is kept as zero, as Redis keeps it in its own packed form.
    let int = score as i64;
    if int as f64 == score {
        let form = match int {
            0 => 0,
            -0x80..=0x7F => 1,
            -0x8000..=0x7FFF => 2,
            -0x80_0000..=0x7F_FFFF => 3,
            -0x8000_0000..=0x7FFF_FFFF => 4,
            -0x8000_0000_0000..=0x7FFF_FFFF_FFFF => 5,
            _ => return float_code(score),
        };
        return (form, int.to_le_bytes());
    }
    float_code(score)
}

fn float_code(score: f64) -> (u8, [u8; 8]) {
    let narrow = score as f32;
    if f64::from(narrow) == score {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&narrow.to_le_bytes());
        (SCORE_F32, bytes)
    } else {
        (SCORE_F64, score.to_le_bytes())
    }
}

fn decode_score(form: u8, stored: i64) -> f64 {
    match form {
        SCORE_F32 => f64::from(f32::from_bits(stored as u32)),
        SCORE_F64 => f64::from_bits(stored as u64),
        _ => stored as f64,
    }
}

/// The `width` bytes at `at` as a little-endian integer with sign.
#[inline]
fn load(bytes: &[u8], at: usize, width: usize) -> Option<i64> {
    let wide = match bytes.get(at..)?.first_chunk() {
        Some(chunk) => i64::from_le_bytes(*chunk),
        None => {
            let stored = bytes.get(at..at + width)?;
            stored.iter().rev().fold(0, |wide, &byte| wide << 8 | i64::from(byte))
        }
    };
    if width == 0 {
        return Some(0);
    }
    let unused = 64 - 8 * width as u32;
    Some(wide << unused >> unused)
}

/// Where the body of the element at `at` starts and ends, and its tag.
#[inline]
fn body(bytes: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let tag = *bytes.get(at)?;
    let form = tag & 0x0F;
    let (start, len) = if form <= LITERAL_MAX as u8 {
        (at + 1, form as usize)
    } else if form == BODY_LONG {
        match *bytes.get(at + 1)? {
            0xFF => {
                let len = bytes.get(at + 2..at + 4)?;
                (at + 4, u16::from_le_bytes([len[0], len[1]]) as usize)
            }
            len => (at + 2, len as usize),
        }
    } else {
        (at + 1, 1 << (form - BODY_INT8))
    };
    Some((tag, start..start + len))
}

/// Where the element at `at` ends.
#[inline]
fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let (tag, body) = body(bytes, at)?;
    let end = body.end + SCORE_WIDTH[(tag >> 5) as usize];
    (end <= bytes.len()).then_some(end)
}

#[inline]
fn read<'a>(bytes: &'a [u8], prefix: &'a [u8], at: usize) -> Option<Item<'a>> {
    let (tag, body) = body(bytes, at)?;
    let score_form = tag >> 5;
    let width = SCORE_WIDTH[score_form as usize];
    let end = body.end + width;
    let score = decode_score(score_form, load(bytes, body.end, width)?);
    let tail = if tag & 0x0F >= BODY_INT8 {
        Elem::Int(load(bytes, body.start, body.len())?)
    } else {
        Elem::Bytes(bytes.get(body)?)
    };
    let prefix = if tag & HAS_PREFIX == 0 { &[][..] } else { prefix };
    Some(Item { at, end, prefix, tail, score })
}

/// The elements in order.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = Item<'_>> {
    let header = Header::read(bytes);
    let mut at = header.map_or(bytes.len(), |header| header.start);
    std::iter::from_fn(move || {
        let item = read(bytes, header?.prefix, at)?;
        at = item.end;
        Some(item)
    })
}

/// How many elements there are.
pub fn len(bytes: &[u8]) -> usize {
    Header::read(bytes).map_or(0, |header| header.count)
}

/// The element with this member and its rank.
pub fn find<'a>(bytes: &'a [u8], member: &[u8]) -> Option<(usize, Item<'a>)> {
    if member.len() > MEMBER_LEN_MAX {
        return None;
    }
    let header = Header::read(bytes)?;
    let code = MemberCode::new(member, header.prefix);
    let mut at = header.start;
    let mut rank = 0;
    while at < bytes.len() {
        if code.matches(&bytes[at..]) {
            return Some((rank, read(bytes, header.prefix, at)?));
        }
        at = skip(bytes, at)?;
        rank += 1;
    }
    None
}

/// The ranks that `spec` selects.
pub fn resolve(bytes: &[u8], spec: &RangeSpec<'_>) -> Range<usize> {
    match *spec {
        RangeSpec::Rank(start, stop) => super::rank_range(len(bytes), start, stop),
        RangeSpec::Score(min, max) => {
            select(bytes, |item| min.is_above(item.score), |item| max.is_below(item.score))
        }
        RangeSpec::Lex(min, max) => select(
            bytes,
            |item| min.is_above(|bound| item.cmp_member(bound)),
            |item| max.is_below(|bound| item.cmp_member(bound)),
        ),
    }
}

fn select<'a>(
    bytes: &'a [u8],
    below: impl Fn(&Item<'a>) -> bool,
    above: impl Fn(&Item<'a>) -> bool,
) -> Range<usize> {
    let mut items = iter(bytes).enumerate().skip_while(|(_, item)| below(item));
    let Some((start, first)) = items.next() else { return 0..0 };
    if above(&first) {
        return start..start;
    }
    let end = items.find(|(_, item)| above(item)).map_or(len(bytes), |(rank, _)| rank);
    start..end
}

/// Calls `each` with the elements of these ranks, from the highest down if `reverse`.
pub fn for_range(
    bytes: &[u8],
    ranks: Range<usize>,
    reverse: bool,
    mut each: impl FnMut(&[u8], f64),
) {
    let mut buf = MemberBuf::new();
    let items = iter(bytes).skip(ranks.start).take(ranks.len());
    if reverse {
        let offsets: SmallVec<[u32; 128]> = items.map(|item| item.at as u32).collect();
        let Some(header) = Header::read(bytes) else { return };
        for &at in offsets.iter().rev() {
            if let Some(item) = read(bytes, header.prefix, at as usize) {
                each(item.member(&mut buf), item.score);
            }
        }
    } else {
        for item in items {
            each(item.member(&mut buf), item.score);
        }
    }
}

/// Adds a member that is not there yet.
pub fn insert(blob: &mut impl Blob, member: &[u8], score: f64) {
    choose_prefix(blob, member);
    let bytes = blob.bytes();
    let Some(header) = Header::read(bytes) else { return };
    let element = MemberCode::new(member, header.prefix).with_score(score);
    let at = position(bytes, member, score);
    let count = (header.count as u16 + 1).to_le_bytes();
    blob.splice(at, 0, &[&element]);
    blob.splice(0, 2, &[&count]);
}

/// Adds a member that is not there yet and comes after all that are.
pub fn append(blob: &mut Vec<u8>, member: &[u8], score: f64) {
    choose_prefix(blob, member);
    let Some(header) = Header::read(blob) else { return };
    let element = MemberCode::new(member, header.prefix).with_score(score);
    let count = (header.count as u16 + 1).to_le_bytes();
    blob.extend_from_slice(&element);
    blob[..2].copy_from_slice(&count);
}

/// Gives the member that `find` found in this state of the bytes another score.
pub fn update(blob: &mut impl Blob, member: &[u8], found: Range<usize>, score: f64) {
    let bytes = blob.bytes();
    let Some(header) = Header::read(bytes) else { return };
    let element = MemberCode::new(member, header.prefix).with_score(score);
    let to = position(bytes, member, score);
    if to < found.start {
        let between = MemberBuf::from_slice(&bytes[to..found.start]);
        blob.splice(to, found.end - to, &[&element, &between]);
    } else if to > found.end {
        let between = MemberBuf::from_slice(&bytes[found.end..to]);
        blob.splice(found.start, to - found.start, &[&between, &element]);
    } else {
        blob.splice(found.start, found.len(), &[&element]);
    }
}

impl Item<'_> {
    /// Where the element's bytes are, for [`update`].
    pub fn span(&self) -> Range<usize> {
        self.at..self.end
    }
}

/// The offset at which `(score, member)` belongs.
fn position(bytes: &[u8], member: &[u8], score: f64) -> usize {
    iter(bytes).find(|item| !item.is_before(score, member)).map_or(bytes.len(), |item| item.at)
}

/// Removes the elements of these ranks.
pub fn remove_range(blob: &mut impl Blob, ranks: Range<usize>) {
    let bytes = blob.bytes();
    let mut items = iter(bytes).skip(ranks.start).take(ranks.len());
    let Some(first) = items.next() else { return };
    let (at, mut end, mut removed) = (first.at, first.end, 1);
    for item in items {
        end = item.end;
        removed += 1;
    }
    let count = (len(bytes) as u16 - removed).to_le_bytes();
    blob.splice(at, end - at, &[]);
    blob.splice(0, 2, &[&count]);
}

/// Removes a member; its score if it was there.
pub fn remove(blob: &mut impl Blob, member: &[u8]) -> Option<f64> {
    let (_, item) = find(blob.bytes(), member)?;
    let (span, score) = (item.span(), item.score);
    let count = (len(blob.bytes()) as u16 - 1).to_le_bytes();
    blob.splice(span.start, span.len(), &[]);
    blob.splice(0, 2, &[&count]);
    Some(score)
}

/// Takes another shared prefix where `member`, which is to be added, makes a better one known.
///
/// The candidate is what the new member shares with the first one or with the present prefix:
/// this costs nothing where members have the prefix already, and little where none share any.
fn choose_prefix(blob: &mut impl Blob, member: &[u8]) {
    let bytes = blob.bytes();
    let Some(header) = Header::read(bytes) else { return };
    if !header.prefix.is_empty() && member.starts_with(header.prefix) {
        return;
    }
    let mut buf = MemberBuf::new();
    let Some(first) = iter(bytes).next() else { return };
    let shared = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let with_first = shared(first.member(&mut buf), member);
    let candidate_len = with_first.max(shared(header.prefix, member)).min(PREFIX_LEN_MAX);
    if candidate_len < PREFIX_LEN_MIN {
        return;
    }
    let candidate = &member[..candidate_len];
    // Numbers take few bytes already, so what a prefix saves is only known by trying.
    let size = |member: &[u8], prefix: &[u8]| MemberCode::new(member, prefix).size();
    let mut now = header.prefix.len() + size(member, header.prefix);
    let mut then = candidate_len + size(member, candidate);
    for item in iter(bytes) {
        let member = item.member(&mut buf);
        now += size(member, header.prefix);
        then += size(member, candidate);
    }
    if then >= now {
        return;
    }
    let mut rebuilt = Vec::with_capacity(bytes.len());
    rebuilt.extend_from_slice(&(header.count as u16).to_le_bytes());
    rebuilt.push(candidate_len as u8);
    rebuilt.extend_from_slice(candidate);
    for item in iter(bytes) {
        let code = MemberCode::new(item.member(&mut buf), candidate).with_score(item.score);
        rebuilt.extend_from_slice(&code);
    }
    let old_len = bytes.len();
    blob.splice(0, old_len, &[&rebuilt]);
}

/// Most bytes that an element with this member can take.
pub fn size_max(member: &[u8]) -> usize {
    1 + 3 + member.len() + 8
}

/// Whether the bytes are a packed sorted set with at least one element, encoded as this module
/// encodes it.
pub fn validate(bytes: &[u8]) -> bool {
    let Some(header) = Header::read(bytes) else { return false };
    let mut members: Vec<Vec<u8>> = Vec::new();
    let mut end = header.start;
    let mut last: Option<(f64, Vec<u8>)> = None;
    let mut buf = MemberBuf::new();
    for item in iter(bytes) {
        let member = item.member(&mut buf).to_vec();
        let code = MemberCode::new(&member, header.prefix).with_score(item.score);
        let sorted = last.is_none_or(|(score, member)| {
            score < item.score || (score == item.score && item.cmp_member(&member).is_gt())
        });
        if item.score.is_nan() || code[..] != bytes[item.span()] || !sorted {
            return false;
        }
        end = item.end;
        last = Some((item.score, member.clone()));
        members.push(member);
    }
    let count = members.len();
    members.sort_unstable();
    let distinct = members.windows(2).all(|pair| pair[0] != pair[1]);
    count == header.count && count > 0 && end == bytes.len() && distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(items: &[(&str, f64)]) -> Vec<u8> {
        let mut blob = EMPTY.to_vec();
        for (member, score) in items {
            match find(&blob, member.as_bytes()).map(|(_, item)| item.span()) {
                Some(span) => update(&mut blob, member.as_bytes(), span, *score),
                None => insert(&mut blob, member.as_bytes(), *score),
            }
            assert!(validate(&blob), "after {member}");
        }
        blob
    }

    #[test]
    fn twenty_members_with_a_common_prefix_are_small() {
        let mut blob = EMPTY.to_vec();
        for i in 1..=20 {
            insert(&mut blob, format!("member:{i}").as_bytes(), f64::from(i));
        }
        assert!(validate(&blob));
        assert_eq!(blob.len(), 3 + 7 + 20 * 3);
    }

    #[test]
    fn the_prefix_shrinks_when_that_pays() {
        let blob = build(&[("member:10", 1.0), ("member:11", 2.0), ("member:2", 3.0)]);
        assert_eq!(Header::read(&blob).unwrap().prefix, b"member:");
        let blob = build(&[("aaaaaa1", 1.0), ("aaaaaa2", 2.0), ("aab", 3.0)]);
        assert_eq!(Header::read(&blob).unwrap().prefix, b"aaaaaa");
    }

    #[test]
    fn scores_come_back_in_few_bytes() {
        for (score, width) in [
            (0.0, 0),
            (-1.0, 1),
            (127.0, 1),
            (128.0, 2),
            (40_000.0, 3),
            (-8_388_608.0, 3),
            (1.7e9, 4),
            (1.7e12, 6),
            (-140_737_488_355_328.0, 6),
            (0.5, 4),
            (f64::INFINITY, 4),
            (f64::NEG_INFINITY, 4),
            (0.1, 8),
            (12_345_678_901_234_567.0, 8),
        ] {
            let (form, bytes) = score_code(score);
            assert_eq!(SCORE_WIDTH[form as usize], width, "{score}");
            assert_eq!(decode_score(form, load(&bytes[..width], 0, width).unwrap()), score);
        }
    }

    #[test]
    fn garbage_is_refused() {
        let good = build(&[("a", 1.0), ("b", 0.25), ("300", -2.0)]);
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                if validate(&bad) {
                    for item in iter(&bad) {
                        assert!(!item.score.is_nan());
                    }
                }
                find(&bad, b"b");
                let _ = resolve(&bad, &RangeSpec::Rank(0, -1));
            }
            assert!(!validate(&good[..at]));
        }
        assert!(!validate(&EMPTY));
    }
}
