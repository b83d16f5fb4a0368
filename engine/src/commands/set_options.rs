//! The options of SET, GETEX and MSETEX: condition, lifetime, and what to do with the old ones.

use super::expiry_form::ExpiryForm;
use crate::error::Error;
use crate::number;

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Set,
    GetEx,
    MsetEx,
}

/// What must be true of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Exists,
    Absent,
}

/// The options of one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SetOptions<'a> {
    pub condition: Option<Condition>,
    pub get: bool,
    pub keep_ttl: bool,
    pub persist: bool,
    lifetime: Option<(ExpiryForm, &'a [u8])>,
}

impl<'a> SetOptions<'a> {
    /// Reads options; each excludes those that contradict it, but may be repeated.
    pub fn parse(args: &[&'a [u8]], form: Form) -> Result<SetOptions<'a>, Error> {
        let mut options = SetOptions::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            let sets = form != Form::GetEx;
            if sets && is("NX") && options.condition != Some(Condition::Exists) {
                options.condition = Some(Condition::Absent);
            } else if sets && is("XX") && options.condition != Some(Condition::Absent) {
                options.condition = Some(Condition::Exists);
            } else if form == Form::Set && is("GET") {
                options.get = true;
            } else if sets && is("KEEPTTL") && options.lifetime.is_none() {
                options.keep_ttl = true;
            } else if !sets && is("PERSIST") && options.lifetime.is_none() {
                options.persist = true;
            } else {
                let lifetime = ExpiryForm::of_option(word).ok_or(Error::Syntax)?;
                let other = options.lifetime.is_some_and(|(earlier, _)| earlier != lifetime);
                if other || options.keep_ttl || options.persist {
                    return Err(Error::Syntax);
                }
                options.lifetime = Some((lifetime, rest.next().ok_or(Error::Syntax)?));
            }
        }
        Ok(options)
    }

    /// A lifetime in seconds.
    pub fn seconds(arg: &'a [u8]) -> SetOptions<'a> {
        SetOptions {
            lifetime: Some((ExpiryForm { seconds: true, relative: true }, arg)),
            ..SetOptions::default()
        }
    }

    /// A lifetime in milliseconds.
    pub fn milliseconds(arg: &'a [u8]) -> SetOptions<'a> {
        SetOptions {
            lifetime: Some((ExpiryForm { seconds: false, relative: true }, arg)),
            ..SetOptions::default()
        }
    }

    /// Whether the expiry is given as a point in time.
    pub fn is_absolute(&self) -> bool {
        self.lifetime.is_some_and(|(form, _)| !form.relative)
    }

    /// The expiry, Unix milliseconds, if one is asked for.
    pub fn expiry_ms(&self, now_ms: i64, command: &str) -> Result<Option<i64>, Error> {
        let Some((form, arg)) = self.lifetime else { return Ok(None) };
        let amount = number::parse_i64(arg).ok_or(Error::NotInteger)?;
        let expiry = form.at_ms(amount, now_ms).filter(|_| amount > 0);
        match expiry {
            Some(expiry) => Ok(Some(expiry)),
            None => Err(Error::owned(format!("ERR invalid expire time in '{command}' command"))),
        }
    }
}
