//! ashlar against the redis-server of this machine, and the harness against itself.
//!
//! `ASHLAR_SEED=n` replays a seed, `ASHLAR_FAMILY=list` keeps to one family, `ASHLAR_COMMANDS=n` runs
//! more of them.

mod bugs;
mod engine;
mod harness;
mod integers;
mod server;

/// How many commands a test runs for each seed.
fn commands(default: usize) -> usize {
    let wanted = std::env::var("ASHLAR_COMMANDS").ok();
    wanted.map_or(default, |text| text.parse().expect("ASHLAR_COMMANDS is a number"))
}
