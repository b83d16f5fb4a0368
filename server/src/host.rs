//! What a command of the server works with, and the path of every request.
//!
//! ```text
//! resp::decode -> registry -> session checks (auth, MULTI, subscriber, pause) -> room in memory
//!              -> Executor::run -> effects (notifications, blocked clients) -> reply
//! ```

use crate::acl::log::Entry;
use crate::acl::{Place, Reason, Refusal};
use crate::blocking::{Waiter, timeout_ms};
use crate::cluster::route;
use crate::config::ids;
use crate::conn::Again;
use crate::memory::{self, Room};
use crate::monitor;
use crate::pubsub::Kind;
use crate::registry::Resolved;
use crate::replication::primary::Detach;
use crate::scripting::busy::Others;
use crate::session::{QUEUED_COMMANDS_MAX, Queued, ReplyMode, Session};
use crate::shared::Shared;
use crate::strong::{AgreedRead, Agreement, Confirmed};
use crate::tier::ColdTier;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::commands::list_blocking::parse_timeout;
use ashlar_engine::commands::stream_read::resolve_block_args;
use ashlar_engine::config::Event;
use ashlar_engine::effects::Notification;
use ashlar_engine::error::{Error, Stop};
use ashlar_engine::executor::{Call, Executor, Outcome, Prefetched};
use ashlar_engine::keyspace::Tracker;
use ashlar_engine::policy::Class;
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::Stamp;
use ashlar_engine::tier::Needs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Times a request is set aside for the disk before its values are read by the thread that serves it:
/// memory is so short then that they leave again before it is run.
pub const AGAIN_MAX: u32 = 16;

/// What becomes of the connection after a command.
#[derive(Debug)]
pub enum Flow {
    /// On to the next command.
    Next,
    /// The command waits; it is answered through the mailbox. With the time it gives up, if any.
    Blocked(Arc<Waiter>, Option<i64>),
    /// The command is to be run again once the pause is over.
    Paused,
    /// The connection leaves its worker and becomes a replica's.
    Detach(Detach),
    /// The command is to be run again once this is in memory.
    Cold(Needs),
    /// The command is to be run again once there is room in memory.
    Room,
    /// The command waits for its group in the cluster; other ones may wait with it.
    Agree(Box<Agreement>),
    /// The connection is closed once the replies are sent.
    Close,
}

/// What is to happen once a host command has blocked its client.
pub type AfterPark = Box<dyn FnOnce(&Arc<Shared>, Arc<Waiter>)>;

impl Flow {
    /// Whether the request has been dealt with: otherwise it is run again later.
    pub fn is_done(&self) -> bool {
        match self {
            Flow::Paused | Flow::Cold(_) | Flow::Room => false,
            // Reads run here once the group has said that they may.
            Flow::Agree(agreement) => !matches!(**agreement, Agreement::Confirm(..)),
            _ => true,
        }
    }
}

/// One request's view of the server.
pub struct Host<'w, 'e> {
    /// What all workers share.
    pub shared: &'e Shared,
    /// The connection's state.
    pub session: &'w mut Session,
    /// Runs calls of the engine.
    pub exec: &'w mut Executor<'e>,
    /// Number of the worker.
    pub worker: usize,
    /// Time and seed of this request.
    pub stamp: Stamp,
    /// Set by a host command that blocks its client: when it gives up, if ever.
    pub block_until_ms: Option<Option<i64>>,
    /// Set by a host command that blocks its client: what to do then.
    pub after_park: Option<AfterPark>,
    /// Set by a host command that makes the connection a replica's.
    pub detach: Option<Detach>,
    /// The worker's other clients, to be answered while a script is busy.
    pub others: Option<&'w mut dyn Others>,
    /// The request is run again once what it needs is there.
    pub again: &'w mut Again,
    /// Whether the script that runs is given up where it meets something on disk.
    pub script_waits: bool,
    /// In a cluster: the group by which the request was found to belong here.
    pub routed: Option<ashlar_replication::raft::GroupId>,
}

