//! What the system tells about this process, from `/proc`; zeros where there is none.

use std::fs::read_to_string;

/// Clock ticks of `/proc` a second. Linux fixes it at 100 for all programs (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// The unit of `/proc/self/statm`.
const PAGE_BYTES: u64 = 4096;

/// CPU time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuSeconds {
    /// In the program.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// Of finished child processes, in their programs.
    pub children_user: f64,
    /// The same in the kernel.
    pub children_system: f64,
}

/// CPU time of the whole process.
pub fn cpu_seconds() -> CpuSeconds {
    read_to_string("/proc/self/stat").map_or_else(|_| CpuSeconds::default(), |stat| parse(&stat))
}

/// CPU time of the thread that started the process.
pub fn main_thread_cpu_seconds() -> CpuSeconds {
    let path = format!("/proc/self/task/{}/stat", std::process::id());
    read_to_string(path).map_or_else(|_| CpuSeconds::default(), |stat| parse(&stat))
}

/// The fields 14 to 17 of a `stat` file; the name in the second may contain anything.
fn parse(stat: &str) -> CpuSeconds {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    let at = |at: usize| ticks.get(at).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
    CpuSeconds { user: at(0), system: at(1), children_user: at(2), children_system: at(3) }
}

/// Bytes of this process that are in memory.
pub fn resident_bytes() -> u64 {
    let statm = read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(PAGE_BYTES)
}

/// Bytes of this process that are in memory and that the system cannot take back: without the pages of files,
/// such as the program's code.
pub fn resident_private_bytes() -> u64 {
    let statm = read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split_ascii_whitespace().skip(1).map(|pages| pages.parse::<u64>().ok());
    let mut next = || pages.next().flatten().unwrap_or(0);
    let (resident, shared) = (next(), next());
    resident.saturating_sub(shared).saturating_mul(PAGE_BYTES)
}

/// Bytes of memory of the machine.
pub fn total_memory_bytes() -> u64 {
    let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The operating system, its version and the machine: `Linux 6.1.0 x86_64`.
pub fn system() -> String {
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = match std::env::consts::OS {
        "linux" => "Linux",
        other => other,
    };
    format!("{name} {} {}", release.trim(), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let line = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 100 7 8 20 0";
        let expected =
            CpuSeconds { user: 2.5, system: 1.0, children_user: 0.07, children_system: 0.08 };
        assert_eq!(parse(line), expected);
        assert_eq!(parse("garbage"), CpuSeconds::default());
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes() > 0 && total_memory_bytes() > resident_bytes());
        assert!(system().starts_with("Linux "));
    }
}
