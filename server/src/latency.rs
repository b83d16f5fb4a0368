//! The latency monitor: which events took longer than `latency-monitor-threshold`, and when.
//!
//! Events are few and slow by definition, so one lock is enough. The names of events are those of
//! Redis (`command`, `fast-command`, `expire-cycle`, `eviction-cycle`), which dashboards read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use parking_lot::Mutex;

/// How many moments of an event are kept.
const SAMPLES_MAX: usize = 160;
/// How many kinds of events are kept.
const EVENTS_MAX: usize = 64;
/// Columns of the graph.
const GRAPH_COLUMNS: usize = 80;
/// Rows of the graph.
const GRAPH_ROWS: usize = 4;

/// The slowest of an event within one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in seconds since 1970.
    pub time_seconds: i64,
    /// How long, in milliseconds.
    pub ms: u64,
}

#[derive(Default)]
struct Series {
    samples: VecDeque<Sample>,
    max_ms: u64,
}

/// An event as LATENCY LATEST shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Its name.
    pub event: &'static str,
    /// The last sample.
    pub last: Sample,
    /// The slowest since the last reset.
    pub max_ms: u64,
}

/// The slow events of the server.
#[derive(Default)]
pub struct LatencyMonitor {
    events: Mutex<BTreeMap<&'static str, Series>>,
}

impl LatencyMonitor {
    /// Notes that an event took `ms` milliseconds; the caller has compared with the threshold.
    pub fn add(&self, event: &'static str, time_seconds: i64, ms: u64) {
        let mut events = self.events.lock();
        if events.len() >= EVENTS_MAX && !events.contains_key(event) {
            return;
        }
        let series = events.entry(event).or_default();
        series.max_ms = series.max_ms.max(ms);
        if let Some(last) = series.samples.back_mut()
            && last.time_seconds == time_seconds
        {
            last.ms = last.ms.max(ms);
            return;
        }
        if series.samples.len() == SAMPLES_MAX {
            series.samples.pop_front();
        }
        series.samples.push_back(Sample { time_seconds, ms });
    }

    /// The last sample of every event.
    pub fn latest(&self) -> Vec<Latest> {
        let events = self.events.lock();
        let latest = |(event, series): (&&'static str, &Series)| {
            Some(Latest { event, last: *series.samples.back()?, max_ms: series.max_ms })
        };
        events.iter().filter_map(latest).collect()
    }

    /// The samples of an event, oldest first.
    pub fn history(&self, event: &[u8]) -> Vec<Sample> {
        let events = self.events.lock();
        let series = std::str::from_utf8(event).ok().and_then(|event| events.get(event));
        series.map_or_else(Vec::new, |series| series.samples.iter().copied().collect())
    }

