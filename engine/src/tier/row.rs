//! The rows of a value in a cold store.
//!
//! ```text
//! row key:    generation u32 | fingerprint [10] | epoch u8 | chunk u32        big-endian: in order
//! every row:  crc32c u32 (over the row key and what follows) | write number u32 | ...
//! chunk 0:    version u8 = 1 | flags u8 (1: has an expiry) | access u32 | expiry i64
//!             | key length u32 | body length u64 | stream
//!             version 2 has before the stream: elements u64 | directory u8 | places u32
//! others:     stream
//! ```
//! Numbers in values are little-endian. The stream is the body, cut into chunks that fill a row, and with version 2 a
//! directory behind it, see `large`. The body is the key, then the value in its byte form (`value::form`). All rows of
//! one write carry its number, so that chunks of two writes are never put together.

use super::fingerprint::Fingerprint;
use super::large::{Directory, Reader};
use super::store::{Batch, ColdError, ColdStore, ROW_BYTES_MAX};

/// Of a value that is read as a whole.
const WHOLE: u8 = 1;
/// Of a large value, parts of which can be read.
const LARGE: u8 = 2;
const HAS_EXPIRY: u8 = 1;
/// Bytes before the stream in chunk 0.
const FIRST_HEADER: usize = 8 + 2 + 4 + 8 + 4 + 8;
/// The same of a large value.
const LARGE_HEADER: usize = FIRST_HEADER + 8 + 1 + 4;
/// Bytes before the stream in other chunks.
pub(super) const HEADER: usize = 8;
const FIRST_BODY: usize = ROW_BYTES_MAX - FIRST_HEADER;
/// Bytes of the stream in other chunks than the first.
pub(super) const BODY: usize = ROW_BYTES_MAX - HEADER;
/// Bytes of a large value's stream in chunk 0.
pub(super) const LARGE_FIRST: usize = ROW_BYTES_MAX - LARGE_HEADER;

/// Largest key with its value, in its byte form, that leaves memory.
pub const COLD_BYTES_MAX: usize = 1 << 30;

/// Which rows hold a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// The life of a database between two flushes.
    pub generation: u32,
    /// The key.
    pub print: Fingerprint,
    /// The snapshot period in which it was written.
    pub epoch: u8,
}

impl RowId {
    /// Bytes of a row's key.
    pub const KEY_BYTES: usize = 4 + Fingerprint::BYTES + 1 + 4;

    /// The key of one of the rows.
    pub fn key(self, chunk: u32) -> Vec<u8> {
        let mut key = Vec::with_capacity(RowId::KEY_BYTES);
        key.extend_from_slice(&self.generation.to_be_bytes());
        key.extend_from_slice(&self.print.to_bytes());
        key.push(self.epoch);
        key.extend_from_slice(&chunk.to_be_bytes());
        key
    }

    /// Reads what [`RowId::key`] made.
    pub fn from_key(key: &[u8]) -> Option<(RowId, u32)> {
        let (generation, rest) = key.split_first_chunk::<4>()?;
        let (print, rest) = rest.split_first_chunk::<{ Fingerprint::BYTES }>()?;
        let (&epoch, chunk) = rest.split_first()?;
        let chunk = u32::from_be_bytes(chunk.try_into().ok()?);
        let generation = u32::from_be_bytes(*generation);
        Some((RowId { generation, print: Fingerprint::from_bytes(*print), epoch }, chunk))
    }

    pub(super) fn damaged(self, what: &str) -> ColdError {
        let RowId { generation, print, epoch } = self;
        let print = print.to_bytes().map(|byte| format!("{byte:02x}")).concat();
        ColdError::Damaged(format!("row {generation}/{print}/{epoch}: {what}"))
    }
}

/// A key and its value as they are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdValue {
    /// When it expired or will, as of when it was written.
    pub expiry: Option<i64>,
    /// Its access data, see [`crate::keyspace::access`].
    pub access: u32,
    /// The key, then the value in its byte form.
    pub body: Vec<u8>,
    /// Length of the key.
    pub key_len: usize,
}

impl ColdValue {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.body[..self.key_len]
    }

    /// The value in its byte form.
    pub fn value(&self) -> &[u8] {
        &self.body[self.key_len..]
    }
}

