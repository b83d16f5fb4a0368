//! Sets, typed.

use super::call::Call;
use super::strings::{count, with_all};
use crate::error::Error;

/// Calls on keys that hold sets.
///
/// ```
/// use ashlar_engine::prelude::*;
///
/// let store = Store::in_memory();
/// assert_eq!(store.sadd("tags", &["red", "green", "red"])?, 2);
/// assert!(store.sismember("tags", "red")?);
/// assert_eq!(store.srem("tags", &["red"])?, 1);
/// assert_eq!(store.smembers("tags")?, [b"green"]);
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
pub trait Sets: Call {
    /// Adds members; how many of them are new.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type; so for all calls of this trait.
    fn sadd<M: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, members: &[M]) -> Result<usize, Error> {
        if members.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_all(&[b"SADD", key.as_ref()], members))?)
    }

    /// Removes members; how many there were.
    fn srem<M: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, members: &[M]) -> Result<usize, Error> {
        if members.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_all(&[b"SREM", key.as_ref()], members))?)
    }

    /// All members, in no order that means anything.
    fn smembers(&self, key: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, Error> {
        self.call(&[b"SMEMBERS", key.as_ref()])?.into_strings()
    }

    /// Whether it is a member.
    fn sismember(&self, key: impl AsRef<[u8]>, member: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.call(&[b"SISMEMBER", key.as_ref(), member.as_ref()])?.into_int()? == 1)
    }

    /// Number of members.
    fn scard(&self, key: impl AsRef<[u8]>) -> Result<usize, Error> {
        count(self.call(&[b"SCARD", key.as_ref()])?)
    }

    /// Takes a random member.
    fn spop(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"SPOP", key.as_ref()])?.into_bytes()
    }
}

impl<C: Call + ?Sized> Sets for C {}
