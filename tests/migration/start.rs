//! A server that is started in the directory of a Redis.

use crate::content::{REDIS_THRESHOLDS, assert_equal, fill, run};
use crate::live::until;
use ashlar_tests::process::{Server, free_port, temporary_dir};
use ashlar_tests::random::Random;
use ashlar_tests::resp::{Client, Value, words};
use std::fs;
use std::path::{Path, PathBuf};

const LIBRARY: &str = "#!lua name=kept\nredis.register_function('f', function() return 7 end)";
const LOG_DIR: &str = "appendonlydir";

/// Keys of all types in two databases, some that expire and some that have, and a function.
fn fill_redis(client: &mut Client) {
    run(client, &fill(&mut Random::new(21)));
    let more = ["SELECT 2", "SET two 2", "SETEX three 1000 x", "SELECT 0"];
    run(client, &more.map(words));
    assert_eq!(client.call(&["FUNCTION", "LOAD", LIBRARY]).expect("a reply").text(), "kept");
}

/// A new directory with the files of a Redis: its snapshot or the folder of its log.
fn copy(redis: &Server) -> PathBuf {
    let dir = temporary_dir().expect("a directory");
    if redis.dir().join("dump.rdb").exists() {
        fs::copy(redis.dir().join("dump.rdb"), dir.join("dump.rdb")).expect("a copy");
    }
    if let Ok(files) = fs::read_dir(redis.dir().join(LOG_DIR)) {
        fs::create_dir(dir.join(LOG_DIR)).expect("a folder");
        for file in files.flatten() {
            fs::copy(file.path(), dir.join(LOG_DIR).join(file.file_name())).expect("a copy");
        }
    }
    dir
}

/// All files of a Redis in a directory, with their bytes.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let in_log = fs::read_dir(dir.join(LOG_DIR)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = in_log.map(|file| file.path()).collect();
    paths.extend(["dump.rdb", "appendonly.aof"].map(|name| dir.join(name)));
    paths.sort();
    paths.into_iter().filter_map(|path| Some((path.clone(), fs::read(path).ok()?))).collect()
}

fn start(dir: &Path, settings: &[&str]) -> std::io::Result<Server> {
    let port = free_port()?;
    Server::ashlar_at(port, dir.into(), &[&["--io-threads", "2"], settings].concat())
}

/// Both servers have the same in all databases that were filled, and the function.
fn compare(redis: &mut Client, ashlar: &mut Client) {
    until("the data is loaded", || !ashlar.line("DBSIZE").expect("a reply").is_error());
    for db in ["SELECT 2", "SELECT 0"] {
        run(redis, &[words(db)]);
        run(ashlar, &[words(db)]);
        assert!(assert_equal(redis, ashlar) > 0);
    }
    assert_eq!(ashlar.line("FCALL f 0").expect("a reply"), Value::Int(7));
}

/// Starts in `dir` with each way to keep data: the Redis's files stay as they are, and from then on
/// ashlar's own count.
fn starts_in(dir: &Path, redis: &mut Client) {
    let before = files(dir);
    for own in [&["--save", ""][..], &["--save", "3600 1"], &["--save", "", "--appendonly", "yes"]]
    {
        let server = start(dir, own).expect("it starts");
        compare(redis, &mut server.client());
        assert!(server.log().contains("loaded the files of a Redis"), "{}", server.log());
        assert_eq!(files(dir), before);
        run(&mut server.client(), &[words("SET own 1")]);
        let dir = server.kill();
        let data = dir.join("ashlar-data");
        if own != ["--save", ""] {
            let server = start(&dir, own).expect("it starts again");
            let mut client = server.client();
            assert!(server.log().matches("loaded the files").count() <= 1, "{}", server.log());
            let logged = own.contains(&"--appendonly");
            assert_eq!(client.line("GET own").expect("a reply") == Value::bulk("1"), logged);
            run(&mut client, &[words("DEL own")]);
            compare(redis, &mut client);
            drop(server.kill());
            fs::remove_dir_all(data).expect("ashlar's data goes");
        } else {
            assert!(!data.exists(), "nothing is kept");
        }
        fs::remove_file(dir.join("log")).expect("the log goes");
    }
}