    /// Forgets the named events, or all where none is named; how many there were.
    pub fn reset(&self, names: &[&[u8]]) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|event, _| !names.is_empty() && !names.contains(&event.as_bytes()));
        before - events.len()
    }

    /// The graph of an event's samples, newest at the right; `None` if there are none.
    pub fn graph(&self, event: &[u8], now_seconds: i64) -> Option<String> {
        let samples = self.history(event);
        let skipped = samples.len().saturating_sub(GRAPH_COLUMNS);
        let shown: Vec<Sample> = samples.iter().skip(skipped).copied().collect();
        let (low, high) = (shown.iter().map(|s| s.ms).min()?, shown.iter().map(|s| s.ms).max()?);
        let all_time = {
            let events = self.events.lock();
            let name = std::str::from_utf8(event).ok()?;
            events.get(name).map_or(high, |series| series.max_ms)
        };
        let mut out = format!(
            "{} - high {high} ms, low {low} ms (all time high {all_time} ms)\n{}\n",
            String::from_utf8_lossy(event),
            "-".repeat(GRAPH_COLUMNS)
        );
        let span = (high - low).max(1) as f64;
        let levels: Vec<f64> =
            shown.iter().map(|s| (s.ms - low) as f64 / span * GRAPH_ROWS as f64).collect();
        for row in (0..GRAPH_ROWS).rev() {
            let line: String = levels.iter().map(|level| mark(*level, row)).collect();
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.push('\n');
        push_ages(&mut out, &shown, now_seconds);
        Some(out)
    }

    /// A report for people on what was slow and what to do about it.
    pub fn doctor(&self, threshold_ms: u64, slowlog_micros: i64) -> String {
        if threshold_ms == 0 {
            return "Latency monitoring is off. Turn it on with \"CONFIG SET \
                    latency-monitor-threshold <milliseconds>\", let the server work for a while \
                    and ask again.\n"
                .into();
        }
        let events = self.events.lock();
        if events.is_empty() {
            return format!(
                "Nothing took {threshold_ms} ms or longer since the monitor was turned on or \
                 reset.\n"
            );
        }
        let mut out = String::from("Slow events that were observed:\n\n");
        for (number, (event, series)) in events.iter().enumerate() {
            push_event(&mut out, number + 1, event, series);
        }
        out.push_str("\nWhat may help:\n\n");
        let slowlog_blind = slowlog_micros < 0
            || u64::try_from(slowlog_micros).is_ok_and(|us| us > threshold_ms.saturating_mul(1000));
        if slowlog_blind {
            let micros = threshold_ms.saturating_mul(1000);
            push_line(
                &mut out,
                &format!(
                    "- The slow log does not catch these commands: CONFIG SET \
                 slowlog-log-slower-than {micros}."
                ),
            );
        }
        if events.contains_key("command") {
            out.push_str(
                "- SLOWLOG GET names the slow commands. Ask for less at a time: SCAN in place of \
                 KEYS, ranges in place of whole collections.\n",
            );
        }
        if events.contains_key("fast-command") {
            out.push_str(
                "- Even commands of constant time were slow: look for other programs on the \
                 machine, swapping, or a virtual machine that is not scheduled.\n",
            );
        }
        if events.contains_key("eviction-cycle") || events.contains_key("expire-cycle") {
            out.push_str(
                "- Many keys went at once: spread expiry times, or raise maxmemory so that fewer \
                 keys have to be evicted.\n",
            );
        }
        out
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn push_event(out: &mut String, number: usize, event: &str, series: &Series) {
    let count = series.samples.len().max(1) as u64;
    let mean = series.samples.iter().map(|sample| sample.ms).sum::<u64>() / count;
    let deviation =
        series.samples.iter().map(|sample| sample.ms.abs_diff(mean)).sum::<u64>() / count;
    let first = series.samples.front().map_or(0, |sample| sample.time_seconds);
    let last = series.samples.back().map_or(0, |sample| sample.time_seconds);
    let period = last.saturating_sub(first) as f64 / count as f64;
    // Writing to a string can't fail.
    let _ = writeln!(
        out,
        "{number}. {event}: {count} spikes, {mean} ms on average (mean deviation {deviation} ms), \
         one every {period:.2} s; the worst took {} ms.",
        series.max_ms
    );
}

/// What a column of this height shows in a row.
fn mark(level: f64, row: usize) -> char {
    match level - row as f64 {
        above if above >= 1.0 => '|',
        part if part >= 0.5 => 'o',
        part if part > 0.0 => '.',
        _ if row == 0 => '_',
        _ => ' ',
    }
}

/// The age of each column, read from top to bottom: `4`, `s`.
fn push_ages(out: &mut String, samples: &[Sample], now_seconds: i64) {
    let ages: Vec<Vec<char>> = samples
        .iter()
        .map(|sample| {
            let age = now_seconds.saturating_sub(sample.time_seconds).max(0);
            let text = match age {
                0..60 => format!("{age}s"),
                60..3_600 => format!("{}m", age / 60),
                3_600..86_400 => format!("{}h", age / 3_600),
                _ => format!("{}d", age / 86_400),
            };
            text.chars().collect()
        })
        .collect();
    let rows = ages.iter().map(Vec::len).max().unwrap_or(0);
    for row in 0..rows {
        let line: String = ages.iter().map(|age| age.get(row).copied().unwrap_or(' ')).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sample_a_second_and_a_bound() {
        let monitor = LatencyMonitor::default();
        monitor.add("command", 10, 5);
        monitor.add("command", 10, 9);
        monitor.add("command", 10, 7);
        assert_eq!(monitor.history(b"command"), [Sample { time_seconds: 10, ms: 9 }]);
        for second in 11..1000 {
            monitor.add("command", second, 2);
        }
        assert_eq!(monitor.history(b"command").len(), SAMPLES_MAX);
        let last = Sample { time_seconds: 999, ms: 2 };
        assert_eq!(monitor.latest(), [Latest { event: "command", last, max_ms: 9 }]);
    }

    #[test]
    fn reset_takes_names_or_everything() {
        let monitor = LatencyMonitor::default();
        for event in ["command", "expire-cycle", "fast-command"] {
            monitor.add(event, 1, 1);
        }
        assert_eq!(monitor.reset(&[b"command", b"nothing"]), 1);
        assert_eq!(monitor.reset(&[]), 2);
        assert!(monitor.latest().is_empty());
        assert!(monitor.history(b"\xff").is_empty());
    }

    #[test]
    fn the_graph_shows_the_samples_and_their_age() {
        let monitor = LatencyMonitor::default();
        assert_eq!(monitor.graph(b"command", 0), None);
        for (second, ms) in [(10, 10), (20, 20), (30, 50), (100, 10)] {
            monitor.add("command", second, ms);
        }
        let graph = monitor.graph(b"command", 100).unwrap();
        let lines: Vec<&str> = graph.lines().collect();
        assert_eq!(lines[0], "command - high 50 ms, low 10 ms (all time high 50 ms)");
        let drawn = ["  |", "  |", "  |", "_||_", "", "1110", "mmms"];
        assert_eq!(lines[2..], drawn);
    }

    #[test]
    fn the_doctor_says_what_to_do() {
        let monitor = LatencyMonitor::default();
        assert!(monitor.doctor(0, 0).contains("latency-monitor-threshold"));
        assert!(monitor.doctor(5, 0).contains("Nothing took 5 ms"));
        monitor.add("command", 1, 8);
        let report = monitor.doctor(5, 10_000);
        assert!(report.contains("1. command: 1 spikes, 8 ms"), "{report}");
        assert!(report.contains("slowlog-log-slower-than 5000"), "{report}");
        assert!(!monitor.doctor(5, 1_000).contains("slowlog-log-slower-than"));
    }
}
