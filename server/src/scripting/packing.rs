//! The library `struct`: values packed by a format, as lstruct 0.2 in Redis behaves.

use super::base::STRING_BYTES_MAX;
use super::lua::{Body, Kind, Raise, Stack};
use ashlar_engine::known_bugs::{self, Bug};
use std::ffi::{CStr, c_int};

/// Most bytes of an integer.
const INTEGER_BYTES_MAX: usize = 32;
/// Alignment of `!` without a number: that of the platform's doubles.
const ALIGN: usize = 8;

/// The library's functions.
pub const FUNCTIONS: [(&CStr, Body); 3] = [(c"pack", pack), (c"unpack", unpack), (c"size", size)];

/// A format that is read from left to right.
struct Format<'a> {
    text: &'a [u8],
    at: usize,
    is_big: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(text: &'a [u8]) -> Format<'a> {
        // Formats are C strings: a zero byte ends them.
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Format { text: &text[..end], at: 0, is_big: cfg!(target_endian = "big"), align: 1 }
    }

    fn next(&mut self) -> Option<u8> {
        let option = *self.text.get(self.at)?;
        self.at += 1;
        Some(option)
    }

    /// The number that follows, or `default`.
    fn number(&mut self, stack: &mut Stack<'_>, default: usize) -> Result<usize, Raise> {
        let mut number: Option<i32> = None;
        while let Some(digit) = self.text.get(self.at).filter(|byte| byte.is_ascii_digit()) {
            let (so_far, digit) = (number.unwrap_or(0), i32::from(digit - b'0'));
            let more = so_far.checked_mul(10).and_then(|sum| sum.checked_add(digit));
            let wraps = known_bugs::is_back(Bug::StructNumbersWrap);
            let Some(more) = more.or(wraps.then(|| so_far.wrapping_mul(10).wrapping_add(digit)))
            else {
                return Err(stack.error("integral size overflow"));
            };
            number = Some(more);
            self.at += 1;
        }
        Ok(number.map_or(default, |number| number as usize))
    }

    /// The size of an option's value; 0 where it has none, or it follows from the value.
    fn size(&mut self, stack: &mut Stack<'_>, option: u8) -> Result<usize, Raise> {
        Ok(match option {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'f' => 4,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'c' => self.number(stack, 1)?,
            b'i' | b'I' => {
                let size = self.number(stack, 4)?;
                if size > INTEGER_BYTES_MAX {
                    return Err(stack.error(&format!(
                        "integral size {size} is larger than limit of {INTEGER_BYTES_MAX}"
                    )));
                }
                size
            }
            _ => 0,
        })
    }

    /// Bytes to skip so that a value is aligned.
    fn padding(&self, at: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        (size.wrapping_sub(at & size.wrapping_sub(1))) & size.wrapping_sub(1)
    }

    /// An option that is about the format itself.
    fn control(&mut self, stack: &mut Stack<'_>, option: u8) -> Result<(), Raise> {
        match option {
            b' ' => {}
            b'>' => self.is_big = true,
            b'<' => self.is_big = false,
            b'!' => {
                let align = self.number(stack, ALIGN)?;
                if !align.is_power_of_two() {
                    let text = format!("alignment {align} is not a power of 2");
                    return Err(stack.error(&text));
                }
                self.align = align;
            }
            _ => {
                let text = format!("invalid format option '{}'", char::from(option));
                return Err(stack.arg_error(1, &text));
            }
        }
        Ok(())
    }
}

fn pack(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let mut format = Format::new(stack.arg_bytes(1)?);
    let mut out: Vec<u8> = Vec::new();
    let mut arg = 2;
    while let Some(option) = format.next() {
        let size = format.size(stack, option)?;
        let padding = format.padding(out.len(), option, size);
        out.resize(out.len() + padding, 0);
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = stack.arg_number(arg)?;
                put_integer(number, size, format.is_big, &mut out);
                arg += 1;
            }
            b'x' => out.push(0),
            b'f' => {
                let number = stack.arg_number(arg)? as f32;
                let big = format.is_big;
                out.extend(if big { number.to_be_bytes() } else { number.to_le_bytes() });
                arg += 1;
            }
            b'd' => {
                let number = stack.arg_number(arg)?;
                let big = format.is_big;
                out.extend(if big { number.to_be_bytes() } else { number.to_le_bytes() });
                arg += 1;
            }
            b'c' | b's' => {
                let text = stack.arg_bytes(arg)?;
                arg += 1;
                let size = if size == 0 { text.len() } else { size };
                let Some(text) = text.get(..size) else {
                    return Err(stack.arg_error(arg, "string too short"));
                };
                out.extend_from_slice(text);
                if option == b's' {
                    out.push(0);
                }
            }
            _ => format.control(stack, option)?,
        }
        if out.len() > STRING_BYTES_MAX {
            return Err(stack.error("the packed string is too large"));
        }
    }
    stack.push_bytes(&out);
    Ok(1)
}

