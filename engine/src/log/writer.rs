//! Brings records to the disk: writes, syncs, and the change from one segment to the next.

use super::segment::{HEADER_BYTES, Segment};
use super::{BLOCKED, BUFFER_KEPT_BYTES, Log, LogError, record};
use crate::disk::File;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A segment is made ahead once the one that is written is filled by this part of it: an eighth. A
/// load of 180 MB/s fills one in a third of a second, and its zeros take a good part of that.
const PREPARED_AT: u64 = 8;
/// A segment that fills up in fewer calls of `tend` than this is followed by one without zeros: with a call
/// each 50 ms and 64 MiB, from 32 MB/s on.
const ZEROED_TENDS_MIN: u64 = 40;
/// Where no segment can be made ahead, writes are refused once less than this part of the one that
/// is written is free: a quarter, in which there is room for what is under way.
const REFUSED_AT: u64 = 4;

/// Bytes that are durable before the system is told to forget them: records are read again at a start, or for replicas
/// that were away. A load of 300 MB/s would otherwise take that much memory each second, page by page from the system,
/// which costs more than to write to it.
const FORGOTTEN_BYTES: u64 = 1 << 20;

/// A segment that takes no more records.
pub(super) struct Sealed {
    pub number: u64,
    /// Index of its first record.
    pub first: u64,
    /// The index after its last record.
    pub next: u64,
    /// The offset after its last record.
    pub end: u64,
    /// Readers hold a clone: as long as there is one, the file stays.
    pub pin: Arc<()>,
}

/// The segment that takes records, and those before it.
pub(super) struct Writer {
    pub segment: Segment,
    /// Where the next record goes.
    pub offset: u64,
    /// The index with which the segment goes on.
    pub first_here: Option<u64>,
    pub pin: Arc<()>,
    pub sealed: VecDeque<Sealed>,
    /// Files of sealed segments that were not synced since they were written to.
    pub unsynced: Vec<Arc<dyn File>>,
    /// Where what the system has been told to forget of the segment ends.
    pub forgotten: u64,
    /// Records that were taken from the buffer; those before `at` are written.
    pub waiting: Vec<u8>,
    pub at: usize,
    /// Index of the last record that is written.
    pub last: u64,
    /// The durable index that the last mark gave.
    pub marked: u64,
}

impl Writer {
    /// Bytes that were taken from the buffer and are not written.
    pub fn waiting_bytes(&self) -> u64 {
        (self.waiting.len() - self.at) as u64
    }

    /// Bytes of records in all segments.
    pub fn bytes(&self) -> u64 {
        let sealed = self.sealed.iter().map(|sealed| sealed.end - HEADER_BYTES as u64);
        sealed.sum::<u64>() + self.offset - HEADER_BYTES as u64
    }

    /// Index of the oldest record.
    pub fn first(&self) -> u64 {
        let sealed = self.sealed.front().map(|sealed| sealed.first);
        sealed.or(self.first_here).unwrap_or(self.last + 1)
    }

    /// Puts as many of the waiting records in order as fit into the segment; returns their bytes
    /// and the last index among them.
    fn seal_run(&mut self, durable: u64) -> (usize, u64) {
        let room = usize::try_from(self.segment.bytes - self.offset).unwrap_or(usize::MAX);
        let bytes = &mut self.waiting[self.at..];
        let (mut end, mut last) = (0, self.last);
        while end < bytes.len() {
            let length = record::length(&bytes[end..]);
            if end + length > room {
                break;
            }
            let record = &mut bytes[end..end + length];
            last = record::index(record);
            record::seal(record, self.segment.salt_crc, durable);
            end += length;
        }
        (end, last)
    }
}

impl Log {
    /// Writes what was appended to the system: it survives the end of the process then, by
    /// whatever signal. Returns the index up to which that is so.
    ///
    /// # Errors
    /// [`LogError::Blocked`] if there is no room: what was appended waits for the next call, and
    /// [`Log::tend`] tries again. [`LogError::Failed`] if the log failed, now or before.
    pub fn write(&self) -> Result<u64, LogError> {
        if self.appended() == self.written() {
            return Ok(self.written());
        }
        let mut writer = self.writer.lock();
        let before = writer.last;
        let result = self.write_waiting(&mut writer);
        let moved = writer.last != before;
        drop(writer);
        let result = result.map_err(|error| self.ail(error));
        if moved || result.is_err() {
            self.tell();
        }
        result.map(|()| self.written())
    }

