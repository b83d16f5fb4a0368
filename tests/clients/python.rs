//! redis-py, in RESP2 and RESP3, and Python's job libraries.

use super::{require, run, succeed, text};
use ashlar_tests::process::{Server, workspace};
use std::process::Command;

/// What came of the jobs of each library, as lines. Their times go to the test's output.
fn jobs(server: &Server) -> String {
    let script = workspace().join("tests/clients/python/jobs.py");
    let mut lines = String::new();
    for (place, libraries) in
        [(".venv", &["celery", "rq", "dramatiq", "django"][..]), (".venv-arq", &["arq"])]
    {
        let python = workspace().join(place).join("bin/python");
        require(&python);
        let mut command = Command::new(python);
        let output = run(command.arg(&script).arg(server.port().to_string()).args(libraries), b"");
        assert!(output.status.success(), "{}: {}", output.status, text(&output));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        lines.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    lines
}

/// Celery, RQ, arq, Dramatiq and Django's cache come to the same with either server.
#[test]
fn jobs_as_on_redis() {
    let redis = std::thread::spawn(|| jobs(&Server::redis(&[])));
    let own = jobs(&Server::ashlar(&[]));
    let redis = redis.join().expect("the jobs on redis-server are done");
    for (own, redis) in own.lines().zip(redis.lines()) {
        assert_eq!(own, redis);
    }
    assert_eq!(own, redis);
}

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
