//! What the simulators have in common.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a simulation, of which a panic is an error like any other.
///
/// # Errors
/// That of the run, or the text of its panic.
pub fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// How many seeds are run: so many, or as `ASHLAR_SIM_SEEDS` says.
///
/// # Panics
/// If that is no number.
pub fn seed_count(otherwise: u64) -> u64 {
    let count = std::env::var("ASHLAR_SIM_SEEDS").ok();
    count.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Each bug has to be found by one of the seeds up to `seeds_max`; `find` runs a seed with a bug and says what it found.
///
/// # Panics
/// With those that are not found.
pub fn assert_found<B: Debug + Copy>(
    bugs: &[B],
    seeds_max: u64,
    mut find: impl FnMut(B, u64) -> Option<String>,
) {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for &bug in bugs {
        match (1..=seeds_max).find_map(|seed| Some((seed, find(bug, seed)?))) {
            Some((seed, error)) => {
                println!("{bug:?}: seed {seed}: {}", error.lines().next().unwrap_or_default());
            }
            None => missed.push(bug),
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found: {missed:?}");
}
