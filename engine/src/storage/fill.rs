//! Makes the first snapshot of a data directory from keys that come from elsewhere, one at a time:
//! no engine is needed, and no memory for all of them.

use super::files::{self, Sink};
use super::recover::has_log;
use super::{Directory, Saved, StorageError, log_dir};
use crate::cut::Rows;
use crate::disk::Mode;
use crate::keyspace::Loose;
use crate::libraries::Library;
use crate::snapshot::{DbInfo, Info, Writer};
use crate::stamp::Rng;
use crate::value::NewValue;
use std::io;

/// The number of the snapshot: no record of a log is in it, and a log begins behind it.
const FIRST: u64 = 1;

/// A snapshot that is being filled.
pub struct Filling {
    writer: Writer<Sink>,
    rows: Rows,
}

impl Filling {
    /// Adds the libraries of functions, before any key.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn libraries(&mut self, libraries: &[Library]) -> io::Result<()> {
        self.writer.libraries(libraries)
    }

    /// Adds a key, which must not be there yet; `access` is as in [`crate::keyspace::access`].
    ///
    /// # Errors
    /// Those of the disk.
    pub fn add(
        &mut self,
        db: u32,
        key: &[u8],
        value: NewValue<'_>,
        expiry: Option<i64>,
        access: u32,
    ) -> io::Result<()> {
        let entry = Loose::new(key, value, expiry, access);
        self.rows.push(db, &entry.as_ref());
        for row in self.rows.iter() {
            self.writer.row(&row)?;
        }
        self.rows.clear();
        Ok(())
    }
}

impl Directory {
    /// Whether there is neither a snapshot nor a log.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && !has_log(&*self.disk, &log_dir(&self.dir))
    }

    /// Writes a snapshot of what `fill` adds: as many keys as `dbs` announces. It is durable when
    /// this returns.
    ///
    /// # Errors
    /// If the directory has data already, the disk fails, `fill` does, or adds another number of
    /// keys; nothing is left then.
    pub fn fill(
        &self,
        now_ms: i64,
        dbs: Vec<DbInfo>,
        fill: impl FnOnce(&mut Filling) -> io::Result<()>,
    ) -> Result<Saved, StorageError> {
        let (disk, dir) = (&*self.disk, &self.dir);
        if !self.is_empty() {
            let text = format!("{} has data already", dir.display());
            return Err(StorageError::Snapshot(text));
        }
        let info = Info { log_index: FIRST, created_ms: now_ms, hash_seed: self.hash_seed, dbs };
        let temporary = files::temporary_path(dir, FIRST);
        let id = Rng::new(self.random ^ (now_ms as u64).rotate_left(20)).next_u64();
        let result = (|| {
            let file = disk.open(&temporary, Mode::Create)?;
            file.set_len(0)?;
            let writer = Writer::new(Sink::new(file), id, &info)?;
            let mut filling = Filling { writer, rows: Rows::default() };
            fill(&mut filling)?;
            let keys = filling.writer.rows();
            if keys != info.keys() {
                return Err(io::Error::other("there are more or fewer keys than announced"));
            }
            let sink = filling.writer.finish()?;
            sink.sync()?;
            disk.rename(&temporary, &files::snapshot_path(dir, FIRST))?;
            disk.sync_dir(&files::snapshot_dir(dir))?;
            Ok(Saved { log_index: FIRST, keys, bytes: sink.bytes(), ..Saved::default() })
        })();
        result.map_err(|error: io::Error| {
            // The next start removes it too.
            let _ = disk.remove(&temporary);
            StorageError::io("fill a data directory", &error)
        })
    }
}
