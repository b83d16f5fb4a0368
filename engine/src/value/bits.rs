//! Strings as arrays of bits: counting, searching, combining, and integers of any width in them.
//!
//! Bit 0 is the highest of the first byte, as in Redis. Bytes past the end read as zero. All
//! functions work on eight bytes at a time where there are that many.

/// The bits from the first to the last (inclusive) of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRange {
    /// The first bit.
    pub first: u64,
    /// The last bit.
    pub last: u64,
}

fn word(chunk: &[u8]) -> u64 {
    chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Number of ones.
pub fn count(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole: u64 =
        words.iter().map(|chunk| u64::from(u64::from_ne_bytes(*chunk).count_ones())).sum();
    whole + u64::from(word(rest).count_ones())
}

/// Number of ones in a range of bits.
pub fn count_range(bytes: &[u8], range: BitRange) -> u64 {
    let last = range.last.min((bytes.len() as u64 * 8).saturating_sub(1));
    if range.first > last || bytes.is_empty() {
        return 0;
    }
    let (from, to) = ((range.first / 8) as usize, (last / 8) as usize);
    let before = bytes[from] & head_mask(range.first);
    let after = bytes[to] & tail_mask(last);
    count(&bytes[from..=to]) - u64::from(before.count_ones()) - u64::from(after.count_ones())
}

/// The bits of its byte that come before bit `at`.
fn head_mask(at: u64) -> u8 {
    !(0xFF >> (at % 8))
}

/// The bits of its byte that come after bit `at`.
fn tail_mask(at: u64) -> u8 {
    0x7F >> (at % 8)
}

/// The first bit of the range that is `bit`; bits past the end are not looked at.
pub fn position(bytes: &[u8], bit: bool, range: BitRange) -> Option<u64> {
    let last = range.last.min((bytes.len() as u64 * 8).checked_sub(1)?);
    if range.first > last {
        return None;
    }
    let (from, to) = ((range.first / 8) as usize, (last / 8) as usize);
    let flip = if bit { 0 } else { 0xFF };
    let first = (bytes[from] ^ flip) & !head_mask(range.first);
    let found = if first != 0 {
        range.first - range.first % 8 + u64::from(first.leading_zeros())
    } else {
        (from as u64 + 1) * 8 + first_one(&bytes[from + 1..=to.max(from)], flip)?
    };
    (found <= last).then_some(found)
}

/// The first one after each byte is flipped with `flip`.
fn first_one(bytes: &[u8], flip: u8) -> Option<u64> {
    let (words, rest) = bytes.as_chunks::<8>();
    let wide = u64::from_ne_bytes([flip; 8]);
    for (at, chunk) in words.iter().enumerate() {
        let word = u64::from_be_bytes(*chunk) ^ wide;
        if word != 0 {
            return Some(at as u64 * 64 + u64::from(word.leading_zeros()));
        }
    }
    let at = rest.iter().position(|&byte| byte != flip)?;
    Some((words.len() * 8 + at) as u64 * 8 + u64::from((rest[at] ^ flip).leading_zeros()))
}

/// The bit at offset `at`.
pub fn get(bytes: &[u8], at: u64) -> bool {
    let byte = usize::try_from(at / 8).ok().and_then(|byte| bytes.get(byte));
    byte.is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1)
}

/// What BITOP does with its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Ones in all.
    And,
    /// Ones in any.
    Or,
    /// Ones in an odd number.
    Xor,
    /// Zeros of the one source.
    Not,
}

/// Combines the sources, each filled up with zeros to the length of the longest.
pub fn combine(how: Combine, sources: &[&[u8]]) -> Vec<u8> {
    let len = sources.iter().map(|source| source.len()).max().unwrap_or(0);
    let Some((first, others)) = sources.split_first() else { return Vec::new() };
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(first);
    out.resize(len, 0);
    if how == Combine::Not {
        out.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for source in others {
        let (overlap, rest) = out.split_at_mut(source.len());
        match how {
            Combine::And => {
                overlap.iter_mut().zip(*source).for_each(|(to, from)| *to &= from);
                rest.fill(0);
            }
            Combine::Or => overlap.iter_mut().zip(*source).for_each(|(to, from)| *to |= from),
            Combine::Xor => overlap.iter_mut().zip(*source).for_each(|(to, from)| *to ^= from),
            Combine::Not => {}
        }
    }
    out
}

/// The type of an integer in a bit field: `u1` to `u63`, `i1` to `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldType {
    signed: bool,
    bits: u32,
}