impl<'w, 'e> Host<'w, 'e> {
    /// One for requests of a session, on the first worker and without anybody else to look after.
    pub fn new(
        shared: &'e Shared,
        session: &'w mut Session,
        exec: &'w mut Executor<'e>,
        stamp: Stamp,
        again: &'w mut Again,
    ) -> Host<'w, 'e> {
        Host {
            shared,
            session,
            exec,
            worker: 0,
            stamp,
            block_until_ms: None,
            after_park: None,
            detach: None,
            others: None,
            again,
            script_waits: false,
            routed: None,
        }
    }
}

impl Host<'_, '_> {
    /// Runs one request and writes its reply. `found` is its command, `None` where there is none.
    #[inline]
    pub fn request(
        &mut self,
        found: Option<&Resolved>,
        args: &[&[u8]],
        hint: Prefetched,
        out: &mut Vec<u8>,
    ) -> Flow {
        if let Some(resolved) = found
            && self.session.is_plain()
            && self.session.identity.permits(resolved.id)
            && !self.shared.pause.active.load(Ordering::Relaxed)
            && !self.shared.scripts.is_busy.load(Ordering::Relaxed)
            && !self.shared.monitored.load(Ordering::Relaxed)
            && !self.shared.replication.restricted.load(Ordering::Relaxed)
            && !self.shared.persistence.attention.load(Ordering::Relaxed)
            && self.shared.cluster.get().is_none()
        {
            let mut reply = Reply::new(out, self.session.protocol);
            match resolved.host {
                None => return self.call_engine(resolved, args, hint, &mut reply),
                Some(run) if resolved.only_replies => {
                    if let Err(Stop::Error(error)) = run(self, args, &mut reply) {
                        reply.error(&error);
                    }
                    return Flow::Next;
                }
                Some(_) => {}
            }
        }
        self.request_with_checks(found, args, hint, out)
    }

