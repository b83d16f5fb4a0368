//! Real `kill -9` of the daemon under load, again and again on one data directory.
//!
//! Each writer has keys of its own and knows every reply that it got. After each start its keys
//! must be what its acknowledged calls lead to, plus a first part of those that were on their
//! way: replies leave once the write is with the system, whatever `appendfsync` says. Transactions
//! are there whole or not at all. A reader must not have seen what is gone afterwards.
//!
//! `ASHLAR_KILL_CYCLES=n` runs longer, `ASHLAR_SEED=n` repeats a seed (the timing it cannot repeat).

mod tiered;
mod writer;

use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::Value;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;
use writer::Writer;

/// Kills where nothing else is asked for.
const CYCLES: usize = 50;
const WRITERS: usize = 4;
/// Milliseconds of load before a kill, at most.
const LOAD_MS_MAX: usize = 60;
const POLICIES: [&str; 3] = ["always", "everysec", "no"];

fn cycles() -> usize {
    let asked = std::env::var("ASHLAR_KILL_CYCLES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(CYCLES)
}

/// A counter that every writer raises with each of its calls, as far as a reader has seen it.
fn read_on(server: &Server, key: &str, seen: &AtomicI64) {
    let mut client = server.client();
    while let Ok(reply) = client.line(&format!("GET {key}")) {
        let value = reply.text().parse().unwrap_or(0);
        seen.fetch_max(value, Ordering::SeqCst);
    }
}

fn counter(server: &Server, key: &str) -> i64 {
    server
        .client()
        .line(&format!("GET {key}"))
        .expect("the server answers")
        .text()
        .parse()
        .unwrap_or(0)
}

#[test]
fn nothing_acknowledged_is_lost() {
    for seed in seeds(&[1]) {
        println!("ASHLAR_SEED={seed}");
        let mut random = Random::new(seed);
        let settings = |policy: &str| {
            let pairs = ["--appendonly", "yes", "--log-segment-size", "1mb", "--appendfsync"];
            let mut settings: Vec<String> = pairs.iter().map(|word| word.to_string()).collect();
            settings.push(policy.into());
            settings
        };
        let first = settings(POLICIES[0]);
        let mut server = Server::ashlar(&first.iter().map(String::as_str).collect::<Vec<_>>());
        let mut writers: Vec<Writer> =
            (0..WRITERS).map(|number| Writer::new(number, random.bits())).collect();
        for cycle in 0..cycles() {
            let seen = AtomicI64::new(0);
            let stop = AtomicBool::new(false);
            let key = writers[0].counter();
            scope(|scope| {
                for writer in &mut writers {
                    let client = server.client();
                    let stop = &stop;
                    scope.spawn(move || writer.work(client, stop));
                }
                scope.spawn(|| read_on(&server, &key, &seen));
                sleep(Duration::from_millis(1 + random.below(LOAD_MS_MAX) as u64));
                server.signal("KILL");
                stop.store(true, Ordering::SeqCst);
            });
            let policy = POLICIES[random.below(POLICIES.len())];
            let settings = settings(policy);
            server.restart(&settings.iter().map(String::as_str).collect::<Vec<_>>());
            let there = counter(&server, &key);
            let seen = seen.into_inner();
            assert!(seen <= there, "cycle {cycle}: a reader saw {seen}, {there} is there");
            for writer in &mut writers {
                writer.check(&server, cycle);
            }
        }
        let calls: u64 = writers.iter().map(Writer::acknowledged).sum();
        assert!(calls > cycles() as u64, "only {calls} calls were acknowledged");
        println!("{calls} acknowledged calls in {} cycles", cycles());
        // The log itself is whole.
        let dir = server.dir().to_path_buf();
        server.signal("KILL");
        server.reap();
        let check = std::process::Command::new(ashlar_tests::process::ashlar_binary())
            .args(["check".as_ref(), dir.as_os_str()])
            .output()
            .unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn the_check_finds_a_loss() {
    let mut server = Server::ashlar(&[]);
    let mut writer = Writer::new(0, 1);
    let stop = AtomicBool::new(false);
    scope(|scope| {
        let client = server.client();
        let work = scope.spawn(|| writer.work(client, &stop));
        sleep(Duration::from_millis(50));
        stop.store(true, Ordering::SeqCst);
        work.join().unwrap();
    });
    writer.check(&server, 0);
    assert!(writer.acknowledged() > 0);
    // Without a log everything is gone.
    server.restart(&[]);
    let check = std::panic::AssertUnwindSafe(|| writer.check(&server, 1));
    assert!(std::panic::catch_unwind(check).is_err(), "the loss of everything was not found");
}

#[test]
fn an_orderly_stop_keeps_everything_and_a_second_server_is_refused() {
    let settings = ["--appendonly", "yes", "--log-segment-size", "1mb"];
    let mut server = Server::ashlar(&settings);
    let mut client = server.client();
    client.line("SET k v").unwrap();
    client.line("EXPIRE k 1000").unwrap();
    let second = std::process::Command::new(ashlar_tests::process::ashlar_binary())
        .args(["server", "--port", "0", "--unixsocket", "second.sock"])
        .args(settings)
        .current_dir(server.dir())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    let pid = format!("in use by process {}", server.pid());
    assert!(
        complaint.contains("is used by another server") && complaint.contains(&pid),
        "{complaint}"
    );
    client.line("SHUTDOWN NOSAVE").ok();
    server.reap();
    server.restart(&settings);
    let mut client = server.client();
    assert_eq!(client.line("GET k").unwrap(), Value::bulk("v"));
    assert_eq!(
        client.line("WAITAOF 1 0 0").unwrap(),
        Value::Array(vec![Value::Int(1), Value::Int(0)])
    );
    let info = client.line("INFO persistence").unwrap().text();
    for field in ["aof_enabled:1", "aof_last_write_status:ok", "log_health:ok", "log_first_index:1"]
    {
        assert!(info.contains(field), "{field}:\n{info}");
    }
}
