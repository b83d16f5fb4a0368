//! Nodes of ashlar that follow each other: real daemons, killed, stopped and cut off under load, whose
//! data must be equal in the end, and copied only where it has to be.
//!
//! `ASHLAR_SEED=n` repeats a seed (the timing it cannot repeat).

#![allow(clippy::unwrap_used, reason = "a failed test is to say where")]

mod failover;
mod outages;
mod roles;
mod stops;

use ashlar_tests::ask::{PATIENCE, ask, info, wait_for};
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::process::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// Of every node.
const DEBUG: [&str; 2] = ["--enable-debug-command", "yes"];

fn node(settings: &[&str]) -> Server {
    Server::ashlar(&[&DEBUG[..], settings].concat())
}

fn follow(replica: &Server, port: u16) {
    let answer = ask(&mut replica.client(), &format!("REPLICAOF 127.0.0.1 {port}"));
    assert!(answer.starts_with("OK"), "{answer}");
}

/// Copies and resumptions that a primary has granted.
fn syncs(server: &Server) -> (String, String) {
    let mut client = server.client();
    (info(&mut client, "sync_full"), info(&mut client, "sync_partial_ok"))
}

/// Waits until the replicas have all that the primary has, and compares.
fn equal(primary: &Server, replicas: &[&Server]) {
    let mut client = primary.client();
    // What has expired counts until it is deleted.
    ask(&mut client, "DEBUG SET-ACTIVE-EXPIRE 0");
    let position: u64 = info(&mut client, "history_position").parse().unwrap();
    for replica in replicas {
        let mut other = replica.client();
        wait_for("the replica has all records", || {
            info(&mut other, "history_position").parse::<u64>().unwrap() >= position
                && info(&mut other, "master_link_status") == "up"
        });
    }
    let digest = ask(&mut client, "DEBUG DIGEST");
    assert_eq!(info(&mut client, "history_position").parse::<u64>().unwrap(), position);
    for replica in replicas {
        assert_eq!(ask(&mut replica.client(), "DEBUG DIGEST"), digest, "the data is equal");
    }
    ask(&mut client, "DEBUG SET-ACTIVE-EXPIRE 1");
}

/// Random calls of all families, until it is told to stop or the server is gone.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    fn start(server: &Server, seed: u64) -> Load {
        let mut client = server.client();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
            let blocks = |spec: &Spec| spec.name.starts_with('B') || spec.name.starts_with("XREAD");
            let specs: Vec<Spec> = specs.into_iter().filter(|spec| !blocks(spec)).collect();
            let (mut generator, mut calls) = (Generator::new(seed), 0);
            while !stopped.load(Ordering::Acquire) {
                let mut batch: Vec<_> = (0..60)
                    .map(|_| {
                        let spec = generator.random.pick(&specs).clone();
                        generator.call(&spec)
                    })
                    .filter(|argv| !argv[0].eq_ignore_ascii_case(b"FLUSHALL"))
                    .collect();
                batch.insert(batch.len() / 2, vec![b"MULTI".to_vec()]);
                batch.push(vec![b"EXEC".to_vec()]);
                let value = vec![b'x'; 40 + calls as usize % 300];
                batch.push(vec![b"RPUSH".to_vec(), b"list".to_vec(), value]);
                if client.pipeline(&batch).is_err() {
                    break;
                }
                calls += batch.len() as u64;
                sleep(Duration::from_millis(2));
            }
            calls
        });
        Load { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// Some load, and its end.
fn load_for(server: &Server, seed: u64, time: Duration) {
    let load = Load::start(server, seed);
    sleep(time);
    load.stop();
}
