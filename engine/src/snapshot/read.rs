//! Reads a snapshot frame by frame.

use super::format::{
    ArchivedInfoV1, ArchivedRowsV1, END_BYTES, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES,
    InfoV1, Kind, LARGE_HEADER_BYTES, MAGIC, MORE, NO_EXPIRY, PAYLOAD_MAX, VERSION, encode_header,
    frame_crc,
};
use super::{DbInfo, Info, SnapshotError};
use crate::cut::Row;
use rkyv::rancor;
use std::io::{self, Read};

/// Frames that belong together, as they were read: not checked yet.
#[derive(Default)]
pub(crate) struct Unit {
    /// The number of the first frame.
    pub number: u32,
    kind: u8,
    frames: Vec<(FrameHeader, Vec<u8>)>,
    /// Frames that are in use; the others keep their room for later.
    count: usize,
}

/// Reads the frames of a snapshot.
pub struct Reader<R> {
    source: R,
    id: u64,
    next: u32,
    info: Info,
    bytes: u64,
    /// Rows in all, once the last frame was read.
    total: Option<u64>,
}

fn ended(error: io::Error, frame: u32) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged(frame, "it ends here"),
        _ => SnapshotError::Io(error),
    }
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// If it is not that of a snapshot which this version reads.
    pub fn new(mut source: R) -> Result<Reader<R>, SnapshotError> {
        let mut header = [0; HEADER_BYTES];
        source.read_exact(&mut header).map_err(|error| ended(error, 0))?;
        if header[..8] != MAGIC {
            return Err(SnapshotError::Damaged(0, "it does not begin as a snapshot does"));
        }
        let mut id = [0; 8];
        id.copy_from_slice(&header[16..24]);
        let id = u64::from_le_bytes(id);
        if header != encode_header(id) {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&header[0..12]), &header[16..24]);
            if header[12..16] == crc.to_le_bytes() && header[8] != VERSION {
                return Err(SnapshotError::Version(header[8]));
            }
            return Err(SnapshotError::Damaged(0, "the checksum of its header is wrong"));
        }
        let bytes = HEADER_BYTES as u64;
        let mut reader = Reader { source, id, next: 0, info: Info::default(), bytes, total: None };
        let mut unit = Unit::default();
        reader.read_unit(&mut unit)?;
        let damaged = |what| SnapshotError::Damaged(0, what);
        if unit.verify(id)? != Kind::Info || unit.count != 1 {
            return Err(damaged("the first frame is not the expected one"));
        }
        let payload = unit.payload(0);
        let info = rkyv::access::<ArchivedInfoV1, rancor::Error>(payload)
            .and_then(rkyv::deserialize::<InfoV1, rancor::Error>);
        let info = info.map_err(|_| damaged("the first frame cannot be read"))?;
        let dbs = info.dbs.iter();
        let dbs = dbs.map(|db| DbInfo { db: db.db, keys: db.keys, expires: db.expires });
        reader.info = Info {
            log_index: info.log_index,
            created_ms: info.created_ms,
            hash_seed: info.hash_seed,
            dbs: dbs.collect(),
        };
        Ok(reader)
    }

    /// What the snapshot says about itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// What tells its frames from those of others.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Rows in all; known when everything is read.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Reads what belongs together; `false` at the end. The checksums are for the caller to check,
    /// away from whatever guards this reader.
    pub(crate) fn next_unit(&mut self, unit: &mut Unit) -> Result<bool, SnapshotError> {
        if self.total.is_some() {
            return Ok(false);
        }
        self.read_unit(unit)?;
        if unit.kind != Kind::End as u8 {
            return Ok(true);
        }
        let damaged = |what| SnapshotError::Damaged(unit.number, what);
        if unit.verify(self.id)? != Kind::End || unit.payload(0).len() != END_BYTES {
            return Err(damaged("the last frame cannot be read"));
        }
        let (rows, frames) = unit.payload(0).split_at(8);
        if frames != unit.number.to_le_bytes() {
            return Err(damaged("frames are missing"));
        }
        let rows: [u8; 8] = rows.try_into().map_err(|_| damaged("the last frame is short"))?;
        self.total = Some(u64::from_le_bytes(rows));
        Ok(false)
    }

    fn read_unit(&mut self, unit: &mut Unit) -> Result<(), SnapshotError> {
        unit.count = 0;
        loop {
            let number = self.next;
            let damaged = |what| SnapshotError::Damaged(number, what);
            let mut header = [0; FRAME_HEADER_BYTES];
            self.source.read_exact(&mut header).map_err(|error| ended(error, number))?;
            let head = FrameHeader::decode(&header);
            let len = head.len as usize;
            if len > PAYLOAD_MAX {
                return Err(damaged("the length of a frame is impossible"));
            }
            if header != head.encode() {
                return Err(damaged("the header of a frame has unknown bytes"));
            }
            if head.number != number {
                return Err(damaged("the number of a frame is not the expected one"));
            }
            if unit.count == 0 {
                (unit.number, unit.kind) = (number, head.kind);
            } else if head.kind != unit.kind {
                return Err(damaged("a frame does not go on as the one before says"));
            }
            if unit.count == unit.frames.len() {
                unit.frames.push((head, Vec::new()));
            }
            let (place, payload) = &mut unit.frames[unit.count];
            *place = head;
            payload.resize(len, 0);
            self.source.read_exact(payload).map_err(|error| ended(error, number))?;
            unit.count += 1;
            self.bytes += (FRAME_HEADER_BYTES + len) as u64;
            self.next = number.checked_add(1).ok_or(damaged("there are too many frames"))?;
            if head.flags & MORE == 0 {
                return Ok(());
            }
        }
    }
}

