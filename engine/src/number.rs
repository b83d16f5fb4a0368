//! Numbers as Redis reads and prints them.
//!
//! Clients compare these texts, so both directions follow Redis to the letter: what `strtod` takes
//! without surrounding space on the way in, and on the way out the fewest digits that read back as
//! the same number, laid out as Redis 7.4 lays them out. INCRBYFLOAT and HINCRBYFLOAT calculate in
//! more bits; that is [`Extended`](crate::extended::Extended).

use crate::value::packed;

/// Integers up to here (2^62) are printed as integers, whatever their number of digits.
const PLAIN_INT_MAX: f64 = 4_611_686_018_427_387_904.0;
/// More zeros than this after the digits turn into an exponent.
const ZEROS_MAX: i32 = 7;
/// More decimal places than this do so too, unless the first digit is near the point.
const PLACES_MAX: i32 = 6;
/// Bytes that the longest printed `f64` takes, with room to spare.
const FLOAT_BUF: usize = 48;

/// The integer that `bytes` is the canonical decimal form of: no sign `+`, no leading zeros, no
/// space.
pub fn parse_i64(bytes: &[u8]) -> Option<i64> {
    packed::canonical_int(bytes)
}

/// The number that `bytes` as a whole is the form of, as C's `strtod` takes it: decimal with or
/// without an exponent, hexadecimal, `inf` or `infinity` in any case. Surrounding space, NaN, and
/// numbers too large or too small for an `f64` are refused.
pub fn parse_f64(bytes: &[u8]) -> Option<f64> {
    let (value, in_range) = read_f64(bytes)?;
    in_range.then_some(value)
}

/// As [`parse_f64`], but a number out of range becomes infinity or zero, which is what Redis does
/// with the limits of a score range.
pub fn parse_f64_saturating(bytes: &[u8]) -> Option<f64> {
    read_f64(bytes).map(|(value, _)| value)
}

fn read_f64(bytes: &[u8]) -> Option<(f64, bool)> {
    // Most scores are a few digits, perhaps with leading zeros; all such are exact.
    if (1..=15).contains(&bytes.len()) {
        let (mut int, mut all_digits) = (0, true);
        for byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            all_digits &= digit <= 9;
            int = int * 10 + u64::from(digit);
        }
        if all_digits {
            return Some((int as f64, true));
        }
    }
    if let Some(int) = packed::canonical_int(bytes) {
        return Some((int as f64, true));
    }
    let (negative, value, in_range) = match scan(bytes)? {
        Scanned::Infinite { negative } => (negative, f64::INFINITY, true),
        Scanned::Decimal { negative, int, fraction, .. } => {
            let unsigned = match bytes {
                [b'+' | b'-', rest @ ..] => rest,
                all => all,
            };
            let value: f64 = std::str::from_utf8(unsigned).ok()?.parse().ok()?;
            let zero = int.iter().chain(fraction).all(|&digit| digit == b'0');
            (negative, value, value.is_finite() && (value != 0.0 || zero))
        }
        Scanned::Hex { negative, mantissa, exponent } => {
            let value = scale_f64(mantissa, exponent);
            (negative, value, value.is_finite() && (value != 0.0 || mantissa == 0))
        }
    };
    Some((if negative { -value } else { value }, in_range))
}

/// `mantissa * 2^exponent`, to the nearest `f64`.
fn scale_f64(mantissa: u64, exponent: i32) -> f64 {
    if mantissa == 0 || exponent < -1200 {
        return 0.0;
    }
    if exponent > 1024 {
        return f64::INFINITY;
    }
    // Subnormal results have fewer bits: round once, here, so that the scaling below is exact.
    let magnitude = exponent + 63 - mantissa.leading_zeros() as i32;
    let bits = (magnitude + 1075).clamp(0, 53);
    let drop = (64 - mantissa.leading_zeros() as i32 - bits).max(0);
    let rounded = round_shift(u128::from(mantissa), drop as u32, false);
    // In two steps, since 2^exponent alone may be out of range.
    let exponent = exponent + drop;
    let half = exponent / 2;
    rounded as f64 * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// `value >> shift`, rounded to nearest, ties to even; `sticky` says that bits are lost already.
pub(crate) fn round_shift(value: u128, shift: u32, sticky: bool) -> u128 {
    if shift == 0 {
        return value;
    }
    if shift > 127 {
        return 0;
    }
    let kept = value >> shift;
    let rest = value & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
    kept + u128::from(up)
}

/// The parts of a number's text.
pub(crate) enum Scanned<'a> {
    /// `inf` or `infinity`.
    Infinite {
        /// Whether there is a minus sign.
        negative: bool,
    },
    /// `int.fraction` times ten to the `exponent`.
    Decimal {
        /// Whether there is a minus sign.
        negative: bool,
        /// Digits before the point.
        int: &'a [u8],
        /// Digits after the point.
        fraction: &'a [u8],
        /// What follows the `e`, saturated.
        exponent: i32,
    },
    /// `mantissa` times two to the `exponent`; bits that do not fit are gathered in the lowest.
    Hex {
        /// Whether there is a minus sign.
        negative: bool,
        /// The leading digits.
        mantissa: u64,
        /// Saturated.
        exponent: i32,
    },
}

