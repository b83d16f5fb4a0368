//! Limits and bad input against the real binary; where redis-server can judge, the same bytes go
//! to both and the replies must be equal.

#![allow(clippy::unwrap_used, reason = "a failed test is to say where")]

mod cores;
mod load;
mod numbers;
mod protocol;
mod races;
mod sessions;
mod vulnerabilities;

use ashlar_tests::process::Server;
use ashlar_tests::resp::{Client, Value};
use std::io::{ErrorKind, Read, Write};

/// The request that ends an exchange, and the end of its reply.
const LAST: &[u8] = b"*2\r\n$4\r\nECHO\r\n$8\r\nthe last\r\n";
const LAST_REPLY: &[u8] = b"$8\r\nthe last\r\n";

/// Sends bytes and then [`LAST`] on a new connection: all that comes back until the reply to it or
/// until the server closes.
fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let client = server.client();
    let mut writer = client.stream().try_clone().expect("a second handle");
    let bytes = [bytes, LAST].concat();
    let sender = std::thread::spawn(move || {
        // A server that has closed takes no more: that is what some of the tests are about.
        let _ = writer.write_all(&bytes);
    });
    let answer = read_until(&client, LAST_REPLY);
    drop(client);
    sender.join().expect("the bytes were sent");
    answer
}

/// Reads until the connection ends or what was read ends so.
fn read_until(client: &Client, end: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while end.is_empty() || !answer.ends_with(end) {
        match client.stream().read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no end after {:?}: {error}", shown(&answer)),
        }
    }
    answer
}

/// Bytes as text, to be shown.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().chars().take(400).collect()
}

/// Sends one command that must be answered.
fn ask(client: &mut Client, line: &str) -> Value {
    client.line(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Sends one command; the text of its reply.
fn text(client: &mut Client, line: &str) -> String {
    match ask(client, line) {
        Value::Int(int) => int.to_string(),
        other => other.text(),
    }
}
