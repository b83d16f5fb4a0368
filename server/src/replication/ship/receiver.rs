//! Follows a primary of ashlar: runs its records with their stamps, so that each has the same effect
//! here, and the position afterwards is the same. If it is not, the data has diverged, and a copy is
//! asked for.

use super::wire::{self, Frame, Kind};
use super::{VERSION, set_limits, turn_on};
use crate::clock;
use crate::host::settle;
use crate::persistence::NotStarted;
use crate::replication::follower::{Phase, changed, is_timeout};
use crate::replication::link::Link;
use crate::shared::Shared;
use ashlar_engine::command::Command;
use ashlar_engine::executor::{Call, Executor, Prefetched};
use ashlar_engine::journal::next_payload;
use ashlar_engine::log::record::{Calls, LoggedCall};
use ashlar_engine::log::{resolve, settings};
use ashlar_engine::number;
use ashlar_engine::policy::Table;
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::shipping::{History, Position};
use ashlar_engine::snapshot::{self, Progress};
use ashlar_engine::value::varint;
use smallvec::SmallVec;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records that run before locks are released; their keys are brought near together.
const GROUP: usize = 32;
/// How often the primary is told how far this node is, while that changes.
const ACK_PERIOD: Duration = Duration::from_millis(100);
/// The same while it does not.
const IDLE_ACK_PERIOD: Duration = Duration::from_secs(1);
/// How long a read waits before it looks at the time.
const TICK: Duration = Duration::from_millis(50);
/// Threads that load a copy at most.
const LOAD_THREADS_MAX: usize = 8;

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Follows until the connection breaks or the primary changes.
///
/// # Errors
/// Why it ended.
pub fn follow(
    shared: &Arc<Shared>,
    link: &mut Link,
    generation: u64,
    timeout: Duration,
) -> io::Result<()> {
    let engine = &shared.engine;
    let follower = &shared.replication.follower;
    set_limits(engine, &shared.settings);
    turn_on(engine);
    let mut here = engine.position();
    let before = follower.status();
    let moved = before.native && u64::try_from(before.offset).ok() != Some(here.position);
    if here.history.followed && moved {
        // Something else has changed the data since the last record: it is no copy any more.
        engine.shipping().adopt(&Position::default(), engine.journal());
        engine.log_config();
        here = engine.position();
    }
    let (verdict, there) = ask(link, &here)?;
    crate::replication::failover::done(shared);
    follower.native.store(true, Ordering::Release);
    // What the primary's calls mean for other sites stands in its records.
    engine.set_sites_active(false);
    let mut receiver = Receiver {
        shared,
        link,
        generation,
        exec: engine.executor(),
        out: Vec::new(),
        asked: false,
        acked: (u64::MAX, 0),
        acked_at: Instant::now(),
    };
    match verdict {
        Verdict::Resume => {
            tracing::info!("following from position {} on", here.position);
            let _running = receiver.run()?;
            let history = History { followed: true, ..there.history };
            if !here.history.followed {
                // What it has was made with its own settings.
                let call = engine.config_call();
                let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
                engine.keep_config(&args);
            }
            engine.shipping().rename(history);
            engine.log_config();
        }
        Verdict::Copy => {
            tracing::info!("all keys are copied first");
            follower.update(generation, |state| {
                state.status.phase = Phase::Copying;
                state.status.copied_bytes = 0;
            });
            let copied = receiver.copy(&there);
            if follower.is_current(generation) {
                follower.loading.store(false, Ordering::Release);
            }
            let keys = copied?;
            tracing::info!("{keys} keys copied");
        }
    }
    follower.update(generation, |state| {
        state.status.phase = Phase::Connected;
        state.status.native = true;
        state.status.heard_ms = clock::now_ms();
        state.status.offset = i64::try_from(engine.position().position).unwrap_or(i64::MAX);
    });
    receiver.stream(timeout)
}

enum Verdict {
    Resume,
    Copy,
}

