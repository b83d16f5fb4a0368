//! Where calls that changed the data are recorded.

use crate::log::record::{Calls, LoggedCall};
use crate::stamp::Stamp;
use crate::value::varint;

/// A call that changed the data. Run again with its stamp on a copy of the state that it met, it
/// leads to the same state.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The call's time and random seed.
    pub stamp: &'a Stamp,
    /// The selected database.
    pub db: u32,
    /// The arguments, the name first.
    pub args: &'a [&'a [u8]],
}

/// The payload at an offset of records with their lengths in front, and where the next one begins.
pub fn next_payload(records: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, start) = varint::read(records, at)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    Some((records.get(start..end)?, end))
}

/// Takes the records of an engine, in the order in which the calls took effect on each key.
pub trait Journal: Send + Sync {
    /// Takes calls that took effect as one: a single call, or a whole transaction. Returns the
    /// index of the batch: one more than that of the batch before. The locks of the calls' keys
    /// are held: no I/O here.
    fn append(&self, calls: &[Record<'_>]) -> u64;

    /// Takes records whose payloads are there as they stand in a log (`log::record`), each with its length in
    /// front, a varint: as if each had been appended. Returns the index of the last one.
    fn append_payloads(&self, records: &[u8]) -> u64 {
        let mut index = self.last();
        let mut at = 0;
        while let Some((payload, next)) = next_payload(records, at) {
            at = next;
            let calls: Vec<LoggedCall<'_>> = Calls::new(payload).collect();
            let calls: Vec<Record<'_>> = calls
                .iter()
                .map(|call| Record { stamp: &call.stamp, db: call.db, args: &call.args })
                .collect();
            index = self.append(&calls);
        }
        index
    }

    /// The index of the last batch.
    fn last(&self) -> u64 {
        0
    }

    /// The index of the last batch that survives the end of the process.
    fn written(&self) -> u64 {
        u64::MAX
    }
}

/// Most bytes of an [`OpenBatch`] that are kept for the next one.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// The calls of a transaction that is on its way, copied until it ends.
#[derive(Debug, Default)]
pub(crate) struct OpenBatch {
    bytes: Vec<u8>,
    /// The end of each argument in `bytes`.
    ends: Vec<usize>,
    /// Of each call: its stamp, its database, the number of its arguments.
    calls: Vec<(Stamp, u32, usize)>,
}

impl OpenBatch {
    /// Adds a call.
    pub fn push(&mut self, call: &Record<'_>) {
        for arg in call.args {
            self.bytes.extend_from_slice(arg);
            self.ends.push(self.bytes.len());
        }
        self.calls.push((*call.stamp, call.db, call.args.len()));
    }

    /// Forgets the calls. Says whether its room is worth keeping: not after an unusually large one.
    pub fn clear(&mut self) -> bool {
        self.bytes.clear();
        self.ends.clear();
        self.calls.clear();
        self.bytes.capacity() <= KEPT_BYTES_MAX
    }

    /// Hands all calls over as one; `None` if there is none.
    pub fn append_to(&self, append: impl FnOnce(&[Record<'_>]) -> u64) -> Option<u64> {
        if self.calls.is_empty() {
            return None;
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = starts.zip(&self.ends);
        let args: Vec<&[u8]> = spans.map(|(start, end)| &self.bytes[start..*end]).collect();
        let mut rest = args.as_slice();
        let records = self.calls.iter().map(|(stamp, db, count)| {
            let (args, after) = rest.split_at(*count);
            rest = after;
            Record { stamp, db: *db, args }
        });
        let records: Vec<Record<'_>> = records.collect();
        Some(append(&records))
    }
}
