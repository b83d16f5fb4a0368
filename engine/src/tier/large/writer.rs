//! Writes the rows of a large value as its stream comes.

use super::super::row::{self, BODY, HEADER, Head, LARGE_FIRST, RowId};
use super::super::store::{Batch, ColdError, ColdStore};

/// Rows on their way.
pub struct Writer<'s> {
    store: &'s dyn ColdStore,
    id: RowId,
    write: u32,
    /// What the first row has of the stream.
    first: Vec<u8>,
    /// The row that is being filled, with its header, and its number.
    row: Vec<u8>,
    chunk: u32,
    batch: Batch,
}

impl<'s> Writer<'s> {
    pub fn new(store: &'s dyn ColdStore, id: RowId, write: u32) -> Writer<'s> {
        let mut writer = Writer {
            store,
            id,
            write,
            first: Vec::new(),
            row: Vec::new(),
            chunk: 0,
            batch: Batch::default(),
        };
        writer.next_row();
        writer
    }

    fn next_row(&mut self) {
        self.chunk += 1;
        self.row = Vec::with_capacity(HEADER + BODY);
        self.row.extend_from_slice(&[0; 4]);
        self.row.extend_from_slice(&self.write.to_le_bytes());
    }

    /// Appends to the stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ColdError> {
        let (own, mut rest) = bytes.split_at(bytes.len().min(LARGE_FIRST - self.first.len()));
        self.first.extend_from_slice(own);
        while !rest.is_empty() {
            let (part, more) = rest.split_at(rest.len().min(HEADER + BODY - self.row.len()));
            self.row.extend_from_slice(part);
            rest = more;
            if self.row.len() == HEADER + BODY {
                self.put_row()?;
            }
        }
        Ok(())
    }

    fn put_row(&mut self) -> Result<(), ColdError> {
        let (key, mut row) = (self.id.key(self.chunk), std::mem::take(&mut self.row));
        row::seal(&key, &mut row);
        self.next_row();
        self.put(key, row)
    }

    fn put(&mut self, key: Vec<u8>, row: Vec<u8>) -> Result<(), ColdError> {
        self.batch.put(key, row);
        if self.batch.is_full() {
            self.store.apply(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Writes what is left, and the first row.
    pub fn finish(mut self, head: Head) -> Result<(), ColdError> {
        if self.row.len() > HEADER {
            self.put_row()?;
        }
        let (key, mut row) = (self.id.key(0), head.to_row(&self.first));
        row::seal(&key, &mut row);
        self.put(key, row)?;
        self.store.apply(&self.batch)
    }
}
