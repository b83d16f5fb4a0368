//! The seam to a store on disk: rows by key, in order, in batches. Nothing of a back end's own leaks
//! through it.
//!
//! A store is never the root of durability: the log and the snapshot are. So it may lose what was
//! written since the last [`ColdStore::flush_durable`], and a batch need not be atomic across a
//! power cut. What it must not do is to give out a wrong row; every row carries a checksum of its
//! own for that (see `row`).

use super::values::Separated;
use crate::disk::RealDisk;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of a row's value. Larger values are cut into chunks: sled puts nodes that are larger
/// than 128 KiB into files which it never forces to disk, and a node has at most 16 rows.
pub const ROW_BYTES_MAX: usize = 4096;
/// Most bytes of a row's key.
pub const ROW_KEY_BYTES_MAX: usize = 256;
/// Most bytes of one batch.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most bytes that a batch counts for a row besides its key and value.
const ROW_OVERHEAD: usize = 32;

/// The row that holds the applied index; keys of values are shorter.
const APPLIED_KEY: &[u8] = b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF applied index";

/// The folder of the value log, in that of the store.
const VALUES_DIR: &str = "values";
/// The part of a store's memory that is for places of rows: five eighths. A place of 9 bytes saves a look-up of the back
/// end, and a row that has none there is read by a thread that may wait, when a row that has one is read at once.
const RECENT_SHARE: (u64, u64) = (5, 8);

/// Why a cold store failed: a fault of this machine, never a reply of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColdError {
    /// A row that the index names is damaged or missing: restore from a replica or a backup.
    Damaged(String),
    /// The store or the disk below it failed.
    Failed(String),
    /// The store cannot be opened on this machine, and why.
    Unusable(String),
}

impl fmt::Display for ColdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColdError::Damaged(what) => write!(f, "the cold store has damaged data: {what}"),
            ColdError::Failed(what) => write!(f, "the cold store failed: {what}"),
            ColdError::Unusable(what) => write!(f, "the cold store cannot be used: {what}"),
        }
    }
}

impl std::error::Error for ColdError {}

/// Rows to be written and deleted together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Batch {
    /// Sets a row.
    ///
    /// # Panics
    /// If key or value are longer than a row may be: callers cut values into chunks.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        assert!(
            key.len() <= ROW_KEY_BYTES_MAX,
            "a row's key has at most {ROW_KEY_BYTES_MAX} bytes"
        );
        assert!(value.len() <= ROW_BYTES_MAX, "a row has at most {ROW_BYTES_MAX} bytes");
        self.bytes += key.len() + value.len() + ROW_OVERHEAD;
        self.rows.push((key, Some(value)));
    }

    /// Deletes a row, whether there is one or not.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len() + ROW_OVERHEAD;
        self.rows.push((key, None));
    }

    /// The rows: key, and value or deletion.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.rows.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of the batch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more row could take the batch above [`BATCH_BYTES_MAX`].
    pub fn is_full(&self) -> bool {
        self.bytes + ROW_BYTES_MAX + ROW_KEY_BYTES_MAX + ROW_OVERHEAD > BATCH_BYTES_MAX
    }

    /// Takes all rows out.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }
}

/// What a range read does with each row; `false` ends it.
pub type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// Rows on disk. All methods may be called from several threads at once.
pub trait ColdStore: Send + Sync {
    /// The row of a key.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError>;

    /// The row of a key, where it is at hand: without waiting for the disk or for another thread that does.
    fn get_ready(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Writes a batch. It is seen by the next `get`, and durable after `flush_durable`.
    ///
    /// # Errors
    /// If the store or its disk failed, for example because it is full. Some of the rows may have
    /// been written.
    fn apply(&self, batch: &Batch) -> Result<(), ColdError>;

    /// Reads the rows from `from` on, up to and without `to`, in order.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError>;

    /// The same, with the bytes of each row in the place of the row.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn range_keys(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], usize) -> bool,
    ) -> Result<(), ColdError> {
        self.range(from, to, &mut |key, row| each(key, row.len()))
    }

    /// Forces all batches that were applied by now to the disk.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn flush_durable(&self) -> Result<(), ColdError>;

    /// Bytes of the store's files.
    fn size(&self) -> u64;

    /// Bytes that the store has allocated in this process and does not touch, so that they are no memory of the
    /// machine.
    fn untouched_bytes(&self) -> usize {
        0
    }