/// Splits the text of a number; `None` if it is not one, or NaN.
pub(crate) fn scan(bytes: &[u8]) -> Option<Scanned<'_>> {
    let (negative, rest) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
        return Some(Scanned::Infinite { negative });
    }
    if let [b'0', b'x' | b'X', digits @ ..] = rest {
        return scan_hex(negative, digits);
    }
    let (int, rest) = take_digits(rest, u8::is_ascii_digit);
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => take_digits(rest, u8::is_ascii_digit),
        rest => (&[][..], rest),
    };
    if int.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', exponent @ ..] => scan_exponent(exponent)?,
        _ => return None,
    };
    Some(Scanned::Decimal { negative, int, fraction, exponent })
}

fn scan_hex(negative: bool, bytes: &[u8]) -> Option<Scanned<'_>> {
    let (int, rest) = take_digits(bytes, u8::is_ascii_hexdigit);
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => take_digits(rest, u8::is_ascii_hexdigit),
        rest => (&[][..], rest),
    };
    if int.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut exponent = match rest {
        [] => 0,
        [b'p' | b'P', exponent @ ..] => scan_exponent(exponent)?,
        _ => return None,
    };
    let mut mantissa: u64 = 0;
    for (at, &digit) in int.iter().chain(fraction).enumerate() {
        let value = (digit as char).to_digit(16).map_or(0, u64::from);
        let after_point = at >= int.len();
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | value;
            exponent = exponent.saturating_sub(if after_point { 4 } else { 0 });
        } else {
            mantissa |= u64::from(value != 0);
            exponent = exponent.saturating_add(if after_point { 0 } else { 4 });
        }
    }
    Some(Scanned::Hex { negative, mantissa, exponent })
}

/// Reads an exponent's sign and digits; far out of any range it stops growing.
fn scan_exponent(bytes: &[u8]) -> Option<i32> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits
        .iter()
        .fold(0i32, |sum, &digit| sum.saturating_mul(10).saturating_add(i32::from(digit - b'0')))
        .min(1 << 30);
    Some(if negative { -magnitude } else { magnitude })
}

fn take_digits(bytes: &[u8], is_digit: fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let len = bytes.iter().position(|byte| !is_digit(byte)).unwrap_or(bytes.len());
    bytes.split_at(len)
}

/// Room for a printed `f64`.
#[derive(Clone, Copy, Debug)]
pub struct FloatBuf {
    bytes: [u8; FLOAT_BUF],
    len: usize,
}