/// Sets the checksum of a row.
pub(super) fn seal(key: &[u8], row: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &row[4..]);
    row[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Number of rows of a body.
pub fn chunks(body_len: usize) -> u32 {
    (1 + body_len.saturating_sub(FIRST_BODY).div_ceil(BODY)) as u32
}

/// Writes the rows of a value, in batches that are applied when they are full.
///
/// # Errors
/// If the store failed.
pub fn write(
    store: &dyn ColdStore,
    batch: &mut Batch,
    id: RowId,
    write: u32,
    value: &ColdValue,
) -> Result<(), ColdError> {
    let (first, mut rest) = value.body.split_at(value.body.len().min(FIRST_BODY));
    let ColdValue { expiry, access, key_len, .. } = *value;
    let head = Head { write, expiry, access, key_len, body_len: value.body.len(), large: None };
    let mut row = head.to_row(first);
    let mut chunk = 0;
    loop {
        let key = id.key(chunk);
        seal(&key, &mut row);
        batch.put(key, row);
        if batch.is_full() {
            store.apply(batch)?;
            batch.clear();
        }
        if rest.is_empty() {
            return Ok(());
        }
        let (part, more) = rest.split_at(rest.len().min(BODY));
        row = Vec::with_capacity(HEADER + part.len());
        row.extend_from_slice(&[0; 4]);
        row.extend_from_slice(&write.to_le_bytes());
        row.extend_from_slice(part);
        (rest, chunk) = (more, chunk + 1);
    }
}

/// Bytes of the rows of a body, with their keys.
pub fn disk_bytes(body_len: usize) -> u64 {
    let rows = chunks(body_len) as usize;
    (FIRST_HEADER + (rows - 1) * HEADER + rows * RowId::KEY_BYTES + body_len) as u64
}

/// Adds the deletion of a value's rows to a batch; returns how many there are, and their bytes. Where there is no first
/// row, or it is damaged, the others are looked for: it is written last for large values. Their bytes count as none then.
///
/// # Errors
/// If the store failed.
pub fn delete(
    store: &dyn ColdStore,
    batch: &mut Batch,
    id: RowId,
) -> Result<(u64, u64), ColdError> {
    let first = store.get(&id.key(0))?;
    let Some(head) = first.and_then(|row| Head::read(id, &row).ok()) else {
        return delete_all(store, batch, id);
    };
    // The first row goes last: while it is there, the others can be found.
    for chunk in (0..head.rows()).rev() {
        delete_one(store, batch, id.key(chunk))?;
    }
    Ok((u64::from(head.rows()), head.disk_bytes()))
}

fn delete_one(store: &dyn ColdStore, batch: &mut Batch, key: Vec<u8>) -> Result<(), ColdError> {
    batch.delete(key);
    if batch.is_full() {
        store.apply(batch)?;
        batch.clear();
    }
    Ok(())
}

/// Deletes all rows that are there.
fn delete_all(
    store: &dyn ColdStore,
    batch: &mut Batch,
    id: RowId,
) -> Result<(u64, u64), ColdError> {
    /// Keys that are gathered before they are deleted.
    const TOGETHER: usize = 4096;
    let (mut from, end, mut count) = (id.key(0), id.key(u32::MAX), 0);
    loop {
        let mut keys = Vec::new();
        store.range(&from, &end, &mut |key, _| {
            keys.push(key.to_vec());
            keys.len() < TOGETHER
        })?;
        let Some(last) = keys.last() else { return Ok((count, 0)) };
        from.clone_from(last);
        from.push(0);
        count += keys.len() as u64;
        for key in keys {
            delete_one(store, batch, key)?;
        }
    }
}

/// What the first row tells of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub write: u32,
    pub expiry: Option<i64>,
    pub access: u32,
    pub key_len: usize,
    pub body_len: usize,
    /// Of a large value.
    pub large: Option<Directory>,
}

/// Checks a row and returns the number of its write.
pub(super) fn check(id: RowId, chunk: u32, row: &[u8]) -> Result<u32, ColdError> {
    let (Some(crc), Some(write)) = (row.first_chunk::<4>(), row.get(4..8)) else {
        return Err(id.damaged("a row is too short"));
    };
    let expected = crc32c::crc32c_append(crc32c::crc32c(&id.key(chunk)), &row[4..]);
    if u32::from_le_bytes(*crc) != expected {
        return Err(id.damaged(&format!("the checksum of chunk {chunk} is wrong")));
    }
    Ok(write.try_into().map_or(0, u32::from_le_bytes))
}

