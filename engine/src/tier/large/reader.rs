//! Reads any part of the rows of a value.

use super::super::row::{self, BODY, ColdValue, HEADER, Head, RowId};
use super::super::store::{ColdError, ColdStore};
use crate::value::Value;
use crate::value::build::Build;
use std::collections::VecDeque;

/// Rows that are kept while more are read.
const RECENT_MAX: usize = 16;

/// A value whose first row was read.
pub struct Reader<'s> {
    store: &'s dyn ColdStore,
    id: RowId,
    head: Head,
    first: Vec<u8>,
    /// Rows that were read last, the newest at the end.
    recent: VecDeque<(u32, Vec<u8>)>,
    bytes: usize,
}

impl<'s> Reader<'s> {
    /// Reads the first row; `None` where there is none.
    pub fn open(store: &'s dyn ColdStore, id: RowId) -> Result<Option<Reader<'s>>, ColdError> {
        store.get(&id.key(0))?.map(|first| Reader::of(store, id, first)).transpose()
    }

    /// With the first row as it was read.
    pub fn of(
        store: &'s dyn ColdStore,
        id: RowId,
        first: Vec<u8>,
    ) -> Result<Reader<'s>, ColdError> {
        let (head, bytes) = (Head::read(id, &first)?, first.len());
        let reader = Reader { store, id, head, first, recent: VecDeque::new(), bytes };
        if reader.first.len() != head.header_len() + head.stream_len().min(head.first_len()) {
            return Err(reader.damaged("the chunks have another length"));
        }
        Ok(reader)
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of rows that were read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn damaged(&self, what: &str) -> ColdError {
        self.id.damaged(what)
    }

    /// Which chunk has a byte of the stream, and where in that.
    fn locate(&self, at: usize) -> (u32, usize) {
        match at.checked_sub(self.head.first_len()) {
            None => (0, self.head.header_len() + at),
            Some(beyond) => ((1 + beyond / BODY) as u32, HEADER + beyond % BODY),
        }
    }

    fn fetch(&mut self, chunk: u32) -> Result<Vec<u8>, ColdError> {
        let row = self.store.get(&self.id.key(chunk))?;
        let row = row.ok_or_else(|| self.damaged(&format!("chunk {chunk} is missing")))?;
        if row::check(self.id, chunk, &row)? != self.head.write {
            return Err(self.damaged(&format!("chunk {chunk} is of another write")));
        }
        let before = self.head.first_len() + (chunk as usize - 1) * BODY;
        if row.len() != HEADER + self.head.stream_len().saturating_sub(before).min(BODY) {
            return Err(self.damaged("the chunks have another length"));
        }
        self.bytes += row.len();
        Ok(row)
    }

    /// The stream from an offset to the end of its row; nothing at the end of the stream.
    pub fn rest_of_row(&mut self, at: usize) -> Result<&[u8], ColdError> {
        if at >= self.head.stream_len() {
            return Ok(&[]);
        }
        let (chunk, within) = self.locate(at);
        if chunk == 0 {
            return Ok(self.first.get(within..).unwrap_or_default());
        }
        let known = self.recent.iter().position(|(number, _)| *number == chunk);
        let place = match known {
            Some(place) => place,
            None => {
                let row = self.fetch(chunk)?;
                if self.recent.len() == RECENT_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back((chunk, row));
                self.recent.len() - 1
            }
        };
        Ok(self.recent.get(place).and_then(|(_, row)| row.get(within..)).unwrap_or_default())
    }

    /// Appends a part of the stream to `out`, all of which has to be there.
    pub fn take(&mut self, at: usize, len: usize, out: &mut Vec<u8>) -> Result<(), ColdError> {
        let (mut at, mut left) = (at, len);
        while left > 0 {
            let row = self.rest_of_row(at)?;
            if row.is_empty() {
                return Err(self.damaged("it ends before its end"));
            }
            let part = row.len().min(left);
            out.extend_from_slice(&row[..part]);
            (at, left) = (at + part, left - part);
        }
        Ok(())
    }

    /// Whether the value is of this key.
    pub fn is_of(&mut self, key: &[u8]) -> Result<bool, ColdError> {
        if self.head.key_len != key.len() {
            return Ok(false);
        }
        let mut own = Vec::new();
        self.take(0, key.len(), &mut own)?;
        Ok(own == key)
    }

    /// The value as bytes, or the first `wanted` of them and perhaps more.
    pub fn value(mut self, wanted: usize) -> Result<ColdValue, ColdError> {
        let Head { expiry, access, key_len, body_len, .. } = self.head;
        let enough = key_len.saturating_add(wanted).min(body_len);
        let mut body = std::mem::take(&mut self.first);
        body.drain(..self.head.header_len());
        for chunk in 1..self.head.rows() {
            if body.len() >= enough {
                break;
            }
            body.extend_from_slice(&self.fetch(chunk)?[HEADER..]);
        }
        body.truncate(body_len);
        Ok(ColdValue { expiry, access, body, key_len })
    }

    /// The value of a large one, made row by row; `None` where the bytes are not those of a value.
    pub fn build(&mut self) -> Result<Option<Value>, ColdError> {
        let Head { key_len, body_len, .. } = self.head;
        let mut build = Build::new(body_len - key_len);
        let (mut left, mut at) = (Vec::new(), key_len);
        while at < body_len {
            let row = self.rest_of_row(at)?;
            let part = row.len().min(body_len - at);
            if part == 0 {
                return Err(self.damaged("it ends before its end"));
            }
            left.extend_from_slice(&row[..part]);
            at += part;
            let Some(used) = build.feed(&left, at == body_len) else { return Ok(None) };
            left.drain(..used);
        }
        Ok(if left.is_empty() { build.finish() } else { None })
    }
}
