//! The thread of a link: connects, introduces itself, sends what changed, and asks now and then
//! whether both sides are the same.

use super::local::Local;
use crate::clock;
use crate::config::ids;
use crate::gate::Passage;
use crate::replication::link::{Credentials, Link};
use crate::shared::Shared;
use ashlar_engine::executor::Executor;
use ashlar_engine::number;
use ashlar_engine::slot::SLOTS;
use ashlar_replication::sites::codec::Batch;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::link::{Outgoing, Plan};
use ashlar_replication::sites::site::GROUPS;
use ashlar_replication::sites::slots::Slots;
use ashlar_replication::topology::SlotRange;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Version of what links say to each other. The second one has another form of digests: with the first,
/// all would be found to differ for ever, and sent again every few seconds.
pub const VERSION: u64 = 2;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before connecting again.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause while there is nothing to send.
const IDLE: Duration = Duration::from_millis(5);
/// How often a link says how far it is though nothing changed.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// How often digests are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of values above which a batch is sent in parts.
const PART_BYTES_MAX: usize = 4 << 20;

/// A link as others see it.
pub struct LinkState {
    /// The peer's name here.
    pub name: String,
    /// Where it listens.
    pub address: Mutex<(String, u16)>,
    /// The number of this end.
    pub local: SiteId,
    stopped: AtomicBool,
    /// Whether it is connected.
    pub up: AtomicBool,
    /// The peer's number; 0 while it is not known.
    pub id: AtomicU64,
    acknowledged: AtomicU64,
    /// Elements that were sent.
    pub sent: AtomicU64,
    /// Times that all keys were looked at.
    pub fills: AtomicU64,
    /// Times that groups of keys were sent again, as digests differed.
    pub repairs: AtomicU64,
    /// When the last answer came, Unix milliseconds.
    pub heard_ms: AtomicI64,
    /// Why it is not connected.
    pub error: Mutex<String>,
}

impl LinkState {
    /// A link that is not connected yet.
    pub fn new(name: &str, local: SiteId, address: (String, u16)) -> LinkState {
        LinkState {
            name: name.to_owned(),
            address: Mutex::new(address),
            local,
            stopped: AtomicBool::new(false),
            up: AtomicBool::new(false),
            id: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            repairs: AtomicU64::new(0),
            heard_ms: AtomicI64::new(0),
            error: Mutex::default(),
        }
    }

    /// Ends its thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The peer has everything up to this stamp.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// It is not connected, for a reason.
    pub fn fail(&self, error: &io::Error) {
        self.up.store(false, Ordering::Release);
        let text = error.to_string();
        if *self.error.lock() != text {
            tracing::warn!("the link to site {} is down: {text}", self.name);
        }
        *self.error.lock() = text;
    }

    fn goes_on(&self, shared: &Shared, local: &Local) -> bool {
        !self.stopped.load(Ordering::Acquire)
            && !shared.stopping.load(Ordering::Acquire)
            && local.is_here(shared)
    }
}

/// The other end of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct To {
    /// Its number.
    pub id: SiteId,
    /// Whether it is a group of a cluster.
    pub is_group: bool,
}

/// Starts the thread of a link. It ends with the server, when it is told to, or when this end is no longer here.
pub(super) fn spawn(shared: &Arc<Shared>, local: Local, state: Arc<LinkState>, to: To) {
    let weak = Arc::downgrade(shared);
    let name = format!("ashlar-site-{}", state.name.chars().take(3).collect::<String>());
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        while let Some(shared) = weak.upgrade() {
            if !state.goes_on(&shared, &local) {
                return;
            }
            let result = run(&shared, &local, &state, to);
            state.up.store(false, Ordering::Release);
            if let Err(error) = result {
                state.fail(&error);
            }
            drop(shared);
            std::thread::sleep(AGAIN);
        }
    });
    if let Err(error) = thread {
        tracing::error!("no thread for a link to a site: {error}");
    }
}

/// A connection to a site, logged in.
pub(super) fn connect(shared: &Arc<Shared>, host: &str, port: u16) -> io::Result<Link> {
    let mut link = Link::to_peer(shared, ids::TLS_REPLICATION, host, port, TIMEOUT)?;
    link.log_in(&Credentials {
        user: shared.settings.string(ids::SITE_USER),
        password: shared.settings.string(ids::SITE_PASSWORD),
    })?;
    Ok(link)
}

