//! The operating system's files.

use super::{Disk, File, Lock, Mapping, Mode};
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are read of a lock file that another process holds: its process id.
const OWNER_BYTES_MAX: u64 = 20;

/// What a disk says that fails: "Input/output error".
const EIO: i32 = 5;

static SYNCS_FAIL: AtomicBool = AtomicBool::new(false);

/// From now on the syncs of all files fail, as those of a broken disk do, or no longer: for tests of whole
/// servers, which no file system offers that.
pub fn fail_syncs(fail: bool) {
    SYNCS_FAIL.store(fail, Ordering::Relaxed);
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != Mode::Read);
        match mode {
            Mode::Read | Mode::Write => {}
            Mode::Create => drop(options.create(true)),
            Mode::CreateNew => drop(options.create_new(true)),
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Without it the message is shorter, no less true.
                let read = file.take(OWNER_BYTES_MAX).read_to_string(&mut owner);
                let owner = match (read, owner.trim()) {
                    (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
                    _ => "another process".into(),
                };
                let text = format!("{} is in use by {owner}", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
        }
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The system lets go of the lock when the file is closed.
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let bufs = &mut [io::IoSliceMut::new(buf)];
        match preadv2(&self.0, bufs, offset, ReadWriteFlags::NOWAIT) {
            Ok(got) => Ok(Some(got)),
            // Not in memory, or a file system that cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_ready_at(&self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn forget(&self, part: Range<u64>) {
        let Some(len) = std::num::NonZeroU64::new(part.end.saturating_sub(part.start)) else {
            return;
        };
        // Where that is refused, the pages stay.
        let _ = rustix::fs::fadvise(&self.0, part.start, Some(len), rustix::fs::Advice::DontNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        if SYNCS_FAIL.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        #[cfg(any(target_os = "linux", target_os = "freebsd"))]
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        self.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self) -> io::Result<Mapping> {
        // SAFETY: the callers of `File::map` promise that the file is not cut meanwhile, and the
        // directory's lock keeps other processes of ours away. What is mapped is read as plain
        // bytes, behind a checksum, so a concurrent write to it is seen or not but breaks nothing.
        let map = unsafe { memmap2::Mmap::map(&self.0)? };
        Ok(Mapping::Mapped(Arc::new(map)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_read_and_locked() {
        let dir = std::env::temp_dir().join(format!("ashlar-real-disk-{}", std::process::id()));
        let (disk, name) = (RealDisk, dir.join("a/file"));
        disk.create_dir(&dir.join("a")).unwrap();
        let file = disk.open(&name, Mode::CreateNew).unwrap();
        assert!(disk.open(&name, Mode::CreateNew).is_err());
        file.write_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(&*file.map().unwrap(), b"\0\0\0hello");
        let reserved = disk.open(&dir.join("a/reserved"), Mode::CreateNew).unwrap();
        reserved.reserve(10_000).unwrap();
        assert_eq!(&*reserved.map().unwrap(), &[0; 10_000]);
        disk.remove(&dir.join("a/reserved")).unwrap();
        file.set_len(5).unwrap();
        let mut buf = [9; 8];
        assert_eq!((file.read_at(&mut buf, 0).unwrap(), &buf[..5]), (5, &b"\0\0\0he"[..]));
        // What is forgotten is read from the disk again.
        file.sync_data().unwrap();
        file.forget(0..i64::MAX as u64);
        assert_eq!((file.read_at(&mut buf, 0).unwrap(), &buf[..5]), (5, &b"\0\0\0he"[..]));
        if let Some(got) = file.read_ready_at(&mut buf, 0).unwrap() {
            assert_eq!((got, &buf[..5]), (5, &b"\0\0\0he"[..]));
        }
        disk.rename(&name, &dir.join("a/other")).unwrap();
        disk.sync_dir(&dir.join("a")).unwrap();
        assert_eq!(disk.list(&dir.join("a")).unwrap(), ["other"]);
        assert!(disk.free_bytes(&dir).unwrap() > 0);

        let lock = disk.lock(&dir.join("LOCK")).unwrap();
        let refused = disk.lock(&dir.join("LOCK")).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let owner = format!("in use by process {}", std::process::id());
        assert!(refused.to_string().ends_with(&owner), "{refused}");
        drop(lock);
        disk.lock(&dir.join("LOCK")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
