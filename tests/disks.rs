//! Servers on bad disks: full, read-only, failing. Writes are refused, reads go on, nothing that was
//! acknowledged is lost, and where that is possible the server goes on by itself.
//!
//! A full disk needs a file system of its own, so root. A machine without fails these tests unless
//! `ASHLAR_NO_LOOP_DEVICES=1` says that it is known.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use ashlar_tests::ask::{ask, info, wait_for};
use ashlar_tests::process::{Server, temporary_dir};
use ashlar_tests::resp::words;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Bytes of a value.
const VALUE: usize = 40_000;

/// A small file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where none can be mounted and that is known.
    fn new(options: &str) -> Option<SmallDisk> {
        let dir = temporary_dir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", dir.to_str().unwrap()])
            .output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("NO DISK IS FULL: this machine cannot mount a tmpfs: {output:?}");
        let known = std::env::var("ASHLAR_NO_LOOP_DEVICES").is_ok_and(|value| value == "1");
        assert!(known, "set ASHLAR_NO_LOOP_DEVICES=1 where that is known");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let dir = self.0.to_str().unwrap();
        assert!(Command::new("mount").args(["-o", &options, dir]).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn start(dir: &Path, settings: &[&str]) -> Server {
    let dir = dir.to_str().unwrap();
    let all = ["--dir", dir, "--save", "", "--appendonly", "yes", "--log-segment-size", "1mb"];
    Server::ashlar(&[&all[..], settings].concat())
}

fn value(number: usize) -> String {
    format!("{number}.").repeat(VALUE / 5)
}

/// Writes until it is refused; the number of keys that were acknowledged, and the refusal.
fn write_until_refused(server: &Server, from: usize) -> (usize, String) {
    let mut client = server.client();
    for number in from..from + 2_000 {
        let set = words(&format!("SET key:{number} {}", value(number)));
        client.send(&set).unwrap();
        client.set_timeout(Duration::from_millis(500)).unwrap();
        // A write that was taken when the disk had become full waits for room: it is not acknowledged.
        match client.reply() {
            Ok(reply) if reply.text() == "OK" => {}
            Ok(reply) => return (number, reply.text()),
            Err(_) => {
                let refusal = ask(&mut server.client(), "SET another value");
                return (number, refusal);
            }
        }
    }
    panic!("the disk does not fill up");
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    for policy in ["always", "everysec"] {
        let Some(disk) = SmallDisk::new("size=12m") else { return };
        let filler = disk.0.join("filler");
        std::fs::write(&filler, vec![1; 5 << 20]).unwrap();
        let server = start(&disk.0, &["--appendfsync", policy]);
        let (acknowledged, refusal) = write_until_refused(&server, 0);
        let expected = "MISCONF Errors writing to the AOF file: No space left on device";
        assert_eq!(refusal, expected, "{policy}");
        let mut client = server.client();
        assert_eq!(info(&mut client, "aof_last_write_status"), "err");
        assert_eq!(ask(&mut client, "GET key:0"), value(0));
        assert_eq!(ask(&mut client, "MULTI"), "OK");
        assert!(ask(&mut client, "INCR n").starts_with("MISCONF"));
        assert!(ask(&mut client, "EXEC").starts_with("EXECABORT"));
        // A server that is killed now comes back with all of it once there is room for a segment.
        std::fs::remove_file(&filler).unwrap();
        wait_for("there is room", || ask(&mut client, "SET later value") == "OK");
        assert_eq!(info(&mut client, "aof_last_write_status"), "ok");
        let (acknowledged_again, _) = write_until_refused(&server, acknowledged + 1);
        drop(server);
        let room = std::fs::read_dir(disk.0.join("ashlar-data/log")).unwrap().count();
        assert!(room > 0);
        disk.remount("size=24m");
        let server = start(&disk.0, &["--appendfsync", policy]);
        let mut client = server.client();
        for number in (0..acknowledged).chain(acknowledged + 1..acknowledged_again) {
            assert_eq!(ask(&mut client, &format!("GET key:{number}")), value(number));
        }
        assert_eq!(ask(&mut client, "GET later"), "value");
    }
}

#[test]
fn a_read_only_disk_is_refused_at_the_start() {
    let Some(disk) = SmallDisk::new("size=12m") else { return };
    let server = start(&disk.0, &["--appendfsync", "always"]);
    assert_eq!(ask(&mut server.client(), "SET k v"), "OK");
    let port = server.port().to_string();
    drop(server);
    disk.remount("ro");
    let output = Command::new(ashlar_tests::process::ashlar_binary())
        .args(["server", "--port", &port, "--appendonly", "yes", "--dir", disk.0.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Read-only file system"), "{text}");
    disk.remount("rw");
    let server = start(&disk.0, &["--appendfsync", "always"]);
    assert_eq!(ask(&mut server.client(), "GET k"), "v");
}

#[test]
fn a_failed_sync_is_final_and_acknowledges_nothing() {
    let dir = temporary_dir().unwrap();
    let settings = ["--appendfsync", "always", "--enable-debug-command", "yes"];
    let server = start(&dir, &settings);
    let (mut client, mut writer) = (server.client(), server.client());
    assert_eq!(ask(&mut client, "SET before v"), "OK");
    assert_eq!(ask(&mut client, "DEBUG SYNC-FAULT 1"), "OK");
    // Nobody knows whether this one will be there: the connection ends instead of an answer.
    writer.send(&words("SET during v")).unwrap();
    assert!(writer.reply().is_err());
    assert_eq!(ask(&mut client, "DEBUG SYNC-FAULT 0"), "OK");
    let refusal = ask(&mut client, "SET after v");
    assert_eq!(refusal, "MISCONF Errors writing to the AOF file: Input/output error");
    assert_eq!(ask(&mut client, "GET before"), "v");
    assert_eq!(info(&mut client, "log_health"), "failed");
    // A log that is begun anew goes on.
    assert_eq!(ask(&mut client, "CONFIG SET appendonly no"), "OK");
    wait_for("the log is off", || info(&mut client, "aof_enabled") == "0");
    assert_eq!(ask(&mut client, "CONFIG SET appendonly yes"), "OK");
    wait_for("the log counts", || info(&mut client, "aof_rewrite_in_progress") == "0");
    assert_eq!(ask(&mut client, "SET again v"), "OK");
    drop(server);
    let server = start(&dir, &settings);
    let mut client = server.client();
    assert_eq!(ask(&mut client, "GET before"), "v");
    assert_eq!(ask(&mut client, "GET again"), "v");
    assert_eq!(ask(&mut client, "EXISTS after"), "0");
    drop(server);
    std::fs::remove_dir_all(dir).unwrap();
}