/// An integer in `size` bytes; beyond eight they are 0.
fn put_integer(number: f64, size: usize, is_big: bool, out: &mut Vec<u8>) {
    let bits = if number < 0.0 { number as i64 as u64 } else { number as u64 };
    let mut bytes = [0; INTEGER_BYTES_MAX];
    bytes[..8].copy_from_slice(&bits.to_le_bytes());
    let bytes = &mut bytes[..size];
    if is_big {
        bytes.reverse();
    }
    out.extend_from_slice(bytes);
}

fn get_integer(bytes: &[u8], is_big: bool, is_signed: bool) -> f64 {
    let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    let number = match is_big {
        true => bytes.iter().fold(0, add),
        false => bytes.iter().rev().fold(0, add),
    };
    if !is_signed {
        return number as f64;
    }
    let mask = u64::MAX.wrapping_shl((bytes.len() as u32).wrapping_mul(8).wrapping_sub(1));
    (if number & mask != 0 { number | mask } else { number }) as i64 as f64
}

fn unpack(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let mut format = Format::new(stack.arg_bytes(1)?);
    let data = stack.arg_bytes(2)?;
    let start = match stack.kind(3) {
        Kind::None | Kind::Nil => 1.0,
        _ => stack.arg_number(3)?.trunc(),
    };
    if start.is_nan() || start < 1.0 {
        return Err(stack.arg_error(3, "offset must be 1 or greater"));
    }
    // A position beyond the data is too large for all that follows.
    let mut at = if start > data.len() as f64 { data.len() + 1 } else { start as usize } - 1;
    if start > data.len() as f64 + 1.0 {
        at = usize::MAX / 2;
    }
    let mut count = 0;
    while let Some(option) = format.next() {
        let size = format.size(stack, option)?;
        at += format.padding(at, option, size);
        let slice = at.checked_add(size).and_then(|end| data.get(at..end));
        let Some(slice) = slice else {
            return Err(stack.arg_error(2, "data string too short"));
        };
        if !stack.has_room(2) {
            return Err(stack.error("stack overflow (too many results)"));
        }
        let mut used = size;
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let is_signed = option.is_ascii_lowercase();
                stack.push_number(get_integer(slice, format.is_big, is_signed));
            }
            b'f' | b'd' => stack.push_number(get_float(slice, format.is_big)),
            b'c' if size == 0 => {
                if count == 0 || stack.number(-1).is_none() {
                    return Err(stack.error("format 'c0' needs a previous size"));
                }
                let wanted = stack.number(-1).unwrap_or(0.0);
                stack.pop(1);
                count -= 1;
                let rest = &data[at..];
                if !(0.0..=rest.len() as f64).contains(&wanted) {
                    return Err(stack.arg_error(2, "data string too short"));
                }
                used = wanted as usize;
                stack.push_bytes(&rest[..used]);
            }
            b'c' => stack.push_bytes(slice),
            b's' => {
                let rest = &data[at..];
                let Some(end) = memchr::memchr(0, rest) else {
                    return Err(stack.error("unfinished string in data"));
                };
                used = end + 1;
                stack.push_bytes(&rest[..end]);
            }
            b'x' => count -= 1,
            _ => {
                format.control(stack, option)?;
                count -= 1;
            }
        }
        count += 1;
        at += used;
    }
    stack.push_number((at + 1) as f64);
    Ok(count + 1)
}

fn get_float(bytes: &[u8], is_big: bool) -> f64 {
    let mut bytes8 = [0; 8];
    bytes8[..bytes.len()].copy_from_slice(bytes);
    if is_big {
        bytes8[..bytes.len()].reverse();
    }
    let bits = u64::from_le_bytes(bytes8);
    if bytes.len() == 4 { f64::from(f32::from_bits(bits as u32)) } else { f64::from_bits(bits) }
}

fn size(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let mut format = Format::new(stack.arg_bytes(1)?);
    let mut at = 0_usize;
    while let Some(option) = format.next() {
        let size = format.size(stack, option)?;
        at += format.padding(at, option, size);
        if option == b's' {
            return Err(stack.arg_error(1, "option 's' has no fixed size"));
        }
        if option == b'c' && size == 0 {
            return Err(stack.arg_error(1, "option 'c0' has no fixed size"));
        }
        if !option.is_ascii_alphanumeric() {
            format.control(stack, option)?;
        }
        at = at.saturating_add(size);
    }
    stack.push_number(at as f64);
    Ok(1)
}
