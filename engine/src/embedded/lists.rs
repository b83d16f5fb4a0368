//! Lists, typed.

use super::call::Call;
use super::strings::{count, with_all};
use crate::error::Error;

/// Calls on keys that hold lists.
///
/// ```
/// use ashlar_engine::prelude::*;
///
/// let store = Store::in_memory();
/// store.rpush("jobs", &["a", "b", "c"])?;
/// assert_eq!(store.lpop("jobs")?, Some(b"a".to_vec()));
/// assert_eq!(store.lrange("jobs", 0, -1)?, [b"b", b"c"]);
/// assert_eq!(store.llen("jobs")?, 2);
/// # Ok::<(), ashlar_engine::Error>(())
/// ```
pub trait Lists: Call {
    /// Adds elements at the head, one after the other; returns the new length.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key holds another type; so for all calls of this trait.
    fn lpush<V: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, elements: &[V]) -> Result<usize, Error> {
        if elements.is_empty() {
            return self.llen(key);
        }
        count(self.call(&with_all(&[b"LPUSH", key.as_ref()], elements))?)
    }

    /// Adds elements at the tail, one after the other; returns the new length.
    fn rpush<V: AsRef<[u8]>>(&self, key: impl AsRef<[u8]>, elements: &[V]) -> Result<usize, Error> {
        if elements.is_empty() {
            return self.llen(key);
        }
        count(self.call(&with_all(&[b"RPUSH", key.as_ref()], elements))?)
    }

    /// Takes the first element.
    fn lpop(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"LPOP", key.as_ref()])?.into_bytes()
    }

    /// Takes the last element.
    fn rpop(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.call(&[b"RPOP", key.as_ref()])?.into_bytes()
    }

    /// The elements from index `start` to index `stop`, both included; negative ones count from
    /// the end.
    fn lrange(&self, key: impl AsRef<[u8]>, start: i64, stop: i64) -> Result<Vec<Vec<u8>>, Error> {
        let (start, stop) = (start.to_string(), stop.to_string());
        let args = [b"LRANGE", key.as_ref(), start.as_bytes(), stop.as_bytes()];
        self.call(&args)?.into_strings()
    }

    /// The element at an index; a negative one counts from the end.
    fn lindex(&self, key: impl AsRef<[u8]>, index: i64) -> Result<Option<Vec<u8>>, Error> {
        let index = index.to_string();
        self.call(&[b"LINDEX", key.as_ref(), index.as_bytes()])?.into_bytes()
    }

    /// Number of elements.
    fn llen(&self, key: impl AsRef<[u8]>) -> Result<usize, Error> {
        count(self.call(&[b"LLEN", key.as_ref()])?)
    }
}

impl<C: Call + ?Sized> Lists for C {}