/// Asks for what comes behind this position.
fn ask(link: &mut Link, here: &Position) -> io::Result<(Verdict, Position)> {
    let position = here.position.to_string();
    let mut words: Vec<&[u8]> = vec![b"REPLICATION", b"FOLLOW", VERSION, position.as_bytes()];
    // Who has nothing needs a copy, if there is anything to copy. A copy may stand at position 0 itself:
    // a primary without a log counts from its first replica on.
    let none = History::default();
    let has_nothing = here.position == 0 && !here.history.followed;
    let history = if has_nothing { &none } else { &here.history };
    let earlier = history.earlier.iter().filter(|(_, last)| *last == here.position);
    let ids = std::iter::once(&history.id).chain(earlier.map(|(id, _)| id));
    words.extend(ids.filter(|id| !id.is_empty()).map(|id| id.as_bytes()));
    let answer = link.demand(&words)?;
    let mut words = answer.split(|byte| *byte == b' ');
    let verdict = match words.next() {
        Some(b"+RESUME") => Verdict::Resume,
        Some(b"+COPY") => Verdict::Copy,
        _ => return Err(broken("the primary answers with something else")),
    };
    let words: Vec<&[u8]> = words.collect();
    let there = Position::decode(&words).ok_or_else(|| broken("the history cannot be read"))?;
    Ok((verdict, there))
}

struct Receiver<'a, 'e> {
    shared: &'e Arc<Shared>,
    link: &'a mut Link,
    generation: u64,
    exec: Executor<'e>,
    out: Vec<u8>,
    /// Whether the primary wants to know at once how far this node is.
    asked: bool,
    /// What the primary was told last: the position, and what of it is durable.
    acked: (u64, u64),
    acked_at: Instant,
}

