//! What Linux tells about a process and the machine, from /proc.

use std::fs;

/// Ticks a second in /proc: USER_HZ, 100 on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that all threads of a process have taken so far, user and system, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    ticks(&text).map(|ticks| ticks as f64 / TICKS_PER_SECOND).ok_or(format!("{file}: odd content"))
}

/// The same of the threads with a name, as far as they are still there.
pub fn thread_seconds(pid: u32, name: &str) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let stats = threads.flatten().map(|thread| thread.path().join("stat"));
    let stats = stats.filter_map(|stat| fs::read_to_string(stat).ok());
    let ticks: u64 = stats
        .filter(|stat| stat.contains(&format!("({name})")))
        .filter_map(|stat| ticks(&stat))
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// CPU time of all child processes of this one that have ended and were waited for, in seconds.
pub fn ended_children_cpu_seconds() -> Result<f64, String> {
    let file = "/proc/self/stat";
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let ticks = sum_of_two(&text, 13).ok_or(format!("{file}: odd content"))?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// utime + stime: fields 14 and 15, counted after the name, which may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    sum_of_two(stat, 11)
}

/// The sum of two fields, the first of them `skipped` fields behind the name.
fn sum_of_two(stat: &str, skipped: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(skipped);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of a process, in bytes.
pub fn rss_bytes(pid: u32) -> Result<u64, String> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(first_number);
    kib.map(|kib| kib * 1024).ok_or(format!("{file}: no VmRSS"))
}

/// Bytes that a process has had read from disk so far.
pub fn bytes_from_disk(pid: u32) -> Result<u64, String> {
    let file = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("read_bytes:"));
    bytes.and_then(first_number).ok_or(format!("{file}: no read_bytes"))
}

/// The processor's name, as the kernel knows it.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown processor".into(), |(_, name)| name.trim().to_owned())
}

/// The kernel's release.
pub fn kernel() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// What all cores together have done since the machine started, in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cores {
    idle: u64,
    stolen: u64,
    total: u64,
}

impl Cores {
    /// Reads them.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; user has guest in it.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
        let (idle, stolen) = (ticks.get(3)? + ticks.get(4)?, *ticks.get(7)?);
        Some(Cores { idle, stolen, total: ticks.iter().sum() })
    }

    /// Shares of the time since `earlier`, 0 to 1: in which the cores worked, and in which the
    /// hypervisor let somebody else have them.
    pub fn since(self, earlier: Self) -> (f64, f64) {
        let total = self.total.saturating_sub(earlier.total).max(1) as f64;
        let idle = self.idle.saturating_sub(earlier.idle) as f64;
        let stolen = self.stolen.saturating_sub(earlier.stolen) as f64;
        ((1.0 - idle / total).max(0.0), stolen / total)
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_after_the_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(sum_of_two(stat, 13), Some(0));
        assert_eq!(ticks("42 (short) S 1"), None);
    }

    #[test]
    fn shares_of_the_cores_time() {
        let cores = |line: &str| Cores::parse(&format!("cpu  {line}\ncpu0 1\n")).unwrap();
        let earlier = cores("100 0 50 800 50 0 0 0 0 0");
        let (busy, stolen) = cores("140 0 60 840 50 0 0 10 0 0").since(earlier);
        assert!((busy - 0.6).abs() < 1e-9 && (stolen - 0.1).abs() < 1e-9);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(rss_bytes(pid).unwrap() > 100_000);
    }
}
