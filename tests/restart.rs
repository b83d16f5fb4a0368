//! Real daemons that end and start again: everything is there, or what is promised of it.

#![allow(clippy::unwrap_used, reason = "a failed test is to say where")]

use ashlar_tests::ask::{ask, info, wait_for};
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::process::{Server, ashlar_binary, free_port, temporary_dir};
use ashlar_tests::resp::Client;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory that servers come back to.
struct Home(PathBuf);

impl Home {
    fn new() -> Home {
        Home(temporary_dir().unwrap())
    }

    fn start(&self, settings: &[&str]) -> Server {
        let dir = self.0.to_str().unwrap();
        Server::ashlar(&[&["--dir", dir, "--enable-debug-command", "yes"], settings].concat())
    }

    fn snapshots(&self) -> Vec<PathBuf> {
        let dir = self.0.join("ashlar-data/snapshot");
        let Ok(names) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = names.map(|name| name.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Random calls of all families, which leave values of all types; and some of each for certain.
fn fill(client: &mut Client, seed: u64) {
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    let blocks = |spec: &Spec| spec.name.starts_with('B') || spec.name.starts_with("XREAD");
    let specs: Vec<Spec> = specs.into_iter().filter(|spec| !blocks(spec)).collect();
    let mut generator = Generator::new(seed);
    let calls: Vec<_> = (0..4_000)
        .map(|_| {
            let spec = generator.random.pick(&specs).clone();
            generator.call(&spec)
        })
        .filter(|argv| !argv[0].eq_ignore_ascii_case(b"FLUSHALL"))
        .collect();
    for calls in calls.chunks(200) {
        client.pipeline(calls).unwrap();
    }
    for line in [
        "SET text v",
        "SET int 5 EX 100000",
        "RPUSH list a b",
        "SADD set a b",
        "HSET hash f v",
        "HPEXPIRE hash 100000000 FIELDS 1 f",
        "ZADD zset 1 a",
        "XADD stream * f v",
        "PFADD hll a",
        "SELECT 5",
        "SET elsewhere v",
        "SELECT 0",
    ] {
        let reply = client.line(line).unwrap();
        assert!(!reply.is_error() || line.contains("WRONGTYPE"), "{line}: {reply:?}");
    }
}

fn digest(client: &mut Client) -> String {
    // What has expired counts until it is deleted.
    ask(client, "DEBUG SET-ACTIVE-EXPIRE 0");
    ask(client, "DEBUG DIGEST")
}

#[test]
fn all_types_come_back_from_a_snapshot_and_from_the_log() {
    for (settings, end) in [
        (&["--save", "3600 1"][..], "SHUTDOWN"),
        (&["--save", "", "--io-threads", "3"], "SHUTDOWN SAVE"),
        (&["--appendonly", "yes"], "SHUTDOWN NOSAVE"),
        (&["--appendonly", "yes", "--save", "3600 1", "--io-threads", "2"], "SHUTDOWN"),
    ] {
        let home = Home::new();
        let server = home.start(settings);
        let mut client = server.client();
        client.line("FLUSHALL").unwrap();
        fill(&mut client, 7);
        if end == "SHUTDOWN NOSAVE" {
            // A snapshot in the middle, and a log behind it.
            assert_eq!(
                ask(&mut client, "BGREWRITEAOF"),
                "Background append only file rewriting started"
            );
            wait_for("the snapshot", || info(&mut client, "aof_rewrite_in_progress") == "0");
            fill(&mut client, 8);
        }
        let before = digest(&mut client);
        let reloaded = ask(&mut client, "DEBUG RELOAD");
        assert_eq!((reloaded.as_str(), digest(&mut client)), ("OK", before.clone()));
        let _ = client.line(end);
        assert_eq!(server.wait(), Some(0));

        let server = home.start(settings);
        let mut client = server.client();
        assert_eq!(digest(&mut client), before, "{settings:?} {end}");
        assert!(server.log().contains("loaded "), "{}", server.log());
        // Without a log, what is not saved is lost.
        ask(&mut client, "SET lost v");
        let _ = client.line("SHUTDOWN NOSAVE");
        server.wait();
        let server = home.start(settings);
        let expected = if settings.contains(&"--appendonly") { "1" } else { "0" };
        assert_eq!(ask(&mut server.client(), "EXISTS lost"), expected, "{settings:?}");
    }
}

const LIBRARY: &str =
    "#!lua name=mine\nredis.register_function('answer', function() return 42 end)";

#[test]
fn functions_come_back() {
    for settings in [&["--save", "3600 1"][..], &["--appendonly", "yes"]] {
        let home = Home::new();
        let server = home.start(settings);
        let mut client = server.client();
        let load = [&b"FUNCTION"[..], b"LOAD", LIBRARY.as_bytes()].map(<[u8]>::to_vec);
        assert_eq!(client.pipeline(&[load.to_vec()]).unwrap()[0].text(), "mine");
        for _ in 0..3 {
            // The second one lets the log go that has the call.
            ask(&mut client, "SET k v");
            assert_eq!(ask(&mut client, "SAVE"), "OK");
        }
        let _ = client.line("SHUTDOWN NOSAVE");
        server.wait();
        let server = home.start(settings);
        assert_eq!(ask(&mut server.client(), "FCALL answer 0"), "42", "{settings:?}");
    }
}

#[test]
fn a_cache_keeps_nothing() {
    let home = Home::new();
    let server = home.start(&[]);
    ask(&mut server.client(), "SET k v");
    assert_eq!(server.stop(), Some(0));
    assert_eq!(std::fs::read_dir(&home.0).unwrap().count(), 0);
    // Unless it is asked for.
    let server = home.start(&[]);
    let mut client = server.client();
    assert_eq!(ask(&mut client, "DBSIZE"), "0");
    ask(&mut client, "SET k v");
    let before: i64 = ask(&mut client, "LASTSAVE").parse().unwrap();
    assert_eq!(ask(&mut client, "SAVE"), "OK");
    assert!(ask(&mut client, "LASTSAVE").parse::<i64>().unwrap() >= before);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(ask(&mut home.start(&[]).client(), "GET k"), "v");
}

#[test]
fn snapshots_are_taken_by_time_and_by_growth_of_the_log() {
    let home = Home::new();
    let server = home.start(&["--save", "1 5"]);
    let mut client = server.client();
    for key in 0..5 {
        assert_eq!(info(&mut client, "rdb_changes_since_last_save"), key.to_string());
        ask(&mut client, &format!("SET k{key} v"));
    }
    wait_for("a snapshot by time", || !home.snapshots().is_empty());
    wait_for("its end", || info(&mut client, "rdb_saves") == "1");
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), "0");
    assert_eq!(info(&mut client, "snapshot_last_keys"), "5");
    assert_eq!(server.stop(), Some(0));
    drop(home);

    let home = Home::new();
    let settings = [
        "--appendonly",
        "yes",
        "--auto-aof-rewrite-min-size",
        "100kb",
        "--log-segment-size",
        "64kb",
    ];
    let server = home.start(&settings);
    let mut client = server.client();
    let value = "v".repeat(1_000);
    for key in 0..300 {
        ask(&mut client, &format!("SET k{} {value}", key % 50));
    }
    wait_for("a snapshot by growth", || info(&mut client, "rdb_saves") != "0");
    let before = digest(&mut client);
    let _ = client.line("SHUTDOWN");
    server.wait();
    assert_eq!(digest(&mut home.start(&settings).client()), before);
}

#[test]
fn a_second_server_is_refused() {
    let home = Home::new();
    let _server = home.start(&["--save", "3600 1"]);
    let refused = std::panic::catch_unwind(|| home.start(&["--save", "3600 1"]));
    let text = refused.err().map(|panic| *panic.downcast::<String>().unwrap());
    assert!(text.is_some_and(|text| text.contains("used by another server")));
}

#[test]
fn a_damaged_snapshot_is_not_served() {
    let home = Home::new();
    let server = home.start(&[]);
    let mut client = server.client();
    for key in 0..1_000 {
        ask(&mut client, &format!("SET key{key} value"));
    }
    ask(&mut client, "SAVE");
    server.stop();
    let path = home.snapshots()[0].clone();
    let whole = std::fs::read(&path).unwrap();
    for at in [20, 100, whole.len() / 2, whole.len() - 3] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        let refused = std::panic::catch_unwind(|| home.start(&[]));
        let text = refused.err().map(|panic| *panic.downcast::<String>().unwrap());
        assert!(text.is_some_and(|text| text.contains("damaged")), "byte {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(ask(&mut home.start(&[]).client(), "DBSIZE"), "1000");
}

/// While snapshots fail, writes are refused as `stop-writes-on-bgsave-error` says; reads go on.
#[test]
fn writes_stop_while_snapshots_fail() {
    let home = Home::new();
    let server = home.start(&["--save", "3600 1000"]);
    let mut client = server.client();
    ask(&mut client, "SET k v");
    // A file where the directory should be: root, too, cannot write through it.
    let dir = home.0.join("ashlar-data/snapshot");
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::write(&dir, b"").unwrap();
    assert!(ask(&mut client, "SAVE").starts_with("ERR can't take a snapshot"));
    assert_eq!(info(&mut client, "rdb_last_bgsave_status"), "err");
    for line in ["SET k w", "PING", "DEL k"] {
        assert!(
            ask(&mut client, line).starts_with("MISCONF Redis is configured to save"),
            "{line}"
        );
    }
    assert_eq!(ask(&mut client, "GET k"), "v");
    assert!(ask(&mut client, "SHUTDOWN SAVE").starts_with("ERR Errors trying to SHUTDOWN"));
    ask(&mut client, "CONFIG SET stop-writes-on-bgsave-error no");
    assert_eq!(ask(&mut client, "SET k w"), "OK");
    ask(&mut client, "CONFIG SET stop-writes-on-bgsave-error yes");
    repair(&dir);
    assert_eq!(ask(&mut client, "BGSAVE"), "Background saving started");
    wait_for("the snapshot", || info(&mut client, "rdb_last_bgsave_status") == "ok");
    assert_eq!(
        (ask(&mut client, "SET k x").as_str(), ask(&mut client, "PING").as_str()),
        ("OK", "PONG")
    );
}

fn repair(dir: &Path) {
    std::fs::remove_file(dir).unwrap();
    std::fs::create_dir(dir).unwrap();
}

/// While a snapshot is being taken, clients go on writing: it has one moment between its beginning and its end, so of
/// writes that follow each other the first ones, up to one of them.
#[test]
fn a_snapshot_has_its_moment_while_clients_write() {
    let home = Home::new();
    let server = home.start(&[]);
    let mut client = server.client();
    let keys = 30_000;
    let set = |round: usize| {
        let calls = (0..keys).map(move |key| {
            vec![b"SET".to_vec(), format!("key{key}").into_bytes(), format!("{round}").into_bytes()]
        });
        calls.collect::<Vec<_>>()
    };
    set(0).chunks(1_000).for_each(|calls| drop(client.pipeline(calls).unwrap()));
    assert_eq!(ask(&mut client, "BGSAVE"), "Background saving started");
    set(1).chunks(1_000).for_each(|calls| drop(client.pipeline(calls).unwrap()));
    wait_for("the snapshot", || info(&mut client, "rdb_bgsave_in_progress") == "0");
    let _ = client.line("SHUTDOWN NOSAVE");
    server.wait();
    let server = home.start(&[]);
    let mut client = server.client();
    let calls = (0..keys).map(|key| vec![b"GET".to_vec(), format!("key{key}").into_bytes()]);
    let calls: Vec<_> = calls.collect();
    let rounds: Vec<String> = (calls.chunks(1_000))
        .flat_map(|calls| client.pipeline(calls).unwrap())
        .map(|value| value.text().to_owned())
        .collect();
    let new = rounds.iter().take_while(|round| *round == "1").count();
    let old = rounds[new..].iter().filter(|round| *round == "0").count();
    assert_eq!(new + old, keys, "the first {new} have been written again");
}

/// Waits for the snapshot that the log begins with.
fn wait_for_log(client: &mut Client) {
    wait_for("the log counts", || info(client, "aof_rewrite_in_progress") == "0");
}

#[test]
fn the_log_is_turned_on_and_off_while_clients_write() {
    for threads in ["1", "3"] {
        let home = Home::new();
        let settings = ["--save", "", "--appendfsync", "always", "--io-threads", threads];
        let server = home.start(&settings);
        let mut client = server.client();
        fill(&mut client, 7);
        assert_eq!(info(&mut client, "aof_enabled"), "0");
        let reply = ask(&mut client, "WAITAOF 1 0 0");
        assert!(reply.contains("appendonly is disabled"), "{reply}");
        // Somebody writes all the time.
        let stop = std::sync::atomic::AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let mut writer = server.client();
            let stop = &stop;
            let writing = scope.spawn(move || {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    count += 1;
                    assert_eq!(ask(&mut writer, "INCR counter"), count.to_string());
                }
                count
            });
            for _ in 0..2 {
                assert_eq!(ask(&mut client, "CONFIG SET appendonly yes"), "OK");
                assert_eq!(info(&mut client, "aof_enabled"), "1");
                wait_for_log(&mut client);
                assert_eq!(ask(&mut client, "CONFIG SET appendonly no"), "OK");
                wait_for("the log is off", || info(&mut client, "aof_enabled") == "0");
            }
            ask(&mut client, "CONFIG SET appendonly yes");
            wait_for_log(&mut client);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            writing.join().unwrap()
        });
        ask(&mut client, "SET after the-switch");
        let before = digest(&mut client);
        drop(server);
        let server = home.start(&[&settings[..], &["--appendonly", "yes"]].concat());
        let mut client = server.client();
        assert_eq!(ask(&mut client, "GET counter"), written.to_string());
        assert_eq!(ask(&mut client, "GET after"), "the-switch");
        assert_eq!(digest(&mut client), before);
        // What comes after the log's end is not kept; what was before it is.
        ask(&mut client, "SET last logged");
        ask(&mut client, "CONFIG SET appendonly no");
        wait_for("the log is off", || info(&mut client, "aof_enabled") == "0");
        ask(&mut client, "SET last forgotten");
        drop(server);
        let server = home.start(&settings);
        let mut client = server.client();
        assert_eq!(ask(&mut client, "GET last"), "logged");
    }
}

