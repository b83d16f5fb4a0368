//! Scripts and functions against the real binary; where redis-server can judge, both run the same
//! scripts and the replies must be equal.

#![allow(clippy::unwrap_used, reason = "a failed test is to say where")]

mod busy;
mod escapes;
mod functions;
mod same_as_redis;

use ashlar_tests::resp::{Client, Value};

/// Runs a script without keys.
fn eval(client: &mut Client, script: &str) -> Value {
    let reply = client.call(&["EVAL", script, "0"]);
    reply.unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// Sends a command that must be answered.
fn ask(client: &mut Client, args: &[&str]) -> Value {
    client.call(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// The text of a reply: of an error, a status or a string.
fn text(value: &Value) -> String {
    match value {
        Value::Int(int) => int.to_string(),
        other => other.text(),
    }
}
