//! Known bugs, to be switched on by the tests of the crash harness: it has to find each of them.

use super::scan::{self, Part};
use super::segment::{self, Segment};
use super::writer::Writer;
use crate::disk::{Disk, Mode};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

thread_local! {
    /// Records are taken whatever their checksum.
    pub static IGNORE_CHECKSUMS: Cell<bool> = const { Cell::new(false) };
    /// All segments have the same salt.
    pub static ONE_SALT: Cell<bool> = const { Cell::new(false) };
    /// A torn tail is left as it is, and the segment goes on behind it.
    pub static SEGMENT_GOES_ON: Cell<bool> = const { Cell::new(false) };
    /// A sync after a failed one makes records durable again.
    pub static SYNC_AGAIN: Cell<bool> = const { Cell::new(false) };
    /// Segments before a switch are not synced.
    pub static FORGET_SEALED: Cell<bool> = const { Cell::new(false) };
    /// New segments get their name without a sync of the directory.
    pub static FORGET_DIRECTORY: Cell<bool> = const { Cell::new(false) };
}

/// The writer of a log that goes on in its last segment, for [`SEGMENT_GOES_ON`].
pub(super) fn go_on(mut writer: Writer, disk: &dyn Disk, dir: &Path, kept: &[Part]) -> Writer {
    if let (true, Some(part)) = (SEGMENT_GOES_ON.get(), kept.last()) {
        let (header, _) = scan::open(disk, dir, part.number).unwrap();
        let file = disk.open(&segment::path(dir, part.number), Mode::Write).unwrap();
        let (number, salt, salt_crc) = (part.number, header.salt, part.salt_crc);
        writer.segment = Segment { number, file, salt, salt_crc, bytes: part.bytes };
        writer.offset = part.end;
        writer.first_here = part.first;
        writer.pin = Arc::new(());
        writer.sealed.pop_back();
    }
    writer
}