impl Head {
    pub fn read(id: RowId, row: &[u8]) -> Result<Head, ColdError> {
        let write = check(id, 0, row)?;
        let short = || id.damaged("the first row is too short");
        let mut rest = row.get(8..).ok_or_else(short)?;
        let mut take = |len: usize| {
            let (bytes, after) = rest.split_at_checked(len).ok_or_else(short)?;
            rest = after;
            let mut number = [0; 8];
            number[..len].copy_from_slice(bytes);
            Ok(u64::from_le_bytes(number))
        };
        let (version, flags) = (take(1)? as u8, take(1)? as u8);
        let (access, expiry) = (take(4)? as u32, take(8)? as i64);
        let (key_len, body_len) = (take(4)? as usize, take(8)? as usize);
        let large = match version {
            WHOLE => None,
            LARGE => Some(Directory {
                elements: take(8)?,
                kind: take(1)? as u8,
                places: take(4)? as u32,
            }),
            version => return Err(id.damaged(&format!("version {version} is unknown"))),
        };
        let makes_sense = large.is_none_or(|directory| directory.makes_sense());
        if body_len > COLD_BYTES_MAX || key_len > body_len || !makes_sense {
            return Err(id.damaged("the lengths make no sense"));
        }
        let expiry = (flags & HAS_EXPIRY != 0).then_some(expiry);
        Ok(Head { write, expiry, access, key_len, body_len, large })
    }

    /// The first row, without its checksum; `stream` is what it has of the stream.
    pub fn to_row(self, stream: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.header_len() + stream.len());
        row.extend_from_slice(&[0; 4]);
        row.extend_from_slice(&self.write.to_le_bytes());
        row.push(if self.large.is_some() { LARGE } else { WHOLE });
        row.push(if self.expiry.is_some() { HAS_EXPIRY } else { 0 });
        row.extend_from_slice(&self.access.to_le_bytes());
        row.extend_from_slice(&self.expiry.unwrap_or(0).to_le_bytes());
        row.extend_from_slice(&(self.key_len as u32).to_le_bytes());
        row.extend_from_slice(&(self.body_len as u64).to_le_bytes());
        if let Some(directory) = self.large {
            row.extend_from_slice(&directory.elements.to_le_bytes());
            row.push(directory.kind);
            row.extend_from_slice(&directory.places.to_le_bytes());
        }
        row.extend_from_slice(stream);
        row
    }

    pub fn header_len(&self) -> usize {
        if self.large.is_some() { LARGE_HEADER } else { FIRST_HEADER }
    }

    /// Bytes of the stream in chunk 0, if there are enough.
    pub fn first_len(&self) -> usize {
        ROW_BYTES_MAX - self.header_len()
    }

    /// Bytes of body and directory.
    pub fn stream_len(&self) -> usize {
        self.body_len + self.large.map_or(0, |directory| directory.bytes())
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        (1 + self.stream_len().saturating_sub(self.first_len()).div_ceil(BODY)) as u32
    }

    /// Bytes of the rows, with their keys.
    pub fn disk_bytes(&self) -> u64 {
        let rows = self.rows() as usize;
        let headers = self.header_len() + (rows - 1) * HEADER + rows * RowId::KEY_BYTES;
        (headers + self.stream_len()) as u64
    }
}

