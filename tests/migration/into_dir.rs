//! `ashlar import --dir`: a file becomes the data of a server that does not run yet.

use crate::content::{REDIS_THRESHOLDS, assert_equal, fill, run};
use ashlar_tests::process::{Server, ashlar_binary, temporary_dir};
use ashlar_tests::random::Random;
use ashlar_tests::resp::{Value, words};
use std::path::Path;
use std::process::Command;

/// Whether it succeeds, and what it says.
fn import(file: &Path, dir: &Path) -> (bool, String) {
    let mut command = Command::new(ashlar_binary());
    command.arg("import").arg(file).arg("--quiet").arg("--dir").arg(dir);
    let output = command.output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_server_starts_with_what_was_imported() {
    let redis = Server::redis(&REDIS_THRESHOLDS);
    let mut from = redis.client();
    run(&mut from, &fill(&mut Random::new(11)));
    let more = ["SELECT 2", "SET two 2", "SETEX three 1000 x", "SELECT 0", "PEXPIRE short:1 1"];
    run(&mut from, &more.map(words));
    let library = "#!lua name=kept\nredis.register_function('f', function() return 7 end)";
    assert_eq!(from.call(&["FUNCTION", "LOAD", library]).expect("a reply").text(), "kept");
    run(&mut from, &[words("SAVE")]);
    let file = redis.dir().join("dump.rdb");
    for settings in [["--save", "3600 1"], ["--appendonly", "yes"]] {
        let dir = temporary_dir().expect("a directory");
        assert_eq!(import(&file, &dir), (true, String::new()));
        let path = dir.display().to_string();
        let settings = [&["--dir", &path, "--io-threads", "2"], &settings[..]].concat();
        let server = Server::ashlar(&settings);
        assert_equal(&mut from, &mut server.client());
        assert_eq!(server.client().line("FCALL f 0").expect("a reply"), Value::Int(7));
        run(&mut server.client(), &[words("SELECT 2"), words("SET two changed")]);
        if settings.contains(&"--save") {
            assert_eq!(server.client().line("SAVE").expect("a reply").text(), "OK");
        }
        // It is killed; what was written comes from the snapshot, or from the log behind the one
        // that was imported.
        drop(server);
        let server = Server::ashlar(&settings);
        let mut client = server.client();
        assert_equal(&mut from, &mut client);
        run(&mut client, &[words("SELECT 2")]);
        assert_eq!(client.line("GET two").expect("a reply").text(), "changed");
        assert!(matches!(client.line("TTL three"), Ok(Value::Int(1..=1000))));
        drop(server);
        let (ok, message) = import(&file, &dir);
        assert!(!ok && message.contains("has data already"), "{message}");
        std::fs::remove_dir_all(dir).expect("the directory goes");
    }
}

#[test]
fn what_cannot_be_imported_leaves_nothing() {
    let redis = Server::redis(&[]);
    let mut from = redis.client();
    run(&mut from, &fill(&mut Random::new(12)));
    run(&mut from, &[words("SAVE")]);
    let dir = temporary_dir().expect("a directory");
    let cut = dir.join("cut.rdb");
    let bytes = std::fs::read(redis.dir().join("dump.rdb")).expect("the file");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    let (ok, message) = import(&cut, &dir);
    assert!(!ok && message.contains("ends too early"), "{message}");
    let (ok, message) = import(Path::new("-"), &dir);
    assert!(!ok && message.contains("read twice"), "{message}");
    // So the directory is as good as new.
    assert_eq!(import(&redis.dir().join("dump.rdb"), &dir), (true, String::new()));
    std::fs::remove_dir_all(dir).expect("the directory goes");
}
