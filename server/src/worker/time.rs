//! What a worker does because time passes: waits that end, idle clients, connections to be closed.

use super::{TICK_MS, TLS_LOOK_MS, Worker};
use crate::blocking::Cancel;
use crate::clock;
use crate::config::ids;
use crate::conn::{Conn, Waiting};
use crate::host::{Host, settle};
use crate::mailbox::Address;
use crate::tls::HANDSHAKE_MS_MAX;
use crate::upkeep;
use ashlar_engine::executor::Prefetched;
use ashlar_engine::known_bugs::{self, Bug};
use ashlar_engine::reply::Reply;
use std::io;
use std::sync::atomic::Ordering;

impl Worker<'_> {
    /// Closes the connections that are to be closed. What they watch or wait for is in the shards,
    /// and a worker does not wait for these while it has other clients to tell that it is busy.
    pub(super) fn bury(&mut self) {
        let mut later = Vec::new();
        // Held from here on, not only looked at: a script may start at any moment.
        while !self.graves.is_empty() && self.exec.try_lock_all() {
            let Some((slot, mut conn)) = self.graves.pop() else { break };
            if self.end_wait(&mut conn, slot) {
                self.close(slot, *conn);
            } else {
                self.exec.release();
                later.push((slot, conn));
            }
        }
        self.graves.append(&mut later);
    }

    /// Takes the command back that a connection is blocked by, with all shards held; `false` where that has to be tried
    /// again, since another thread is about to serve it.
    fn end_wait(&mut self, conn: &mut Conn, slot: usize) -> bool {
        let Some(Waiting::Blocked(waiter, until_ms)) = &conn.waiting else { return true };
        if known_bugs::is_back(Bug::KilledWaiterStays) {
            return true;
        }
        if self.shared.blocking.cancel_locked(waiter, &mut self.exec) == Cancel::Later {
            return false;
        }
        if let Some(until_ms) = *until_ms {
            self.deadlines.remove(&(until_ms, slot, conn.session.address.id));
        }
        conn.waiting = None;
        true
    }

    /// Answers the blocked clients whose time is up.
    pub(super) fn expire_deadlines(&mut self, now_ms: i64) {
        let mut later = Vec::new();
        while let Some(&(until_ms, slot, id)) = self.deadlines.first() {
            // Held until the wait has ended: a script that starts between a look and the lock would keep
            // this worker from telling its clients that it is busy.
            if until_ms > now_ms || !self.exec.try_lock_all() {
                break;
            }
            self.deadlines.pop_first();
            let address = Address { worker: self.number, slot, id };
            let Some(conn) = self.conn(address) else { continue };
            let Some(Waiting::Blocked(waiter, _)) = &conn.waiting else { continue };
            let waiter = waiter.clone();
            let cancelled = self.shared.blocking.cancel_locked(&waiter, &mut self.exec);
            self.exec.release();
            match cancelled {
                Cancel::Cancelled => self.give_up(address, false),
                Cancel::Served => {}
                Cancel::Later => later.push((until_ms, slot, id)),
            }
        }
        self.exec.release();
        self.deadlines.extend(later);
        self.flush_touched();
    }

    /// Ends the wait of a client whose command has been cancelled.
    pub(super) fn give_up(&mut self, address: Address, with_error: bool) {
        let Some(conn) = self.conn(address) else { return };
        let Some(Waiting::Blocked(waiter, _)) = &conn.waiting else { return };
        let waiter = waiter.clone();
        let reply = if with_error {
            b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n".to_vec()
        } else {
            self.nothing_found(&waiter, clock::now_ms())
        };
        self.unblock(address, &reply);
    }

    /// The reply of a blocking command that found nothing until its time was up: no array for one
    /// that takes elements, otherwise what its form that does not block says.
    pub(super) fn nothing_found(
        &mut self,
        waiter: &crate::blocking::Waiter,
        now_ms: i64,
    ) -> Vec<u8> {
        let args: Vec<&[u8]> = waiter.args.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        if waiter.resolved.command.run.is_some() {
            Reply::new(&mut out, waiter.protocol).null_array();
            return out;
        }
        let address = waiter.address;
        let Some(mut conn) = self.conns.get_mut(address.slot).and_then(Option::take) else {
            return out;
        };
        conn.session.in_transaction = true;
        let mut again = crate::conn::Again::default();
        let mut host = Host::new(
            self.shared,
            &mut conn.session,
            &mut self.exec,
            self.shared.stamp(now_ms),
            &mut again,
        );
        host.worker = self.number;
        host.request(Some(&waiter.resolved), &args, Prefetched::NONE, &mut out);
        conn.session.in_transaction = false;
        self.conns[address.slot] = Some(conn);
        settle(self.shared, &mut self.exec, &self.shared.stamp(now_ms));
        out
    }

    /// What is to be looked at ten times a second.
    pub(super) fn tick(&mut self, now_ms: i64) {
        let pause = &self.shared.pause;
        pause.end_if_over(now_ms);
        if !pause.active.load(Ordering::Acquire) && !self.paused.is_empty() {
            self.resume_paused();
        }
        for nth in std::mem::take(&mut self.accept_later) {
            self.accept(nth, now_ms);
        }
        let idle_max_ms = self.shared.settings.number(ids::TIMEOUT).saturating_mul(1000);
        let mut slots: Vec<(usize, bool)> = Vec::new();
        for (slot, conn) in &self.conns {
            let Some(conn) = conn else { continue };
            let idle = now_ms - conn.session.client.active_ms.load(Ordering::Relaxed);
            let normal =
                conn.waiting.is_none() && !conn.session.is_subscriber() && !conn.session.monitor;
            let late = conn.stream.is_handshaking()
                && now_ms - conn.session.client.created_ms > HANDSHAKE_MS_MAX;
            // One that sends nothing, or reads nothing of what waits for it.
            let too_idle = late || (idle_max_ms > 0 && normal && idle > idle_max_ms);
            if too_idle || !conn.backlog.is_empty() {
                slots.push((slot, too_idle));
            }
        }
        for (slot, too_idle) in slots {
            self.with_conn(slot, |worker, conn| {
                if too_idle {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                worker.flush(conn)?;
                worker.check_backlog(conn)
            });
        }
        // Whichever worker comes first, so that a long command on one does not stop it.
        if self.shared.claim_upkeep(now_ms, TICK_MS) {
            upkeep::tick(self.shared, &mut self.exec, now_ms);
            self.shared.stats.sample(now_ms);
            if now_ms.rem_euclid(TLS_LOOK_MS) < TICK_MS {
                self.shared.tls.follow(&self.shared.settings);
            }
            self.count_effects();
        }
    }
}
