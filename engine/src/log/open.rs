//! Opens a log: finds its end, cuts a torn tail, and goes on in a new segment.

use super::scan::{Part, Place, Scan, scan};
use super::segment::{self, HEADER_BYTES, Maker};
use super::writer::{Sealed, Writer};
use super::{Buffer, Log, LogError, Next, WELL, record};
use crate::disk::{Disk, File, Mode};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of a segment where nothing else is asked for.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Fewest bytes of a segment.
const SEGMENT_BYTES_MIN: u64 = 4096;

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Records up to this index are not needed: a snapshot has them.
    pub floor: u64,
    /// Makes the salts of new segments: random, and different at each start.
    pub salt_seed: u64,
    /// Whether new segments are filled with zeros, which makes syncs fast: see [`Log::set_zeroed`].
    pub zeroed: bool,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_bytes: SEGMENT_BYTES, floor: 0, salt_seed: 0, zeroed: true }
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the first record; one more than `last` if there is none.
    pub first: u64,
    /// Index of the last record.
    pub last: u64,
    /// The torn tail that was cut.
    pub cut: Option<Cut>,
}

/// A torn tail: it was never acknowledged as durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it began.
    pub place: Place,
    /// Whole records in it, behind what is missing.
    pub records: u64,
}

impl Log {
    /// Opens the log in `dir`, which is created if it is missing. The caller holds the lock of the
    /// directory. The data has to be brought up to [`Recovered::last`] before the next append:
    /// see [`Log::read_from`].
    ///
    /// # Errors
    /// [`LogError::Damaged`] and [`LogError::Header`] if acknowledged records are damaged: see
    /// [`check`](super::check). Otherwise those of the disk.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Log, Recovered), LogError> {
        let io = |error: io::Error| LogError::io("open the log", &error);
        disk.create_dir(dir).map_err(io)?;
        let scan = scan(&*disk, dir, options.floor)?;
        scan.verdict()?;
        let cut = scan.has_tail().then(|| scan.tail());
        let (first, last) = (scan.first, scan.next - 1);
        let bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let salts = options.salt_seed;
        let mut maker = Maker::new(disk.clone(), dir.into(), bytes, scan.last_number + 1, salts);
        maker.zeroed = options.zeroed;
        let kept = clear(&*disk, dir, &scan, &mut maker).map_err(io)?;
        let sealed: VecDeque<Sealed> = kept.iter().filter_map(seal).collect();
        let writer = Writer {
            segment: maker.make_first()?,
            offset: HEADER_BYTES as u64,
            first_here: None,
            pin: Arc::new(()),
            sealed,
            unsynced: Vec::new(),
            forgotten: 0,
            waiting: Vec::new(),
            at: 0,
            last,
            marked: last,
        };
        #[cfg(test)]
        let writer = super::bugs::go_on(writer, &*disk, dir, &kept);
        let log = Log {
            buffer: Mutex::new(Buffer { bytes: Vec::new(), next: last + 1 }),
            writer: Mutex::new(writer),
            next: Mutex::new(Next { maker, ready: None, tends: 0 }),
            syncing: Mutex::new(()),
            appended: AtomicU64::new(last),
            written: AtomicU64::new(last),
            // What was found is made durable by `clear`.
            durable: AtomicU64::new(last),
            health: AtomicU8::new(WELL),
            reason: Mutex::new(String::new()),
            callback: RwLock::new(None),
            syncs: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            disk,
            dir: dir.into(),
        };
        Ok((log, Recovered { first, last, cut }))
    }

    /// Goes on as a log that was opened anew, after [`Log::close`]. Its directory has no records that are
    /// needed, and nothing is appended meanwhile.
    ///
    /// # Errors
    /// Those of the disk; it stays as it was then.
    pub fn restart(&self, options: LogOptions) -> Result<(), LogError> {
        let (fresh, _) = Log::open(self.disk.clone(), &self.dir, options)?;
        let last = fresh.appended();
        let _no_sync = self.syncing.lock();
        *self.writer.lock() = fresh.writer.into_inner();
        *self.next.lock() = fresh.next.into_inner();
        *self.buffer.lock() = fresh.buffer.into_inner();
        for index in [&self.appended, &self.written, &self.durable] {
            index.store(last, Ordering::Release);
        }
        self.reason.lock().clear();
        self.health.store(WELL, Ordering::Release);
        Ok(())
    }
}

impl Scan {
    /// Whether the log can be opened.
    ///
    /// # Errors
    /// What is damaged.
    pub fn verdict(&self) -> Result<(), LogError> {
        if let Some(&(segment, what)) = self.bad_headers.first() {
            return Err(LogError::Header { segment, what });
        }
        match self.damage {
            Some(place) => Err(LogError::Damaged { place, durable: self.durable }),
            None => Ok(()),
        }
    }

    /// The tail behind the end.
    pub(super) fn tail(&self) -> Cut {
        let here = self.chain.last().map_or(0, |part| part.stranded);
        let behind: u64 = self.behind.iter().map(|part| part.records + part.stranded).sum();
        Cut { place: self.end(), records: here + behind }
    }
}

fn seal(part: &Part) -> Option<Sealed> {
    let first = part.first?;
    let Part { number, next, end, .. } = *part;
    Some(Sealed { number, first, next, end, pin: Arc::new(()) })
}

/// Removes what is behind the end and what is not needed, cuts the last segment at the end, and
/// makes what is left durable: a process that was killed had not synced it, and the machine may
/// still lose it. Returns the segments that are left.
fn clear(disk: &dyn Disk, dir: &Path, scan: &Scan, maker: &mut Maker) -> io::Result<Vec<Part>> {
    for name in &scan.temporary {
        disk.remove(&dir.join(name))?;
    }
    for part in scan.behind.iter().chain(&scan.stale) {
        disk.remove(&segment::path(dir, part.number))?;
    }
    for name in &scan.spares {
        maker.adopt(name)?;
    }
    let (kept, empty): (Vec<Part>, Vec<Part>) =
        scan.chain.iter().cloned().partition(|part| part.first.is_some());
    for part in empty {
        maker.release(part.number, maker.is_small(part.bytes))?;
    }
    for (nth, part) in kept.iter().enumerate() {
        // Those before the last one were synced before the next was begun, or are so now.
        let file = disk.open(&segment::path(dir, part.number), Mode::Write)?;
        #[cfg(test)]
        if super::bugs::SEGMENT_GOES_ON.get() {
            continue;
        }
        if nth + 1 == kept.len() && part.bytes > part.end {
            file.set_len(part.end)?;
        }
        if part.next > scan.durable + 1 {
            rewrite(&*file, scan.durable)?;
        }
        file.sync_data()?;
    }
    maker.sync()?;
    Ok(kept)
}

/// Writes the records after `durable` once more, as they are: if a sync of theirs failed before, the
/// system may take them for written although they are not on the disk.
fn rewrite(file: &dyn File, durable: u64) -> io::Result<()> {
    let bytes = file.map()?;
    let mut at = HEADER_BYTES;
    while let Some(header) = record::plausible(&bytes[at..]) {
        if header.index > durable {
            break;
        }
        at += header.bytes;
    }
    file.write_at(&bytes[at..], at as u64)
}
