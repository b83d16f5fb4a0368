//! The files of a Redis: a server whose directory has no data of ashlar starts with them.
//!
//! ```text
//! `dir`/ashlar-data has data ---------------------------------> that is loaded, nothing else is looked at
//!       `appenddirname`/`appendfilename`.manifest --\
//!       `appendfilename` (of Redis before 7.0) -----+-> find --> load --> first snapshot of ashlar-data
//!       `dbfilename` -------------------------------/
//! ```
//! What is there is read and left as it is. As soon as ashlar has written data of its own, at once where
//! `save` or `appendonly` ask for any, the files are not looked at again.

mod load;
mod manifest;

pub use load::{Loaded, load};

use crate::config::{Settings, ids};
use std::io;
use std::path::{Path, PathBuf};

/// What a server starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An RDB file.
    Snapshot(PathBuf),
    /// The files of an append-only log, the oldest first. One may begin with an RDB file.
    Log(Vec<PathBuf>),
}

/// The files of a Redis in the server's directory, if there are any. As in Redis, `appendonly` says
/// whether the log counts or the snapshot, but where there is only one of them it is taken.
///
/// # Errors
/// If the disk fails, or the log's list of files is damaged or names one that is missing.
pub fn find(settings: &Settings) -> io::Result<Option<Source>> {
    let dir = PathBuf::from(settings.string(ids::DIR));
    let snapshot = dir.join(settings.string(ids::DBFILENAME));
    let snapshot = snapshot.is_file().then_some(snapshot);
    let logged = settings.flag(ids::APPENDONLY);
    if let (Some(snapshot), false) = (&snapshot, logged) {
        if let Ok(Some(log)) = find_log(&dir, settings) {
            tracing::warn!(
                "{} is left out, since `appendonly` is `no`: {} is loaded",
                log.last().unwrap_or(&dir).display(),
                snapshot.display()
            );
        }
        return Ok(Some(Source::Snapshot(snapshot.clone())));
    }
    let log = find_log(&dir, settings)?;
    if let (Some(_), Some(snapshot)) = (&log, &snapshot) {
        let snapshot = snapshot.display();
        tracing::info!("{snapshot} is left out, since `appendonly` is `yes` and there is a log");
    }
    Ok(log.map(Source::Log).or(snapshot.map(Source::Snapshot)))
}

fn find_log(dir: &Path, settings: &Settings) -> io::Result<Option<Vec<PathBuf>>> {
    let name = settings.string(ids::APPENDFILENAME);
    let parts = dir.join(settings.string(ids::APPENDDIRNAME));
    let list = parts.join(format!("{name}.manifest"));
    if list.is_file() {
        return manifest::files(&list, &parts).map(Some);
    }
    if let Ok(entries) = std::fs::read_dir(&parts)
        && entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&name))
    {
        return Err(io::Error::other(format!(
            "{} has files of a log, but {} is missing, which lists them",
            parts.display(),
            list.display()
        )));
    }
    let single = dir.join(name);
    Ok(single.is_file().then(|| vec![single]))
}
