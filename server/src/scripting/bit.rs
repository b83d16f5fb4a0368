//! The library `bit`: operations on 32-bit integers, as LuaJIT's BitOp defines them.

use super::lua::{Body, Raise, Stack};
use std::ffi::{CStr, c_int};

/// The library's functions.
pub const FUNCTIONS: [(&CStr, Body); 12] = [
    (c"tobit", tobit),
    (c"bnot", bnot),
    (c"band", |stack| fold(stack, |a, b| a & b)),
    (c"bor", |stack| fold(stack, |a, b| a | b)),
    (c"bxor", |stack| fold(stack, |a, b| a ^ b)),
    (c"lshift", |stack| shift(stack, |a, by| a << by)),
    (c"rshift", |stack| shift(stack, |a, by| a >> by)),
    (c"arshift", |stack| shift(stack, |a, by| ((a as i32) >> by) as u32)),
    (c"rol", |stack| shift(stack, u32::rotate_left)),
    (c"ror", |stack| shift(stack, u32::rotate_right)),
    (c"bswap", bswap),
    (c"tohex", tohex),
];

/// A number as its lowest 32 bits, rounded to the nearest integer. BitOp's way: the sum with
/// 2^52 + 2^51 has them at its end.
fn bits(stack: &mut Stack<'_>, arg: c_int) -> Result<u32, Raise> {
    let number = stack.arg_number(arg)?;
    Ok((number + 6_755_399_441_055_744.0).to_bits() as u32)
}

fn push(stack: &mut Stack<'_>, bits: u32) -> Result<c_int, Raise> {
    stack.push_number(f64::from(bits as i32));
    Ok(1)
}

fn tobit(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let value = bits(stack, 1)?;
    push(stack, value)
}

fn bnot(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let value = bits(stack, 1)?;
    push(stack, !value)
}

fn bswap(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let value = bits(stack, 1)?;
    push(stack, value.swap_bytes())
}

fn fold(stack: &mut Stack<'_>, with: fn(u32, u32) -> u32) -> Result<c_int, Raise> {
    let mut value = bits(stack, 1)?;
    for arg in 2..=stack.top() {
        value = with(value, bits(stack, arg)?);
    }
    push(stack, value)
}

fn shift(stack: &mut Stack<'_>, with: fn(u32, u32) -> u32) -> Result<c_int, Raise> {
    let value = bits(stack, 1)?;
    let by = bits(stack, 2)? & 31;
    push(stack, with(value, by))
}

fn tohex(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let value = bits(stack, 1)?;
    let digits = if stack.top() < 2 { 8 } else { bits(stack, 2)? as i32 };
    let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    // The smallest integer has no positive form (CVE-2024-31449).
    let digits = usize::try_from(digits.unsigned_abs()).unwrap_or(8).min(8);
    stack.push_bytes(&text.as_bytes()[8 - digits..]);
    Ok(1)
}