impl<'e> Receiver<'_, 'e> {
    /// The right to change data for the primary, as long as it is the primary.
    fn run(&self) -> io::Result<parking_lot::MutexGuard<'e, ()>> {
        let follower = &self.shared.replication.follower;
        let running = follower.running.lock();
        if follower.is_current(self.generation) { Ok(running) } else { Err(changed()) }
    }

    /// Runs what comes until the connection breaks.
    fn stream(&mut self, timeout: Duration) -> io::Result<()> {
        self.link.stream().set_read_timeout(TICK)?;
        let mut heard = Instant::now();
        while !self.shared.stopping.load(Ordering::Acquire) {
            while self.take_frame()? {}
            self.acknowledge()?;
            match self.link.fill() {
                Ok(_) => heard = Instant::now(),
                Err(error) if is_timeout(&error) && heard.elapsed() < timeout => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Acts on a frame that has come as a whole; says whether there was one.
    fn take_frame(&mut self) -> io::Result<bool> {
        // The frame stays in the link's buffer while it is used.
        let (buffered, at) = self.link.take_buffered();
        let result = match wire::parse(&buffered[at..]) {
            Ok(None) => Ok(None),
            Ok(Some(frame)) => self.act(&frame).map(|()| Some(frame.bytes)),
            Err(error) => Err(error),
        };
        let used = result.as_ref().ok().copied().flatten().unwrap_or(0);
        self.link.put_back(buffered, at + used);
        result.map(|used| used.is_some())
    }

    fn act(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let follower = &self.shared.replication.follower;
        let now_ms = clock::now_ms();
        match frame.kind {
            Kind::Records => {
                self.records(frame)?;
                let end = frame.position + u64::from(frame.count);
                follower.update(self.generation, |state| {
                    state.status.offset = i64::try_from(end).unwrap_or(i64::MAX);
                    state.status.primary_position = state.status.primary_position.max(end);
                    state.status.heard_ms = now_ms;
                });
                if self.acked_at.elapsed() >= ACK_PERIOD {
                    self.acknowledge()?;
                }
            }
            Kind::Alive => follower.update(self.generation, |state| {
                state.status.primary_position = frame.position;
                state.status.heard_ms = now_ms;
            }),
            Kind::Ask => self.asked = true,
            Kind::State | Kind::Copy | Kind::CopyEnd => return Err(broken("a frame out of place")),
        }
        Ok(())
    }

    /// Runs the records of a frame.
    fn records(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let _running = self.run()?;
        let engine = &self.shared.engine;
        if let Some(refusal) = self.shared.gate().and_then(|gate| gate.refusal()) {
            // It is for this node to get well; then it goes on from here.
            return Err(io::Error::other(refusal.message()));
        }
        if engine.position().position != frame.position {
            self.forget();
            return Err(broken("records are missing"));
        }
        let payloads = payloads(&frame.payload)?;
        let count = payloads.len() as u64;
        self.in_turn(&frame.payload, &payloads)?;
        if let Some(gate) = self.shared.gate() {
            // A failure shows in the log's health, which is asked before the next records.
            let _ = gate.log.write();
        }
        let end = frame.position + u64::from(frame.count);
        if count != u64::from(frame.count) || engine.position().position != end {
            self.forget();
            return Err(broken("the data differs from the primary's; it is copied anew"));
        }
        Ok(())
    }

    /// This node no longer has a position of a history: it needs a copy.
    fn forget(&mut self) {
        self.exec.release();
        let engine = &self.shared.engine;
        engine.shipping().adopt(&Position::default(), engine.journal());
        engine.log_config();
    }

    /// Runs records one after the other.
    fn in_turn(&mut self, bytes: &[u8], payloads: &[Range<usize>]) -> io::Result<()> {
        payloads.chunks(GROUP).try_for_each(|group| self.group(bytes, group))
    }

    fn group(&mut self, bytes: &[u8], payloads: &[Range<usize>]) -> io::Result<()> {
        let mut group: SmallVec<[Ready<'_>; GROUP]> = SmallVec::new();
        for payload in payloads {
            group.push(Ready::new(Calls::new(&bytes[payload.clone()]), &self.exec)?);
        }
        // A hint is only a hint: keys of another database are just not found there.
        let db = group.first().map_or(0, |ready| ready.first.db);
        let mut known: SmallVec<[Prefetched; GROUP]> =
            group.iter().map(|ready| ready.hint).filter(|hint| !hint.is_none()).collect();
        self.exec.prefetch(db, &mut known, true);
        let mut places = known.into_iter();
        for ready in group.iter_mut().filter(|ready| !ready.hint.is_none()) {
            ready.hint = places.next().unwrap_or(Prefetched::NONE);
        }
        let mut at = 0;
        for run in group.chunk_by(|a, b| a.is_single() && b.is_single()) {
            let range = at..at + run.len();
            at = range.end;
            match run {
                [ready, ..] if ready.is_single() => {
                    let records = records(bytes, &payloads[range]);
                    self.singles(records, run, db)?;
                }
                [ready] if ready.first.args.first() == Some(&settings::NAME) => {
                    self.exec.release();
                    self.shared.engine.follow_config(Some(&ready.first.args));
                }
                _ => run.iter().try_for_each(|ready| self.transaction(ready.calls.clone()))?,
            }
        }
        if let Some(last) = group.last() {
            settle(self.shared, &mut self.exec, &last.first.stamp);
        }
        self.exec.release();
        Ok(())
    }

    /// Runs records of a single call each. They are handed on as they came, with all shards locked: whoever
    /// sees that a record is there finds what it does.
    fn singles(&mut self, records: &[u8], group: &[Ready<'_>], db: u32) -> io::Result<()> {
        self.exec.lock_all();
        self.shared.engine.record_copied(records, group.len() as u64);
        self.exec.set_recorded_elsewhere(true);
        let mut result = Ok(());
        for ready in group {
            let hint = if ready.first.db == db { ready.hint } else { Prefetched::NONE };
            let before = self.exec.effects.dirty;
            result = result.and_then(|()| self.call(&ready.first, ready.command, hint));
            if result.is_ok() && self.exec.effects.dirty == before {
                result = Err(broken("a record has changed nothing"));
            }
        }
        self.exec.set_recorded_elsewhere(false);
        result.map_err(|_| self.diverged())
    }

    /// What is recorded here is not what was done: this node needs a copy.
    fn diverged(&mut self) -> io::Error {
        self.forget();
        broken("the data differs from the primary's; it is copied anew")
    }

    fn call(
        &mut self,
        logged: &LoggedCall<'_>,
        command: Option<&'static Command>,
        hint: Prefetched,
    ) -> io::Result<()> {
        let command = command.ok_or_else(|| broken("a command that this version lacks"))?;
        let call = Call {
            command,
            args: &logged.args,
            db: logged.db,
            stamp: &logged.stamp,
            may_block: false,
            no_touch: false,
        };
        self.out.clear();
        self.exec.run(&call, hint, &mut Reply::new(&mut self.out, Protocol::Resp2));
        Ok(())
    }

    /// Runs the calls of a transaction as one.
    fn transaction(&mut self, mut calls: Calls<'_>) -> io::Result<()> {
        self.exec.lock_all();
        self.exec.begin_batch();
        self.exec.begin_group();
        let mut result = Ok(());
        for logged in calls.by_ref() {
            let command = resolve(&logged.args);
            result = result.and_then(|()| self.call(&logged, command, Prefetched::NONE));
        }
        self.exec.commit_batch();
        self.exec.end_group();
        self.exec.release();
        if calls.is_broken() { Err(broken("a record cannot be read")) } else { result }
    }

    /// Tells the primary how far this node is, now and then.
    fn acknowledge(&mut self) -> io::Result<()> {
        let engine = &self.shared.engine;
        let here = engine.position().position;
        let durable = self
            .shared
            .gate()
            .map_or(0, |gate| engine.shipping().position_of(gate.log.durable()).min(here));
        let now = (here, durable);
        let period = if now == self.acked { IDLE_ACK_PERIOD } else { ACK_PERIOD };
        if !self.asked && self.acked_at.elapsed() < period {
            return Ok(());
        }
        (self.acked, self.acked_at, self.asked) = (now, Instant::now(), false);
        let (position, durable) = (here.to_string(), durable.to_string());
        let words: [&[u8]; 5] =
            [b"REPLCONF", b"ACK", position.as_bytes(), b"FACK", durable.as_bytes()];
        self.link.send(&words)
    }

    /// Replaces all keys by the primary's, which are those at a position. Returns how many there are.
    fn copy(&mut self, there: &Position) -> io::Result<u64> {
        let engine = &self.shared.engine;
        let follower = &self.shared.replication.follower;
        let config = self.config()?;
        {
            let _running = self.run()?;
            follower.loading.store(true, Ordering::Release);
            // From here on, a start finds no history to go on from.
            self.forget();
            engine.keep_config(&config.iter().map(Vec::as_slice).collect::<Vec<_>>());
            engine.log_config();
            self.flush_all();
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let source = CopyIn {
            link: &mut *self.link,
            shared: self.shared,
            generation: self.generation,
            part: Vec::new(),
            at: 0,
            bytes: 0,
            ended: false,
        };
        let (threads, progress) = (threads.min(LOAD_THREADS_MAX), Progress::default());
        let cold = |_: &[u8]| Err("a copy has no cold keys".to_owned());
        let loaded = snapshot::load(engine, source, None, threads, &progress, &cold);
        let loaded = loaded.map_err(|error| io::Error::other(error.to_string()))?;
        // For `save`: they are changes like any others.
        self.shared.persistence.changes.fetch_add(loaded.keys, Ordering::Relaxed);
        let _running = self.run()?;
        let history = History { followed: true, ..there.history.clone() };
        let here = Position { history, position: there.position };
        engine.shipping().adopt(&here, engine.journal());
        engine.log_config();
        self.save()?;
        self.asked = true;
        self.end_of_copy()?;
        self.acknowledge()?;
        Ok(loaded.keys)
    }

    /// Deletes all keys and libraries, as calls that the log has.
    fn flush_all(&mut self) {
        let stamp = self.shared.stamp(clock::now_ms());
        let args: &[&[u8]] = &[b"FLUSHALL"];
        let logged = LoggedCall { stamp, db: 0, args: args.iter().copied().collect() };
        // It is a command of every version.
        let _ = self.call(&logged, resolve(&logged.args), Prefetched::NONE);
        let libraries = self.exec.change_libraries(&[b"FLUSH"], &stamp);
        debug_assert!(libraries.is_ok(), "there is room for none");
        self.shared.engine.policies().replace(Table::default());
        settle(self.shared, &mut self.exec, &stamp);
        self.exec.release();
    }

    /// The log does not have what was copied: a snapshot does.
    fn save(&self) -> io::Result<()> {
        let persistence = &self.shared.persistence;
        if self.shared.gate().is_none() {
            return Ok(());
        }
        loop {
            match persistence.save(&self.shared.settings) {
                Ok(()) => return Ok(()),
                Err(NotStarted::Busy) if !self.shared.stopping.load(Ordering::Acquire) => {
                    std::thread::sleep(TICK);
                }
                Err(NotStarted::Busy) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(NotStarted::Failed(text)) => return Err(io::Error::other(text)),
            }
        }
    }

    /// The next frame's kind and payload, waiting for it.
    fn wait_frame(&mut self) -> io::Result<(Kind, Vec<u8>)> {
        wait_frame(self.link)
    }

    /// The settings that come before a copy: its data was made with them.
    fn config(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let (kind, payload) = self.wait_frame()?;
        if kind != Kind::State {
            return Err(broken("a copy does not begin as it should"));
        }
        let call = Calls::new(&payload).find(|call| call.args.first() == Some(&settings::NAME));
        let call = call.ok_or_else(|| broken("a copy without settings"))?;
        Ok(call.args.iter().map(|arg| arg.to_vec()).collect())
    }

    fn end_of_copy(&mut self) -> io::Result<()> {
        match self.wait_frame()? {
            (Kind::CopyEnd, _) => Ok(()),
            _ => Err(broken("a copy does not end as it should")),
        }
    }
}

/// A record that is about to run.
struct Ready<'a> {
    calls: Calls<'a>,
    first: LoggedCall<'a>,
    command: Option<&'static Command>,
    hint: Prefetched,
}

impl<'a> Ready<'a> {
    fn new(calls: Calls<'a>, exec: &Executor<'_>) -> io::Result<Ready<'a>> {
        let first = calls.clone().next().ok_or_else(|| broken("a record cannot be read"))?;
        let command = resolve(&first.args);
        let at = command.map_or(0, |command| command.first_key(&first.args));
        let hint = if at == 0 { Prefetched::NONE } else { exec.hint(first.args[at]) };
        Ok(Ready { calls, first, command, hint })
    }

    /// Whether it is one call, of a command.
    fn is_single(&self) -> bool {
        self.calls.left() == 1 && self.first.args.first() != Some(&settings::NAME)
    }
}

/// Where the payloads of a frame's records stand.
fn payloads(bytes: &[u8]) -> io::Result<Vec<Range<usize>>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let next = next_payload(bytes, at).ok_or_else(|| broken("a record is cut off"))?;
        at = next.1;
        found.push(at - next.0.len()..at);
    }
    Ok(found)
}

/// Records with their lengths in front, of which these are the payloads, one behind the other.
fn records<'b>(bytes: &'b [u8], payloads: &[Range<usize>]) -> &'b [u8] {
    let (Some(first), Some(last)) = (payloads.first(), payloads.last()) else { return &[] };
    &bytes[first.start - varint::size(first.len() as u64)..last.end]
}