/// What happens to a result that does not fit its field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It keeps its low bits.
    #[default]
    Wrap,
    /// It becomes the nearest that fits.
    Sat,
    /// It is not stored.
    Fail,
}

impl FieldType {
    /// Reads `u8`, `i16`, ...
    pub fn parse(text: &[u8]) -> Option<FieldType> {
        let (signed, bits) = match text {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return None,
        };
        let bits = crate::number::parse_i64(bits)?;
        let most = if signed { 64 } else { 63 };
        (1..=most).contains(&bits).then_some(FieldType { signed, bits: bits as u32 })
    }

    /// The width in bits.
    pub fn bits(self) -> u64 {
        self.bits.into()
    }

    /// The integer at bit `at`.
    pub fn get(self, bytes: &[u8], at: u64) -> i64 {
        let unsigned = (load(bytes, at) >> (128 - self.bits)) as u64;
        self.extend(unsigned)
    }

    /// Stores the low bits of `value` at bit `at`, which must lie inside with the whole width.
    pub fn set(self, bytes: &mut [u8], at: u64, value: i64) {
        let mask = u128::MAX << (128 - self.bits) >> (at % 8);
        let value = ((value as u128) << (128 - self.bits)) >> (at % 8);
        let from = (at / 8) as usize;
        let to = (at + self.bits() - 1) / 8;
        let parts = mask.to_be_bytes().into_iter().zip(value.to_be_bytes());
        for (byte, (mask, value)) in bytes[from..=to as usize].iter_mut().zip(parts) {
            *byte = *byte & !mask | value;
        }
    }

    /// `value + increment` as it fits the field; `None` where it does not and must fail. The value
    /// of an unsigned field is read as unsigned, so that a negative one is too large.
    pub fn add(self, value: i64, increment: i64, overflow: Overflow) -> Option<i64> {
        let value = if self.signed { i128::from(value) } else { i128::from(value as u64) };
        let sum = value + i128::from(increment);
        let high_bits = if self.signed { self.bits - 1 } else { self.bits };
        let max = (1i128 << high_bits) - 1;
        let min = if self.signed { -max - 1 } else { 0 };
        if (min..=max).contains(&sum) {
            return Some(sum as i64);
        }
        match overflow {
            Overflow::Fail => None,
            // In Redis the distance to the maximum overflows for a value that is this far below
            // the minimum, which then counts as too large.
            Overflow::Sat if self.signed && self.bits < 64 && max - sum > i64::MAX.into() => {
                Some(max as i64)
            }
            Overflow::Sat => Some(sum.clamp(min, max) as i64),
            Overflow::Wrap => Some(self.extend(sum as u64)),
        }
    }

    /// The low bits of `value`, with the sign that they have in this type.
    fn extend(self, value: u64) -> i64 {
        let spare = 64 - self.bits;
        let high = value << spare;
        if self.signed { high as i64 >> spare } else { (high >> spare) as i64 }
    }
}