    fn write_waiting(&self, writer: &mut Writer) -> Result<(), LogError> {
        loop {
            if writer.at == writer.waiting.len() {
                writer.waiting.clear();
                writer.waiting.shrink_to(BUFFER_KEPT_BYTES);
                writer.at = 0;
                std::mem::swap(&mut self.buffer.lock().bytes, &mut writer.waiting);
                if writer.waiting.is_empty() {
                    return Ok(());
                }
            }
            self.check_failed()?;
            let (bytes, last) = writer.seal_run(self.durable());
            if bytes == 0 {
                let needed = record::length(&writer.waiting[writer.at..]);
                self.change_segment(writer, needed as u64)?;
                continue;
            }
            let run = &writer.waiting[writer.at..writer.at + bytes];
            let first = record::index(run);
            let written = writer.segment.file.write_at(run, writer.offset);
            written.map_err(|error| LogError::io("write to the log", &error))?;
            writer.first_here.get_or_insert(first);
            writer.offset += bytes as u64;
            writer.at += bytes;
            writer.last = last;
            self.written.store(last, Ordering::Release);
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Goes on in the next segment, which is made now if it was not made ahead.
    fn change_segment(&self, writer: &mut Writer, record_bytes: u64) -> Result<(), LogError> {
        let mut next = self.next.lock();
        let fits = |segment: &Segment| segment.bytes - HEADER_BYTES as u64 >= record_bytes;
        if let Some(small) = next.ready.take_if(|ready| !fits(ready)) {
            // Segments are in the order of their numbers, so it cannot come later.
            let released = next.maker.release(small.number, false).and_then(|()| next.maker.sync());
            released.map_err(|error| blocked(LogError::io("set a segment aside", &error)))?;
        }
        let made = match next.ready.take() {
            Some(ready) => ready,
            None => next.maker.make(record_bytes).map_err(blocked)?,
        };
        next.tends = 0;
        drop(next);
        let old = std::mem::replace(&mut writer.segment, made);
        let pin = std::mem::take(&mut writer.pin);
        let end = std::mem::replace(&mut writer.offset, HEADER_BYTES as u64);
        writer.forgotten = 0;
        // One without a record stays behind as an empty file until the next start.
        if let Some(first) = writer.first_here.take() {
            let (number, next) = (old.number, writer.last + 1);
            writer.sealed.push_back(Sealed { number, first, next, end, pin });
        }
        #[cfg(test)]
        if super::bugs::FORGET_SEALED.get() {
            return Ok(());
        }
        writer.unsynced.push(old.file);
        Ok(())
    }

    /// Makes durable what was appended, and returns the index up to which that is so. Calls from
    /// several threads share one sync.
    ///
    /// # Errors
    /// As [`Log::write`]; a failed sync is final.
    pub fn sync(&self) -> Result<u64, LogError> {
        self.sync_to(self.appended())
    }

    /// The same for records up to `index`, which was appended.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn sync_to(&self, index: u64) -> Result<u64, LogError> {
        if self.durable() >= index {
            return Ok(self.durable());
        }
        let syncing = self.syncing.lock();
        if self.durable() >= index {
            return Ok(self.durable());
        }
        let result = self.sync_now();
        drop(syncing);
        self.tell();
        result
    }

    fn sync_now(&self) -> Result<u64, LogError> {
        self.check_failed()?;
        self.write()?;
        let mut writer = self.writer.lock();
        let target = writer.last;
        let sealed = std::mem::take(&mut writer.unsynced);
        let (file, end) = (writer.segment.file.clone(), writer.offset);
        let mut forgotten = end..end;
        if end.saturating_sub(writer.forgotten) >= FORGOTTEN_BYTES {
            forgotten.start = std::mem::replace(&mut writer.forgotten, end);
        }
        drop(writer);
        for file in sealed.iter().chain([&file]) {
            if let Err(error) = file.sync_data() {
                let failed = LogError::Failed(format!("can't sync the log: {error}"));
                #[cfg(test)]
                if super::bugs::SYNC_AGAIN.get() {
                    return Err(failed);
                }
                return Err(self.ail(failed));
            }
        }
        self.durable.store(target, Ordering::Release);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        sealed.iter().for_each(|file| file.forget(0..i64::MAX as u64));
        file.forget(forgotten);
        Ok(target)
    }

    /// What is to be done now and then, about ten times a second, away from the threads that
    /// serve: tries again what the disk had no room for, makes the next segment ahead of
    /// time, and notes on disk what is durable once there is quiet.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub fn tend(&self) -> Result<(), LogError> {
        self.check_failed()?;
        self.write()?;
        let prepared = self.prepare();
        match prepared {
            Ok(()) if !self.is_well() => {
                self.recover();
                self.tell();
            }
            Ok(()) => {}
            Err(error) => {
                let error = self.ail(error);
                self.tell();
                return Err(error);
            }
        }
        self.mark()
    }

