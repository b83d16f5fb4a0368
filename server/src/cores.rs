//! Which cores threads run on: `server-cpulist` and its like.
//!
//! A list is that of `taskset`: numbers and ranges with commas between them, a range with a step
//! behind a colon: `0,2,8-11` or `0-6:2`.

use crate::config::{Id, Settings};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Reads a list; `None` if it is none, or names a core that the system has no number for.
pub fn parse(list: &[u8]) -> Option<CpuSet> {
    let mut cores = CpuSet::new();
    for part in std::str::from_utf8(list).ok()?.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let step = step.trim().parse().ok().filter(|step| *step > 0)?;
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        (first..=last).step_by(step).for_each(|core| cores.set(core));
    }
    Some(cores)
}

fn number(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|core| *core < CpuSet::MAX_CPU)
}

/// The cores of a setting, where it names some.
pub fn of(settings: &Settings, id: Id) -> Option<CpuSet> {
    parse(&settings.text(id))
}

/// Binds the calling thread to the cores of a setting, where it names some.
pub fn bind(settings: &Settings, id: Id) {
    if let Some(cores) = of(settings, id) {
        bind_to(&cores);
    }
}

/// Binds the calling thread. Where that fails it goes on where it is.
pub fn bind_to(cores: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, cores) {
        tracing::warn!("a thread cannot be bound to its cores: {error}");
    }
}

/// Has the calling thread run in short turns, of a tenth of a millisecond. Linux from 6.12 on lets a thread with shorter
/// turns go first once it wakes up, instead of after the turn of the one that has the core; so a worker does not wait
/// for threads that read from disk. Elsewhere this changes nothing.
pub fn take_short_turns() {
    #[cfg(target_os = "linux")]
    if let Err(error) = set_turns() {
        tracing::debug!("a thread keeps its turns: {error}");
    }
}

#[cfg(target_os = "linux")]
fn set_turns() -> std::io::Result<()> {
    const TURN_NS: u64 = 100_000;
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the structure has numbers only, for which zeros are values.
    let mut turns: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes at most `size` bytes to `turns`, which has as many.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut turns, size, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let shares = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(|policy| policy as u32);
    if shares.contains(&turns.sched_policy) {
        turns.sched_runtime = TURN_NS;
        // SAFETY: the call reads `turns`, which says its size.
        if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const turns, 0) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_takes_short_turns_goes_on_where_they_are_refused_too() {
        std::thread::spawn(take_short_turns).join().expect("no panic");
    }

    fn cores(list: &str) -> Option<Vec<usize>> {
        let set = parse(list.as_bytes())?;
        Some((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
    }

    #[test]
    fn lists_are_those_of_taskset() {
        assert_eq!(cores("0"), Some(vec![0]));
        assert_eq!(cores("0,2, 8-11"), Some(vec![0, 2, 8, 9, 10, 11]));
        assert_eq!(cores("0-6:2,1023"), Some(vec![0, 2, 4, 6, 1_023]));
        for wrong in ["", "x", "1-", "-1", "3-1", "0-4:0", "0-4:x", "1024", "0-99999999999", "0,,1"]
        {
            assert_eq!(cores(wrong), None, "{wrong}");
        }
    }
}