#[test]
fn a_snapshot_is_what_a_server_starts_with() {
    let redis = Server::redis(&REDIS_THRESHOLDS);
    let mut from = redis.client();
    fill_redis(&mut from);
    run(&mut from, &["SET past 1", "PEXPIRE past 1", "SAVE"].map(words));
    let dir = copy(&redis);
    starts_in(&dir, &mut from);
    // By another name.
    fs::rename(dir.join("dump.rdb"), dir.join("other.rdb")).expect("another name");
    let server = start(&dir, &["--save", ""]).expect("it starts");
    assert_eq!(server.client().line("DBSIZE").expect("a reply"), Value::Int(0));
    let dir = server.kill();
    let server = start(&dir, &["--save", "", "--dbfilename", "other.rdb"]).expect("it starts");
    compare(&mut from, &mut server.client());
}

/// What a log has: commands behind a snapshot or behind commands, transactions, and remarks.
#[test]
fn a_log_is_what_a_server_starts_with() {
    for preamble in ["yes", "no"] {
        let settings = ["--appendonly", "yes", "--aof-use-rdb-preamble", preamble];
        let remarks = ["--aof-timestamp-enabled", "yes"];
        let redis = Server::redis(&[&REDIS_THRESHOLDS[..], &settings, &remarks].concat());
        let mut from = redis.client();
        fill_redis(&mut from);
        run(&mut from, &["SET base 1", "PEXPIRE base 100000000", "BGREWRITEAOF"].map(words));
        until("the log is rewritten", || {
            let info = from.line("INFO persistence").expect("a reply").text();
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        });
        let more = [
            "PERSIST base",
            "MULTI",
            "INCR n",
            "SPOP set:3 2",
            "EXEC",
            "XADD stream:1 * a b",
            "EXPIRE long:2 1000",
            "SELECT 2",
            "APPEND two 3",
            "SELECT 0",
            "EVAL return{redis.call('incr',KEYS[1])} 1 n",
        ];
        for line in more {
            let line: Vec<Vec<u8>> = words(line).into_iter().map(|word| word.to_vec()).collect();
            assert!(!from.call(&line).expect("a reply").is_error(), "{line:?}");
        }
        let dir = copy(&redis);
        assert!(files(&dir).len() >= 3, "a list, a base and commands");
        // What Redis itself makes of the log: commands do not have all that a snapshot has.
        run(&mut from, &[words("DEBUG LOADAOF")]);
        starts_in(&dir, &mut from);
        torn_ends(&dir, &mut from);
        // Redis before 7.0 has it all in one file.
        let all =
            files(&dir).into_iter().filter(|(path, _)| !path.ends_with("appendonly.aof.manifest"));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(path, _)| path.to_string_lossy().contains(".incr."));
        let single: Vec<u8> = all.into_iter().flat_map(|(_, bytes)| bytes).collect();
        fs::remove_dir_all(dir.join(LOG_DIR)).expect("the folder goes");
        fs::write(dir.join("appendonly.aof"), single).expect("a file");
        starts_in(&dir, &mut from);
        fs::remove_dir_all(dir).expect("the directory goes");
    }
}

