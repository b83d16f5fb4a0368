//! What lets replication go on after a stop and a start: the names and offsets that only memory has.
//!
//! With a log the positions of histories are in it. The stream of Redis's protocol counts bytes, and so does
//! that of a Redis that is followed; and without a log nothing counts. A stop writes all of it to the file
//! `replication` of the data directory, beside what the data ends with. A start reads the file and takes it
//! away before anything changes: so it counts once, and only if the data is what it was.
//!
//! ```text
//! ashlar-replication 1
//! data log INDEX | data snapshot INDEX BYTES
//! feed NAME OFFSET          the stream for followers of Redis's kind
//! followed NAME OFFSET      the stream of a Redis that is followed
//! history WORDS...          as in a log; only without one
//! config WORDS...           the settings that the data depends on; only with `history`
//! crc32c HEX                of all lines before
//! ```

use crate::clock;
use crate::shared::Shared;
use ashlar_engine::disk::{self, Disk, Mode, RealDisk, read_exact_at};
use ashlar_engine::journal::Journal;
use ashlar_engine::shipping::Position;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

const NAME: &str = "replication";
const HEAD: &str = "ashlar-replication 1";
/// Bytes of the file at most.
const BYTES_MAX: u64 = 64 << 10;

/// What the data ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last record of the log.
    Log(u64),
    /// A snapshot: the record up to which it goes, and its bytes.
    Snapshot(u64, u64),
}

/// What a start goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continued {
    /// The stream for followers of Redis's kind, and its offset.
    pub feed: Option<(String, u64)>,
    /// The stream of a Redis that is followed, and how much of it was run.
    pub followed: Option<(Vec<u8>, i64)>,
    /// The history, where there is no log to say so, with the settings that its data depends on.
    pub history: Option<(Position, Vec<Vec<u8>>)>,
}

/// The last line.
fn crc_line(body: &str) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

impl Continued {
    /// As the text of the file; `None` if there is nothing to go on from.
    fn encode(&self, end: End) -> Option<String> {
        let mut text = format!("{HEAD}\n");
        text += &match end {
            End::Log(index) => format!("data log {index}\n"),
            End::Snapshot(index, bytes) => format!("data snapshot {index} {bytes}\n"),
        };
        let before = text.len();
        if let Some((name, offset)) = &self.feed {
            text += &format!("feed {name} {offset}\n");
        }
        if let Some((name, offset)) = &self.followed {
            text += &format!("followed {} {offset}\n", std::str::from_utf8(name).ok()?);
        }
        if let Some((here, config)) = &self.history {
            for (name, words) in [("history", &here.words()), ("config", config)] {
                text += name;
                for word in words {
                    let word = std::str::from_utf8(word).ok()?;
                    let is_word = !word.is_empty() && !word.contains(char::is_whitespace);
                    text += &format!(" {}", is_word.then_some(word)?);
                }
                text.push('\n');
            }
        }
        let is_something = text.len() > before;
        text += &crc_line(&text);
        is_something.then_some(text)
    }

    /// Reads it; `None` if it is damaged, of another version, or about other data.
    fn decode(text: &str, end: End) -> Option<Continued> {
        let (body, crc) = text.split_at_checked(text.rfind("crc32c ")?)?;
        if crc != crc_line(body) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let (mut found, mut config, mut is_same) = (Continued::default(), Vec::new(), false);
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match &words[..] {
                ["data", "log", index] => is_same = End::Log(index.parse().ok()?) == end,
                ["data", "snapshot", index, bytes] => {
                    is_same = End::Snapshot(index.parse().ok()?, bytes.parse().ok()?) == end;
                }
                ["feed", name, offset] => {
                    found.feed = Some(((*name).to_owned(), offset.parse().ok()?));
                }
                ["followed", name, offset] => {
                    found.followed = Some((name.as_bytes().to_vec(), offset.parse().ok()?));
                }
                ["history", words @ ..] => {
                    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                    found.history = Some((Position::decode(&words)?, Vec::new()));
                }
                ["config", words @ ..] => {
                    config = words.iter().map(|word| word.as_bytes().to_vec()).collect();
                }
                _ => return None,
            }
        }
        if let Some((_, place)) = &mut found.history {
            *place = config;
        }
        is_same.then_some(found)
    }
}

