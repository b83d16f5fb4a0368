//! `ashlar import FILE --dir DIR`: an RDB file becomes the first snapshot of a data directory.
//!
//! ```text
//! file --count keys--> file --cut into keys, decoded--> DIR/ashlar-data/snapshot
//! ```
//! No server runs and nothing stays in memory but one value, so the file may be of any size. It is
//! read twice, since a snapshot says first how many keys it has.

use crate::clock;
use crate::scripting::library::parse_library;
use crate::transfer::{Options, Outcome, Progress};
use ashlar_engine::config::EngineConfig;
use ashlar_engine::disk::RealDisk;
use ashlar_engine::keyspace::access::recency;
use ashlar_engine::libraries::Library;
use ashlar_engine::rdb::{self, Reader, Record};
use ashlar_engine::snapshot::DbInfo;
use ashlar_engine::storage::{DIRECTORY, Directory, Filling};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Writes the keys of a file into the data directory below `dir`, which must have no data.
///
/// # Errors
/// If the file is damaged or has what cannot be imported, or the disk fails; no snapshot is left then.
pub fn import(options: &Options, dir: &Path) -> io::Result<Outcome> {
    let now_ms = clock::now_ms();
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let Contents { dbs, libraries, expired } = look(&options.file, now_ms)?;
    std::fs::create_dir_all(dir)?;
    let random = u64::from_le_bytes(random);
    let directory = Directory::open(Arc::new(RealDisk), &dir.join(DIRECTORY), random);
    let directory = directory.map_err(io::Error::other)?;
    let mut bytes = 0;
    let saved = directory.fill(now_ms, dbs, |filling| {
        filling.libraries(&libraries)?;
        bytes = fill(options, now_ms, filling)?;
        Ok(())
    });
    let saved = saved.map_err(io::Error::other)?;
    Ok(Outcome { keys: saved.keys, kept: 0, expired, bytes })
}

fn open(file: &Path) -> io::Result<(Reader<File>, u64)> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("can't read {}: {error}", file.display()))
    };
    if file.as_os_str() == "-" {
        return Err(io::Error::other("the file is read twice, which standard input cannot be"));
    }
    let file = File::open(file).map_err(explain)?;
    let bytes = file.metadata()?.len();
    Ok((Reader::new(file).map_err(io::Error::other)?, bytes))
}

/// What is to be known of a file beforehand.
struct Contents {
    /// How many keys each database has.
    dbs: Vec<DbInfo>,
    libraries: Vec<Library>,
    /// Keys that have expired and are left out.
    expired: u64,
}

fn look(file: &Path, now_ms: i64) -> io::Result<Contents> {
    let (mut reader, _) = open(file)?;
    let (mut dbs, mut libraries): (BTreeMap<u32, DbInfo>, Vec<Library>) = Default::default();
    let (mut expired, mut selected) = (0, 0);
    while let Some(record) = reader.next_record().map_err(io::Error::other)? {
        match record {
            Record::Db(db) => selected = number_of(db)?,
            Record::Entry(entry) if entry.has_expired(now_ms) => expired += 1,
            Record::Entry(entry) => {
                let db =
                    dbs.entry(selected).or_insert(DbInfo { db: selected, ..DbInfo::default() });
                db.keys += 1;
                db.expires += u64::from(entry.expiry_ms.is_some());
            }
            Record::Function(code) => {
                let name = parse_library(&code);
                let name = name.map_err(|error| io::Error::other(error.message().to_string()))?.0;
                libraries.push((name.into(), code.as_slice().into()));
            }
            Record::Aux(..) | Record::Sizes(..) | Record::ModuleAux(_) => {}
        }
    }
    Ok(Contents { dbs: dbs.into_values().collect(), libraries, expired })
}

fn number_of(db: u64) -> io::Result<u32> {
    u32::try_from(db).map_err(|_| io::Error::other(format!("there is no database {db}")))
}

/// Adds all keys; returns the bytes of the file.
fn fill(options: &Options, now_ms: i64, filling: &mut Filling) -> io::Result<u64> {
    let (mut reader, total) = open(&options.file)?;
    let config = EngineConfig::default();
    let mut progress = Progress::new(options.quiet, total);
    let (mut outcome, mut selected) = (Outcome::default(), 0);
    while let Some(record) = reader.next_record().map_err(io::Error::other)? {
        match record {
            Record::Db(db) => selected = number_of(db)?,
            Record::ModuleAux(name) => eprintln!("data of the module {name} is left out"),
            Record::Entry(entry) if !entry.has_expired(now_ms) => {
                let decoded = rdb::decode(entry.kind, entry.body, &config);
                let mut decoded = decoded.map_err(|error| {
                    let key = String::from_utf8_lossy(entry.key);
                    io::Error::other(format!("the key {key:?}: {error}"))
                })?;
                let idle_seconds = entry.idle_seconds.unwrap_or(0);
                let idle_ms = i64::try_from(idle_seconds).unwrap_or(0).saturating_mul(1000);
                let access = recency(now_ms.saturating_sub(idle_ms));
                filling.add(selected, entry.key, decoded.value(), entry.expiry_ms, access)?;
                outcome.keys += 1;
            }
            _ => {}
        }
        if outcome.keys.is_multiple_of(1024) {
            outcome.bytes = reader.position();
            progress.show(&outcome, false);
        }
    }
    outcome.bytes = reader.position();
    progress.show(&outcome, true);
    Ok(outcome.bytes)
}
