//! What comes to a worker's connections from elsewhere: messages of other threads, and all that lets a
//! connection go on that was waiting.

use super::{WRITE_BYTES, Worker};
use crate::conn::{Again, Conn, Waiting};
use crate::mailbox::{Address, Mailbox, Message};
use crate::strong::Agreed;
use ashlar_engine::tier::Brought;
use std::io;
use std::sync::atomic::Ordering;

impl Worker<'_> {
    /// Delivers the messages from other threads.
    pub(super) fn deliver(&mut self) {
        if !self.shared.mailboxes[self.number].is_waiting() {
            return;
        }
        let mut messages = std::mem::take(&mut self.messages);
        self.shared.mailboxes[self.number].take(&mut messages);
        for message in messages.drain(..) {
            match message {
                Message::Send(address, bytes) => self.push(address, &bytes),
                Message::Unblock(address, reply) => self.unblock(address, &reply),
                Message::GiveUp(address, with_error) => self.give_up(address, with_error),
                Message::Kill(address) => self.kill(address),
                Message::Durable => {}
                Message::Resume => self.resume_paused(),
                Message::Between(busy) => drop(busy.fetch_sub(1, Ordering::AcqRel)),
                Message::Adopt(stream) => self.adopt(stream),
                Message::Loaded(address, loaded) => self.loaded(address, loaded),
                Message::Room => self.resume_roomless(),
                Message::Agreed(address, agreed) => self.agreed(address, agreed),
                Message::Shutdown => {}
            }
        }
        self.messages = messages;
        self.flush_touched();
    }

    /// Writes to the connections that got messages.
    pub(super) fn flush_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for slot in touched.drain(..) {
            self.with_conn(slot, |worker, conn| worker.flush(conn));
        }
        self.touched = touched;
    }

    /// Bytes were added to a connection's backlog: they are sent this turn, through the gate.
    pub(super) fn touch(&mut self, address: Address) {
        self.touched.push(address.slot);
        let Some(gate) = self.gate else { return };
        if let Some(conn) = self.conn(address)
            && !conn.held
            && gate.holds(conn.own_index)
        {
            conn.held = true;
            self.gathered.push(address);
        }
    }

    pub(super) fn conn(&mut self, address: Address) -> Option<&mut Box<Conn>> {
        let conn = self.conns.get_mut(address.slot)?.as_mut()?;
        (conn.session.address == address).then_some(conn)
    }

    pub(super) fn push(&mut self, address: Address, bytes: &[u8]) {
        let Some(conn) = self.conn(address) else { return };
        conn.backlog.push(bytes);
        // Many messages may come in one turn: the limit holds for each, or the sum has no bound.
        let large = conn.backlog.len() > WRITE_BYTES;
        self.touch(address);
        if large {
            self.with_conn(address.slot, |worker, conn| worker.flush(conn));
        }
    }

    /// The command that blocked the client is done.
    pub(super) fn unblock(&mut self, address: Address, reply: &[u8]) {
        let Some(conn) = self.conn(address) else { return };
        let Some(Waiting::Blocked(_, until_ms)) =
            conn.waiting.take_if(|waiting| matches!(waiting, Waiting::Blocked(..)))
        else {
            return;
        };
        conn.session.client.blocked.store(false, Ordering::Relaxed);
        conn.session.wait_target = None;
        *conn.session.client.waiter.lock() = None;
        if conn.session.reply_mode == crate::session::ReplyMode::On {
            conn.backlog.push(reply);
        }
        if let Some(until_ms) = until_ms {
            self.deadlines.remove(&(until_ms, address.slot, address.id));
        }
        if let (Some(gate), Some(conn)) = (self.gate, self.conn(address)) {
            // Its call ran on some worker before this: the records so far have that one.
            conn.own_index = gate.log.appended();
        }
        self.touch(address);
        self.go_on(address.slot);
    }

    /// Runs the requests that came in while the connection was waiting.
    pub(super) fn go_on(&mut self, slot: usize) {
        self.with_conn(slot, |worker, conn| {
            worker.process_input(conn)?;
            if conn.readable { worker.read(conn) } else { Ok(()) }
        });
    }

    pub(super) fn kill(&mut self, address: Address) {
        if self.conn(address).is_some() {
            self.with_conn(address.slot, |_, _| Err(io::ErrorKind::ConnectionAborted.into()));
        } else {
            self.shared.replication.kill(address.id);
        }
    }

    pub(super) fn resume_paused(&mut self) {
        for slot in std::mem::take(&mut self.paused) {
            let conn = self.conns.get_mut(slot).and_then(Option::as_mut);
            if let Some(conn) = conn.filter(|conn| matches!(conn.waiting, Some(Waiting::Paused))) {
                conn.waiting = None;
                self.go_on(slot);
            }
        }
    }

    /// The agreement that a connection waits for has come about, or not.
    pub(super) fn agreed(&mut self, address: Address, agreed: Agreed) {
        let Some(conn) = self.conn(address) else { return };
        if !matches!(conn.waiting, Some(Waiting::Agreement)) {
            return;
        }
        conn.waiting = None;
        match agreed {
            Agreed::Replies(replies) => {
                conn.again = Again::default();
                if conn.session.reply_mode == crate::session::ReplyMode::On {
                    conn.backlog.push(&replies);
                }
            }
            Agreed::Confirmed(confirmed) => conn.again.confirmed = confirmed,
            Agreed::Refused(error) => conn.again.refused = Some(error),
        }
        self.touched.push(address.slot);
        self.go_on(address.slot);
    }

    /// Runs the requests of connections that had to wait for full mailboxes.
    pub(super) fn go_on_crowded(&mut self) {
        if self.crowded.is_empty() || self.shared.mailboxes.iter().any(Mailbox::is_full) {
            return;
        }
        for slot in std::mem::take(&mut self.crowded) {
            let conn = self.conns.get_mut(slot).and_then(Option::as_mut);
            if let Some(conn) = conn.filter(|conn| matches!(conn.waiting, Some(Waiting::Crowded))) {
                conn.waiting = None;
                self.go_on(slot);
            }
        }
    }

    /// What a connection's next request needs is in memory.
    pub(super) fn loaded(&mut self, address: Address, loaded: Result<Brought, String>) {
        let Some(conn) = self.conn(address) else { return };
        if !matches!(conn.waiting, Some(Waiting::Cold)) {
            return;
        }
        conn.waiting = None;
        match loaded {
            Ok(brought) => conn.again.brought = brought,
            Err(error) => conn.again.error = Some(error),
        }
        self.touched.push(address.slot);
        self.go_on(address.slot);
    }

    /// Runs the requests that wait for room in memory.
    pub(super) fn resume_roomless(&mut self) {
        for slot in std::mem::take(&mut self.roomless) {
            self.shared.waiting_for_room.fetch_sub(1, Ordering::AcqRel);
            let conn = self.conns.get_mut(slot).and_then(Option::as_mut);
            if let Some(conn) = conn.filter(|conn| matches!(conn.waiting, Some(Waiting::Room))) {
                conn.waiting = None;
                self.go_on(slot);
            }
        }
    }

    pub(super) fn press(&self) {
        if let Some(cold) = &self.shared.cold {
            cold.press();
        }
    }
}
