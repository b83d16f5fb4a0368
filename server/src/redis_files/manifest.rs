//! The list of the files of which an append-only log of Redis 7 consists.
//!
//! ```text
//! file appendonly.aof.2.base.rdb seq 2 type b       base: what the log begins with, at most one
//! file appendonly.aof.1.incr.aof seq 1 type h       history: no longer needed
//! file appendonly.aof.2.incr.aof seq 2 type i       commands, by ascending number
//! ```

use crate::config::line::split;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a list at most: far more files than a log ever has.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// What a file of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Base,
    Commands,
    History,
}

/// The files that `list` names, in the order in which they are loaded. They are in `dir`.
pub(super) fn files(list: &Path, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let wrong = |what: String| io::Error::other(format!("{}: {what}", list.display()));
    if std::fs::metadata(list)?.len() > LIST_BYTES_MAX {
        return Err(wrong("it is too long for a list of files".into()));
    }
    let text = std::fs::read(list).map_err(|error| wrong(error.to_string()))?;
    let names = parse(&text).map_err(wrong)?;
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(wrong(format!("{} is missing", missing.display()))),
        None => Ok(paths),
    }
}

fn parse(text: &[u8]) -> Result<Vec<String>, String> {
    let mut parts: Vec<(Part, u64, String)> = Vec::new();
    for (nth, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", nth + 1);
        let words = split(line).ok_or_else(|| wrong("a quote is not closed"))?;
        let part = entry(&words).ok_or_else(|| wrong("it is no `file NAME seq N type T`"))?;
        if part.2.is_empty() || part.2.contains('/') || part.2 == ".." {
            return Err(wrong("a file is named without its folder"));
        }
        parts.push(part);
    }
    let bases = parts.iter().filter(|part| part.0 == Part::Base).count();
    let numbers = parts.iter().filter(|part| part.0 == Part::Commands).map(|part| part.1);
    let numbers: Vec<u64> = numbers.collect();
    if bases > 1 || !numbers.is_sorted_by(|one, other| one < other) {
        return Err("the files are not in the order of a log".into());
    }
    parts.retain(|part| part.0 != Part::History);
    parts.sort();
    Ok(parts.into_iter().map(|part| part.2).collect())
}

fn entry(words: &[Vec<u8>]) -> Option<(Part, u64, String)> {
    let (mut name, mut number, mut kind) = (None, None, None);
    for pair in words.chunks(2) {
        let [field, value] = pair else { return None };
        let value = String::from_utf8(value.clone()).ok()?;
        match field.to_ascii_lowercase().as_slice() {
            b"file" => name = Some(value),
            b"seq" => number = Some(value.parse().ok()?),
            b"type" => {
                kind = Some(match value.as_str() {
                    "b" => Part::Base,
                    "i" => Part::Commands,
                    "h" => Part::History,
                    _ => return None,
                });
            }
            // A later Redis may tell more of its files.
            _ => {}
        }
    }
    Some((kind?, number?, name?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_log_come_in_its_order() {
        let text = b"file a.2.incr.aof seq 2 type i\n# a remark\nfile a.1.incr.aof seq 1 type h\n\
            file \"a b.3.incr.aof\" seq 3 type i startoffset 5\nfile a.2.base.rdb seq 2 type b\n";
        let names = ["a.2.base.rdb", "a.2.incr.aof", "a b.3.incr.aof"];
        assert_eq!(parse(text).unwrap(), names);
        assert_eq!(parse(b"").unwrap(), [""; 0]);
        for wrong in [
            "file a seq 1",
            "file a seq x type b",
            "file a seq 1 type z",
            "file ../a seq 1 type b",
            "file \"a seq 1 type b",
            "file",
            "file a seq 1 type b\nfile b seq 2 type b",
            "file a seq 2 type i\nfile b seq 1 type i",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
