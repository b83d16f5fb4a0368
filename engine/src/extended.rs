//! The 80-bit floating point numbers in which Redis calculates INCRBYFLOAT and HINCRBYFLOAT.
//!
//! On x86-64 Redis uses C's `long double` there and prints it with `%.17Lf` less the trailing
//! zeros. So `0.1` and `0.2` make `0.3`, and a client sees digits that no `f64` would give. This is
//! that format in software: a 64-bit mantissa, a 15-bit exponent, sums rounded to nearest with ties
//! to even, exact conversion from and to decimal.

use crate::number::{self, Scanned, round_shift};

/// Texts of this length and more are refused, as by Redis.
const TEXT_MAX: usize = 5 * 1024;
/// The largest exponent of a finite number, for a mantissa read as an integer.
const EXPONENT_MAX: i32 = 16_320;
/// The exponent of the smallest number that does not round to zero.
const EXPONENT_MIN: i32 = -16_509;
/// Decimal exponents (of the digit before the point) outside of these are out of range for sure.
const DECIMAL_MAX: i32 = 4_940;
const DECIMAL_MIN: i32 = -4_960;
/// The largest power of five that fits into 63 bits.
const FIVES_MAX: u32 = 27;
/// Ten to the number of printed decimal places.
const PLACES: usize = 17;
const PLACES_SCALE: u128 = 100_000_000_000_000_000;
const LIMB_TENS: u32 = 1_000_000_000;
const LIMB_TENS_DIGITS: u32 = 9;

/// A number of C's `long double` on x86-64; NaN does not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    negative: bool,
    /// With its top bit set, or 0 for zero.
    mantissa: u64,
    /// The value is `mantissa * 2^exponent`; above [`EXPONENT_MAX`] it is infinity.
    exponent: i32,
}

impl Extended {
    const ZERO: Extended = Extended { negative: false, mantissa: 0, exponent: 0 };
    const INFINITY: Extended =
        Extended { negative: false, mantissa: 1 << 63, exponent: EXPONENT_MAX + 1 };

    /// The number that `bytes` as a whole is the form of, as C's `strtold` takes it; NaN, space and
    /// numbers out of range are refused, infinity is not.
    pub fn parse(bytes: &[u8]) -> Option<Extended> {
        if bytes.len() >= TEXT_MAX {
            return None;
        }
        if let Some(int) = number::parse_i64(bytes) {
            return Some(Extended::from(int));
        }
        match number::scan(bytes)? {
            Scanned::Infinite { negative } => Some(Extended { negative, ..Extended::INFINITY }),
            Scanned::Hex { negative, mantissa, exponent } => {
                let value = Extended::round(negative, mantissa.into(), exponent, false);
                value.is_in_range().then_some(value)
            }
            Scanned::Decimal { negative, int, fraction, exponent } => {
                let exponent = exponent.saturating_sub(fraction.len() as i32);
                let digits = int.iter().chain(fraction).map(|digit| digit - b'0');
                let digits: Vec<u8> = digits.skip_while(|&digit| digit == 0).collect();
                let value = Extended::from_decimal(&digits, exponent)?;
                value.is_in_range().then_some(Extended { negative, ..value })
            }
        }
    }

    /// Whether this is not infinity.
    pub fn is_finite(&self) -> bool {
        self.mantissa == 0 || self.exponent <= EXPONENT_MAX
    }

    fn is_in_range(&self) -> bool {
        self.mantissa == 0 || (EXPONENT_MIN..=EXPONENT_MAX).contains(&self.exponent)
    }

    /// The sum, rounded; `None` where it is infinite or not a number.
    pub fn checked_add(self, other: Extended) -> Option<Extended> {
        if !self.is_finite() || !other.is_finite() {
            return None;
        }
        if self.mantissa == 0 {
            return Some(other);
        }
        if other.mantissa == 0 {
            return Some(self);
        }
        let (big, small) =
            if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let apart = big.exponent.abs_diff(small.exponent);
        let high = u128::from(big.mantissa) << 62;
        let low_whole = u128::from(small.mantissa) << 62;
        let low = low_whole.checked_shr(apart).unwrap_or(0);
        let lost = apart > 127 || low << apart != low_whole;
        let exponent = big.exponent - 62;
        let sum = if big.negative == small.negative {
            Extended::round(big.negative, high + low, exponent, lost)
        } else if high >= low {
            Extended::round(big.negative, high - low - u128::from(lost), exponent, lost)
        } else {
            Extended::round(small.negative, low - high, exponent, false)
        };
        sum.is_finite().then_some(sum)
    }

