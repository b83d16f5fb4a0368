//! Brings the files of a Redis into the engine of a server that starts.
//!
//! Keys and commands take the path of what a primary sends ([`Applier`]), so that a log may have all that a
//! Redis writes there: functions, transactions, and in old ones scripts.

use super::Source;
use crate::clock;
use crate::config::ids;
use crate::replication::follower::Applier;
use crate::resp::decode::{Limits, Parsed, parse};
use crate::shared::Shared;
use ashlar_engine::rdb::{Reader, Record};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Bytes of a log that are read at a time, at least.
const READ_BYTES: usize = 256 << 10;
/// Keys or commands after which locks are released, and memory and the server's end looked at.
const STEP: u64 = 64;
/// How an RDB file begins.
const SNAPSHOT_MARK: &[u8] = b"REDIS";
/// Commands of a log that fail and are told of, each.
const FAILURES_TOLD_MAX: u64 = 10;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Keys of RDB files.
    pub keys: u64,
    /// Keys of RDB files that had expired and were left out.
    pub expired: u64,
    /// Commands of logs.
    pub commands: u64,
    /// Commands of logs that failed.
    pub failed: u64,
}

/// Loads the files into the engine, which is empty. No client gets at it meanwhile, and it has no journal.
///
/// # Errors
/// What is wrong with which file; the engine has a part of the data then.
pub fn load(shared: &Shared, source: &Source) -> io::Result<Loaded> {
    let applier = Applier::new(shared, "files");
    let mut loader = Loader { shared, applier, loaded: Loaded::default(), payload: Vec::new() };
    match source {
        Source::Snapshot(path) => {
            let result = loader.open(path).and_then(|file| {
                let (_, rest) = loader.snapshot(file, true)?;
                if rest.is_empty() {
                    Ok(())
                } else {
                    Err(io::Error::other("there is more behind it"))
                }
            });
            result.map_err(|error| explain(path, &error))?;
        }
        Source::Log(paths) => {
            for (nth, path) in paths.iter().enumerate() {
                let is_last = nth + 1 == paths.len();
                loader.log(path, is_last).map_err(|error| explain(path, &error))?;
            }
        }
    }
    loader.step()?;
    Ok(loader.loaded)
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't load {}: {error}", path.display()))
}

struct Loader<'a> {
    shared: &'a Shared,
    applier: Applier<'a>,
    loaded: Loaded,
    payload: Vec<u8>,
}

