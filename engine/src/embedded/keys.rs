//! Keys of any type, typed.

use super::call::Call;
use super::strings::{count, millis, with_all};
use super::value::{ReplyValue, unexpected};
use crate::error::Error;
use crate::value::Type;
use std::time::Duration;

/// How long a key will live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// There is no such key.
    NoKey,
    /// The key does not expire.
    Forever,
    /// The key expires after this time.
    Left(Duration),
}

/// Calls on keys, whatever they hold.
pub trait Keys: Call {
    /// Deletes a key; whether it was there.
    ///
    /// # Errors
    /// None of its own; so for all calls of this trait unless they say otherwise.
    fn del(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.call(&[b"DEL", key.as_ref()])?.into_int()? == 1)
    }

    /// Deletes several keys at one moment; how many were there.
    fn del_all<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<usize, Error> {
        if keys.is_empty() {
            return Ok(0);
        }
        count(self.call(&with_all(&[b"DEL"], keys))?)
    }

    /// Whether there is such a key.
    fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.call(&[b"EXISTS", key.as_ref()])?.into_int()? == 1)
    }

    /// Lets a key expire after this time, in whole milliseconds; whether there is such a key.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    /// use std::time::Duration;
    ///
    /// let store = Store::in_memory();
    /// store.set("session", "x")?;
    /// assert!(store.expire("session", Duration::from_secs(60))?);
    /// assert!(matches!(store.ttl("session")?, Ttl::Left(left) if left.as_secs() >= 59));
    /// assert!(store.persist("session")?);
    /// assert_eq!(store.ttl("session")?, Ttl::Forever);
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the time is beyond what an expiry can hold.
    fn expire(&self, key: impl AsRef<[u8]>, after: Duration) -> Result<bool, Error> {
        let after = millis(after);
        Ok(self.call(&[b"PEXPIRE", key.as_ref(), after.as_bytes()])?.into_int()? == 1)
    }

    /// How long a key will live.
    fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl, Error> {
        Ok(match self.call(&[b"PTTL", key.as_ref()])?.into_int()? {
            -2 => Ttl::NoKey,
            -1 => Ttl::Forever,
            left => Ttl::Left(Duration::from_millis(u64::try_from(left).unwrap_or(0))),
        })
    }

    /// Lets a key stay for ever; whether it would have expired.
    fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.call(&[b"PERSIST", key.as_ref()])?.into_int()? == 1)
    }

    /// Gives a key another name, in place of what has it.
    ///
    /// # Errors
    /// [`Error::NoSuchKey`] if there is no such key.
    fn rename(&self, key: impl AsRef<[u8]>, newkey: impl AsRef<[u8]>) -> Result<(), Error> {
        self.call(&[b"RENAME", key.as_ref(), newkey.as_ref()]).map(drop)
    }

    /// The type of what a key holds, if there is such a key.
    fn type_of(&self, key: impl AsRef<[u8]>) -> Result<Option<Type>, Error> {
        const TYPES: [Type; 6] =
            [Type::String, Type::List, Type::Hash, Type::Set, Type::Zset, Type::Stream];
        match self.call(&[b"TYPE", key.as_ref()])? {
            ReplyValue::Simple(name) => {
                Ok(TYPES.into_iter().find(|known| known.name() == name.as_str()))
            }
            _ => Err(unexpected()),
        }
    }

    /// Number of keys of the database.
    fn len(&self) -> Result<usize, Error> {
        count(self.call(&[b"DBSIZE"])?)
    }

    /// Whether the database has no keys.
    fn is_empty(&self) -> Result<bool, Error> {
        Ok(Keys::len(self)? == 0)
    }

    /// Deletes all keys of the database.
    fn clear(&self) -> Result<(), Error> {
        self.call(&[b"FLUSHDB"]).map(drop)
    }

    /// Walks over the keys that match a glob pattern, in no particular order. A key that is there
    /// from the beginning to the end is met, perhaps more than once; no lock is held in between.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.mset(&[("user:1", "a"), ("user:2", "b"), ("other", "c")])?;
    /// let mut keys = store.scan("user:*").collect::<Result<Vec<_>, _>>()?;
    /// keys.sort();
    /// assert_eq!(keys, [b"user:1", b"user:2"]);
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    fn scan(&self, pattern: impl AsRef<[u8]>) -> ScanKeys<'_, Self> {
        let pattern = pattern.as_ref().to_vec();
        ScanKeys { call: self, pattern, cursor: Some(b"0".to_vec()), found: Vec::new() }
    }
}

impl<C: Call + ?Sized> Keys for C {}

/// A walk over keys; see [`Keys::scan`].
pub struct ScanKeys<'a, C: ?Sized> {
    call: &'a C,
    pattern: Vec<u8>,
    /// `None` at the end.
    cursor: Option<Vec<u8>>,
    found: Vec<Vec<u8>>,
}

impl<C: Call + ?Sized> ScanKeys<'_, C> {
    /// Keys that one step looks at.
    const COUNT: &'static [u8] = b"100";

    fn step(&mut self, cursor: &[u8]) -> Result<(), Error> {
        let args = [b"SCAN", cursor, b"MATCH", &self.pattern, b"COUNT", Self::COUNT];
        let mut parts = self.call.call(&args)?.into_elements()?.into_iter();
        let (Some(cursor), Some(keys)) = (parts.next(), parts.next()) else {
            return Err(unexpected());
        };
        self.cursor = cursor.into_bytes()?.filter(|cursor| cursor != b"0");
        self.found = keys.into_strings()?;
        Ok(())
    }
}

impl<C: Call + ?Sized> Iterator for ScanKeys<'_, C> {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.found.pop() {
                return Some(Ok(key));
            }
            let cursor = self.cursor.take()?;
            if let Err(error) = self.step(&cursor) {
                return Some(Err(error));
            }
        }
    }
}
