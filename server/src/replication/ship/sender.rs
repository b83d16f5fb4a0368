//! Serves a replica of ashlar on a thread of its own: from the ring, and from the log where the replica
//! is further behind; a copy of all keys first where neither goes back that far.
//!
//! ```text
//! REPLICATION FOLLOW 1 position id... --> +RESUME history ----------------> records
//!                                     \-> +COPY history --> snapshot ACK --^
//! ```

use super::wire::{self, Kind};
use super::{line_of, set_limits, turn_on};
use crate::clock;
use crate::replication::Replica;
use crate::replication::primary::LOAD_FACTOR;
use crate::replication::socket::Socket;
use crate::shared::Shared;
use ashlar_engine::cut::Cut;
use ashlar_engine::journal::Record;
use ashlar_engine::log::{Log, Reader, record, settings};
use ashlar_engine::shipping::{HISTORY_CALL, Next, Position};
use ashlar_engine::snapshot::Writer;
use ashlar_engine::stamp::Stamp;
use ashlar_engine::value::varint;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes of records that are sent at a time.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes from which records are sent without waiting for more.
const SMALL_BYTES: usize = 16 << 10;
/// How long to wait for more where there are few, so that each does not cost a system call.
const GATHER: Duration = Duration::from_micros(500);
/// The same for records that may come late.
const GATHER_RELAXED: Duration = Duration::from_millis(50);
/// Bytes from which those are sent.
const RELAXED_BYTES: usize = 64 << 10;
/// How long to wait for records before looking at other things.
const WAIT: Duration = Duration::from_millis(200);
/// How often the replica is told where the primary stands.
const ALIVE_PERIOD: Duration = Duration::from_secs(1);
/// How long to wait before asking again while another cut is running.
const AGAIN: Duration = Duration::from_millis(50);

/// What a replica has.
#[derive(Clone, Debug, Default)]
pub struct Has {
    /// Its position.
    pub position: u64,
    /// Histories of which it is that position.
    pub ids: Vec<Vec<u8>>,
}

/// Where the records come from.
enum Source {
    Ring,
    /// Behind a position; with what is being read.
    Disk(u64, Option<Box<Reader>>),
}

/// The thread's state.
struct Sender<'a> {
    shared: &'a Arc<Shared>,
    replica: &'a Replica,
    socket: &'a mut Socket,
    log: Option<&'a Arc<Log>>,
    timeout: Duration,
    out: Vec<u8>,
    alive: Instant,
}

/// Serves a replica until its connection ends.
///
/// # Errors
/// Why it ends.
pub fn serve(
    shared: &Arc<Shared>,
    replica: &Replica,
    socket: &mut Socket,
    has: &Has,
    timeout: Duration,
) -> io::Result<()> {
    let engine = &shared.engine;
    turn_on(engine);
    set_limits(engine, &shared.settings);
    let log = shared.gate().map(|gate| &gate.log);
    let (out, alive) = (Vec::new(), Instant::now());
    let mut sender = Sender { shared, replica, socket, log, timeout, out, alive };
    let count = |nth: usize| {
        shared.replication.syncs[nth].fetch_add(1, Ordering::Relaxed);
    };
    let source = match sender.resume(has) {
        Some(source) => {
            count(1);
            let line = line_of("+RESUME", &engine.position());
            sender.socket.write_all(&line)?;
            source
        }
        None => {
            count(0);
            if !has.ids.is_empty() {
                count(2);
            }
            sender.copy()?;
            Source::Ring
        }
    };
    replica.online.store(true, Ordering::Release);
    sender.stream(source)
}

fn lost() -> io::Error {
    io::Error::other("what it needs is gone: it has to begin with a copy")
}

impl<'a> Sender<'a> {
    fn ended(&self) -> bool {
        self.replica.gone.load(Ordering::Acquire) || self.shared.stopping.load(Ordering::Acquire)
    }

    /// Where to go on for a replica that has this; `None` if it needs a copy.
    fn resume(&self, has: &Has) -> Option<Source> {
        let (engine, position) = (&self.shared.engine, has.position);
        let shipping = engine.shipping();
        let known = has.ids.iter().any(|id| shipping.knows(id, position, engine.journal()));
        if !known {
            return None;
        }
        if shipping.enter(self.replica.id, position) {
            return Some(Source::Ring);
        }
        self.reader(position).ok().map(|reader| Source::Disk(position, Some(Box::new(reader))))
    }