fn wait_frame(link: &mut Link) -> io::Result<(Kind, Vec<u8>)> {
    loop {
        // Signs of life while another copy is taken.
        let blank = link.buffered().iter().take_while(|byte| **byte == b'\n').count();
        link.consume(blank);
        if let Some(frame) = wire::parse(link.buffered())? {
            let (kind, bytes) = (frame.kind, frame.bytes);
            let payload = frame.payload.into_owned();
            link.consume(bytes);
            return Ok((kind, payload));
        }
        link.fill()?;
    }
}

/// A copy as a stream of bytes. It ends with the snapshot in it, before the frame of the end.
struct CopyIn<'a> {
    link: &'a mut Link,
    shared: &'a Shared,
    generation: u64,
    part: Vec<u8>,
    at: usize,
    bytes: u64,
    ended: bool,
}

impl Read for CopyIn<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() && !self.ended {
            let follower = &self.shared.replication.follower;
            if !follower.is_current(self.generation) {
                return Err(changed());
            }
            let (kind, part) = wait_frame(self.link)?;
            if kind != Kind::Copy {
                self.ended = true;
                return Err(broken("the copy ends too early"));
            }
            self.bytes += part.len() as u64;
            (self.part, self.at) = (part, 0);
            let (bytes, now_ms) = (self.bytes, clock::now_ms());
            follower.update(self.generation, |state| {
                state.status.copied_bytes = bytes;
                state.status.heard_ms = now_ms;
            });
        }
        let rest = self.part.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// How far this node is behind its primary, by what the primary last said: records and seconds.
pub fn behind(shared: &Shared) -> (u64, i64) {
    let status = shared.replication.follower.status();
    let position = u64::try_from(status.offset).unwrap_or(0);
    let records = status.primary_position.saturating_sub(position);
    let since_ms = if status.phase == Phase::Connected { status.heard_ms } else { status.down_ms };
    let seconds = (clock::now_ms() - since_ms).max(0) / 1000;
    (records, if records == 0 && status.phase == Phase::Connected { 0 } else { seconds })
}

/// The number of a position in a request.
pub fn parse_position(word: &[u8]) -> Option<u64> {
    number::parse_i64(word).and_then(|position| u64::try_from(position).ok())
}