    /// The same for what is not a plain command on a plain connection.
    fn request_with_checks(
        &mut self,
        found: Option<&Resolved>,
        args: &[&[u8]],
        hint: Prefetched,
        out: &mut Vec<u8>,
    ) -> Flow {
        let start = out.len();
        let mut reply = Reply::new(out, self.session.protocol);
        let resolved = match found {
            Some(resolved) => Ok(*resolved),
            // Why there is none.
            None => self.shared.registry.resolve(args).copied(),
        };
        let admitted = resolved.and_then(|resolved| self.admit(&resolved, args).map(|()| resolved));
        let flow = match admitted {
            Err(error) if args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC")) => {
                // Whatever keeps EXEC from running ends the transaction.
                self.end_transaction();
                let reason = error.message();
                reply.error(&Error::owned(format!(
                    "EXECABORT Transaction discarded because of: {reason}"
                )));
                Flow::Next
            }
            Err(error) => {
                if let Some(multi) = &mut self.session.multi {
                    multi.aborted = true;
                }
                reply.error(&error);
                Flow::Next
            }
            Ok(resolved) if self.is_sent_elsewhere(&resolved, args, &mut reply) => Flow::Next,
            Ok(resolved) if self.is_paused(&resolved) => return Flow::Paused,
            Ok(resolved) if self.is_queued(&resolved) => {
                self.queue(resolved, args, &mut reply);
                Flow::Next
            }
            Ok(resolved) => {
                if !self.again.begun {
                    monitor::feed(self, &resolved, args);
                }
                match self.agree(&resolved, args) {
                    Ok(None) => {}
                    Ok(Some(flow)) => return flow,
                    Err(error) => {
                        reply.error(&error);
                        if resolved.command.name == "EXEC" {
                            // Its client begins again with MULTI.
                            self.end_transaction();
                        }
                        return Flow::Next;
                    }
                }
                let flow = match resolved.host {
                    None => self.call_engine(&resolved, args, hint, &mut reply),
                    Some(run) => {
                        self.exec.release();
                        self.settle();
                        self.call_host(&resolved, run, args, &mut reply)
                    }
                };
                match self.again.read.take() {
                    Some(read) => self.look_back(&read, &resolved, flow, &mut reply),
                    None => flow,
                }
            }
        };
        if !flow.is_done() {
            return flow;
        }
        if let Some(tracking) = &mut self.session.tracking
            && self.session.multi.is_none()
            && !args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"CLIENT"))
        {
            // CLIENT CACHING speaks of the one command, or transaction, that follows it.
            tracking.caching = false;
        }
        self.session.publish();
        match self.session.reply_mode {
            ReplyMode::On => {}
            ReplyMode::Off => out.truncate(start),
            ReplyMode::SkipNext => {
                out.truncate(start);
                self.session.reply_mode = ReplyMode::Skip;
            }
            ReplyMode::Skip => {
                out.truncate(start);
                self.session.reply_mode = ReplyMode::On;
            }
        }
        if self.session.close_after_reply { Flow::Close } else { flow }
    }

    /// Ends a transaction that does not run.
    fn end_transaction(&mut self) {
        self.session.multi = None;
        crate::commands::connection::unwatch(self.exec, self.session);
    }

    /// In a cluster: whether another node answers the request, or nobody; then its client is told so.
    fn is_sent_elsewhere(
        &mut self,
        resolved: &Resolved,
        args: &[&[u8]],
        reply: &mut Reply<'_>,
    ) -> bool {
        let Some(member) = self.shared.cluster.get() else { return false };
        if self.session.applies {
            return false;
        }
        let route = route::route(self, &**member, resolved, args);
        self.routed = route.group();
        let refusal = route
            .error()
            .or_else(|| route::forbidden(resolved.command, args))
            .or_else(|| self.is_for_all_nodes(resolved));
        let Some(refusal) = refusal else { return false };
        if resolved.command.name == "EXEC" {
            self.end_transaction();
        } else if let Some(multi) = &mut self.session.multi {
            multi.aborted = true;
        }
        reply.error(&refusal);
        true
    }

    /// In a cluster: refuses to make what the whole cluster decides on a part of one group's transaction.
    fn is_for_all_nodes(&self, resolved: &Resolved) -> Option<Error> {
        self.session.multi.as_ref()?;
        let changes = matches!(resolved.command.group, Group::Scripting)
            && resolved.command.flags.contains(Flags::WRITE);
        changes.then(|| {
            Error::text("ERR libraries of functions can't be changed in a transaction in a cluster")
        })
    }

    /// In a cluster: what a request waits for that is answered here; `None` where it is run at once.
    fn agree(&mut self, resolved: &Resolved, args: &[&[u8]]) -> Result<Option<Flow>, Error> {
        let Some(strong) = self.shared.strong.get() else { return Ok(None) };
        if let Some(refusal) = self.again.refused.take() {
            return Err(refusal);
        }
        let writes = resolved.command.flags.contains(Flags::WRITE);
        let waits = strong.is_blocking(resolved) && writes && !self.session.in_transaction;
        if waits && let Some(reply) = self.refuse_blocking(resolved, args) {
            return Err(reply);
        }
        if waits {
            let Flow::Blocked(waiter, until_ms) = self.park(resolved, args, true) else {
                return Ok(None);
            };
            crate::strong::serve(self.shared, &waiter);
            return Ok(Some(Flow::Blocked(waiter, until_ms)));
        }
        let agreement = self.agreement(resolved, args)?;
        Ok(agreement.map(|agreement| Flow::Agree(Box::new(agreement))))
    }

    /// What is wrong with the time that a command may wait, before anybody does.
    fn refuse_blocking(&mut self, resolved: &Resolved, args: &[&[u8]]) -> Option<Error> {
        let seconds = args.last().filter(|_| resolved.command.name.starts_with('B'))?;
        let at_front = matches!(resolved.command.name, "BLMPOP" | "BZMPOP");
        let seconds = if at_front { args.get(1)? } else { seconds };
        parse_timeout(seconds, self.stamp.now_ms).err()
    }

    /// Whether what a group has agreed on is no write for it, as it only follows other sites: the same on all of its
    /// replicas, since its log says so.
    fn follows_sites(&self, command: &Command, args: &[&[u8]]) -> bool {
        let Some(shard) = self.session.backup else { return false };
        let policies = self.shared.engine.shard_policies(shard);
        crate::sites::writes_global(command, args, |key| policies.class_of(key) == Class::Global)
    }

    /// Runs a command of the engine.
    #[inline]
    pub fn call_engine(
        &mut self,
        resolved: &Resolved,
        args: &[&[u8]],
        hint: Prefetched,
        reply: &mut Reply<'_>,
    ) -> Flow {
        if let Some(gate) = self.shared.gate()
            && resolved.command.flags.contains(Flags::WRITE)
            && (!self.session.in_transaction || self.session.in_script)
            && let Some(refusal) = gate.refusal()
        {
            reply.error(&refusal);
            return Flow::Next;
        }
        let sites = self.shared.sites.as_ref();
        if (sites.is_some() || self.session.backup.is_some())
            && resolved.command.flags.contains(Flags::WRITE)
            && (sites.is_some_and(|sites| sites.refuses(resolved.command, args))
                || self.follows_sites(resolved.command, args))
        {
            reply.error(&Error::text(crate::sites::BACKUP));
            return Flow::Next;
        }
        if resolved.command.flags.contains(Flags::DENYOOM)
            && self.shared.settings.number(ids::MAXMEMORY) != 0
            && !self.session.in_transaction
        {
            match memory::make_room(self) {
                Room::Yes => {}
                Room::No => {
                    reply.error(&Error::OutOfMemory);
                    return Flow::Next;
                }
                Room::Wait => return Flow::Room,
            }
        }
        let call = Call {
            command: resolved.command,
            args,
            db: self.session.db,
            stamp: &self.stamp,
            may_block: !self.session.in_transaction && !self.session.from_primary,
            no_touch: self.session.no_touch,
        };
        // In a transaction the locks stay, and so does the thread; a primary's stream cannot wait.
        let here = self.session.in_transaction || self.session.from_primary;
        let in_script = self.session.in_script && self.script_waits;
        self.exec.set_loads_elsewhere(in_script || !here && self.again.tries < AGAIN_MAX);
        self.exec.set_impatient(!here);
        let mut outcome = self.exec.run(&call, hint, reply);
        for _ in 0..AGAIN_MAX {
            if outcome != Outcome::NeedsCold || !load_ready(self.shared, self.exec, call.stamp) {
                break;
            }
            outcome = self.exec.run(&call, Prefetched::NONE, reply);
        }
        self.exec.set_impatient(false);
        self.exec.set_loads_elsewhere(false);
        if outcome == Outcome::Busy {
            reply.error(&self.shared.scripts.busy_error());
            return Flow::Next;
        }
        if outcome == Outcome::NeedsCold && in_script {
            // The locks stay until the script has ended.
            return Flow::Cold(self.exec.take_needs());
        }
        if outcome == Outcome::NeedsCold {
            return self.wait_for_disk(reply);
        }
        if self.session.tracking.is_some() {
            self.track(resolved, args);
        }
        if outcome == Outcome::WouldBlock {
            return self.park(resolved, args, false);
        }
        if !self.exec.effects.is_quiet() && !self.session.in_transaction {
            self.settle();
        }
        Flow::Next
    }

    /// A read of a cluster's keys has run: what it stood on has to hold still.
    fn look_back(
        &mut self,
        read: &AgreedRead,
        resolved: &Resolved,
        flow: Flow,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let Some(strong) = self.shared.strong.get() else { return flow };
        let moved = strong.is_frozen(read.group, read.slot)
            || !strong.is_in_shard_of(read.group, read.slot, &self.shared.engine);
        if !matches!(flow, Flow::Next) || !moved && (!read.leased || strong.holds_lease(read.group))
        {
            return flow;
        }
        // Another group may have the slot by now, or another node the leadership: nobody can say how
        // old the reply is. A transaction is gone once it has run.
        reply.discard();
        self.exec.release();
        if moved || resolved.command.name == "EXEC" {
            reply.error(&crate::strong::try_again());
            return Flow::Next;
        }
        let confirmed = Confirmed { group: read.group, reads: 1 };
        Flow::Agree(Box::new(Agreement::Confirm(read.group, confirmed)))
    }

    /// Enters the client as a reader of the keys of the read that just ran; their locks are still
    /// held.
    #[cold]
    fn track(&mut self, resolved: &Resolved, args: &[&[u8]]) {
        if let Some(tracker) = self.tracker_of(resolved) {
            self.exec.track(resolved.command, args, &tracker);
        }
    }

    fn tracker_of(&self, resolved: &Resolved) -> Option<Tracker> {
        let tracking = self.session.tracking.as_ref().filter(|tracking| tracking.wants_keys())?;
        let reads = resolved.command.flags.contains(Flags::READONLY);
        reads.then(|| tracking.tracker.clone())
    }

    /// Sets a request aside that needs something from disk.
    #[cold]
    fn wait_for_disk(&mut self, reply: &mut Reply<'_>) -> Flow {
        let needs = self.exec.take_needs();
        self.exec.release();
        match self.again.error.take() {
            None => Flow::Cold(needs),
            Some(error) => {
                reply.error(&Error::owned(error));
                Flow::Next
            }
        }
    }

    /// Parks a command that found nothing; the locks of its keys are still held.
    fn park(&mut self, resolved: &Resolved, args: &[&[u8]], is_agreed_on: bool) -> Flow {
        let call = Call {
            command: resolved.command,
            args,
            db: self.session.db,
            stamp: &self.stamp,
            may_block: true,
            no_touch: self.session.no_touch,
        };
        let rerun = self.exec.inspect(&call, |cx| resolve_block_args(cx, args));
        let owned = rerun.unwrap_or_else(|| args.iter().map(|arg| arg.to_vec()).collect());
        let (address, protocol) = (self.session.address, self.session.protocol);
        let mut waiter = Waiter::new(address, *resolved, owned, self.session.db, protocol);
        waiter.tracker = self.tracker_of(resolved);
        waiter.is_agreed_on = is_agreed_on;
        let waiter = Arc::new(waiter);
        self.shared.blocking.park(&waiter, self.exec);
        self.exec.release();
        let timeout = timeout_ms(resolved.command.name, args);
        Flow::Blocked(waiter, timeout.map(|timeout| self.stamp.now_ms.saturating_add(timeout)))
    }

    fn call_host(
        &mut self,
        resolved: &Resolved,
        run: crate::registry::HostRun,
        args: &[&[u8]],
        reply: &mut Reply<'_>,
    ) -> Flow {
        self.block_until_ms = None;
        let result = run(self, args, reply);
        self.settle();
        if let Some(detach) = self.detach.take() {
            return Flow::Detach(detach);
        }
        match result {
            Ok(()) => {}
            Err(Stop::Error(error)) => reply.error(&error),
            Err(Stop::Cold) => {
                reply.discard();
                return self.wait_for_disk(reply);
            }
            Err(Stop::WouldBlock) => {
                reply.discard();
                let args = args.iter().map(|arg| arg.to_vec()).collect();
                let (address, protocol) = (self.session.address, self.session.protocol);
                let waiter = Waiter::new(address, *resolved, args, self.session.db, protocol);
                let waiter = Arc::new(waiter);
                self.shared.blocking.park(&waiter, self.exec);
                self.exec.release();
                if let (Some(then), Some(shared)) = (self.after_park.take(), self.shared.arc()) {
                    then(&shared, waiter.clone());
                }
                return Flow::Blocked(waiter, self.block_until_ms.flatten());
            }
        }
        Flow::Next
    }

    /// Whether the session may run the command at all.
    fn admit(&mut self, resolved: &Resolved, args: &[&[u8]]) -> Result<(), Error> {
        let flags = resolved.command.flags;
        if !self.session.authenticated && !flags.contains(Flags::NO_AUTH) {
            return Err(Error::text("NOAUTH Authentication required."));
        }
        if !flags.contains(Flags::ALLOW_BUSY) && self.shared.scripts.is_busy.load(Ordering::Acquire)
        {
            return Err(self.shared.scripts.busy_error());
        }
        if self.session.multi.is_some() && flags.contains(Flags::NO_MULTI) {
            return Err(Error::text("ERR Command not allowed inside a transaction"));
        }
        let persistence = &self.shared.persistence;
        // What is loaded may come as commands.
        let loads = self.session.from_primary && persistence.loading.load(Ordering::Acquire);
        if persistence.attention.load(Ordering::Acquire) && !loads {
            let writes = flags.contains(Flags::WRITE)
                || resolved.command.name == "PING"
                || self.executes(resolved, Flags::WRITE);
            let loading_ok = flags.contains(Flags::LOADING);
            let refusal = persistence.refusal(&self.shared.settings, loading_ok, writes);
            refusal.map_or(Ok(()), Err)?;
        }
        if let Some(gate) = self.shared.gate()
            && (flags.contains(Flags::WRITE) || self.executes(resolved, Flags::WRITE))
            && let Some(refusal) = gate.refusal()
        {
            return Err(refusal);
        }
        if self.shared.replication.restricted.load(Ordering::Relaxed) && !self.session.from_primary
        {
            // A transaction that was queued before this server followed anybody writes, too.
            let writes =
                if self.executes(resolved, Flags::WRITE) { Flags::WRITE } else { Flags::empty() };
            self.admit_on_replica(flags.union(writes))?;
        }
        let allowed = ["PING", "QUIT", "RESET"].contains(&resolved.command.name)
            || resolved.command.name.ends_with("SUBSCRIBE");
        if self.session.is_subscriber() && self.session.protocol == Protocol::Resp2 && !allowed {
            let name = self.shared.registry.full_name(resolved.id);
            return Err(Error::owned(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT \
                 / RESET are allowed in this context"
            )));
        }
        self.authorize(resolved, args)
    }

    /// Whether the session's user may make this call. A refusal is entered into ACL LOG.
    ///
    /// # Errors
    /// What it may not, as the client is told.
    pub fn authorize(&mut self, resolved: &Resolved, args: &[&[u8]]) -> Result<(), Error> {
        if self.session.identity.user.is_unrestricted() {
            return Ok(());
        }
        self.check_permissions(resolved, args, Place::TopLevel).map_err(|refusal| match refusal {
            Refusal::Sort(error) => error,
            Refusal::Denied(denied) => match denied.reason {
                Reason::Command | Reason::Auth => Error::owned(format!(
                    "NOPERM this user has no permissions to run the '{}' command",
                    self.shared.registry.full_name(resolved.id)
                )),
                Reason::Key => Error::text(
                    "NOPERM this user has no permissions to access one of the keys used as \
                     arguments",
                ),
                Reason::Channel => Error::text(
                    "NOPERM this user has no permissions to access one of the channels used as \
                     arguments",
                ),
            },
        })
    }

    /// The same without a text: for commands in EXEC and in scripts, which word it in their way.
    ///
    /// # Errors
    /// What the user may not.
    pub fn check_permissions(
        &mut self,
        resolved: &Resolved,
        args: &[&[u8]],
        place: Place,
    ) -> Result<(), Refusal> {
        if self.session.identity.user.is_unrestricted() {
            return Ok(());
        }
        let denied = match self.session.identity.rules().check(resolved, args) {
            Ok(()) => {
                let option = self.session.identity.rules().forbidden_sort(resolved, args);
                return option.map_or(Ok(()), |option| Err(Refusal::sort(option)));
            }
            Err(denied) => denied,
        };
        let object = match denied.reason {
            Reason::Command | Reason::Auth => self.shared.registry.full_name(resolved.id).into(),
            Reason::Key | Reason::Channel => args[denied.at].to_vec(),
        };
        let user = self.session.identity.user.name.clone();
        self.log_refusal(denied.reason, place, object, user);
        Err(Refusal::Denied(denied))
    }

    /// Enters a refusal into ACL LOG.
    pub fn log_refusal(&self, reason: Reason, place: Place, object: Vec<u8>, user: String) {
        let client = crate::commands::client_line(self, &self.session.client);
        let (id, count, created_ms, updated_ms) = (0, 1, self.stamp.now_ms, self.stamp.now_ms);
        let entry =
            Entry { id, count, reason, place, object, user, created_ms, updated_ms, client };
        self.shared.acl.log.add(entry, self.shared.settings.count(ids::ACL_LOG_MAX_LEN));
    }

    /// Whether there are as many replicas as writes are to have.
    ///
    /// # Errors
    /// Redis's text where there are fewer.
    pub fn check_replicas(&self) -> Result<(), Error> {
        let settings = &self.shared.settings;
        let wanted = settings.count(ids::MIN_REPLICAS_TO_WRITE);
        let lag_ms = settings.number(ids::MIN_REPLICAS_MAX_LAG).saturating_mul(1000);
        let good = || self.shared.replication.good(self.stamp.now_ms, lag_ms) as u64;
        if wanted > 0 && lag_ms > 0 && good() < wanted {
            return Err(Error::text("NOREPLICAS Not enough good replicas to write."));
        }
        Ok(())
    }

    /// Whether a replica, or a primary that is to have replicas, runs the command at the moment.
    ///
    /// # Errors
    /// Redis's texts for what it does not.
    pub fn admit_on_replica(&self, flags: Flags) -> Result<(), Error> {
        let (follower, settings) = (&self.shared.replication.follower, &self.shared.settings);
        if !follower.is_following() {
            return if flags.contains(Flags::WRITE) { self.check_replicas() } else { Ok(()) };
        }
        if follower.loading.load(Ordering::Acquire) && !flags.contains(Flags::LOADING) {
            return Err(Error::text("LOADING Redis is loading the dataset in memory"));
        }
        let stale = !settings.flag(ids::REPLICA_SERVE_STALE_DATA) && !follower.is_connected();
        if stale && !flags.contains(Flags::STALE) {
            return Err(Error::text(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ));
        }
        let read_only =
            settings.flag(ids::REPLICA_READ_ONLY) || follower.native.load(Ordering::Acquire);
        if flags.contains(Flags::WRITE) && read_only {
            return Err(Error::text("READONLY You can't write against a read only replica."));
        }
        Ok(())
    }

    fn is_paused(&self, resolved: &Resolved) -> bool {
        let pause = &self.shared.pause;
        // What a primary sends is not sent again.
        if self.session.from_primary || !pause.active.load(Ordering::Acquire) {
            return false;
        }
        let writes = Flags::WRITE.union(Flags::MAY_REPLICATE);
        let is_write =
            || resolved.command.flags.intersects(writes) || self.executes(resolved, writes);
        if pause.failing_over.load(Ordering::Acquire) && is_write() {
            return true;
        }
        if pause.until_ms.load(Ordering::Acquire) <= self.stamp.now_ms {
            return false;
        }
        if pause.writes_only.load(Ordering::Acquire) {
            return is_write();
        }
        // A paused server must still be told to go on.
        resolved.command.name != "UNPAUSE" && resolved.command.name != "PAUSE"
    }

    /// Whether the command is EXEC and a command that it runs has one of these flags.
    fn executes(&self, resolved: &Resolved, flags: Flags) -> bool {
        let has = |one: &Queued| one.resolved.command.flags.intersects(flags);
        let multi = self.session.multi.as_ref().filter(|_| resolved.command.name == "EXEC");
        multi.is_some_and(|multi| multi.queue.iter().any(has))
    }

    fn is_queued(&self, resolved: &Resolved) -> bool {
        const RUN_AT_ONCE: [&str; 6] = ["EXEC", "DISCARD", "MULTI", "WATCH", "QUIT", "RESET"];
        self.session.multi.is_some() && !RUN_AT_ONCE.contains(&resolved.command.name)
    }

    fn queue(&mut self, resolved: Resolved, args: &[&[u8]], reply: &mut Reply<'_>) {
        let Some(multi) = &mut self.session.multi else { return };
        if multi.queue.len() >= QUEUED_COMMANDS_MAX {
            multi.aborted = true;
            return reply.error(&Error::text("ERR too many commands in the transaction"));
        }
        let bytes: usize = args.iter().map(|arg| arg.len() + size_of::<Box<[u8]>>()).sum();
        multi.bytes += bytes + size_of::<Queued>();
        let args = args.iter().map(|arg| (*arg).into()).collect();
        multi.queue.push(Queued { resolved, args });
        reply.simple("QUEUED");
    }

    /// Acts on what calls did besides their replies, with no lock held.
    pub fn settle(&mut self) {
        let writer = Some(self.session.address.id);
        settle_of(self.shared, self.exec, &self.stamp, writer);
    }
}