    /// The records of the log behind a position.
    fn reader(&self, position: u64) -> io::Result<Reader> {
        let log = self.log.ok_or_else(lost)?;
        let index = self.shared.engine.shipping().index_behind(position).ok_or_else(lost)?;
        // First the reader, which keeps the segments.
        let reader = log.read_from(index);
        if log.stats().first > index { Err(lost()) } else { Ok(reader) }
    }

    fn stream(&mut self, mut source: Source) -> io::Result<()> {
        while !self.replica.gone.load(Ordering::Acquire) && !self.shared.replication.is_closed() {
            let sent = match &mut source {
                Source::Ring => match self.out_of_ring()? {
                    Some(position) => {
                        source = Source::Disk(position, None);
                        true
                    }
                    None => false,
                },
                Source::Disk(position, reader) => {
                    let (mut at, mut open) = (*position, reader.take());
                    let more = self.out_of_disk(&mut at, &mut open)?;
                    source = if more || !self.shared.engine.shipping().enter(self.replica.id, at) {
                        Source::Disk(at, open)
                    } else {
                        Source::Ring
                    };
                    true
                }
            };
            self.replica.from_disk.store(matches!(source, Source::Disk(..)), Ordering::Relaxed);
            self.flush()?;
            self.look(sent)?;
        }
        Ok(())
    }