/// The log was turned on, and the machine ended before the snapshot that it begins with was there.
#[test]
fn a_log_without_its_beginning_is_not_read() {
    let home = Home::new();
    let settings = ["--save", "", "--appendonly", "no"];
    let server = home.start(&settings);
    let mut client = server.client();
    ask(&mut client, "SET key saved");
    ask(&mut client, "SAVE");
    ask(&mut client, "SET key not-saved");
    ask(&mut client, "CONFIG SET appendonly yes");
    wait_for_log(&mut client);
    ask(&mut client, "SET other value");
    drop(server);
    // As it was before that snapshot got its name.
    std::fs::remove_file(home.snapshots().last().unwrap()).unwrap();
    std::fs::write(home.0.join("ashlar-data/log-begins"), b"").unwrap();
    for repair in [&[][..], &["--repair"]] {
        let checked = Command::new(ashlar_binary()).arg("check").arg(&home.0).args(repair).output();
        let checked = checked.unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && said.starts_with("log-begins is there"), "{said}");
    }
    let server = home.start(&["--save", "", "--appendonly", "yes"]);
    let mut client = server.client();
    assert_eq!(ask(&mut client, "GET key"), "saved");
    assert_eq!(ask(&mut client, "DBSIZE"), "1");
    assert_eq!(ask(&mut client, "SET key again"), "OK");
}

/// Whoever reads what a server says may go: it goes on, says what it has to say to nobody, and stops when it is told to.
#[test]
fn a_server_outlives_the_reader_of_its_log() {
    let port = free_port().unwrap();
    let mut child = Command::new(ashlar_binary())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.starts_with("ashlar "), "{line}");
    drop((out, child.stderr.take()));
    let mut client = Client::connect(port).unwrap();
    // Each is something to be logged: by the thread of signals, and by a worker.
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    assert_eq!(client.line("REPLICAOF 127.0.0.1 1").unwrap().text(), "OK");
    assert_eq!(client.line("REPLICAOF NO ONE").unwrap().text(), "OK");
    assert_eq!(client.line("PING").unwrap().text(), "PONG");
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let since = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if since.elapsed().as_secs() > 30 {
            child.kill().unwrap();
            panic!("it does not stop");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}
