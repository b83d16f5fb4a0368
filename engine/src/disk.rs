//! The seam to files: everything that is durable goes through [`Disk`] and [`File`].
//!
//! [`real`] is the operating system's; [`sim`] is a disk in memory that can stop at any operation,
//! lose or tear what was not synced, fill up and fail. What is written against the seam can so be
//! tested against every crash, and a simulated node has a disk of its own.
//!
//! The promises are those of POSIX and no more: what was written is durable once the file was
//! synced, and a file has its name for good once the directory was synced too.

use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

pub mod real;
pub mod sim;

pub use real::{RealDisk, fail_syncs};
pub use sim::SimDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It must be there, and is only read.
    Read,
    /// It must be there, and is read and written.
    Write,
    /// It is created if it is not there, and read and written; what it holds stays.
    Create,
    /// It must not be there: it is created, empty.
    CreateNew,
}

/// A place for files.
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;

    /// The names in a directory, files and directories, sorted.
    ///
    /// # Errors
    /// If it cannot be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name in one step; a file that has that name already is replaced.
    ///
    /// # Errors
    /// Those of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory, and its parents, where they are missing.
    ///
    /// # Errors
    /// Those of the operating system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: files created, renamed, removed.
    ///
    /// # Errors
    /// Those of the operating system; what is durable is then unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes a lock file, created if it is missing, for as long as the returned value lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process, or another user of the same process, has
    /// it; its message names the owner where that is known.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Bytes that can still be written below `dir`.
    ///
    /// # Errors
    /// Those of the operating system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// A lock that ends when it is dropped, or when its process ends in whatever way.
pub trait Lock: Send + Sync {}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "a file is not a collection")]
pub trait File: Send + Sync {
    /// Reads at `offset` as much as there is, up to the buffer's length; returns how much.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The same without waiting for the disk: `None` where that cannot be.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;

    /// Writes all of `bytes` at `offset`. After an error any part of it may have been written.
    ///
    /// # Errors
    /// Those of the operating system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes durable what was written, with the file's length.
    ///
    /// # Errors
    /// Those of the operating system. What was written is then lost or not, and a second call that
    /// succeeds proves nothing: the system may have forgotten what it failed to write.
    fn sync_data(&self) -> io::Result<()>;

    /// Has the system forget what it has in memory of a part of the file that is durable and will not be read soon. New
    /// pages take the place of those, which costs much less than pages that nobody has used. It is a hint.
    fn forget(&self, _part: Range<u64>) {}

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// Those of the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends an empty file with zeros, and takes the room for them where the file system can without
    /// writing them.
    ///
    /// # Errors
    /// Those of the operating system.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    /// The file's length.
    ///
    /// # Errors
    /// Those of the operating system.
    fn len(&self) -> io::Result<u64>;

    /// The whole file as memory. The caller sees to it that nobody cuts it meanwhile; what is
    /// written meanwhile may or may not be seen.
    ///
    /// # Errors
    /// Those of the operating system.
    fn map(&self) -> io::Result<Mapping>;
}

/// Fills `buf` from `offset` on.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub fn read_exact_at(file: &dyn File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        let got = file.read_at(buf, offset)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf = &mut buf[got..];
        offset += got as u64;
    }
    Ok(())
}

/// Puts a small file of these bytes in the place of the one of that name, if there is one: whatever happens, one
/// of both is there, whole.
///
/// # Errors
/// Those of the disk.
pub fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let file = disk.open(&temporary, Mode::Create)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// The bytes of a file, as memory.
#[derive(Clone)]
pub enum Mapping {
    /// Mapped by the operating system.
    Mapped(Arc<memmap2::Mmap>),
    /// Copied.
    Copied(Arc<[u8]>),
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapping::Mapped(map) => map,
            Mapping::Copied(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("bytes", &self.len()).finish()
    }
}