    /// Sends what has gathered.
    fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out)?;
            self.out.clear();
            self.out.shrink_to(4 * BATCH_BYTES);
        }
        Ok(())
    }

    /// Signs of life, both ways.
    fn look(&mut self, busy: bool) -> io::Result<()> {
        if self.replica.asked.swap(false, Ordering::AcqRel) {
            wire::push(&mut self.out, Kind::Ask, 0, 0, &[], false)?;
        }
        if self.alive.elapsed() >= ALIVE_PERIOD {
            self.alive = Instant::now();
            let position = self.shared.engine.position().position;
            let now_ms = clock::now_ms().to_le_bytes();
            wire::push(&mut self.out, Kind::Alive, 0, position, &now_ms, false)?;
        }
        self.flush()?;
        let silent_ms = clock::now_ms() - self.replica.acked_ms.load(Ordering::Relaxed);
        if silent_ms > self.timeout.as_millis() as i64 && !busy {
            return Err(io::Error::other("it has been silent for too long"));
        }
        Ok(())
    }

    /// Gathers records of the ring. Returns the position behind which the log has to go on, if the
    /// ring no longer has what comes.
    fn out_of_ring(&mut self) -> io::Result<Option<u64>> {
        let engine = &self.shared.engine;
        let (shipping, journal) = (engine.shipping(), engine.journal());
        let (mut wait, mut since, mut relaxed) = (WAIT, Instant::now(), true);
        loop {
            match shipping.next(self.replica.id, journal, wait) {
                Next::Records(part) => {
                    if self.out.is_empty() {
                        since = Instant::now();
                    }
                    relaxed &= part.relaxed;
                    let count = u32::try_from(part.records).unwrap_or(u32::MAX);
                    let (position, packs) = (part.position, part.relaxed);
                    wire::push(&mut self.out, Kind::Records, count, position, &part.bytes, packs)?;
                    wait = Duration::ZERO;
                    if self.out.len() >= BATCH_BYTES {
                        return Ok(None);
                    }
                }
                Next::Nothing if self.out.is_empty() => return Ok(None),
                Next::Nothing => {
                    let asked = self.replica.asked.load(Ordering::Acquire);
                    let (most, enough) = match relaxed {
                        true => (GATHER_RELAXED, RELAXED_BYTES),
                        false => (GATHER, SMALL_BYTES),
                    };
                    if asked || self.out.len() >= enough || since.elapsed() >= most {
                        return Ok(None);
                    }
                    std::thread::sleep(GATHER);
                }
                Next::Gone(position) if self.log.is_some() => return Ok(Some(position)),
                Next::Gone(_) | Next::Lost => return Err(lost()),
            }
        }
    }

    /// Gathers records of the log behind `position`, which moves on. Says whether there may be more in
    /// what is being read.
    fn out_of_disk(
        &mut self,
        position: &mut u64,
        reader: &mut Option<Box<Reader>>,
    ) -> io::Result<bool> {
        if reader.is_none() {
            *reader = Some(Box::new(self.reader(*position)?));
        }
        let Some(open) = reader else { return Ok(false) };
        let policies = self.shared.engine.policies();
        let (before, mut bytes, mut relaxed, mut more) = (*position, Vec::new(), 0, true);
        while bytes.len() < BATCH_BYTES {
            let batch = open.next().map_err(|error| io::Error::other(error.to_string()))?;
            let Some(batch) = batch else {
                more = false;
                break;
            };
            if is_local(&batch.calls) {
                continue;
            }
            let payload = batch.calls.payload();
            varint::push(&mut bytes, payload.len() as u64);
            bytes.extend_from_slice(payload);
            *position += 1;
            if policies.any() {
                relaxed += u64::from(ashlar_engine::shipping::is_relaxed(batch.calls, policies));
            }
        }
        let count = *position - before;
        if count > 0 {
            let packs = relaxed * 2 > count;
            let records = u32::try_from(count).unwrap_or(u32::MAX);
            wire::push(&mut self.out, Kind::Records, records, before, &bytes, packs)?;
        }
        if !more {
            *reader = None;
        }
        Ok(more)
    }

    /// Sends the state of all keys; the stream goes on behind it.
    fn copy(&mut self) -> io::Result<()> {
        let (cut, here, config) = self.begin_copy()?;
        let line = line_of("+COPY", &here);
        self.socket.write_all(&line)?;
        let config: Vec<&[u8]> = config.iter().map(Vec::as_slice).collect();
        let stamp = Stamp::new(clock::now_ms(), 0);
        let call = Record { stamp: &stamp, db: 0, args: &config };
        let mut payload = Vec::new();
        record::push_payload(&mut payload, &[call]);
        wire::push(&mut self.out, Kind::State, 1, here.position, &payload, false)?;
        self.flush()?;
        self.write_copy(cut)?;
        wire::push(&mut self.out, Kind::CopyEnd, 0, here.position, &[], false)?;
        let sent_ms = clock::now_ms();
        self.replica.acked_ms.store(sent_ms, Ordering::Release);
        self.flush()?;
        // While it loads, the records wait here and not in the socket.
        while self.replica.acked_ms.load(Ordering::Acquire) <= sent_ms {
            if self.ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if clock::now_ms() - sent_ms > self.timeout.as_millis() as i64 * LOAD_FACTOR {
                return Err(io::Error::other("it has not said that it has loaded the copy"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn write_copy(&mut self, mut cut: Cut<'_>) -> io::Result<()> {
        let info = cut.info(0, clock::now_ms(), 0);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let shared = self.shared;
        let out = CopyOut { socket: &mut *self.socket, bytes: Vec::new(), frame: Vec::new() };
        let mut writer = Writer::new(out, u64::from_le_bytes(random), &info)?;
        let stopping = &shared.stopping;
        writer.cut(&mut cut, |_, _| !stopping.load(Ordering::Relaxed))?;
        if stopping.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        writer.finish().map(drop)
    }

    /// The state of this moment, its position, behind which the stream goes on, and the settings
    /// that the data depends on.
    fn begin_copy(&mut self) -> io::Result<(Cut<'a>, Position, Vec<Vec<u8>>)> {
        let shared: &'a Arc<Shared> = self.shared;
        let (engine, id) = (&shared.engine, self.replica.id);
        loop {
            let start = || {
                let here = engine.position();
                let entered = engine.shipping().enter(id, here.position);
                debug_assert!(entered, "the end of the ring is in the ring");
                (here, engine.config_call())
            };
            if let Some((cut, (here, config))) = engine.begin_cut(start) {
                return Ok((cut, here, config));
            }
            if self.ended() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            self.socket.write_all(b"\n")?;
            std::thread::sleep(AGAIN);
        }
    }
}

/// Sends what is written to it as parts of a copy.
struct CopyOut<'s> {
    socket: &'s mut Socket,
    bytes: Vec<u8>,
    frame: Vec<u8>,
}

impl Write for CopyOut<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(buf);
        if self.bytes.len() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        self.frame.clear();
        wire::push(&mut self.frame, Kind::Copy, 0, 0, &self.bytes, false)?;
        self.bytes.clear();
        self.socket.write_all(&self.frame)
    }
}

/// Whether a record of the log is of this node alone: a history behind settings.
fn is_local(calls: &record::Calls<'_>) -> bool {
    match calls.name() {
        Some(name) if name == HISTORY_CALL => true,
        Some(name) if name == settings::NAME => {
            calls.clone().any(|call| call.args.first() == Some(&HISTORY_CALL))
        }
        _ => false,
    }
}
