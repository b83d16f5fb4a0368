//! Real clients, as their users install them, against ashlar.
//!
//! `cargo xtask test` installs them; without them these tests fail, since a test that is skipped
//! proves nothing. `ASHLAR_SUBJECT=redis` runs them against a redis-server instead.

mod benchmark;
mod cli;
mod fred;
mod handshakes;
mod node;
mod python;
mod rust;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a program may run.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Runs a program to its end, with these bytes as its input.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => panic!("{program}: {error}; `cargo xtask test` installs what the tests need"),
    };
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that ends early has said why in its output.
        let _ = stdin.write_all(&input);
    });
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(TIMEOUT).is_err() {
            let _ = Command::new("kill").arg(pid.to_string()).status();
        }
    });
    let since = Instant::now();
    let output = child.wait_with_output().expect("the program's output");
    let _ = done.send(());
    writer.join().expect("the input was written");
    watchdog.join().expect("the watchdog ended");
    assert!(since.elapsed() < TIMEOUT, "{program} took too long:\n{}", text(&output));
    output
}

/// What a program wrote.
fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Runs a program that must succeed; what it wrote.
fn succeed(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    text(&output)
}

/// Fails, with what to do about it, if something that is to be installed is not there.
fn require(path: &Path) {
    assert!(path.exists(), "{} is missing: run `cargo xtask test`", path.display());
}