    /// Appends the number as Redis prints it: at most 17 decimal places, never an exponent.
    pub fn format(&self, out: &mut Vec<u8>) {
        if !self.is_finite() {
            out.extend_from_slice(if self.negative { b"-inf" } else { b"inf" });
            return;
        }
        if self.exponent >= 0 && self.mantissa != 0 {
            if self.negative {
                out.push(b'-');
            }
            let mut whole = Big::from_u64(self.mantissa);
            whole.shift_left(self.exponent as u32);
            whole.print(out);
            return;
        }
        let places = self.exponent.unsigned_abs();
        let mut int = self.mantissa.checked_shr(places).unwrap_or(0);
        let rest = if places < 64 { self.mantissa & ((1 << places) - 1) } else { self.mantissa };
        let mut fraction = round_shift(u128::from(rest) * PLACES_SCALE, places, false) as u64;
        if u128::from(fraction) == PLACES_SCALE {
            int += 1;
            fraction = 0;
        }
        if self.negative && (int != 0 || fraction != 0) {
            out.push(b'-');
        }
        out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
        if fraction != 0 {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(fraction).as_bytes();
            out.push(b'.');
            out.resize(out.len() + PLACES - digits.len(), b'0');
            let used = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |at| at + 1);
            out.extend_from_slice(&digits[..used]);
        }
    }

    /// `digits` (0 to 9, the first not 0) times ten to the `exponent`; `None` where that is too
    /// large or too small.
    fn from_decimal(digits: &[u8], exponent: i32) -> Option<Extended> {
        if digits.is_empty() {
            return Some(Extended::ZERO);
        }
        let magnitude = exponent.saturating_add(digits.len() as i32);
        if !(DECIMAL_MIN..=DECIMAL_MAX).contains(&magnitude) {
            return None;
        }
        let tens = exponent.unsigned_abs();
        if digits.len() <= 19 && tens <= FIVES_MAX {
            let int = digits.iter().fold(0, |int: u64, &digit| int * 10 + u64::from(digit));
            let fives = 5u64.pow(tens);
            if exponent >= 0 {
                let wide = u128::from(int) * u128::from(fives);
                return Some(Extended::round(false, wide, exponent, false));
            }
            let up = int.leading_zeros();
            let wide = u128::from(int << up) << 64;
            let fives = u128::from(fives);
            let exponent = exponent - 64 - up as i32;
            return Some(Extended::round(false, wide / fives, exponent, wide % fives != 0));
        }
        let mut big = Big::from_digits(digits);
        if exponent >= 0 {
            big.multiply_by_tens(tens);
            return Some(big.to_extended(0, false));
        }
        // Enough bits that the quotient has more than 65; 3.33 is above the bits of a digit.
        let shift = (tens as usize * 333 / 100 + 72).saturating_sub(big.bits()) as u32;
        big.shift_left(shift);
        let lost = big.divide_by_tens(tens);
        Some(big.to_extended(-(shift as i32), lost))
    }

    /// `wide * 2^exponent` to the nearest; `lost` says that there are lower bits beyond, which is
    /// allowed where `wide` has more than 64.
    fn round(negative: bool, wide: u128, exponent: i32, lost: bool) -> Extended {
        if wide == 0 {
            return Extended { negative, ..Extended::ZERO };
        }
        let bits = 128 - wide.leading_zeros();
        let (mantissa, exponent) = if bits <= 64 {
            let up = 64 - bits;
            ((wide as u64) << up, exponent.saturating_sub(up as i32))
        } else {
            let drop = bits - 64;
            let kept = round_shift(wide, drop, lost);
            let carry = u32::from(kept >> 64 != 0);
            ((kept >> carry) as u64, exponent.saturating_add((drop + carry) as i32))
        };
        if exponent > EXPONENT_MAX {
            return Extended { negative, ..Extended::INFINITY };
        }
        Extended { negative, mantissa, exponent }
    }
}

impl From<i64> for Extended {
    fn from(int: i64) -> Self {
        Extended::round(int < 0, int.unsigned_abs().into(), 0, false)
    }
}

/// A natural number of any size, the least significant limb first; for the rare long texts.
struct Big(Vec<u32>);

impl Big {
    fn from_u64(value: u64) -> Big {
        Big(vec![value as u32, (value >> 32) as u32]).trimmed()
    }

    fn from_digits(digits: &[u8]) -> Big {
        let mut big = Big(Vec::with_capacity(digits.len() / 9 + 1));
        for chunk in digits.chunks(LIMB_TENS_DIGITS as usize) {
            let value = chunk.iter().fold(0, |value, &digit| value * 10 + u32::from(digit));
            big.multiply_add(10u32.pow(chunk.len() as u32), value);
        }
        big
    }

    fn trimmed(mut self) -> Big {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides and returns the remainder.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for limb in self.0.iter_mut().rev() {
            rest = rest << 32 | u64::from(*limb);
            *limb = (rest / u64::from(divisor)) as u32;
            rest %= u64::from(divisor);
        }
        if self.0.last() == Some(&0) {
            self.0.pop();
        }
        rest as u32
    }

