//! The rows of a value in a cold store.
//!
//! ```text
//! row key:    generation u32 | fingerprint [10] | epoch u8 | chunk u32        big-endian: in order
//! every row:  crc32c u32 (over the row key and what follows) | write number u32 | ...
//! chunk 0:    version u8 = 1 | flags u8 (1: has an expiry) | access u32 | expiry i64
//!             | key length u32 | body length u64 | body
//! others:     body
//! ```
//! Numbers in values are little-endian. The body is the key, then the value in its byte form
//! (`value::form`), cut into chunks that fill a row. All rows of one write carry its number, so that
//! chunks of two writes are never put together.

use super::fingerprint::Fingerprint;
use super::store::{Batch, ColdError, ColdStore, ROW_BYTES_MAX};

const VERSION: u8 = 1;
const HAS_EXPIRY: u8 = 1;
/// Bytes before the body in chunk 0.
const FIRST_HEADER: usize = 8 + 2 + 4 + 8 + 4 + 8;
/// Bytes before the body in other chunks.
const HEADER: usize = 8;
const FIRST_BODY: usize = ROW_BYTES_MAX - FIRST_HEADER;
const BODY: usize = ROW_BYTES_MAX - HEADER;

/// Largest key with its value, in its byte form, that leaves memory.
pub const COLD_BYTES_MAX: usize = 64 << 20;

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

    fn damaged(self, what: &str) -> ColdError {
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

fn seal(key: &[u8], row: &mut [u8]) {
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
    let mut row = Vec::with_capacity(FIRST_HEADER + first.len());
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&write.to_le_bytes());
    row.push(VERSION);
    row.push(if value.expiry.is_some() { HAS_EXPIRY } else { 0 });
    row.extend_from_slice(&value.access.to_le_bytes());
    row.extend_from_slice(&value.expiry.unwrap_or(0).to_le_bytes());
    row.extend_from_slice(&(value.key_len as u32).to_le_bytes());
    row.extend_from_slice(&(value.body.len() as u64).to_le_bytes());
    row.extend_from_slice(first);
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

/// Adds the deletion of a value's rows to a batch; returns how many there are, and their bytes. Where
/// the first row is damaged only that one goes: further ones are unknown.
///
/// # Errors
/// If the store failed.
pub fn delete(
    store: &dyn ColdStore,
    batch: &mut Batch,
    id: RowId,
) -> Result<(u64, u64), ColdError> {
    let Some(row) = store.get(&id.key(0))? else { return Ok((0, 0)) };
    let body_len = Head::read(id, &row).map_or(0, |head| head.body_len);
    // The first row goes last: while it is there, the others can be found.
    for chunk in (0..chunks(body_len)).rev() {
        batch.delete(id.key(chunk));
        if batch.is_full() {
            store.apply(batch)?;
            batch.clear();
        }
    }
    Ok((u64::from(chunks(body_len)), disk_bytes(body_len)))
}

struct Head {
    write: u32,
    expiry: Option<i64>,
    access: u32,
    key_len: usize,
    body_len: usize,
}

fn check(id: RowId, chunk: u32, row: &[u8]) -> Result<u32, ColdError> {
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
    fn read(id: RowId, row: &[u8]) -> Result<Head, ColdError> {
        let write = check(id, 0, row)?;
        let header = row.get(8..FIRST_HEADER).ok_or(id.damaged("the first row is too short"))?;
        let number = |at: usize, len: usize| {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&header[at..at + len]);
            u64::from_le_bytes(bytes)
        };
        if header[0] != VERSION {
            return Err(id.damaged(&format!("version {} is unknown", header[0])));
        }
        let expiry = (header[1] & HAS_EXPIRY != 0).then_some(number(6, 8) as i64);
        let (key_len, body_len) = (number(14, 4) as usize, number(18, 8) as usize);
        if body_len > COLD_BYTES_MAX || key_len > body_len {
            return Err(id.damaged("the lengths make no sense"));
        }
        Ok(Head { write, expiry, access: number(2, 4) as u32, key_len, body_len })
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
    let Some(row) = store.get(&id.key(0))? else { return Ok(None) };
    let head = Head::read(id, &row)?;
    let mut body = row;
    body.drain(..FIRST_HEADER);
    let enough = head.key_len.saturating_add(wanted).min(head.body_len);
    for chunk in 1..chunks(head.body_len) {
        if body.len() >= enough {
            break;
        }
        let row = store.get(&id.key(chunk))?;
        let row = row.ok_or(id.damaged(&format!("chunk {chunk} is missing")))?;
        if check(id, chunk, &row)? != head.write {
            return Err(id.damaged(&format!("chunk {chunk} is of another write")));
        }
        body.extend_from_slice(&row[HEADER..]);
    }
    if body.len() < enough || body.len() > head.body_len {
        return Err(id.damaged("the chunks have another length"));
    }
    let Head { expiry, access, key_len, .. } = head;
    Ok(Some(ColdValue { expiry, access, body, key_len }))
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
