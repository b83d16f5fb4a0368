//! Writes a snapshot.

use super::Info;
use super::format::{
    DbV1, FRAME_HEADER_BYTES, FrameHeader, InfoV1, Kind, LARGE_BYTES, MORE, NO_EXPIRY, PAYLOAD_MAX,
    ROWS_BYTES, RowsV1, RunV1, encode_header, frame_crc,
};
use crate::cut::{Cut, Row, Rows};
use crate::libraries::{self, Library};
use crate::policy::Table;
use rkyv::api::high::{HighSerializer, to_bytes_in};
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use std::io::{self, Write};

/// Writes a snapshot to a file or a stream, frame by frame.
pub struct Writer<W> {
    out: W,
    id: u64,
    frames: u32,
    rows: u64,
    bytes: u64,
    block: RowsV1,
    buf: Vec<u8>,
}

fn archive<T>(value: &T, buf: Vec<u8>) -> io::Result<Vec<u8>>
where
    T: for<'a> rkyv::Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Error>>,
{
    to_bytes_in(value, buf).map_err(|error| io::Error::other(error.to_string()))
}

impl<W: Write> Writer<W> {
    /// Begins a snapshot. `id` tells its frames from those of others: no two snapshots of one
    /// directory should have the same.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, id: u64, info: &Info) -> io::Result<Writer<W>> {
        let header = encode_header(id);
        out.write_all(&header)?;
        let (frames, rows, bytes) = (0, 0, header.len() as u64);
        let (block, buf) = (RowsV1::default(), Vec::new());
        let mut writer = Writer { out, id, frames, rows, bytes, block, buf };
        let dbs = info.dbs.iter();
        let dbs = dbs.map(|db| DbV1 { db: db.db, keys: db.keys, expires: db.expires });
        let payload = InfoV1 {
            log_index: info.log_index,
            created_ms: info.created_ms,
            hash_seed: info.hash_seed,
            dbs: dbs.collect(),
        };
        let payload = archive(&payload, Vec::new())?;
        writer.frame(Kind::Info, 0, &payload)?;
        Ok(writer)
    }

    /// Adds a row. Rows may come in any order, each key once.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.rows += 1;
        let len = row.key.len() + row.value.len();
        if len >= LARGE_BYTES {
            return self.large(row);
        }
        let block = &mut self.block;
        let number = block.accesses.len() as u32;
        match block.runs.last_mut() {
            Some(run) if run.db == row.db => run.rows += 1,
            _ => block.runs.push(RunV1 { db: row.db, rows: 1 }),
        }
        block.accesses.push(row.access);
        if let Some(expiry) = row.expiry {
            block.expiring.push(number);
            block.expiries.push(expiry);
        }
        block.bytes.extend_from_slice(row.key);
        block.key_ends.push(block.bytes.len() as u32);
        block.bytes.extend_from_slice(row.value);
        block.value_ends.push(block.bytes.len() as u32);
        // Fixed columns count too, so that many tiny rows make no frame that is too long.
        if block.bytes.len() + number as usize * 16 >= ROWS_BYTES {
            self.flush_rows()?;
        }
        Ok(())
    }

    /// Adds the libraries, the policies and the rows of a cut, step by step; after each, `step` gets the
    /// rows so far and the bytes that wait in memory. If it returns `false`, the rest is left out.
    ///
    /// # Errors
    /// Those of the writer below, and the fault of a cut that could not read all values.
    pub fn cut(
        &mut self,
        cut: &mut Cut<'_>,
        mut step: impl FnMut(u64, usize) -> bool,
    ) -> io::Result<()> {
        self.libraries(cut.libraries())?;
        self.policies(cut.policies())?;
        let mut rows = Rows::default();
        loop {
            let more = cut.step(&mut rows);
            for row in rows.iter() {
                self.row(&row)?;
            }
            rows.clear();
            if !step(self.rows, cut.waiting_bytes()) {
                return Ok(());
            }
            if !more {
                let fault = cut.fault().map(|fault| io::Error::other(fault.to_string()));
                return fault.map_or(Ok(()), Err);
            }
        }
    }

    fn flush_rows(&mut self) -> io::Result<()> {
        if self.block.accesses.is_empty() {
            return Ok(());
        }
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        let buf = archive(&self.block, buf)?;
        self.frame(Kind::Rows, 0, &buf)?;
        self.block.clear();
        self.buf = buf;
        Ok(())
    }

    fn large(&mut self, row: &Row<'_>) -> io::Result<()> {
        let mut head = Vec::with_capacity(LARGE_BYTES);
        head.extend_from_slice(&row.db.to_le_bytes());
        head.extend_from_slice(&row.access.to_le_bytes());
        head.extend_from_slice(&row.expiry.unwrap_or(NO_EXPIRY).to_le_bytes());
        head.extend_from_slice(&(row.key.len() as u32).to_le_bytes());
        self.chunked(Kind::Large, head, &[row.key, row.value])
    }

    /// Adds the libraries of functions. Nothing is written where there are none.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn libraries(&mut self, libraries: &[Library]) -> io::Result<()> {
        if libraries.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        libraries::encode(libraries, &mut bytes);
        self.chunked(Kind::Libraries, Vec::new(), &[&bytes])
    }

    /// Adds the classes of keys. Nothing is written where there never were any.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn policies(&mut self, table: &Table) -> io::Result<()> {
        if table.version() == 0 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        self.frame(Kind::Policies, 0, &bytes)
    }

    /// Writes what begins with `buf` and goes on with `parts` as frames of [`LARGE_BYTES`].
    fn chunked(&mut self, kind: Kind, mut buf: Vec<u8>, parts: &[&[u8]]) -> io::Result<()> {
        let mut left = buf.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(LARGE_BYTES - buf.len()));
                buf.extend_from_slice(now);
                part = later;
                if buf.len() == LARGE_BYTES {
                    left -= buf.len();
                    self.frame(kind, if left > 0 { MORE } else { 0 }, &buf)?;
                    buf.clear();
                }
            }
        }
        if buf.is_empty() { Ok(()) } else { self.frame(kind, 0, &buf) }
    }

    /// Adds a part of the index of the cold tier, at most 4 MiB.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn cold(&mut self, part: &[u8]) -> io::Result<()> {
        self.frame(Kind::Cold, 0, part)
    }

    fn frame(&mut self, kind: Kind, flags: u8, payload: &[u8]) -> io::Result<()> {
        if payload.len() > PAYLOAD_MAX {
            return Err(io::Error::other("a frame of a snapshot is too long"));
        }
        let (len, number) = (payload.len() as u32, self.frames);
        let header = FrameHeader { len, crc: 0, number, kind: kind as u8, flags };
        let crc = frame_crc(self.id, &header.encode(), payload);
        self.out.write_all(&FrameHeader { crc, ..header }.encode())?;
        self.out.write_all(payload)?;
        self.bytes += (FRAME_HEADER_BYTES + payload.len()) as u64;
        self.frames = self.frames.checked_add(1).ok_or_else(|| io::Error::other("too large"))?;
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes so far, without the rows of a frame that is not complete.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the snapshot: the totals.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_rows()?;
        let mut end = self.rows.to_le_bytes().to_vec();
        end.extend_from_slice(&self.frames.to_le_bytes());
        self.frame(Kind::End, 0, &end)?;
        self.out.flush()?;
        Ok(self.out)
    }
}