impl FloatBuf {
    /// Empty room.
    pub fn new() -> Self {
        FloatBuf { bytes: [0; FLOAT_BUF], len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn zeros(&mut self, count: usize) {
        self.bytes[self.len..self.len + count].fill(b'0');
        self.len += count;
    }
}

impl Default for FloatBuf {
    fn default() -> Self {
        FloatBuf::new()
    }
}

/// Prints `value` into `buf` as Redis 7.4 replies it: `3`, `0.1`, `1.5e-7`, `inf`, `-0`.
pub fn format_f64(buf: &mut FloatBuf, value: f64) -> &[u8] {
    buf.len = 0;
    if value.is_nan() {
        return b"nan";
    }
    if value.is_infinite() {
        return if value > 0.0 { b"inf" } else { b"-inf" };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { b"-0" } else { b"0" };
    }
    if value.abs() <= PLAIN_INT_MAX && value.fract() == 0.0 {
        buf.push(itoa::Buffer::new().format(value as i64).as_bytes());
        return &buf.bytes[..buf.len];
    }
    if value < 0.0 {
        buf.push(b"-");
    }
    let (digits, len, exponent) = shortest_digits(value.abs());
    lay_out(buf, &digits[..len], exponent);
    &buf.bytes[..buf.len]
}

/// The fewest digits that read back as `value`, how many they are, and the power of ten that the
/// last one stands for.
fn shortest_digits(value: f64) -> ([u8; 20], usize, i32) {
    let mut text = ryu::Buffer::new();
    let text = text.format_finite(value).as_bytes();
    let (text, mut exponent) = match memchr::memchr(b'e', text) {
        Some(at) => (&text[..at], scan_exponent(&text[at + 1..]).unwrap_or(0)),
        None => (text, 0),
    };
    let mut digits = [0; 20];
    let mut len = 0;
    let mut after_point = false;
    for &byte in text {
        if byte == b'.' {
            after_point = true;
            continue;
        }
        exponent -= i32::from(after_point);
        if (byte != b'0' || len > 0) && len < digits.len() {
            digits[len] = byte;
            len += 1;
        }
    }
    while len > 1 && digits[len - 1] == b'0' {
        len -= 1;
        exponent += 1;
    }
    (digits, len, exponent)
}

/// Appends `digits` times ten to the `exponent`, plain where this takes few zeros or digits.
fn lay_out(buf: &mut FloatBuf, digits: &[u8], exponent: i32) {
    let len = digits.len() as i32;
    let scientific = exponent + len - 1;
    if (0..=ZEROS_MAX).contains(&exponent) {
        buf.push(digits);
        buf.zeros(exponent as usize);
    } else if exponent < 0 && (exponent >= -PLACES_MAX || scientific.abs() < 4) {
        let before_point = len + exponent;
        if before_point <= 0 {
            buf.push(b"0.");
            buf.zeros(-before_point as usize);
            buf.push(digits);
        } else {
            let (int, fraction) = digits.split_at(before_point as usize);
            buf.push(int);
            buf.push(b".");
            buf.push(fraction);
        }
    } else {
        buf.push(&digits[..1]);
        if len > 1 {
            buf.push(b".");
            buf.push(&digits[1..]);
        }
        buf.push(if scientific < 0 { b"e-" } else { b"e+" });
        buf.push(itoa::Buffer::new().format(scientific.unsigned_abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(value: f64) -> String {
        String::from_utf8(format_f64(&mut FloatBuf::new(), value).to_vec()).unwrap()
    }

    #[test]
    fn floats_print_as_redis_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-17.0, "-17"),
            (0.1, "0.1"),
            (-0.1, "-0.1"),
            (1e17, "100000000000000000"),
            (4611686018427387904.0, "4611686018427387904"),
            (9223372036854775808.0, "9223372036854776000"),
            (1.2e21, "1.2e+21"),
            (1e21, "1e+21"),
            (1e300, "1e+300"),
            (1.5e-7, "1.5e-7"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (3.0000001, "3.0000001"),
            (166274.15156960033, "1.6627415156960033e+5"),
            (1234.567891234567, "1234.567891234567"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (-f64::MIN_POSITIVE, "-2.2250738585072014e-308"),
        ] {
            assert_eq!(shown(value), text);
        }
    }

    #[test]
    fn floats_are_read_as_strtod_reads_them() {
        for (text, value) in [
            ("1", 1.0),
            ("+1", 1.0),
            ("-0", -0.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("1E5", 1e5),
            ("3.0e3", 3000.0),
            ("inf", f64::INFINITY),
            ("+Infinity", f64::INFINITY),
            ("-INF", f64::NEG_INFINITY),
            ("0x10", 16.0),
            ("0X1.8p1", 3.0),
            ("-0x.8", -0.5),
            ("0x1p-1074", 5e-324),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000001p0", 1.0 + f64::EPSILON),
            ("1e-310", 1e-310),
            ("0e999999999999", 0.0),
            ("9007199254740993", 9007199254740992.0),
        ] {
            assert_eq!(parse_f64(text.as_bytes()), Some(value), "{text}");
        }
        for text in [
            "",
            " 1",
            "1 ",
            "nan",
            "-nan",
            "nan(1)",
            ".",
            "e5",
            "1e",
            "1e+",
            "0x",
            "0x.p1",
            "0x1p",
            "1e400",
            "1e-400",
            "-1e400",
            "0x1p2000",
            "0x1p-2000",
            "infinit",
            "1\0",
            "--1",
            "+-1",
            "1_0",
        ] {
            assert_eq!(parse_f64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_f64_saturating(b"-1e400"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64_saturating(b"1e-400"), Some(0.0));
        assert_eq!(parse_f64_saturating(b"nan"), None);
    }

    proptest! {
        #[test]
        fn printed_floats_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(!value.is_nan());
            prop_assert_eq!(parse_f64(shown(value).as_bytes()), Some(value));
        }

        #[test]
        fn small_decimals_read_back(int in -1_000_000i64..1_000_000, places in 0i32..10) {
            let value = int as f64 / 10f64.powi(places);
            prop_assert_eq!(parse_f64(shown(value).as_bytes()), Some(value));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9a-fxpein.]{0,24}") {
            let value = parse_f64_saturating(text.as_bytes());
            if let Ok(std_value) = text.parse::<f64>() {
                prop_assert!(std_value.is_nan() || value == Some(std_value));
            }
        }

        #[test]
        fn hexadecimal_is_exact(mantissa in any::<u32>(), exponent in -1000i32..900) {
            let text = format!("{mantissa:#x}p{exponent}");
            let expected = f64::from(mantissa) * 2f64.powi(exponent);
            prop_assert_eq!(parse_f64(text.as_bytes()), Some(expected));
        }
    }
}
