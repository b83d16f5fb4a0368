//! redis-py, in RESP2 and RESP3.

use super::{require, succeed};
use ashlar_tests::process::{Server, workspace};
use std::process::Command;

fn script(name: &str) {
    let server = Server::subject(&[]);
    let python = workspace().join(".venv/bin/python");
    require(&python);
    let script = workspace().join("tests/clients/python").join(name);
    succeed(Command::new(python).arg(script).arg(server.port().to_string()), b"");
}

#[test]
fn ordinary_work() {
    script("ordinary.py");
}

#[test]
fn waiting_for_others() {
    script("waiting.py");
}

#[test]
fn caching_and_users() {
    script("caching.py");
}

#[test]
fn scripting() {
    script("scripting.py");
}