/// A connection of the link.
struct Connected<'a, 'e> {
    shared: &'a Shared,
    local: &'a Local,
    state: &'a LinkState,
    link: Link,
    exec: Executor<'e>,
    outgoing: Outgoing,
    session: Vec<u8>,
    /// The group at the other end, and the version of its slots.
    group: Option<(SiteId, u64)>,
    /// The groups that differed last time, with both digests.
    differed: Vec<(usize, u64, u64)>,
}

fn run(shared: &Arc<Shared>, local: &Local, state: &LinkState, to: To) -> io::Result<()> {
    let (host, port) = state.address.lock().clone();
    let mut link = connect(shared, &host, port)?;
    let mut exec = shared.engine.executor();
    local.enter(&mut exec);
    let numbers = [VERSION, local.id().into(), to.id.into()].map(|number| number.to_string());
    let [version, own, group] = numbers.each_ref().map(String::as_bytes);
    let name = local.name(shared);
    let hello: [&[u8]; 6] = [b"SITE", b"HELLO", version, own, name.as_bytes(), group];
    let hello = if to.is_group { &hello[..] } else { &hello[..5] };
    let answer = link.demand(hello)?;
    let answer = String::from_utf8_lossy(answer.strip_prefix(b"+").unwrap_or(&answer)).into_owned();
    let mut words = answer.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(said), Some(session), Some(known)) = (number(), number(), number()) else {
        return Err(io::Error::other(format!("not a site: {answer}")));
    };
    if said != u64::from(to.id) {
        return Err(io::Error::other("the peer has another number than just now"));
    }
    let version = number();
    let mut outgoing = Outgoing::new(to.id, known);
    if version.is_some() {
        let slots = parse_slots(words.next().unwrap_or(""));
        let slots = slots.ok_or_else(|| io::Error::other("the peer has no such slots"))?;
        outgoing = outgoing.of_slots(slots);
    }
    // Whatever this site has told, in this life or one before: what it does now comes later.
    local.was_known(known);
    let mut connected = Connected {
        shared,
        local,
        state,
        link,
        exec,
        outgoing,
        session: session.to_string().into_bytes(),
        group: version.map(|version| (to.id, version)),
        differed: Vec::new(),
    };
    state.id.store(to.id.into(), Ordering::Release);
    state.acknowledged.store(known, Ordering::Release);
    state.up.store(true, Ordering::Release);
    state.error.lock().clear();
    tracing::info!("the link to site {} ({}) is up, from stamp {known} on", state.name, to.id);
    connected.serve()
}

/// Ranges of slots as HELLO tells them: `0-99,200-299`, or `-` for none.
pub fn parse_slots(text: &str) -> Option<Slots> {
    if text == "-" {
        return Some(Slots::default());
    }
    let slot = |text: &str| text.parse::<u16>().ok().filter(|slot| *slot < SLOTS);
    let range = |text: &str| {
        let (first, last) = text.split_once('-')?;
        Some((slot(first)?, slot(last)?)).filter(|(first, last)| first <= last)
    };
    let ranges: Option<Vec<SlotRange>> = text.split(',').map(range).collect();
    ranges.map(|ranges| Slots::new(&ranges))
}

/// The same the other way round.
pub fn show_slots(slots: &Slots) -> String {
    let ranges = slots.ranges().iter().map(|(first, last)| format!("{first}-{last}"));
    let text = ranges.collect::<Vec<String>>().join(",");
    if text.is_empty() { "-".to_owned() } else { text }
}

impl Connected<'_, '_> {
    fn serve(&mut self) -> io::Result<()> {
        let (mut beat, mut compared) = (Instant::now(), Instant::now());
        while self.state.goes_on(self.shared, self.local) {
            let own = self.local.own(self.shared, &mut self.exec);
            let plan = self.local.node().plan(&mut self.outgoing, own);
            let idle = plan.elements.is_empty() && !self.outgoing.is_filling();
            if idle && beat.elapsed() < BEAT_EVERY {
                if compared.elapsed() >= COMPARE_EVERY {
                    compared = Instant::now();
                    self.compare()?;
                }
                self.exec.effects = Default::default();
                std::thread::sleep(IDLE);
                continue;
            }
            beat = Instant::now();
            self.send(&plan, own)?;
        }
        Ok(())
    }