/// The commands of a log end anywhere where a Redis was killed.
fn torn_ends(dir: &Path, redis: &mut Client) {
    let incr = files(dir).into_iter().find(|(path, _)| path.to_string_lossy().contains(".incr."));
    let (path, whole) = incr.expect("commands");
    let torn = [&whole[..], b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*2\r\n$4\r\nIN"]
        .concat();
    fs::write(&path, torn).expect("a torn end");
    let strict = ["--appendonly", "yes", "--aof-load-truncated", "no"];
    refused(dir, &strict, "the last command is not whole; `aof-load-truncated yes`");
    let server = start(dir, &["--appendonly", "yes"]).expect("it starts");
    compare(redis, &mut server.client());
    assert!(server.log().contains("the log's end is torn"), "{}", server.log());
    drop(server.kill());
    fs::remove_dir_all(dir.join("ashlar-data")).expect("ashlar's data goes");
    fs::write(&path, whole).expect("the file as it was");
}

/// The server does not start, says why, and keeps nothing.
fn refused(dir: &Path, settings: &[&str], text: &str) {
    let error = start(dir, settings).map(|_| ()).expect_err("it does not start").to_string();
    assert!(error.contains(text), "{text} is missing:\n{error}");
    let snapshots = fs::read_dir(dir.join("ashlar-data/snapshot"));
    assert_eq!(snapshots.map_or(0, |files| files.flatten().count()), 0, "nothing was kept");
    fs::remove_file(dir.join("log")).expect("the log goes");
}

#[test]
fn what_is_damaged_keeps_a_server_from_starting() {
    let redis = Server::redis(&["--appendonly", "yes"]);
    let mut from = redis.client();
    fill_redis(&mut from);
    run(&mut from, &[words("SAVE")]);
    run(&mut from, &[words("SET last 1")]);
    let dir = copy(&redis);
    let save = ["--save", "3600 1"];
    let logged = ["--appendonly", "yes"];
    let whole = fs::read(dir.join("dump.rdb")).expect("the snapshot");
    let change = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).expect("a file");
    change("dump.rdb", &whole[..whole.len() / 2]);
    refused(&dir, &save, "dump.rdb: not a correct RDB file: it ends too early");
    let mut flipped = whole.clone();
    let at = whole.len() - 12;
    flipped[at] ^= 1;
    change("dump.rdb", &flipped);
    refused(&dir, &save, "dump.rdb: not a correct RDB file: ");
    change("dump.rdb", b"");
    refused(&dir, &save, "dump.rdb: not a correct RDB file: ");
    change("dump.rdb", &whole);
    refused(&dir, &["--save", "3600 1", "--databases", "1"], "DB index is out of range");

    let incr = format!("{LOG_DIR}/appendonly.aof.1.incr.aof");
    let list = format!("{LOG_DIR}/appendonly.aof.manifest");
    let (commands, names) =
        (fs::read(dir.join(&incr)).unwrap(), fs::read(dir.join(&list)).unwrap());
    change(&incr, &[&commands[..], b"*1\r\n$7\r\nNOTHING\r\n"].concat());
    refused(&dir, &logged, "the command \"NOTHING\" is unknown");
    change(&incr, &[&commands[..], b"SET a b\r\n", &commands].concat());
    refused(&dir, &logged, &format!("at byte {}: there is no command", commands.len()));
    change(&incr, &[&commands[..], b"*1\r\n$x\r\n"].concat());
    refused(&dir, &logged, "invalid bulk length");
    // Only the last file may end before a command does.
    let second = format!("{LOG_DIR}/appendonly.aof.2.incr.aof");
    change(&incr, &commands[..commands.len() - 3]);
    change(&second, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n");
    change(&list, &[&names[..], b"file appendonly.aof.2.incr.aof seq 2 type i\n"].concat());
    refused(&dir, &logged, "the last command is not whole");
    change(&incr, &commands);
    fs::remove_file(dir.join(&second)).expect("it goes");
    refused(&dir, &logged, "appendonly.aof.2.incr.aof is missing");
    change(&list, b"file nothing\n");
    refused(&dir, &logged, "line 1: it is no `file NAME seq N type T`");
    fs::remove_file(dir.join(&list)).expect("it goes");
    refused(&dir, &logged, "which lists them");
    // With all of it as it was the log counts, or the snapshot, as `appendonly` says.
    change(&list, &names);
    for (settings, last) in [(&save[..], Value::Null), (&logged, Value::bulk("1"))] {
        let server = start(&dir, settings).expect("it starts");
        until("it is loaded", || !server.client().line("PING").expect("a reply").is_error());
        assert_eq!(server.client().line("GET last").expect("a reply"), last);
        assert_eq!(server.client().line("FCALL f 0").expect("a reply"), Value::Int(7));
        assert!(server.log().contains("is left out, since `appendonly` is"), "{}", server.log());
        drop(server.kill());
        fs::remove_dir_all(dir.join("ashlar-data")).expect("ashlar's data goes");
    }
    fs::remove_dir_all(dir).expect("the directory goes");
}
