//! FAILOVER: hands the role of the primary over to a replica, and loses nothing that was acknowledged.
//!
//! ```text
//! no-failover --FAILOVER--> waiting-for-sync --it has all--> failover-in-progress --it took over--+
//!      ^ ^---ABORT, time is up----+    \---time is up, FORCE--^     |                             |
//!      +-------------------------------ABORT, it refuses------------+                             |
//!      +------------------------------------------------------------------------------------------+
//! ```
//! While it waits, clients' writes do. Workers check the pause before a call and run it afterwards, so the
//! position counts only once each of them has been seen between two calls: then nothing adds to the history
//! any more, and a replica that is there has every write that was answered. From then on this node is a
//! replica that has not yet got through to its primary. Whether that has taken over is not known
//! while it does not answer, so this node asks again, and its clients wait.

use super::Replica;
use super::follower::set_primary;
use super::link::Link;
use super::ship;
use crate::mailbox::Message;
use crate::shared::Shared;
use ashlar_engine::error::Error;
use ashlar_engine::shipping::Position;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often replicas are asked how far they are.
const ASK_PERIOD: Duration = Duration::from_millis(20);

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    None,
    Waiting,
    /// The other one is to take over, at any position if it is forced to.
    InProgress {
        forced: bool,
    },
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Grows with every change: a thread of an older one ends.
    number: u64,
}

/// A fail-over that was asked for here.
#[derive(Debug, Default)]
pub struct Failover {
    state: Mutex<State>,
    on: AtomicBool,
    /// Held while a change of the stage and that of the role are made, which belong together.
    roles: Mutex<()>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The replica; any, if there is none.
    pub target: Option<(String, u16)>,
    /// How long to wait for it.
    pub timeout: Option<Duration>,
    /// Whether it takes over when the time is up, whatever it has.
    pub force: bool,
}

impl Failover {
    /// Whether one is going on: nothing may change the data by itself.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// The name that INFO has for how far it is.
    pub fn name(&self) -> &'static str {
        match self.state.lock().stage {
            Stage::None => "no-failover",
            Stage::Waiting => "waiting-for-sync",
            Stage::InProgress { .. } => "failover-in-progress",
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.state.lock().number == number
    }

    /// Goes over to another stage; the number of the change.
    fn change(&self, stage: Stage) -> (Stage, u64) {
        let mut state = self.state.lock();
        state.number += 1;
        self.on.store(stage != Stage::None, Ordering::Release);
        (std::mem::replace(&mut state.stage, stage), state.number)
    }
}

/// Starts one; its target is looked for, and asked, on a thread of its own.
///
/// # Errors
/// Redis's texts for what is not possible.
pub fn begin(shared: &Arc<Shared>, wish: Wish) -> Result<(), Error> {
    let replication = &shared.replication;
    let roles = replication.failover.roles.lock();
    if replication.failover.is_on() {
        return Err(Error::text("ERR FAILOVER already in progress."));
    }
    if replication.follower.is_following() {
        return Err(Error::text("ERR FAILOVER is not valid when server is a replica."));
    }
    let replicas = replication.replicas();
    if replicas.is_empty() {
        return Err(Error::text("ERR FAILOVER requires connected replicas."));
    }
    if wish.force && (wish.timeout.is_none() || wish.target.is_none()) {
        return Err(Error::text(
            "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
        ));
    }
    if wish.target.is_some() {
        let found = replicas.iter().find(|replica| is_meant(replica, &wish));
        let found =
            found.ok_or(Error::text("ERR FAILOVER target HOST and PORT is not a replica."))?;
        if !found.online.load(Ordering::Acquire) {
            return Err(Error::text("ERR FAILOVER target replica is not online."));
        }
    }
    if !replicas.iter().any(|replica| replica.native && is_meant(replica, &wish)) {
        return Err(Error::text("ERR FAILOVER needs a replica that is a node of ashlar."));
    }
    let (_, number) = replication.failover.change(Stage::Waiting);
    drop(roles);
    shared.pause.failing_over.store(true, Ordering::SeqCst);
    shared.pause.active.store(true, Ordering::SeqCst);
    let on_thread = shared.clone();
    let work = move || run(&on_thread, number, &wish);
    if std::thread::Builder::new().name("ashlar-failover".into()).spawn(work).is_err() {
        abort(shared, "the system gives no thread");
        return Err(Error::text("ERR the system gives no thread for FAILOVER"));
    }
    Ok(())
}

fn is_meant(replica: &Replica, wish: &Wish) -> bool {
    match &wish.target {
        None => true,
        Some((host, port)) => replica.ip.eq_ignore_ascii_case(host) && replica.port == *port,
    }
}