    /// Sends a plan, in parts where its values are large; the last part says how far the peer is.
    fn send(&mut self, plan: &Plan, own: u64) -> io::Result<()> {
        let stamp = self.local.stamp(self.shared);
        let whole = self.local.node().read(&mut self.exec, plan, own, &stamp);
        // Nothing leaves that this site might forget.
        if let Some(gate) = self.shared.gate() {
            let mut passage = gate.pass_now();
            while passage == Passage::Wait && self.state.goes_on(self.shared, self.local) {
                std::thread::sleep(IDLE);
                passage = gate.pass_now();
            }
            if passage != Passage::Open {
                return Err(io::Error::other("this site's log takes no writes"));
            }
        }
        let Batch { from, to, vector, slots, items } = whole;
        let mut part = Batch { from, to: from, slots, ..Batch::default() };
        let mut bytes = 0;
        for item in items {
            let values = item.element.parts().iter().filter_map(|part| part.value.as_ref());
            bytes += item.key.len() + item.name.len() + values.map(|v| v.len()).sum::<usize>();
            part.items.push(item);
            if bytes >= PART_BYTES_MAX {
                if !self.send_part(&part)? {
                    return Ok(());
                }
                part.items.clear();
                bytes = 0;
            }
        }
        (part.to, part.vector) = (to, vector);
        if self.send_part(&part)? {
            self.outgoing.accepted(plan);
        }
        let state = self.state;
        state.acknowledged.store(self.outgoing.acknowledged(), Ordering::Release);
        state.sent.fetch_add(plan.elements.len() as u64, Ordering::Relaxed);
        state.fills.store(self.outgoing.fills, Ordering::Relaxed);
        state.repairs.store(self.outgoing.repairs, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a part; `false` if the peer wants to go on from elsewhere.
    fn send_part(&mut self, part: &Batch) -> io::Result<bool> {
        let id = self.local.id().to_string();
        let bytes = part.encode();
        let mut args: Vec<&[u8]> = vec![b"SITE", b"MERGE", id.as_bytes(), &self.session, &bytes];
        let group = self.group.map(|(group, version)| [group.to_string(), version.to_string()]);
        args.extend(group.iter().flatten().map(String::as_bytes));
        let answer = self.link.call(&args)?;
        self.state.heard_ms.store(clock::now_ms(), Ordering::Relaxed);
        if answer == b"+OK" {
            return Ok(true);
        }
        if let Some(known) = answer.strip_prefix(b"-SITEGAP ").and_then(number::parse_i64) {
            self.outgoing.restart(known as u64);
            return Ok(false);
        }
        Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
    }

    /// Compares digests of groups of keys. What differs twice though nothing changed is sent again.
    fn compare(&mut self) -> io::Result<()> {
        if self.outgoing.is_filling() {
            return Ok(());
        }
        let (to, mine) = (self.group.map_or(0, |(group, _)| group).to_string(), self.local.slots());
        let theirs = self.outgoing.slots.clone();
        let common = match (&mine, &theirs) {
            (Some(mine), Some(theirs)) => Some(mine.and(theirs)),
            (mine, theirs) => mine.clone().or_else(|| theirs.clone()),
        };
        let shown = common.as_ref().map(show_slots);
        let mut args: Vec<&[u8]> = vec![b"SITE", b"DIGEST"];
        if let Some(shown) = &shown {
            args.extend([to.as_bytes(), shown.as_bytes()]);
        }
        let answer = self.link.demand(&args)?;
        let words = String::from_utf8_lossy(&answer).into_owned();
        let theirs: Vec<u64> = words
            .trim_start_matches('+')
            .split(' ')
            .filter_map(|word| u64::from_str_radix(word, 16).ok())
            .collect();
        if theirs.len() != GROUPS {
            return Err(io::Error::other("digests of another form"));
        }
        let ours = self.local.node().site().group_digests(common.as_ref());
        let differ = ours.iter().zip(&theirs).enumerate().filter(|(_, (our, their))| our != their);
        let differ: Vec<(usize, u64, u64)> =
            differ.map(|(group, (our, their))| (group, *our, *their)).collect();
        let lasting: BTreeSet<usize> = differ
            .iter()
            .filter(|found| self.differed.contains(found))
            .map(|(group, ..)| *group)
            .collect();
        if !lasting.is_empty() {
            tracing::warn!(
                "site {} has other data in {} of {GROUPS} groups of slots; they are sent again",
                self.state.name,
                lasting.len()
            );
            self.outgoing.repair(lasting);
        }
        self.differed = differ;
        Ok(())
    }
}
