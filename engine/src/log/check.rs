//! Looks a log over for people: what is there, what is damaged, and what a repair would drop.

use super::record::{Calls, Found, HEADER_BYTES as RECORD_BYTES, Kind, look};
use super::scan::{self, Part, Scan};
use super::segment::{self, HEADER_BYTES};
use super::{LogError, scan::Place};
use crate::disk::{Disk, Mode, read_exact_at};
use std::io;
use std::path::Path;

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// It, for people.
    pub lines: Vec<String>,
    /// Whether a start would open the log as it is.
    pub is_whole: bool,
}

/// Looks the log in `dir` over and changes nothing. Records up to `floor` are not needed: a
/// snapshot has them.
///
/// # Errors
/// If its files cannot be read.
pub fn check(disk: &dyn Disk, dir: &Path, floor: u64) -> Result<Report, LogError> {
    let scan = scan::scan(disk, dir, floor)?;
    let mut report = Report::default();
    let Scan { first, next, durable, .. } = scan;
    let count = scan.chain.len();
    report.lines.push(match next - first {
        0 => format!("log: no records; the next one is {next}"),
        _ => format!(
            "log: records {first} to {}, in {count} segments; up to {durable} are known to have \
             been durable",
            next - 1
        ),
    });
    for part in &scan.chain {
        let unreadable = describe(disk, dir, part, &mut report)?;
        if let Some(place) = unreadable {
            report.lines.push(format!("UNREADABLE: {}", LogError::Unreadable(place)));
            return Ok(report);
        }
    }
    for part in &scan.stale {
        let text = "not needed any more: a snapshot has its records";
        report.lines.push(format!("  {:016}.log  {text}", part.number));
    }
    report.is_whole = scan.verdict().is_ok();
    if let Err(error) = scan.verdict() {
        report.lines.push(format!("DAMAGED: {error}"));
        report.lines.push(dropped(&scan, "a repair would drop"));
    } else if scan.has_tail() {
        let Place { segment, offset, index } = scan.end();
        report.lines.push(format!(
            "torn tail: record {index} at offset {offset} of {segment:016}.log was begun and \
             never acknowledged as durable; the next start cuts it"
        ));
        report.lines.push(dropped(&scan, "that drops"));
    }
    Ok(report)
}

/// A line about a segment; the place of a record whose payload cannot be read, if there is one.
fn describe(
    disk: &dyn Disk,
    dir: &Path,
    part: &Part,
    report: &mut Report,
) -> Result<Option<Place>, LogError> {
    let Part { number, bytes, end, next, .. } = *part;
    let Some(first) = part.first else {
        report.lines.push(format!("  {number:016}.log  empty, {bytes} bytes"));
        return Ok(None);
    };
    let (_, content) = scan::open(disk, dir, number)?;
    let (mut at, mut calls, mut index) = (HEADER_BYTES, 0, first);
    while (at as u64) < end
        && let Found::Record(header) = look(&content[at..], part.salt_crc)
    {
        if header.kind == Kind::Calls {
            index = header.index;
            let mut batch = Calls::new(&content[at + RECORD_BYTES..at + header.bytes]);
            calls += batch.by_ref().count();
            if batch.is_broken() {
                return Ok(Some(Place { segment: number, offset: at as u64, index }));
            }
        }
        at += header.bytes;
    }
    report.lines.push(format!(
        "  {number:016}.log  records {first} to {}, {calls} calls, {end} of {bytes} bytes",
        next.saturating_sub(1).max(index)
    ));
    Ok(None)
}

/// What is behind the end of the log.
fn dropped(scan: &Scan, verb: &str) -> String {
    let records = scan.tail().records;
    let end = scan.end();
    let last = scan.chain.last();
    let here = last.map_or(0, |part| part.bytes - part.end);
    let mut text = format!(
        "{verb} everything from record {} on: the {here} bytes from offset {} of {:016}.log",
        end.index, end.offset, end.segment
    );
    if !scan.behind.is_empty() {
        let names = scan.behind.iter().map(|part| format!("{:016}.log", part.number));
        text.push_str(&format!(", and {}", names.collect::<Vec<_>>().join(", ")));
    }
    text.push_str(&format!("; {records} whole records are among it"));
    text
}

/// Makes a damaged log one that opens: drops everything from the damage on. Segments that it
/// changes or drops are kept beside it, with `.bad` behind their names.
///
/// # Errors
/// If files cannot be read or written, or if what is missing is the log's beginning: dropping more
/// would not help, it takes a snapshot or a backup.
pub fn repair(disk: &dyn Disk, dir: &Path, floor: u64) -> Result<Report, LogError> {
    let scan = scan::scan(disk, dir, floor)?;
    let Err(error) = scan.verdict() else {
        let mut report = check(disk, dir, floor)?;
        report.lines.push("nothing to repair".into());
        return Ok(report);
    };
    let mut report = Report { lines: vec![format!("DAMAGED: {error}")], is_whole: false };
    if scan.first > floor + 1 && scan.damage.is_some_and(|place| place.index == floor + 1) {
        let text = "the log's beginning is missing: a repair has nothing to go on from; restore \
                    the missing segments or a snapshot from a backup";
        report.lines.push(text.into());
        return Ok(report);
    }
    let failed = |error: io::Error| LogError::io("repair the log", &error);
    let bad: Vec<u64> = scan.bad_headers.iter().map(|(number, _)| *number).collect();
    let is_bad = |part: &&Part| bad.contains(&part.number);
    if let Some(last) = scan.chain.iter().rfind(|part| !is_bad(part) && part.first.is_some()) {
        let path = segment::path(dir, last.number);
        copy(disk, &path, &path.with_extension("log.bad")).map_err(failed)?;
        let file = disk.open(&path, Mode::Write).map_err(failed)?;
        file.set_len(last.end).and_then(|()| file.sync_data()).map_err(failed)?;
    }
    for part in scan.behind.iter().chain(scan.chain.iter().filter(is_bad)) {
        let path = segment::path(dir, part.number);
        disk.rename(&path, &path.with_extension("log.bad")).map_err(failed)?;
    }
    disk.sync_dir(dir).map_err(failed)?;
    report.lines.push(dropped(&scan, "dropped"));
    report.lines.push("copies of the segments as they were end in .bad".into());
    let after = check(disk, dir, floor)?;
    report.is_whole = after.is_whole;
    report.lines.extend(after.lines);
    Ok(report)
}

fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (disk.open(from, Mode::Read)?, disk.open(to, Mode::Create)?);
    to.set_len(0)?;
    let (length, mut at) = (from.len()?, 0);
    let mut buf = vec![0; COPY_BYTES];
    while at < length {
        let count = usize::try_from(length - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        read_exact_at(&*from, &mut buf[..count], at)?;
        to.write_at(&buf[..count], at)?;
        at += count as u64;
    }
    to.sync_data()
}
