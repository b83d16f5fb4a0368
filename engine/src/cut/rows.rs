//! Entries as bytes, many in one buffer.

use crate::keyspace::EntryRef;
use crate::tier::row::ColdValue;
use crate::value::form;

/// An entry with its value as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its database.
    pub db: u32,
    /// When it expires, Unix milliseconds.
    pub expiry: Option<i64>,
    /// Its access data, see [`crate::keyspace::access`].
    pub access: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value in its byte form, see [`crate::value::form`].
    pub value: &'a [u8],
}

/// A batch of rows.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    index: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    db: u32,
    access: u32,
    expiry: Option<i64>,
    key: usize,
    value: usize,
    end: usize,
}

impl Rows {
    /// Adds an entry.
    pub fn push(&mut self, db: u32, entry: &EntryRef<'_>) {
        let key = self.bytes.len();
        self.bytes.extend_from_slice(entry.key());
        let value = self.bytes.len();
        form::encode(entry, &mut self.bytes);
        let (expiry, access, end) = (entry.expiry(), entry.access(), self.bytes.len());
        self.index.push(Place { db, access, expiry, key, value, end });
    }

    /// Adds a value that was read from disk.
    pub(crate) fn push_value(&mut self, db: u32, expiry: Option<i64>, from: &ColdValue) {
        let key = self.bytes.len();
        self.bytes.extend_from_slice(from.key());
        let value = self.bytes.len();
        self.bytes.extend_from_slice(from.value());
        let (access, end) = (from.access, self.bytes.len());
        self.index.push(Place { db, access, expiry, key, value, end });
    }

    /// Moves all rows of `other` to the end of these.
    pub fn append(&mut self, other: &mut Rows) {
        if self.index.is_empty() {
            std::mem::swap(self, other);
            other.clear();
            return;
        }
        let base = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.index.extend(other.index.drain(..).map(|place| Place {
            key: place.key + base,
            value: place.value + base,
            end: place.end + base,
            ..place
        }));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes all rows out and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.index.clear();
    }

    /// The rows in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.index.iter().map(|place| Row {
            db: place.db,
            expiry: place.expiry,
            access: place.access,
            key: &self.bytes[place.key..place.value],
            value: &self.bytes[place.value..place.end],
        })
    }
}
