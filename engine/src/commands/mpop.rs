//! The arguments that LMPOP, ZMPOP and their blocking forms have in common.

use crate::error::Error;
use crate::number;

/// The keys, the end and the count, from the number of keys on. `parse_end` reads the end.
pub(super) fn parse<'a, 'b, E>(
    args: &'a [&'b [u8]],
    parse_end: impl FnOnce(&[u8]) -> Result<E, Error>,
) -> Result<(&'a [&'b [u8]], E, usize), Error> {
    const NUMKEYS: Error = Error::text("ERR numkeys should be greater than 0");
    const COUNT: Error = Error::text("ERR count should be greater than 0");
    let natural = |arg: &[u8], error: Error| match number::parse_i64(arg) {
        Some(value) if value > 0 => usize::try_from(value).map_err(|_| error),
        _ => Err(error),
    };
    let (numkeys, rest) = args.split_first().ok_or(Error::Syntax)?;
    let numkeys = natural(numkeys, NUMKEYS)?;
    let (keys, rest) = rest.split_at_checked(numkeys).ok_or(Error::Syntax)?;
    let (end, options) = rest.split_first().ok_or(Error::Syntax)?;
    let end = parse_end(end)?;
    let count = match options {
        [] => 1,
        [name, count, rest @ ..] if name.eq_ignore_ascii_case(b"count") => {
            let count = natural(count, COUNT)?;
            if !rest.is_empty() {
                return Err(Error::Syntax);
            }
            count
        }
        _ => return Err(Error::Syntax),
    };
    Ok((keys, end, count))
}