/// 128 bits from bit `at` on, of which at least the first 65 are the string's.
fn load(bytes: &[u8], at: u64) -> u128 {
    let from = usize::try_from(at / 8).unwrap_or(usize::MAX).min(bytes.len());
    let mut wide = [0; 16];
    let there = (bytes.len() - from).min(16);
    wide[..there].copy_from_slice(&bytes[from..from + there]);
    u128::from_be_bytes(wide) << (at % 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bit_list(bytes: &[u8]) -> Vec<bool> {
        bytes.iter().flat_map(|byte| (0..8).map(move |at| byte >> (7 - at) & 1 == 1)).collect()
    }

    #[test]
    fn overflow_as_redis_treats_it() {
        let field = |text: &str| FieldType::parse(text.as_bytes()).unwrap();
        assert_eq!(field("u8").add(255, 1, Overflow::Wrap), Some(0));
        assert_eq!(field("u8").add(255, 10, Overflow::Sat), Some(255));
        assert_eq!(field("u8").add(0, -1, Overflow::Sat), Some(0));
        assert_eq!(field("u8").add(-1, 0, Overflow::Sat), Some(255));
        assert_eq!(field("u8").add(-1, 0, Overflow::Fail), None);
        assert_eq!(field("i8").add(127, 1, Overflow::Wrap), Some(-128));
        assert_eq!(field("i8").add(-128, -1, Overflow::Sat), Some(-128));
        assert_eq!(field("i16").add(i64::MIN + 32_768, 0, Overflow::Sat), Some(-32_768));
        assert_eq!(field("i16").add(i64::MIN + 32_767, 0, Overflow::Sat), Some(32_767));
        assert_eq!(field("i64").add(i64::MAX, 1, Overflow::Wrap), Some(i64::MIN));
        assert_eq!(field("i64").add(i64::MIN, i64::MIN, Overflow::Sat), Some(i64::MIN));
        assert_eq!(field("u63").add(i64::MAX, 1, Overflow::Wrap), Some(0));
        assert_eq!(field("u63").add(0, -2, Overflow::Sat), Some(0));
        assert_eq!(field("i1").add(0, 1, Overflow::Wrap), Some(-1));
        for bad in ["u64", "i65", "u0", "i0", "8", "", "i", "u-1", "x8", "u08", "U8"] {
            assert_eq!(FieldType::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn combining_pads_with_zeros() {
        assert_eq!(combine(Combine::And, &[b"\xFF\xFF", b"\x0F"]), b"\x0F\x00");
        assert_eq!(combine(Combine::Or, &[b"\xF0", b"\x0F\x01"]), b"\xFF\x01");
        assert_eq!(combine(Combine::Xor, &[b"\xFF", b"\x0F", b""]), b"\xF0");
        assert_eq!(combine(Combine::Not, &[b"\xF0\x00"]), b"\x0F\xFF");
    }

    proptest! {
        #[test]
        fn counting_and_searching(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..60),
            first in 0u64..500, last in 0u64..500, bit: bool,
        ) {
            let list = bit_list(&bytes);
            let range = BitRange { first, last };
            let inside = || list.iter().enumerate()
                .filter(|(at, _)| (first..=last).contains(&(*at as u64)));
            prop_assert_eq!(count(&bytes), list.iter().filter(|bit| **bit).count() as u64);
            prop_assert_eq!(count_range(&bytes, range), inside().filter(|(_, bit)| **bit).count() as u64);
            let expected = inside().find(|(_, there)| **there == bit).map(|(at, _)| at as u64);
            prop_assert_eq!(position(&bytes, bit, range), expected);
            prop_assert_eq!(get(&bytes, first), list.get(first as usize) == Some(&true));
        }

        #[test]
        fn fields(
            bytes in proptest::collection::vec(any::<u8>(), 0..40), at in 0u64..300,
            signed: bool, width in 1u32..=63, value: i64,
        ) {
            let field = FieldType { signed, bits: width };
            let list = bit_list(&bytes);
            let read = (at..at + field.bits())
                .fold(0u64, |sum, at| sum << 1 | u64::from(list.get(at as usize) == Some(&true)));
            prop_assert_eq!(field.get(&bytes, at), field.extend(read));
            let mut long = bytes.clone();
            long.resize(60, 0);
            let before = bit_list(&long);
            field.set(&mut long, at, value);
            prop_assert_eq!(field.get(&long, at), field.extend(value as u64));
            let after = bit_list(&long);
            let outside = (0..after.len()).filter(|bit| !(at..at + field.bits()).contains(&(*bit as u64)));
            for bit in outside {
                prop_assert_eq!(before[bit], after[bit]);
            }
        }
    }
}
