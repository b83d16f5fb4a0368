//! MONITOR: shows every command to who asks.

use crate::host::Host;
use crate::mailbox::Message;
use crate::redact::{REDACTED, secret_positions};
use crate::registry::Resolved;
use ashlar_engine::command::Flags;
use bytes::Bytes;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Sends a command to the monitors, as Redis shows it:
/// `+1700000000.123456 [0 127.0.0.1:1234] "get" "k"`.
pub fn feed(host: &Host<'_, '_>, resolved: &Resolved, args: &[&[u8]]) {
    feed_from(host, &host.session.client.peer, resolved, args);
}

/// As [`feed`], with a source that is not the client's address: `lua` for scripts.
pub fn feed_from(host: &Host<'_, '_>, source: &str, resolved: &Resolved, args: &[&[u8]]) {
    if !host.shared.monitored.load(Ordering::Relaxed)
        || resolved.command.flags.intersects(Flags::SKIP_MONITOR.union(Flags::ADMIN))
    {
        return;
    }
    let us = crate::clock::now_us();
    let mut line = String::new();
    let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
    // Writing to a String cannot fail.
    let _ = write!(line, "+{seconds}.{rest:06} [{} {source}]", host.session.db);
    let secret = secret_positions(args);
    for (at, arg) in args.iter().enumerate() {
        line.push(' ');
        quote(if secret.contains(&at) { REDACTED } else { arg }, &mut line);
    }
    line.push_str("\r\n");
    let bytes = Bytes::from(line);
    for monitor in host.shared.monitors.read().iter() {
        let address = monitor.address;
        host.shared.mailboxes[address.worker].post(Message::Send(address, bytes.clone()));
    }
}

/// Bytes in double quotes, with escapes for what cannot be printed.
pub fn quote(bytes: &[u8], out: &mut String) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(byte as char);
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            0x20..=0x7E => out.push(byte as char),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
    out.push('"');
}