impl Loader<'_> {
    fn open(&self, path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        let total = &self.shared.persistence.recovering.snapshot.total_bytes;
        total.fetch_add(file.metadata()?.len(), Ordering::Relaxed);
        Ok(file)
    }

    /// Lets go of the locks, and of memory where values may go to disk.
    fn step(&mut self) -> io::Result<()> {
        self.applier.release();
        crate::tier::relieve(self.shared);
        let progress = &self.shared.persistence.recovering.snapshot;
        progress.keys.store(self.loaded.keys, Ordering::Relaxed);
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(io::Error::other("the server stops"));
        }
        Ok(())
    }

    fn came(&self, bytes: u64) {
        let progress = &self.shared.persistence.recovering.snapshot;
        progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An RDB file; returns what was read behind its end. Keys past their expiry are left out where
    /// no log follows, which could still change it.
    fn snapshot<R: Read>(&mut self, from: R, is_all: bool) -> io::Result<(R, Vec<u8>)> {
        let mut reader = Reader::new(from).map_err(io::Error::other)?;
        let (mut came, mut records, now_ms) = (0, 0u64, clock::now_ms());
        while let Some(record) = reader.next_record().map_err(io::Error::other)? {
            match record {
                Record::Aux(..) | Record::Sizes(..) => {}
                Record::Db(db) => self.applier.run(&[b"SELECT", db.to_string().as_bytes()])?,
                Record::ModuleAux(name) => {
                    tracing::warn!("data of the module {name} is left out");
                }
                Record::Function(code) => {
                    self.applier.run(&[b"FUNCTION", b"LOAD", b"REPLACE", &code])?;
                }
                Record::Entry(entry) if is_all && entry.has_expired(now_ms) => {
                    self.loaded.expired += 1;
                }
                Record::Entry(entry) => {
                    self.applier.restore(&entry, &mut self.payload)?;
                    self.loaded.keys += 1;
                }
            }
            records += 1;
            if records.is_multiple_of(STEP) {
                self.step()?;
                let position = reader.position();
                self.came(position - came);
                came = position;
            }
        }
        self.came(reader.position() - came);
        Ok(reader.into_parts())
    }

    /// A file of a log: commands, maybe behind an RDB file.
    fn log(&mut self, path: &Path, is_last: bool) -> io::Result<()> {
        let mut file = self.open(path)?;
        let mut start = Vec::new();
        file.by_ref().take(SNAPSHOT_MARK.len() as u64).read_to_end(&mut start)?;
        let (mut offset, mut commands) = (0, start);
        if commands == SNAPSHOT_MARK {
            let (_, rest) = self.snapshot(SNAPSHOT_MARK.chain(&file), false)?;
            offset = file.metadata()?.len() - rest.len() as u64;
            commands = rest;
        }
        self.applier.run(&[b"SELECT", b"0"])?;
        self.commands(&mut file, commands, offset, is_last)
    }

    /// Runs the commands that are in `buf` and then in the file. `offset` is where in the file `buf`
    /// begins.
    fn commands(
        &mut self,
        file: &mut File,
        mut buf: Vec<u8>,
        mut offset: u64,
        is_last: bool,
    ) -> io::Result<()> {
        // Where the transaction begins that is open, if any.
        let mut open_at = None;
        loop {
            let mut at = 0;
            while let Some(end) =
                self.next(&buf, at).map_err(|what| damaged(offset + at as u64, &what))?
            {
                if open_at.is_none() {
                    open_at = Some(offset + at as u64);
                }
                open_at = open_at.filter(|_| self.applier.in_transaction());
                at = end;
            }
            buf.drain(..at);
            offset += at as u64;
            self.came(at as u64);
            // At least as much as there is: what is looked at again and again stays in proportion.
            let wanted = READ_BYTES.max(buf.len()) as u64;
            if file.take(wanted).read_to_end(&mut buf)? == 0 {
                break;
            }
        }
        if buf.is_empty() && open_at.is_none() {
            return Ok(());
        }
        let whole = open_at.unwrap_or(offset);
        if !is_last || !self.shared.settings.flag(ids::AOF_LOAD_TRUNCATED) {
            let hint = if is_last { "; `aof-load-truncated yes` goes on without it" } else { "" };
            return Err(damaged(whole, &format!("the last command is not whole{hint}")));
        }
        if open_at.is_some() {
            self.applier.run(&[b"DISCARD"])?;
        }
        let left_out = offset + buf.len() as u64 - whole;
        tracing::warn!(
            "the log's end is torn: its last {left_out} bytes, from {whole} on, are left out"
        );
        Ok(())
    }

    /// Runs the command at `at`; returns where it ends, `None` where it is not all there.
    fn next(&mut self, buf: &[u8], at: usize) -> Result<Option<usize>, String> {
        match buf.get(at) {
            None => return Ok(None),
            // A remark: the time, with `aof-timestamp-enabled`.
            Some(b'#') => {
                let len = buf[at..].iter().position(|byte| *byte == b'\n');
                return Ok(len.map(|len| at + len + 1));
            }
            Some(b'*') => {}
            Some(_) => return Err("there is no command".into()),
        }
        let limits = Limits { authenticated: true, bulk_bytes_max: i64::MAX >> 1 };
        let mut args: Vec<&[u8]> = Vec::new();
        let end = match parse(buf, at, limits, &mut args) {
            Ok(Parsed::Request(end)) => end,
            Ok(Parsed::Incomplete) => return Ok(None),
            Ok(Parsed::Inline(..)) => return Err("there is no command".into()),
            Err(error) => return Err(error.0.into_owned()),
        };
        if let Some(name) = args.first() {
            if self.shared.registry.find(name).is_none() {
                return Err(format!("the command {:?} is unknown", String::from_utf8_lossy(name)));
            }
            if let Err(error) = self.applier.run(&args) {
                // As a Redis, which has run it once with the same result, goes on.
                self.loaded.failed += 1;
                if self.loaded.failed <= FAILURES_TOLD_MAX {
                    tracing::warn!("a command of the log fails: {error}");
                }
            }
            self.loaded.commands += 1;
        }
        if self.loaded.commands.is_multiple_of(STEP) {
            self.step().map_err(|error| error.to_string())?;
        }
        Ok(Some(end))
    }
}

fn damaged(offset: u64, what: &str) -> io::Error {
    io::Error::other(format!("at byte {offset}: {what}"))
}
