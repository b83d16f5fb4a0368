//! The last records in memory, in chunks, with a cursor for each replica.
//!
//! ```text
//! record of a chunk   length varint, payload as in the log (`log::record`)
//! ```

use super::Behind;
use crate::value::varint;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a chunk, unless one record is longer.
const CHUNK_BYTES: usize = 64 << 10;

struct Chunk {
    bytes: Vec<u8>,
    /// The position of its first record.
    first: u64,
    records: u64,
    /// Whether all its records may come late.
    relaxed: bool,
}

#[derive(Clone, Copy)]
struct Cursor {
    /// The last record that was handed out.
    position: u64,
    /// Bytes of the stream before what comes next.
    byte: u64,
}

/// A record that the journal has not written yet.
struct Pending {
    index: u64,
    position: u64,
    byte: u64,
}

/// The ring.
#[derive(Default)]
pub(super) struct Ring {
    chunks: VecDeque<Chunk>,
    /// Position before the first record.
    start: u64,
    /// Position of the last record.
    end: u64,
    /// Bytes of the stream before the first record, and behind the last one.
    start_byte: u64,
    end_byte: u64,
    /// The last record that may be handed out, and where it ends.
    ready: u64,
    ready_byte: u64,
    pending: VecDeque<Pending>,
    cursors: BTreeMap<u64, Cursor>,
    /// Room for a record on its way.
    scratch: Vec<u8>,
    kept: u64,
    limit: u64,
}

/// Records that were handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The position before the first one.
    pub position: u64,
    /// How many.
    pub records: u64,
    /// Each with its length in front.
    pub bytes: Vec<u8>,
    /// Whether all of them may come late.
    pub relaxed: bool,
}

/// What a replica can be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These records.
    Records(Part),
    /// Nothing for now.
    Nothing,
    /// What comes behind this position is not in the ring.
    Gone(u64),
    /// The replica is not known, or the history is another one: it has to ask anew.
    Lost,
}

impl Ring {
    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn bytes(&self) -> u64 {
        self.end_byte - self.start_byte
    }

    pub fn set_limits(&mut self, kept: u64, limit: u64) {
        (self.kept, self.limit) = (kept, limit);
    }

    /// Empty, behind this position, and without replicas.
    pub fn reset(&mut self, position: u64) {
        let (kept, limit) = (self.kept, self.limit);
        let (start, end, ready) = (position, position, position);
        *self = Ring { start, end, ready, kept, limit, ..Ring::default() };
    }

