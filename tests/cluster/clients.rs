//! Real clients on a cluster, through the loss of its leaders.
//!
//! Each script does ordinary work, says `ready`, and goes on with acknowledged writes until a file
//! appears; then it checks that all of them are there.

use ashlar_tests::cluster::{Cluster, PATIENCE};
use ashlar_tests::process::workspace;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

fn python() -> PathBuf {
    require(workspace().join(".venv/bin/python"))
}

/// Fails, with what to do about it, if something that is to be installed is not there.
fn require(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run `cargo xtask test`", path.display());
    path
}

/// Runs a script on a cluster while its leader is killed and comes back, twice.
fn through_losses(program: &Path, script: &str, cluster: &mut Cluster) {
    let script = workspace().join("tests/cluster").join(script);
    let stop = cluster.node(0).server().dir().join("stop");
    let ports = cluster.nodes().iter().map(|node| node.port().to_string());
    let mut child = Command::new(program)
        .arg(script)
        .arg(&stop)
        .args(ports)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the script starts");
    let mut out = BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let mut line = String::new();
    let mut said = String::new();
    while out.read_line(&mut line).is_ok_and(|read| read > 0) && line.trim() != "ready" {
        said.push_str(&std::mem::take(&mut line));
    }
    let is_ready = line.trim() == "ready";
    for _ in 0..if is_ready { 2 } else { 0 } {
        lose_leader(cluster);
    }
    std::fs::write(&stop, b"").expect("the file that ends it");
    let output = child.wait_with_output().expect("its end");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("what it said");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(is_ready && output.status.success(), "{said}{rest}\n{errors}");
    assert!(rest.contains("writes"), "{rest}\n{errors}");
}

/// Kills the node that leads slot 0, waits for the next leader, and starts the node again.
fn lose_leader(cluster: &mut Cluster) {
    let leader = cluster.leader_of(0, 0).expect("a leader");
    // The directory of node 0 has the file that ends the script; it stays in its place.
    let asked = (leader + 1) % cluster.nodes().len();
    cluster.kill(leader);
    cluster.wait_until("another node leads", |cluster| {
        cluster.leader_of(0, asked).is_some_and(|new| new != leader)
    });
    cluster.restart(leader);
    cluster.wait_ok();
}

#[test]
fn redis_py_cluster() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    through_losses(&python(), "python/cluster.py", &mut cluster);
}

#[test]
fn redis_py_sentinel() {
    let mut cluster = Cluster::created(3, 1, 2, &["--cluster-redirects", "readonly"]);
    through_losses(&python(), "python/sentinel.py", &mut cluster);
}

#[test]
fn ioredis_cluster() {
    require(workspace().join("tests/clients/node/node_modules"));
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    through_losses(Path::new("node"), "node/ioredis.mjs", &mut cluster);
}

/// redis-cli -c follows redirections, its --cluster check finds nothing wrong, and redis-benchmark
/// --cluster runs.
#[test]
fn redis_cli_and_redis_benchmark() {
    let cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let port = cluster.node(0).port().to_string();
    let run = |program: &str, args: &[&str]| -> String {
        let output = Command::new(program).args(args).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {args:?}: {text}\n{errors}");
        text
    };
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(run("redis-cli", &["-c", "-p", &port, "SET", key, "1"]).trim(), "OK");
        assert_eq!(run("redis-cli", &["-c", "-p", &port, "INCR", key]).trim(), "2");
    }
    let check = run("redis-cli", &["--cluster", "check", &format!("127.0.0.1:{port}")]);
    assert!(check.contains("[OK] All nodes agree about slots configuration."), "{check}");
    assert!(check.contains("[OK] All 16384 slots covered."), "{check}");
    let info = run("redis-cli", &["--cluster", "info", &format!("127.0.0.1:{port}")]);
    assert!(info.contains("6 keys in 3 masters"), "{info}");
    let args = ["--cluster", "-p", &port, "-n", "3000", "-t", "set,get", "--csv"];
    let csv = run("redis-benchmark", &args);
    assert!(csv.contains("\"SET\"") && csv.contains("\"GET\"") && !csv.contains("rror"), "{csv}");
}

/// The `redis` crate's cluster client.
#[test]
fn redis_rs_cluster() {
    use redis::Commands;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let nodes = cluster.nodes().iter().map(|node| format!("redis://127.0.0.1:{}/", node.port()));
    let client = redis::cluster::ClusterClient::builder(nodes.collect::<Vec<_>>())
        .retries(16)
        .min_retry_wait(20)
        .max_retry_wait(100)
        .build()
        .expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    let _: () = connection.mset(&[("{tag}a", 1), ("{tag}b", 2)]).expect("MSET");
    let both: (i64, i64) = connection.mget(&["{tag}a", "{tag}b"]).expect("MGET");
    assert_eq!(both, (1, 2));
    let stop = Arc::new(AtomicBool::new(false));
    let ends = stop.clone();
    let work = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        let mut nth = 0_u64;
        while !ends.load(Ordering::Relaxed) {
            let key = format!("w:{}", nth % 500);
            // A dead node is tried again without a pause: the tries are over in no time.
            let since = Instant::now();
            while let Err(error) = connection.set::<_, _, ()>(&key, nth) {
                assert!(since.elapsed() < PATIENCE, "SET goes through: {error}");
            }
            acknowledged.insert(key, nth);
            nth += 1;
        }
        let since = Instant::now();
        for (key, value) in acknowledged {
            let found: Option<u64> = loop {
                // The last loss may be a moment ago.
                match connection.get(&key) {
                    Ok(found) => break found,
                    Err(error) => assert!(since.elapsed() < PATIENCE, "GET: {error}"),
                }
            };
            assert_eq!(found, Some(value), "{key}");
        }
        nth
    });
    for _ in 0..2 {
        lose_leader(&mut cluster);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(work.join().expect("the work is done") > 0);
}