/// Acts on the effects of calls: publishes notifications, serves blocked clients, deletes what
/// has expired, lets go of what is large. Releases the executor's locks.
pub fn settle(shared: &Shared, exec: &mut Executor<'_>, stamp: &Stamp) {
    settle_of(shared, exec, stamp, None);
}

/// The same for calls of a client.
fn settle_of(shared: &Shared, exec: &mut Executor<'_>, stamp: &Stamp, writer: Option<u64>) {
    /// Rounds of effects that lead to further effects; what is left waits for the next call.
    const ROUNDS_MAX: usize = 16;
    if exec.effects.dirty > 0 {
        let changes = std::mem::take(&mut exec.effects.dirty);
        shared.persistence.changes.fetch_add(changes, Ordering::Relaxed);
    }
    let mut writer = writer;
    for _ in 0..ROUNDS_MAX {
        if exec.effects.is_quiet() {
            break;
        }
        // Before the locks are released: who reads what is new has heard of what is old.
        shared.tracking.publish(shared, &mut exec.effects, writer.take());
        exec.release();
        shared.blocking.serve(shared, exec, stamp);
        // The primary says when its keys go.
        let decides = shared.replication.decides() && shared.strong.get().is_none();
        if decides && shared.gate().is_none_or(|gate| gate.log.is_well()) {
            exec.delete_lapsed(stamp);
        } else {
            // They are not seen anyway, and a log that is full takes no records of it.
            exec.effects.lapsed.get_mut().clear();
        }
        exec.release();
        publish_missed(shared, exec);
        for notification in std::mem::take(&mut exec.effects.notifications) {
            publish(shared, exec.config().notify, &notification);
        }
        shared.discard(&mut exec.effects);
    }
    exec.release();
}

