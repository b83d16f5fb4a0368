//! The arguments that HSCAN, SSCAN and their like share.

use crate::error::Error;
use crate::{glob, number};

/// Elements that a step looks at where the command does not say.
const COUNT_DEFAULT: usize = 10;

/// What follows the cursor.
#[derive(Debug)]
pub(crate) struct ScanArgs<'a> {
    pattern: Option<&'a [u8]>,
    /// COUNT
    pub count: usize,
    /// NOVALUES
    pub no_values: bool,
}

impl<'a> ScanArgs<'a> {
    /// Reads the options; NOVALUES only where `is_hash`.
    pub(crate) fn parse(args: &[&'a [u8]], is_hash: bool) -> Result<Self, Error> {
        let mut parsed = ScanArgs { pattern: None, count: COUNT_DEFAULT, no_values: false };
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let mut next = || args.next().ok_or(Error::Syntax);
            match () {
                () if option.eq_ignore_ascii_case(b"MATCH") => {
                    parsed.pattern = Some(*next()?).filter(|pattern| *pattern != b"*");
                }
                () if option.eq_ignore_ascii_case(b"COUNT") => {
                    let count = number::parse_i64(next()?).ok_or(Error::NotInteger)?;
                    let count = usize::try_from(count).ok().filter(|count| *count > 0);
                    parsed.count = count.ok_or(Error::Syntax)?;
                }
                () if option.eq_ignore_ascii_case(b"NOVALUES") => {
                    if !is_hash {
                        return Err(Error::text("ERR NOVALUES option can only be used in HSCAN"));
                    }
                    parsed.no_values = true;
                }
                () => return Err(Error::Syntax),
            }
        }
        Ok(parsed)
    }

    /// Whether an element is wanted.
    pub(crate) fn wants(&self, element: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, element))
    }
}
