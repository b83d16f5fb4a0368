//! Who may do what, and who hears of it: client-side caching, access control, encryption.
//!
//! `ASHLAR_SUBJECT=redis` runs what is Redis's own behaviour against a redis-server instead.

mod acl;
mod near;
mod tls;
mod tls_replication;
mod tracking;

use ashlar_tests::resp::{Client, Value};

/// Sends a line and returns the reply, which is there within the client's timeout.
fn ask(client: &mut Client, line: &str) -> Value {
    client.line(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The same for a reply that must be `+OK`.
fn ok(client: &mut Client, line: &str) {
    assert_eq!(ask(client, line), Value::Simple(b"OK".to_vec()), "{line}");
}
