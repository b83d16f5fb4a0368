//! Strings, typed.

use super::call::Call;
use super::value::{ReplyValue, unexpected};
use crate::error::Error;
use std::time::Duration;

/// How [`Strings::set_with`] sets a key.
///
/// ```
/// use ashlar_engine::prelude::*;
/// use std::time::Duration;
///
/// let store = Store::in_memory();
/// let lock = SetOptions::new().if_absent().ttl(Duration::from_secs(30));
/// assert!(store.set_with("lock", "me", lock)?);
/// assert!(!store.set_with("lock", "you", lock)?);
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SetOptions {
    ttl: Option<Duration>,
    condition: Option<&'static str>,
    keep_ttl: bool,
}

impl SetOptions {
    /// No options: the key is set, whatever it was, and does not expire.
    pub fn new() -> SetOptions {
        SetOptions::default()
    }

    /// The key expires after this time, in whole milliseconds and at least one.
    pub fn ttl(mut self, ttl: Duration) -> SetOptions {
        self.ttl = Some(ttl);
        self
    }

    /// The key keeps the expiry that it has.
    pub fn keep_ttl(mut self) -> SetOptions {
        self.keep_ttl = true;
        self
    }

    /// Only if the key does not exist.
    pub fn if_absent(mut self) -> SetOptions {
        self.condition = Some("NX");
        self
    }

    /// Only if the key exists.
    pub fn if_present(mut self) -> SetOptions {
        self.condition = Some("XX");
        self
    }
}

/// A duration as the engine takes it.
pub(super) fn millis(duration: Duration) -> String {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1).to_string()
}

/// Calls on keys that hold strings.
pub trait Strings: Call {
    /// The value of a key. A [`Store`](super::Store) has a faster one of its own.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type; so for all calls of this trait.
    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"GET", key.as_ref()])?.into_bytes()
    }

    /// Sets a key, whatever it was; it does not expire then.
    fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.call(&[b"SET", key.as_ref(), value.as_ref()]).map(drop)
    }

    /// Sets a key as the options say; whether it did.
    fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<bool, Error> {
        let mut args: Vec<&[u8]> = vec![b"SET", key.as_ref(), value.as_ref()];
        args.extend(options.condition.map(str::as_bytes));
        let ttl = options.ttl.map(millis);
        if let Some(ttl) = &ttl {
            args.extend([b"PX", ttl.as_bytes()]);
        }
        if options.keep_ttl {
            args.push(b"KEEPTTL");
        }
        Ok(self.call(&args)? != ReplyValue::Nil)
    }

    /// Sets a key and returns what it held before.
    fn getset(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"GETSET", key.as_ref(), value.as_ref()])?.into_bytes()
    }

    /// Adds to the integer that a key holds, 0 where it has none; returns the sum.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// assert_eq!(store.incr_by("visits", 2)?, 2);
    /// assert_eq!(store.incr_by("visits", -5)?, -3);
    /// store.set("name", "x")?;
    /// assert_eq!(store.incr_by("name", 1), Err(Error::NotInteger));
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    fn incr_by(&self, key: impl AsRef<[u8]>, increment: i64) -> Result<i64, Error> {
        let increment = increment.to_string();
        self.call(&[b"INCRBY", key.as_ref(), increment.as_bytes()])?.into_int()
    }

    /// Adds bytes at the end; returns the new length.
    fn append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<usize, Error> {
        count(self.call(&[b"APPEND", key.as_ref(), value.as_ref()])?)
    }

    /// The values of several keys, at one moment; `None` also for a key that holds another type.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.mset(&[("a", "1"), ("b", "2")])?;
    /// assert_eq!(store.mget(&["a", "x"])?, [Some(b"1".to_vec()), None]);
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    fn mget<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let args = with_all(&[b"MGET"], keys);
        self.call(&args)?.into_elements()?.into_iter().map(ReplyValue::into_bytes).collect()
    }

    /// Sets several keys at one moment.
    fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, pairs: &[(K, V)]) -> Result<(), Error> {
        if pairs.is_empty() {
            return Ok(());
        }
        let args = with_pairs(&[b"MSET"], pairs);
        self.call(&args).map(drop)
    }
}

impl<C: Call + ?Sized> Strings for C {}

/// Arguments: the first ones, then all of `rest`.
pub(super) fn with_all<'a, T: AsRef<[u8]>>(first: &[&'a [u8]], rest: &'a [T]) -> Vec<&'a [u8]> {
    first.iter().copied().chain(rest.iter().map(AsRef::as_ref)).collect()
}

/// Arguments: the first ones, then all of `pairs`.
pub(super) fn with_pairs<'a, K: AsRef<[u8]>, V: AsRef<[u8]>>(
    first: &[&'a [u8]],
    pairs: &'a [(K, V)],
) -> Vec<&'a [u8]> {
    let pairs = pairs.iter().flat_map(|(key, value)| [key.as_ref(), value.as_ref()]);
    first.iter().copied().chain(pairs).collect()
}

/// A count that a command replied.
pub(super) fn count(reply: ReplyValue) -> Result<usize, Error> {
    usize::try_from(reply.into_int()?).map_err(|_| unexpected())
}