fn publish_missed(shared: &Shared, exec: &mut Executor<'_>) {
    let missed = std::mem::take(&mut *exec.effects.missed.borrow_mut());
    for (db, key) in missed {
        let notification = Notification { db, class: Event::KEY_MISS, event: "keymiss", key };
        publish(shared, exec.config().notify, &notification);
    }
}

/// Publishes a keyspace notification to the channels that are asked for.
fn publish(shared: &Shared, wanted: Event, notification: &Notification) {
    if !shared.pubsub.is_listened() {
        return;
    }
    let Notification { db, event, key, .. } = notification;
    if wanted.contains(Event::KEYSPACE) {
        let mut channel = format!("__keyspace@{db}__:").into_bytes();
        channel.extend_from_slice(key);
        shared.pubsub.publish(Kind::Channel, &channel, event.as_bytes(), &shared.mailboxes);
    }
    if wanted.contains(Event::KEYEVENT) {
        let channel = format!("__keyevent@{db}__:{event}");
        shared.pubsub.publish(Kind::Channel, channel.as_bytes(), key, &shared.mailboxes);
    }
}

/// Brings in what the last call lacks, where there is room for it and nobody has to wait for the disk.
#[cold]
fn load_ready(shared: &Shared, exec: &mut Executor<'_>, stamp: &Stamp) -> bool {
    let has_room = |cold: &ColdTier| cold.has_room(shared, stamp.now_ms);
    shared.cold.as_ref().is_some_and(has_room) && exec.load_ready()
}
