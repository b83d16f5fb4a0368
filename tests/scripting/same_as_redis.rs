//! A corpus of scripts, on ashlar and on redis-server.

use ashlar_tests::cli::show;
use ashlar_tests::process::{Server, workspace};
use ashlar_tests::resp::{Client, Value};
use std::fs;

/// A script and what it shows.
struct Case {
    what: String,
    script: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("--- ") {
            cases.push(Case { what: what.to_owned(), script: String::new() });
        } else if let Some(case) = cases.last_mut() {
            if !case.script.is_empty() {
                case.script.push('\n');
            }
            case.script.push_str(line);
        }
    }
    cases
}

fn run(client: &mut Client, command: &str, script: &str) -> Value {
    for line in ["FLUSHALL", "SELECT 0"] {
        client.line(line).unwrap();
    }
    let args = [command, script, "2", "k1", "k2", "a", "2", ""];
    client.call(&args).unwrap_or_else(|error| panic!("no reply to {script}: {error}"))
}

/// Not equal, as a text that shows both.
fn compare(corpus: &str, protocol: u8, servers: &(Server, Server), failures: &mut Vec<String>) {
    let path = workspace().join("tests/scripting/corpus").join(corpus);
    let cases = cases(&fs::read_to_string(&path).expect("the corpus can be read"));
    assert!(cases.len() > 10, "{corpus} has scripts in it");
    let (mut ashlar, mut redis) = (servers.0.client_of(protocol), servers.1.client_of(protocol));
    for Case { what, script } in cases {
        for command in ["EVAL", "EVAL_RO"] {
            let (ours, theirs) =
                (run(&mut ashlar, command, &script), run(&mut redis, command, &script));
            if ours != theirs {
                failures.push(format!(
                    "{corpus}, {what} ({command}, RESP{protocol}):\n{script}\nashlar:\n{}redis:\n{}",
                    show(&ours),
                    show(&theirs)
                ));
            }
        }
    }
}

#[test]
fn scripts_reply_as_on_redis() {
    let servers = (Server::ashlar(&[]), Server::redis(&[]));
    let mut failures = Vec::new();
    for corpus in ["conversions.lua", "errors.lua", "lua.lua", "cjson.lua", "packing.lua"] {
        for protocol in [2, 3] {
            compare(corpus, protocol, &servers, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}