/// Waits for the replica and lets it take over.
fn run(shared: &Arc<Shared>, number: u64, wish: &Wish) {
    let replication = &shared.replication;
    let deadline = wish.timeout.map(|timeout| Instant::now() + timeout);
    let busy = Arc::new(AtomicUsize::new(shared.mailboxes.len()));
    shared.broadcast(|| Message::Between(busy.clone()));
    while replication.failover.is_current(number) && !shared.stopping.load(Ordering::Acquire) {
        if busy.load(Ordering::Acquire) == 0 {
            let position = shared.engine.position().position;
            let has_all = |replica: &&Arc<Replica>| {
                replica.native
                    && is_meant(replica, wish)
                    && replica.online.load(Ordering::Acquire)
                    && replica.acked.load(Ordering::Acquire) >= position
            };
            if let Some(replica) = replication.replicas().iter().find(has_all) {
                let (host, port) = (replica.ip.clone(), replica.port);
                tracing::info!("failover target {host}:{port} is synced, failing over");
                return hand_over(shared, number, (host, port), false);
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            match &wish.target {
                Some(target) if wish.force => {
                    let (host, port) = target;
                    tracing::warn!("FAILOVER to {host}:{port} time out exceeded, failing over");
                    hand_over(shared, number, target.clone(), true);
                }
                _ if replication.failover.is_current(number) => {
                    abort(shared, "Replica never caught up before timeout");
                }
                _ => {}
            }
            return;
        }
        replication.ask_nodes(&shared.engine);
        replication.wait_acked(ASK_PERIOD);
    }
}

/// From now on this node follows the other one, which it tells so.
fn hand_over(shared: &Arc<Shared>, number: u64, target: (String, u16), forced: bool) {
    let failover = &shared.replication.failover;
    let _roles = failover.roles.lock();
    if failover.is_current(number) {
        failover.change(Stage::InProgress { forced });
        set_primary(shared, Some(target));
    }
}

/// Ends it without a change of roles; `false` if there is none.
pub fn abort(shared: &Arc<Shared>, why: &str) -> bool {
    let failover = &shared.replication.failover;
    let roles = failover.roles.lock();
    let (before, _) = failover.change(Stage::None);
    if before == Stage::None {
        return false;
    }
    tracing::warn!("aborting failover: {why}");
    if before != Stage::Waiting {
        set_primary(shared, None);
    }
    drop(roles);
    let_go(shared);
    true
}

/// Lets the clients go on.
fn let_go(shared: &Shared) {
    let pause = &shared.pause;
    pause.failing_over.store(false, Ordering::SeqCst);
    pause.end_if_over(crate::clock::now_ms());
    shared.broadcast(|| Message::Resume);
}

/// This node, which hands its role over, has reached the other one: tells it to take over. It does nothing
/// where there is no fail-over.
///
/// # Errors
/// If the connection breaks, or the other one refuses; then the fail-over has ended.
pub(super) fn tell(shared: &Arc<Shared>, link: &mut Link, native: bool) -> io::Result<()> {
    let stage = shared.replication.failover.state.lock().stage;
    let Stage::InProgress { forced } = stage else { return Ok(()) };
    let here = shared.engine.position();
    let answer = match native {
        true => {
            let position = here.position.to_string();
            let position = if forced { ANY } else { position.as_bytes() };
            let mut words: Vec<&[u8]> = vec![b"REPLICATION", b"TAKEOVER", ship::VERSION, position];
            words.push(here.history.id.as_bytes());
            link.call(&words)?
        }
        false => b"-ERR it is no node of ashlar".to_vec(),
    };
    if answer.starts_with(b"-") {
        let why = String::from_utf8_lossy(&answer[1..]).into_owned();
        abort(shared, &format!("Failover target rejected the request: {why}"));
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// The other one is the primary and this node its replica.
pub(super) fn done(shared: &Shared) {
    let failover = &shared.replication.failover;
    let was_on = matches!(failover.state.lock().stage, Stage::InProgress { .. });
    if was_on && failover.change(Stage::None).0 != Stage::None {
        tracing::info!("failover complete: this node is a replica now");
        let_go(shared);
    }
}

/// Stands for a position where the replica takes over with what it has.
pub const ANY: &[u8] = b"ANY";

/// A primary hands its role over to this node, which has to be at this position of its history; at any if
/// none is given.
///
/// # Errors
/// If it is not.
pub fn take_over(shared: &Arc<Shared>, position: Option<u64>, id: &[u8]) -> Result<(), Error> {
    let (engine, follower) = (&shared.engine, &shared.replication.follower);
    let Position { position: here, .. } = engine.position();
    let status = follower.status();
    let knows = engine.shipping().knows(id, position.unwrap_or(0), engine.journal());
    if !knows || shared.replication.failover.is_on() {
        return Err(Error::text("ERR TAKEOVER: this node is no replica of that history"));
    }
    // Asked again, as its answer got lost: it is the primary already.
    if status.primary.is_none() {
        return Ok(());
    }
    if !status.native || follower.loading.load(Ordering::Acquire) {
        return Err(Error::text("ERR TAKEOVER: this node is no replica of that history"));
    }
    if position.is_some_and(|position| position != here) {
        return Err(Error::text("ERR TAKEOVER: this replica is at another position"));
    }
    tracing::warn!("this server is a primary now: its own hands the role over");
    set_primary(shared, None);
    Ok(())
}
