//! A rate limiter, a job queue and a leaderboard in one process, without a server.
//!
//! Run it with `cargo run --release -p ashlar-engine --example embedded`.

use ashlar_engine::prelude::*;
use std::time::Duration;

/// Calls that a client may make in a window.
const CALLS_MAX: i64 = 3;

/// Counts a client's calls; the first one of a window starts its clock.
fn allowed(store: &Store, client: &str) -> Result<bool, Error> {
    let key = format!("calls:{client}");
    store.transaction(&[&key], |tx| {
        let calls = tx.incr_by(&key, 1)?;
        if calls == 1 {
            tx.expire(&key, Duration::from_secs(60))?;
        }
        Ok(calls <= CALLS_MAX)
    })
}

fn main() -> Result<(), Error> {
    let store = Store::in_memory();

    for call in 1..=5 {
        println!("call {call} of ada: {}", if allowed(&store, "ada")? { "yes" } else { "no" });
    }

    store.rpush("jobs", &["resize", "mail", "index"])?;
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let store = &store;
            scope.spawn(move || -> Result<(), Error> {
                while let Some(job) = store.lpop("jobs")? {
                    store.zincr_by("done", 1.0, format!("worker {worker}"))?;
                    println!("worker {worker}: {}", String::from_utf8_lossy(&job));
                }
                Ok(())
            });
        }
    });
    for (worker, jobs) in store.zrange("done", 0, -1)? {
        println!("{} did {jobs}", String::from_utf8_lossy(&worker));
    }

    // Change a value only if no one else has changed it meanwhile.
    store.set("config", "v1")?;
    let watch = store.watch(&["config"]);
    let config = store.get("config")?;
    let written = watch.commit(&["config"], |tx| tx.set("config", "v2"))?;
    println!("{config:?} was replaced: {}", written.is_some());

    // A program that runs for long calls this now and then.
    store.upkeep();
    Ok(())
}