    /// Gives memory back that the store can do without, for example buffers of what is not written yet.
    /// Called where memory is short and nothing else can leave it; it may take a while.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn shrink(&self) -> Result<(), ColdError> {
        Ok(())
    }

    /// Does some of what gives the file system its space back, and returns how many bytes that were; looks at
    /// some `bytes_max` bytes of files. The caller does it now and then.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn tidy(&self, bytes_max: usize) -> Result<u64, ColdError> {
        let _ = bytes_max;
        Ok(0)
    }

    /// What an operator has to know about the store's files, if there is anything.
    fn alarm(&self) -> Option<String> {
        None
    }

    /// Closes the store and deletes its files.
    ///
    /// # Errors
    /// If files cannot be deleted.
    fn destroy(self: Box<Self>) -> Result<(), ColdError>;

    /// The index that the last `set_applied_index` was given.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn applied_index(&self) -> Result<Option<u64>, ColdError> {
        let row = self.get(APPLIED_KEY)?;
        Ok(row.and_then(|row| row.try_into().ok()).map(u64::from_le_bytes))
    }

    /// Notes durably up to which index of the log the store's rows are complete: the rows are
    /// forced to disk first, then the index.
    ///
    /// # Errors
    /// If the store or its disk failed.
    fn set_applied_index(&self, index: u64) -> Result<(), ColdError> {
        self.flush_durable()?;
        let mut batch = Batch::default();
        batch.put(APPLIED_KEY.to_vec(), index.to_le_bytes().to_vec());
        self.apply(&batch)?;
        self.flush_durable()
    }
}

/// The back ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// sled 0.34
    #[default]
    Sled,
    /// fjall 3
    Fjall,
}

impl StoreKind {
    /// All back ends.
    pub const ALL: [StoreKind; 2] = [StoreKind::Sled, StoreKind::Fjall];

    /// The name, in the settings and of the folder.
    pub const fn name(self) -> &'static str {
        match self {
            StoreKind::Sled => "sled",
            StoreKind::Fjall => "fjall",
        }
    }

    /// The back end of that name.
    pub fn from_name(name: &str) -> Option<StoreKind> {
        StoreKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A store that was opened.
pub struct Opened {
    /// The store.
    pub store: Box<dyn ColdStore>,
    /// Where the files went that could not be opened; the store is empty then.
    pub set_aside: Option<PathBuf>,
}

/// Opens or creates the store of a kind in the folder `dir`, with about `memory_bytes` of memory for
/// its caches and buffers. Files that cannot be opened are set aside.
///
/// # Errors
/// If the store cannot be created either.
pub fn open(kind: StoreKind, dir: &Path, memory_bytes: u64) -> Result<Opened, ColdError> {
    match open_dir(kind, dir, memory_bytes) {
        Ok(store) => Ok(Opened { store, set_aside: None }),
        Err(error @ ColdError::Unusable(_)) => Err(error),
        Err(_) => {
            let bad = dir.with_extension("bad");
            let failed = |error: std::io::Error| ColdError::Failed(error.to_string());
            if bad.exists() {
                std::fs::remove_dir_all(&bad).map_err(failed)?;
            }
            std::fs::rename(dir, &bad).map_err(failed)?;
            Ok(Opened { store: open_dir(kind, dir, memory_bytes)?, set_aside: Some(bad) })
        }
    }
}

fn open_dir(
    kind: StoreKind,
    dir: &Path,
    memory_bytes: u64,
) -> Result<Box<dyn ColdStore>, ColdError> {
    let recent_bytes = memory_bytes / RECENT_SHARE.1 * RECENT_SHARE.0;
    let memory_bytes = memory_bytes - recent_bytes;
    let rows: Box<dyn ColdStore> = match kind {
        StoreKind::Sled => Box::new(super::sled::Sled::open(dir, memory_bytes)?),
        StoreKind::Fjall => Box::new(super::fjall::Fjall::open(dir, memory_bytes)?),
    };
    let disk = Arc::new(RealDisk);
    Ok(Box::new(Separated::open(rows, disk, &dir.join(VALUES_DIR), recent_bytes)?))
}

/// Opens or creates a store that may have the only copy of values: what cannot be opened stays where it
/// is.
///
/// # Errors
/// If the store cannot be opened, with what can be done about it.
pub fn open_durable(
    kind: StoreKind,
    dir: &Path,
    memory_bytes: u64,
) -> Result<Box<dyn ColdStore>, ColdError> {
    let opened = open_dir(kind, dir, memory_bytes);
    opened.map_err(|error| match error {
        ColdError::Unusable(_) => error,
        error => ColdError::Unusable(format!(
            "{error}. The values of cold keys are in {}: restore it from a backup, or move it away to \
             go on without them",
            dir.display()
        )),
    })
}

/// Runs what may panic inside a back end: sled does where its files are damaged.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ColdError>) -> Result<T, ColdError> {
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        Err(ColdError::Failed(text.to_owned()))
    })
}