    fn multiply_by_tens(&mut self, mut tens: u32) {
        while tens > 0 {
            let step = tens.min(LIMB_TENS_DIGITS);
            self.multiply_add(10u32.pow(step), 0);
            tens -= step;
        }
    }

    /// Divides by a power of ten; whether there was a remainder.
    fn divide_by_tens(&mut self, mut tens: u32) -> bool {
        let mut lost = false;
        while tens > 0 {
            let step = tens.min(LIMB_TENS_DIGITS);
            lost |= self.divide(10u32.pow(step)) != 0;
            tens -= step;
        }
        lost
    }

    fn shift_left(&mut self, bits: u32) {
        self.multiply_add(1 << (bits % 32), 0);
        if !self.0.is_empty() {
            self.0.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
        }
    }

    /// The number times two to the `exponent`, rounded.
    fn to_extended(&self, exponent: i32, lost: bool) -> Extended {
        let top = self.0.len().saturating_sub(4);
        let wide = self.0[top..].iter().rev().fold(0, |wide, &limb| wide << 32 | u128::from(limb));
        let lost = lost || self.0[..top].iter().any(|&limb| limb != 0);
        Extended::round(false, wide, exponent + top as i32 * 32, lost)
    }

    fn print(mut self, out: &mut Vec<u8>) {
        let mut groups = Vec::new();
        while !self.0.is_empty() {
            groups.push(self.divide(LIMB_TENS));
        }
        for (at, group) in groups.iter().rev().enumerate() {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(*group).as_bytes();
            if at > 0 {
                out.resize(out.len() + LIMB_TENS_DIGITS as usize - digits.len(), b'0');
            }
            out.extend_from_slice(digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(a: &str, b: &str) -> Option<String> {
        let value = Extended::parse(a.as_bytes())?.checked_add(Extended::parse(b.as_bytes())?)?;
        let mut text = Vec::new();
        value.format(&mut text);
        Some(String::from_utf8(text).unwrap())
    }

    /// Every result here is what redis-server 7.0 on x86-64 replied.
    #[test]
    fn sums_as_redis_gives_them() {
        for (a, b, result) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0e3", "1e-17", "3000"),
            ("0.3", "0x10", "16.3"),
            ("1000000000000.1", "0.1", "1000000000000.20000004768371582"),
            ("1e-18", "0", "0"),
            ("-1e-19", "0", "0"),
            ("1", "-1", "0"),
            ("328.88", "-0.74", "328.14000000000000001"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(result), "{a} + {b}");
        }
    }

    #[test]
    fn what_is_no_finite_number_is_refused() {
        for text in ["", "nan", " 1", "1 ", "1e5000", "1e-5000", "0x1p20000", "1e", "0x1p-20000"] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Extended::parse(&vec![b'1'; TEXT_MAX]), None);
        assert_eq!(sum("inf", "1"), None);
        assert_eq!(sum("1e4932", "1e4932"), None);
        assert_eq!(sum("inf", "-inf"), None);
    }

    #[test]
    fn long_texts_are_exact() {
        let long = format!("0.{}", "3".repeat(5_000));
        assert_eq!(sum(&long, "0").as_deref(), Some("0.33333333333333333"));
        let scaled = format!("{}e-4900", "1".to_string() + &"0".repeat(4_900));
        assert_eq!(sum(&scaled, "0").as_deref(), Some("1"));
        assert_eq!(sum("1e24", "0").as_deref(), Some("1000000000000000000000000"));
    }

    proptest! {
        #[test]
        fn cents_are_exact(a in -400i64..400, b in -400i64..400) {
            let text = |cents: i64| {
                let sign = if cents < 0 { "-" } else { "" };
                format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
            };
            let expected = text(a + b);
            let expected = expected.trim_end_matches('0').trim_end_matches('.');
            prop_assert_eq!(sum(&text(a), &text(b)), Some(expected.to_string()));
        }

        #[test]
        fn integers_are_exact(a in any::<i64>(), b in any::<i32>()) {
            prop_assume!(a.checked_add(b.into()).is_some());
            let expected = (a + i64::from(b)).to_string();
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), Some(expected));
        }

        #[test]
        fn both_ways_to_read_agree(int in 1..10_000_000_000_000_000_000u64, exponent in -27i32..=27) {
            let digits: Vec<u8> = int.to_string().bytes().map(|digit| digit - b'0').collect();
            let mut padded = digits.clone();
            padded.extend([0; 30]);
            prop_assert_eq!(
                Extended::from_decimal(&digits, exponent),
                Extended::from_decimal(&padded, exponent - 30)
            );
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9a-fxpein.]{0,24}") {
            if let Some(value) = Extended::parse(text.as_bytes()) {
                value.format(&mut Vec::new());
            }
        }
    }
}
