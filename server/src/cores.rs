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

#[cfg(test)]
mod tests {
    use super::*;

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