    /// Adds a record; `index` is that in the journal, which has to write it first.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), relaxed: bool, index: Option<u64>) {
        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        write(&mut payload);
        let bytes = payload.len() + varint::MAX;
        let room =
            |chunk: &Chunk| chunk.bytes.len() + bytes <= CHUNK_BYTES && (chunk.relaxed == relaxed);
        if !self.chunks.back().is_some_and(room) {
            let bytes = Vec::with_capacity(CHUNK_BYTES.max(bytes));
            self.chunks.push_back(Chunk { bytes, first: self.end + 1, records: 0, relaxed });
        }
        let chunk = self.chunks.back_mut().expect("there is one, or it was made");
        let before = chunk.bytes.len();
        varint::push(&mut chunk.bytes, payload.len() as u64);
        chunk.bytes.extend_from_slice(&payload);
        chunk.records += 1;
        payload.shrink_to(CHUNK_BYTES);
        self.scratch = payload;
        self.end += 1;
        self.end_byte += (chunk.bytes.len() - before) as u64;
        self.after_push(index);
    }

    /// Adds records as they stand in a chunk; `index` is that of the last one in the journal.
    pub fn push_many(&mut self, records: &[u8], count: u64, relaxed: bool, index: Option<u64>) {
        let room = |chunk: &Chunk| {
            chunk.bytes.len() + records.len() <= CHUNK_BYTES && chunk.relaxed == relaxed
        };
        if !self.chunks.back().is_some_and(room) {
            let bytes = Vec::with_capacity(CHUNK_BYTES.max(records.len()));
            self.chunks.push_back(Chunk { bytes, first: self.end + 1, records: 0, relaxed });
        }
        let chunk = self.chunks.back_mut().expect("there is one, or it was made");
        chunk.bytes.extend_from_slice(records);
        chunk.records += count;
        self.end += count;
        self.end_byte += records.len() as u64;
        self.after_push(index);
    }

    /// Enters who may be handed what was just added, and drops what is not needed any more.
    fn after_push(&mut self, index: Option<u64>) {
        match index {
            Some(index) => {
                let (position, byte) = (self.end, self.end_byte);
                self.pending.push_back(Pending { index, position, byte });
            }
            None => (self.ready, self.ready_byte) = (self.end, self.end_byte),
        }
        self.trim(index.is_some());
    }

    /// The journal has written what it has up to `index`.
    pub fn release(&mut self, index: u64) {
        while let Some(pending) = self.pending.front().filter(|pending| pending.index <= index) {
            (self.ready, self.ready_byte) = (pending.position, pending.byte);
            self.pending.pop_front();
        }
    }

    /// Drops what is neither kept for all nor waited for. With a log nobody is waited for: it has
    /// what the ring has let go of.
    fn trim(&mut self, logged: bool) {
        let slowest = self.cursors.values().map(|cursor| cursor.byte).min();
        let slowest = if logged { None } else { slowest }.unwrap_or(self.end_byte);
        let wanted = slowest.min(self.end_byte.saturating_sub(self.kept));
        let wanted = wanted.max(self.end_byte.saturating_sub(self.limit.max(self.kept)));
        while let Some(chunk) = self.chunks.front() {
            let after = self.start_byte + chunk.bytes.len() as u64;
            if after > wanted || after > self.ready_byte || self.chunks.len() == 1 {
                break;
            }
            self.start_byte = after;
            self.start += chunk.records;
            self.chunks.pop_front();
        }
    }

    /// Where in the stream the record behind a position begins.
    fn byte_behind(&self, position: u64) -> Option<u64> {
        if position < self.start || position > self.end {
            return None;
        }
        let mut byte = self.start_byte;
        for chunk in &self.chunks {
            let last = chunk.first + chunk.records - 1;
            if position >= last {
                byte += chunk.bytes.len() as u64;
                continue;
            }
            let mut at = 0;
            for _ in chunk.first..=position {
                let (len, start) = varint::read(&chunk.bytes, at)?;
                at = start + usize::try_from(len).ok()?;
            }
            return Some(byte + at as u64);
        }
        Some(byte)
    }

    pub fn enter(&mut self, replica: u64, position: u64) -> bool {
        self.byte_behind(position).is_some_and(|byte| {
            self.cursors.insert(replica, Cursor { position, byte });
            true
        })
    }

    pub fn forget(&mut self, replica: u64) {
        self.cursors.remove(&replica);
    }

    /// Whether there is nothing for a replica.
    pub fn is_idle(&self, replica: u64) -> bool {
        self.cursors.get(&replica).is_some_and(|cursor| cursor.byte >= self.ready_byte)
    }

    pub fn next(&mut self, replica: u64) -> Next {
        let Some(cursor) = self.cursors.get(&replica).copied() else { return Next::Lost };
        if cursor.byte >= self.ready_byte {
            return Next::Nothing;
        }
        if cursor.byte < self.start_byte {
            return Next::Gone(cursor.position);
        }
        let (mut skip, ready) = (cursor.byte - self.start_byte, self.ready_byte - self.start_byte);
        let mut before = 0;
        for chunk in &self.chunks {
            let len = chunk.bytes.len() as u64;
            if skip >= len {
                (skip, before) = (skip - len, before + len);
                continue;
            }
            let end = len.min(ready - before);
            let last = match end == len {
                true => chunk.first + chunk.records - 1,
                false => self.ready,
            };
            let bytes = chunk.bytes[skip as usize..end as usize].to_vec();
            let (position, records) = (cursor.position, last - cursor.position);
            let cursor = Cursor { position: last, byte: cursor.byte + bytes.len() as u64 };
            let part = Part { position, records, bytes, relaxed: chunk.relaxed };
            self.cursors.insert(replica, cursor);
            return Next::Records(part);
        }
        Next::Nothing
    }

    pub fn behind(&self, position: u64) -> Behind {
        let records = self.end.saturating_sub(position);
        if records == 0 {
            return Behind::default();
        }
        match self.byte_behind(position) {
            Some(byte) => {
                Behind { records, bytes: self.end_byte - byte, since_ms: self.time_at(byte) }
            }
            None => {
                let held = (self.end - self.start).max(1);
                let each = u128::from(self.bytes()) / u128::from(held);
                let bytes = u64::try_from(each * u128::from(records)).unwrap_or(u64::MAX);
                Behind { records, bytes, since_ms: None }
            }
        }
    }

    /// When the record was made that begins there.
    fn time_at(&self, byte: u64) -> Option<i64> {
        let mut before = self.start_byte;
        for chunk in &self.chunks {
            let after = before + chunk.bytes.len() as u64;
            if byte < after {
                let at = usize::try_from(byte - before).ok()?;
                let (_, payload) = varint::read(&chunk.bytes, at)?;
                let calls = crate::log::record::Calls::new(&chunk.bytes[payload..]).next();
                return calls.map(|call| call.stamp.now_ms);
            }
            before = after;
        }
        None
    }
}