    /// Makes the next segment if it will soon be needed. An error only if room gets short.
    fn prepare(&self) -> Result<(), LogError> {
        let (offset, bytes) = {
            let writer = self.writer.lock();
            (writer.offset, writer.segment.bytes)
        };
        let was_blocked = self.health.load(Ordering::Acquire) == BLOCKED;
        let mut next = self.next.lock();
        next.tends += 1;
        // The one of a start is small.
        let is_soon = offset >= bytes / PREPARED_AT || next.maker.is_small(bytes);
        if !is_soon && !was_blocked || next.ready.is_some() {
            return Ok(());
        }
        let zeroed = next.maker.zeroed;
        next.maker.zeroed = zeroed && bytes.saturating_mul(next.tends) >= offset * ZEROED_TENDS_MIN;
        let made = next.maker.make(0);
        next.maker.zeroed = zeroed;
        match made {
            Ok(segment) => {
                next.ready = Some(segment);
                Ok(())
            }
            Err(_) if bytes - offset > bytes / REFUSED_AT && !was_blocked => Ok(()),
            Err(error) => Err(blocked(error)),
        }
    }

    /// Notes what is durable, if the records do not say it yet and none is about to. It tells a later
    /// recovery that damage at the log's very end is damage and no torn tail.
    fn mark(&self) -> Result<(), LogError> {
        let durable = self.durable();
        let mut writer = self.writer.lock();
        let quiet = writer.last == durable && self.appended() == durable;
        if !quiet || writer.marked >= durable || writer.first_here.is_none() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        record::push_mark(&mut bytes, durable);
        if writer.segment.bytes - writer.offset < bytes.len() as u64 {
            return Ok(());
        }
        record::seal(&mut bytes, writer.segment.salt_crc, durable);
        let written = writer.segment.file.write_at(&bytes, writer.offset);
        if let Err(error) = written {
            drop(writer);
            return Err(self.ail(LogError::io("write to the log", &error)));
        }
        writer.offset += bytes.len() as u64;
        writer.marked = durable;
        Ok(())
    }

    /// An orderly end: everything is durable, and the log says so.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn close(&self) -> Result<(), LogError> {
        self.sync()?;
        self.mark()?;
        let file = self.writer.lock().segment.file.clone();
        file.sync_data()
            .map_err(|error| self.ail(LogError::Failed(format!("can't sync the log: {error}"))))
    }

    /// Lets go of segments all of whose records are before `index`: a durable snapshot has them.
    /// Their files are used again. Those that are being read stay until a later call.
    ///
    /// # Errors
    /// Those of the disk; what was not let go of is kept by the next start too.
    pub fn release_before(&self, index: u64) -> Result<u64, LogError> {
        let durable = self.durable();
        let mut released = Vec::new();
        let mut writer = self.writer.lock();
        while let Some(sealed) = writer.sealed.front() {
            let needed = sealed.next > index || sealed.next > durable + 1;
            if needed || Arc::strong_count(&sealed.pin) > 1 {
                break;
            }
            released.push(sealed.number);
            writer.sealed.pop_front();
        }
        drop(writer);
        if released.is_empty() {
            return Ok(0);
        }
        let mut next = self.next.lock();
        for number in &released {
            let removed = next.maker.release(*number, false);
            removed.map_err(|error| LogError::io("let go of a segment of the log", &error))?;
        }
        let synced = next.maker.sync();
        synced.map_err(|error| LogError::io("let go of a segment of the log", &error))?;
        Ok(released.len() as u64)
    }
}

/// That no segment can be made harms no record: the log waits until it can.
fn blocked(error: LogError) -> LogError {
    match error {
        LogError::Io(text) => LogError::Blocked(text),
        other => other,
    }
}