/// Reads a value, or only the first rows of it: those with the first `wanted` bytes of the value
/// after the key. `None` where there is no such row.
///
/// # Errors
/// If the store failed, or the rows are damaged.
pub fn read(
    store: &dyn ColdStore,
    id: RowId,
    wanted: usize,
) -> Result<Option<ColdValue>, ColdError> {
    Reader::open(store, id)?.map(|reader| reader.value(wanted)).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn id() -> RowId {
        RowId { generation: 7, print: Fingerprint { word: 1 << 60 | 3, tag: 9 }, epoch: 2 }
    }

    fn value(len: usize, expiry: Option<i64>) -> ColdValue {
        let body = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
        ColdValue { expiry, access: 77, body, key_len: len.min(20) }
    }

    fn put(store: &MemoryStore, number: u32, value: &ColdValue) {
        let mut batch = Batch::default();
        write(store, &mut batch, id(), number, value).unwrap();
        store.apply(&batch).unwrap();
    }

    #[test]
    fn values_come_back_and_go() {
        let lens = [0, 1, FIRST_BODY - 1, FIRST_BODY, FIRST_BODY + 1, FIRST_BODY + BODY, 5_000_000];
        for len in lens {
            for expiry in [None, Some(-3), Some(i64::MAX)] {
                let (store, value) = (MemoryStore::default(), value(len, expiry));
                put(&store, 1, &value);
                assert_eq!(read(&store, id(), usize::MAX).unwrap().as_ref(), Some(&value), "{len}");
                let start = read(&store, id(), 2).unwrap().unwrap();
                assert_eq!(start.key(), value.key());
                assert!(value.value().starts_with(&start.value()[..start.value().len().min(2)]));
                assert_eq!(store.rows(), chunks(len) as usize);
                let mut batch = Batch::default();
                let deleted = delete(&store, &mut batch, id()).unwrap();
                assert_eq!(deleted, (u64::from(chunks(len)), store.size()));
                store.apply(&batch).unwrap();
                assert_eq!((store.rows(), read(&store, id(), 9).unwrap()), (0, None));
            }
        }
    }

    /// The rows of version 1, byte by byte: this has to be read for ever.
    #[test]
    fn rows_of_the_first_version_are_read() {
        let store = MemoryStore::default();
        let key = id().key(0);
        let mut row = vec![0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 0x44, 0x33, 0x22, 0x11];
        row.extend_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        row.extend_from_slice(&[3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        row.extend_from_slice(b"key\x00text");
        let crc = crc32c::crc32c_append(crc32c::crc32c(&key), &row[4..]);
        row[..4].copy_from_slice(&crc.to_le_bytes());
        let mut batch = Batch::default();
        batch.put(key, row);
        store.apply(&batch).unwrap();
        let value = read(&store, id(), usize::MAX).unwrap().unwrap();
        assert_eq!((value.key(), value.value()), (&b"key"[..], &b"\0text"[..]));
        assert_eq!((value.expiry, value.access), (Some(0x1122_3344_5566_7788), 0x1122_3344));
        let written = MemoryStore::default();
        put(&written, 9, &value);
        assert_eq!(written.get(&id().key(0)).unwrap(), store.get(&id().key(0)).unwrap());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let value = value(20_000, Some(5));
        for nth in 0..4_000 {
            let store = MemoryStore::default();
            put(&store, 1, &value);
            assert!(store.damage(nth * 31));
            let read = read(&store, id(), usize::MAX);
            assert!(matches!(read, Err(ColdError::Damaged(_))), "{nth}: {read:?}");
        }
    }

    #[test]
    fn chunks_of_two_writes_are_not_put_together() {
        let (store, old) = (MemoryStore::default(), MemoryStore::default());
        put(&old, 1, &value(20_000, None));
        put(&store, 2, &value(20_000, None));
        let mut batch = Batch::default();
        batch.put(id().key(3), old.get(&id().key(3)).unwrap().unwrap());
        store.apply(&batch).unwrap();
        assert!(matches!(read(&store, id(), usize::MAX), Err(ColdError::Damaged(_))));
        batch.clear();
        batch.delete(id().key(3));
        store.apply(&batch).unwrap();
        assert!(matches!(read(&store, id(), usize::MAX), Err(ColdError::Damaged(_))));
        assert!(read(&store, id(), 1).unwrap().is_some(), "its name can still be read");
    }

    #[test]
    fn a_row_is_of_its_key() {
        let store = MemoryStore::default();
        put(&store, 1, &value(100, None));
        let other = RowId { epoch: 3, ..id() };
        let mut batch = Batch::default();
        batch.put(other.key(0), store.get(&id().key(0)).unwrap().unwrap());
        store.apply(&batch).unwrap();
        assert!(matches!(read(&store, other, 9), Err(ColdError::Damaged(_))));
        assert_eq!(RowId::from_key(&other.key(6)), Some((other, 6)));
        assert_eq!(RowId::from_key(&[0; 18]), None);
    }
}
