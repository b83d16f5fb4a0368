//! Hashes, typed.

use super::call::Call;
use super::strings::{count, with_all, with_pairs};
use super::value::{ReplyValue, unexpected};
use crate::error::Error;

/// A field and its value.
pub type Field = (Vec<u8>, Vec<u8>);

/// Calls on keys that hold hashes.
///
/// ```
/// use ashlar_engine::prelude::*;
///
/// let store = Store::in_memory();
/// store.hset("user", &[("name", "Ada"), ("age", "36")])?;
/// assert_eq!(store.hget("user", "name")?, Some(b"Ada".to_vec()));
/// assert_eq!(store.hincr_by("user", "age", 1)?, 37);
/// assert_eq!(store.hdel("user", &["name", "nothing"])?, 1);
/// assert_eq!(store.hgetall("user")?, [(b"age".to_vec(), b"37".to_vec())]);
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
pub trait Hashes: Call {
    /// Sets fields; how many of them are new.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type; so for all calls of this trait.
    fn hset<F: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        fields: &[(F, V)],
    ) -> Result<usize, Error> {
        if fields.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_pairs(&[b"HSET", key.as_ref()], fields))?)
    }

    /// The value of a field.
    fn hget(
        &self,
        key: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"HGET", key.as_ref(), field.as_ref()])?.into_bytes()
    }

    /// The values of fields, at one moment.
    fn hmget<F: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        fields: &[F],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let reply = self.call(&with_all(&[b"HMGET", key.as_ref()], fields))?;
        reply.into_elements()?.into_iter().map(ReplyValue::into_bytes).collect()
    }

    /// All fields with their values, in the order in which they came.
    fn hgetall(&self, key: impl AsRef<[u8]>) -> Result<Vec<Field>, Error> {
        let string = |value: ReplyValue| value.into_bytes()?.ok_or_else(unexpected);
        let pairs = self.call(&[b"HGETALL", key.as_ref()])?.into_pairs()?.into_iter();
        pairs.map(|(field, value)| Ok((string(field)?, string(value)?))).collect()
    }

    /// Removes fields; how many there were.
    fn hdel<F: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, fields: &[F]) -> Result<usize, Error> {
        if fields.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_all(&[b"HDEL", key.as_ref()], fields))?)
    }

    /// Whether there is such a field.
    fn hexists(&self, key: impl AsRef<[u8]>, field: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.call(&[b"HEXISTS", key.as_ref(), field.as_ref()])?.into_int()? == 1)
    }

    /// Number of fields.
    fn hlen(&self, key: impl AsRef<[u8]>) -> Result<usize, Error> {
        count(self.call(&[b"HLEN", key.as_ref()])?)
    }

    /// Adds to the integer that a field holds, 0 where there is none; returns the sum.
    fn hincr_by(
        &self,
        key: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
        increment: i64,
    ) -> Result<i64, Error> {
        let increment = increment.to_string();
        let args = [b"HINCRBY", key.as_ref(), field.as_ref(), increment.as_bytes()];
        self.call(&args)?.into_int()
    }
}

impl<C: Call + ?Sized> Hashes for C {}