/// Notes what a start can go on from: the server has ended, and its data is on disk.
pub fn note(shared: &Shared, followed: Option<(Vec<u8>, i64)>, dir: &Path) {
    let log = shared.gate().map(|gate| &gate.log);
    let end = match log {
        Some(log) if log.is_well() => Some(End::Log(log.last())),
        Some(_) => None,
        None => shared.persistence.end_of_data(),
    };
    let Some(end) = end else { return };
    let (engine, replication) = (&shared.engine, &shared.replication);
    let counts = log.is_none() && engine.shipping().is_on();
    let feed = &replication.feed;
    let continued = Continued {
        feed: feed.is_active().then(|| (feed.replid(), feed.offset())),
        followed,
        history: counts.then(|| (engine.position(), engine.config_call())),
    };
    let Some(text) = continued.encode(end) else { return };
    if let Err(error) = disk::replace(&RealDisk, dir, NAME, text.as_bytes()) {
        tracing::warn!("replicas will need a copy after the next start: {error}");
    }
}

/// Takes away what the last stop has noted; what of it is true for data that ends there.
///
/// # Errors
/// If the disk fails: what is not taken away would be believed once more.
pub fn take(dir: &Path, end: Option<End>) -> io::Result<Continued> {
    let (disk, path) = (RealDisk, dir.join(NAME));
    let file = match disk.open(&path, Mode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Continued::default()),
        file => file?,
    };
    let mut bytes = vec![0; file.len()?.min(BYTES_MAX) as usize];
    read_exact_at(&*file, &mut bytes, 0)?;
    drop(file);
    disk.remove(&path)?;
    disk.sync_dir(dir)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let found = end.and_then(|end| Continued::decode(&text, end));
    if found.is_none() {
        tracing::info!("replication does not go on where it was: the data has changed since");
    }
    Ok(found.unwrap_or_default())
}

/// Goes on from there, before anybody follows or changes anything.
pub fn go_on(shared: &Shared, continued: &Continued) {
    let (engine, replication) = (&shared.engine, &shared.replication);
    let now_ms = clock::now_ms();
    if let Some((name, offset)) = &continued.feed {
        replication.feed.carry_on(name, *offset);
        let mut executor = engine.executor();
        executor.lock_all();
        engine.set_propagating(true);
        replication.last_replica_ms.store(now_ms, Ordering::Relaxed);
    }
    if let Some((here, config)) = &continued.history {
        if here.history.followed {
            engine.keep_config(&config.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        engine.shipping().carry_on(here);
        replication.last_native_ms.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_engine::shipping::History;

    /// Of the first version, which every later one has to read.
    #[test]
    fn a_note_of_version_1_is_read() {
        let text = "ashlar-replication 1\ndata log 42\nfeed abc 7\ncrc32c 0d3741c1\n";
        let expected = Continued { feed: Some(("abc".into(), 7)), ..Continued::default() };
        assert_eq!(Continued::decode(text, End::Log(42)), Some(expected));
    }

    #[test]
    fn what_was_noted_counts_for_the_same_data_only() {
        let earlier = vec![("b".repeat(40), 3)];
        let history = History { id: "a".repeat(40), followed: true, earlier };
        let config = vec![b"ASHLAR.CONFIG".to_vec(), b"databases".to_vec(), b"16".to_vec()];
        let all = Continued {
            feed: Some(("c".repeat(40), 7)),
            followed: Some((b"d".repeat(40), 9)),
            history: Some((Position { history, position: 12 }, config)),
        };
        for end in [End::Log(5), End::Snapshot(5, 1000)] {
            let text = all.encode(end).unwrap();
            assert_eq!(Continued::decode(&text, end), Some(all.clone()));
            for other in [End::Log(6), End::Snapshot(5, 1001), End::Snapshot(6, 1000)] {
                assert_eq!(Continued::decode(&text, other), None);
            }
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                let damaged = String::from_utf8(bytes).unwrap();
                assert_eq!(Continued::decode(&damaged, end), None, "byte {at}");
            }
        }
        assert_eq!(Continued::default().encode(End::Log(5)), None);
    }
}
