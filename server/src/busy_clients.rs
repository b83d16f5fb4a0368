//! A worker's other clients while one's script is busy.
//!
//! The script holds the thread and the shards, so whoever else is on this worker would get no
//! answer. From the script's hook they are served as far as that goes without touching data: new
//! connections are accepted, SCRIPT KILL and its like run, everything else is told that the
//! server is busy. What cannot be answered yet stays where it is.

use crate::clock;
use crate::config::ids;
use crate::conn::Conn;
use crate::door::Door;
use crate::host::Host;
use crate::resp::decode::{Limits, Parsed, parse};
use crate::scripting::busy::Others;
use crate::shared::Shared;
use crate::worker::{LISTENERS, MAILBOX};
use ashlar_engine::command::Flags;
use ashlar_engine::executor::Prefetched;
use mio::{Events, Token};
use std::io::{Read, Write};
use std::time::Duration;

/// Events that are looked at in one go.
const EVENTS_MAX: usize = 256;
/// Bytes that one client may send ahead meanwhile.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Bytes of answers that wait for one client meanwhile.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Commands that run meanwhile: none of them touches a key.
const ALLOWED: [&str; 7] =
    ["auth", "hello", "quit", "shutdown", "script|kill", "function|kill", "function|stats"];

/// The clients, for the script's hook.
pub struct BusyClients<'a, 'e> {
    /// The worker's sockets.
    pub door: Door<'a, 'e>,
    /// Clients that are to be looked at once the script has ended.
    pub later: &'a mut Vec<usize>,
    /// Whether all clients were looked at once: what came together with the script's request was
    /// reported with it, and is not reported again.
    pub looked: bool,
}

impl BusyClients<'_, '_> {
    fn look_at(&mut self, slot: usize) {
        // The event will not come again: the worker looks by itself afterwards.
        if !self.later.contains(&slot) {
            self.later.push(slot);
        }
        if let Some(Some(conn)) = self.door.conns.get_mut(slot) {
            read(conn);
            answer(self.door.shared, self.door.number, conn);
        }
    }
}

impl Others for BusyClients<'_, '_> {
    fn serve(&mut self) {
        if !std::mem::replace(&mut self.looked, true) {
            let slots: Vec<usize> = self.door.conns.iter().map(|(slot, _)| slot).collect();
            slots.into_iter().for_each(|slot| self.look_at(slot));
        }
        let mut events = Events::with_capacity(EVENTS_MAX);
        if self.door.poll.poll(&mut events, Some(Duration::ZERO)).is_err() {
            return;
        }
        for event in &events {
            match event.token() {
                MAILBOX => {}
                Token(at) if at >= LISTENERS => {
                    self.door.accept(at - LISTENERS, clock::now_ms());
                }
                Token(slot) => self.look_at(slot),
            }
        }
    }
}

/// Reads what the client has sent. The end of the connection is found by the worker later.
fn read(conn: &mut Conn) {
    let mut buf = [0; 16 * 1024];
    while conn.input.len() < INPUT_BYTES_MAX {
        match conn.stream.read(&mut buf) {
            Ok(0) | Err(_) => break,
            Ok(len) => conn.input.extend_from_slice(&buf[..len]),
        }
    }
}

/// Answers the whole requests that a client has sent, as far as that goes.
fn answer(shared: &Shared, worker: usize, conn: &mut Conn) {
    if conn.waiting.is_some() || conn.held || conn.closing || conn.resume.is_some() {
        return;
    }
    // Replies that are there already may have to wait for the log.
    if !conn.backlog.is_empty() {
        return;
    }
    let input = std::mem::take(&mut conn.input);
    let mut at = 0;
    let mut out = Vec::new();
    while out.len() < OUTPUT_BYTES_MAX && !conn.closing {
        let limits = Limits {
            authenticated: conn.session.authenticated,
            bulk_bytes_max: shared.settings.number(ids::PROTO_MAX_BULK_LEN),
        };
        let mut args = Vec::new();
        let Ok(Parsed::Request(next)) = parse(&input, at, limits, &mut args) else { break };
        if !args.is_empty() && !answer_one(shared, worker, conn, &args, &mut out) {
            break;
        }
        at = next;
    }
    conn.input = input;
    conn.input.drain(..at);
    conn.backlog.push(&out);
    // A connection that is broken is closed by the worker later.
    drop(conn.backlog.send(&mut conn.stream).and_then(|()| conn.stream.flush()));
}

/// Answers one request; `false` where it has to wait until the script has ended.
fn answer_one(
    shared: &Shared,
    worker: usize,
    conn: &mut Conn,
    args: &[&[u8]],
    out: &mut Vec<u8>,
) -> bool {
    let found = shared.registry.resolve(args).ok();
    if let Some(resolved) = found {
        let name = shared.registry.full_name(resolved.id);
        let is_refused = !resolved.command.flags.contains(Flags::ALLOW_BUSY);
        if !is_refused && !ALLOWED.contains(&name) {
            return false;
        }
    }
    // It has no locks, and what it runs takes none.
    let mut exec = shared.engine.executor();
    let mut again = crate::conn::Again::default();
    let mut host =
        Host::new(shared, &mut conn.session, &mut exec, shared.stamp(clock::now_ms()), &mut again);
    host.worker = worker;
    let flow = host.request(found, args, Prefetched::NONE, out);
    conn.closing |= matches!(flow, crate::host::Flow::Close);
    true
}
