//! `math.random`: the numbers of Redis's own generator, so that a seed gives the same ones.
//!
//! What a script did is logged and not the script (see the module's header), so the numbers need
//! not be the same on a replica. They start from the call's stamp.

use super::lua::{Raise, Stack};
use std::ffi::c_int;

/// The generator has 48 bits.
pub const STATE_MASK: u64 = (1 << 48) - 1;
/// One more than the largest number it gives.
const MAX: f64 = i32::MAX as f64;

/// The next 31 bits of `drand48`'s linear congruence (POSIX).
fn next(state: &std::cell::Cell<u64>) -> u32 {
    let fresh = state.get().wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & STATE_MASK;
    state.set(fresh);
    (fresh >> 17) as u32
}

/// `math.random([m [, n]])`
pub fn random(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let number = next(&stack.extra().run.random) % i32::MAX as u32;
    let fraction = f64::from(number) / MAX;
    let args = stack.top();
    let value = match args {
        0 => fraction,
        1 => {
            let upper = integer(stack, 1)?;
            if upper < 1.0 {
                return Err(stack.arg_error(1, "interval is empty"));
            }
            (fraction * upper).floor() + 1.0
        }
        2 => {
            let (lower, upper) = (integer(stack, 1)?, integer(stack, 2)?);
            if lower > upper {
                return Err(stack.arg_error(2, "interval is empty"));
            }
            (fraction * (upper - lower + 1.0)).floor() + lower
        }
        _ => return Err(stack.error("wrong number of arguments")),
    };
    stack.push_number(value);
    Ok(1)
}

fn integer(stack: &mut Stack<'_>, arg: c_int) -> Result<f64, Raise> {
    Ok(f64::from(stack.arg_number(arg)? as i32))
}

/// `math.randomseed(seed)`
pub fn random_seed(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let seed = stack.arg_number(1)? as i64 as u32;
    stack.extra().run.random.set((u64::from(seed) << 16) | 0x330E);
    Ok(0)
}