impl Unit {
    /// Checks the checksums and says what it holds.
    pub fn verify(&self, id: u64) -> Result<Kind, SnapshotError> {
        for (head, payload) in &self.frames[..self.count] {
            if frame_crc(id, &head.encode(), payload) != head.crc {
                return Err(SnapshotError::Damaged(head.number, "a checksum is wrong"));
            }
        }
        Kind::from_number(self.kind)
            .ok_or(SnapshotError::Damaged(self.number, "there is no such kind of frame"))
    }

    /// The payload of one of its frames.
    pub fn payload(&self, at: usize) -> &[u8] {
        &self.frames[at].1
    }

    /// The payloads of all frames as one.
    pub fn joined(&self) -> Vec<u8> {
        let payloads = self.frames[..self.count].iter();
        payloads.flat_map(|(_, payload)| payload.iter().copied()).collect()
    }

    /// Lets go of the room of frames beyond the first.
    pub fn trim(&mut self) {
        self.frames.truncate(1);
    }

    /// Calls `each` for every row; the kind is `Rows` or `Large`. Returns how many there are.
    pub fn rows(
        &self,
        kind: Kind,
        mut each: impl FnMut(Row<'_>) -> Result<(), &'static str>,
    ) -> Result<u64, SnapshotError> {
        let damaged = |what| SnapshotError::Damaged(self.number, what);
        match kind {
            Kind::Large => {
                let bytes = self.joined();
                let row = large_row(&bytes).ok_or(damaged("a large row cannot be read"))?;
                each(row).map_err(damaged)?;
                Ok(1)
            }
            _ if self.count == 1 => {
                let rows = rkyv::access::<ArchivedRowsV1, rancor::Error>(self.payload(0));
                each_row(rows.map_err(|_| damaged("rows cannot be read"))?, each).map_err(damaged)
            }
            _ => Err(damaged("rows cannot be read")),
        }
    }
}

fn large_row(bytes: &[u8]) -> Option<Row<'_>> {
    let (head, rest) = bytes.split_at_checked(LARGE_HEADER_BYTES)?;
    let word = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?));
    let expiry = i64::from_le_bytes(head[8..16].try_into().ok()?);
    let (key, value) = rest.split_at_checked(word(16)? as usize)?;
    let expiry = (expiry != NO_EXPIRY).then_some(expiry);
    Some(Row { db: word(0)?, access: word(4)?, expiry, key, value })
}

/// The checksum was right, so what is checked here is only what keeps this program from a panic.
fn each_row(
    rows: &ArchivedRowsV1,
    mut each: impl FnMut(Row<'_>) -> Result<(), &'static str>,
) -> Result<u64, &'static str> {
    const UNEVEN: &str = "columns of rows do not fit each other";
    let count = rows.accesses.len();
    if rows.key_ends.len() != count
        || rows.value_ends.len() != count
        || rows.expiring.len() != rows.expiries.len()
    {
        return Err(UNEVEN);
    }
    let mut expiring = rows.expiring.iter().zip(rows.expiries.iter()).peekable();
    let (mut number, mut at) = (0, 0);
    for run in rows.runs.iter() {
        for _ in 0..run.rows.to_native() {
            if number == count {
                return Err(UNEVEN);
            }
            let key_end = rows.key_ends[number].to_native() as usize;
            let value_end = rows.value_ends[number].to_native() as usize;
            let key = rows.bytes.get(at..key_end).ok_or(UNEVEN)?;
            let value = rows.bytes.get(key_end..value_end).ok_or(UNEVEN)?;
            let expiry = expiring.next_if(|(row, _)| row.to_native() as usize == number);
            let expiry = expiry.map(|(_, expiry)| expiry.to_native());
            let access = rows.accesses[number].to_native();
            each(Row { db: run.db.to_native(), expiry, access, key, value })?;
            (number, at) = (number + 1, value_end);
        }
    }
    if number == count && expiring.next().is_none() { Ok(count as u64) } else { Err(UNEVEN) }
}
