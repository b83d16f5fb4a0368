//! The thread of a link: connects, introduces itself, sends what changed, and asks now and then
//! whether both sides are the same.

use super::Sites;
use crate::clock;
use crate::config::ids;
use crate::gate::Passage;
use crate::replication::link::{Credentials, Link};
use crate::shared::Shared;
use ashlar_engine::executor::Executor;
use ashlar_engine::number;
use ashlar_replication::sites::codec::Batch;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::link::{Outgoing, Plan};
use ashlar_replication::sites::site::GROUPS;
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
    pub host: String,
    /// Its port.
    pub port: u16,
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
    pub fn new(name: &str, host: &str, port: u16) -> LinkState {
        LinkState {
            name: name.to_owned(),
            host: host.to_owned(),
            port,
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

    fn goes_on(&self, shared: &Shared) -> bool {
        !self.stopped.load(Ordering::Acquire) && !shared.stopping.load(Ordering::Acquire)
    }
}

/// Starts the thread of a link. It ends with the server, or when it is told to.
pub fn spawn(shared: &Arc<Shared>, state: Arc<LinkState>) {
    let weak = Arc::downgrade(shared);
    let name = format!("ashlar-site-{}", state.name.chars().take(3).collect::<String>());
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        while let Some(shared) = weak.upgrade() {
            if !state.goes_on(&shared) {
                return;
            }
            let Some(sites) = shared.sites.clone() else { return };
            let result = run(&shared, &sites, &state);
            state.up.store(false, Ordering::Release);
            if let Err(error) = result {
                let text = error.to_string();
                if *state.error.lock() != text {
                    tracing::warn!("the link to site {} is down: {text}", state.name);
                }
                *state.error.lock() = text;
            }
            drop(shared);
            std::thread::sleep(AGAIN);
        }
    });
    if let Err(error) = thread {
        tracing::error!("no thread for a link to a site: {error}");
    }
}

/// A connection of the link.
struct Connected<'a, 'e> {
    shared: &'a Shared,
    sites: &'a Sites,
    state: &'a LinkState,
    link: Link,
    exec: Executor<'e>,
    outgoing: Outgoing,
    session: Vec<u8>,
    /// The groups that differed last time, with both digests.
    differed: Vec<(usize, u64, u64)>,
}

fn run(shared: &Arc<Shared>, sites: &Sites, state: &LinkState) -> io::Result<()> {
    let encrypts = ids::TLS_REPLICATION;
    let mut link = Link::to_peer(shared, encrypts, &state.host, state.port, TIMEOUT)?;
    link.log_in(&Credentials {
        user: shared.settings.string(ids::SITE_USER),
        password: shared.settings.string(ids::SITE_PASSWORD),
    })?;
    // First who the peer is: it does the same here, and only then do both know each other.
    let answer = link.demand(&[b"SITE", b"ID"])?;
    let id = answer.strip_prefix(b":").and_then(number::parse_i64);
    let id = id.and_then(|id| SiteId::try_from(id).ok()).filter(|id| *id != sites.id);
    let id = id.ok_or_else(|| io::Error::other("the peer is no site, or has the same site-id"))?;
    let mut exec = shared.engine.executor();
    learn(shared, sites, state, &mut exec, id);
    let words = [VERSION.to_string(), sites.id.to_string()];
    let hello: [&[u8]; 5] =
        [b"SITE", b"HELLO", words[0].as_bytes(), words[1].as_bytes(), sites.name.as_bytes()];
    let answer = link.demand(&hello)?;
    let answer = String::from_utf8_lossy(answer.strip_prefix(b"+").unwrap_or(&answer)).into_owned();
    let words: Vec<u64> = answer.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [said, session, known] = words[..] else {
        return Err(io::Error::other(format!("not a site: {answer}")));
    };
    if said != u64::from(id) {
        return Err(io::Error::other("the peer has another site-id than just now"));
    }
    // Whatever this site has told, in this life or one before: what it does now comes later.
    sites.node.site().clock.observe(known);
    let mut connected = Connected {
        shared,
        sites,
        state,
        link,
        exec,
        outgoing: Outgoing::new(id, known),
        session: session.to_string().into_bytes(),
        differed: Vec::new(),
    };
    state.id.store(id.into(), Ordering::Release);
    state.acknowledged.store(known, Ordering::Release);
    state.up.store(true, Ordering::Release);
    state.error.lock().clear();
    tracing::info!("the link to site {} ({id}) is up, from stamp {known} on", state.name);
    connected.serve()
}

/// The peer has told its number.
fn learn(shared: &Shared, sites: &Sites, state: &LinkState, exec: &mut Executor<'_>, id: SiteId) {
    let known = sites.node.site().peers.list.get(&state.name).and_then(|peer| peer.id);
    if known != Some(id) {
        let stamp = shared.stamp(clock::now_ms());
        sites.node.change_peers(exec, &stamp, |peers| {
            if let Some(peer) = peers.list.get_mut(&state.name) {
                peer.id = Some(id);
            }
        });
    }
}

impl Connected<'_, '_> {
    fn serve(&mut self) -> io::Result<()> {
        let (mut beat, mut compared) = (Instant::now(), Instant::now());
        while self.state.goes_on(self.shared) {
            let own = self.sites.promise(self.shared, &mut self.exec);
            let plan = self.sites.node.plan(&mut self.outgoing, own);
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
        let stamp = self.shared.stamp(clock::now_ms());
        let whole = self.sites.node.read(&mut self.exec, plan, own, &stamp);
        // Nothing leaves that this site might forget.
        if let Some(gate) = self.shared.gate() {
            let mut passage = gate.pass_now();
            while passage == Passage::Wait && self.state.goes_on(self.shared) {
                std::thread::sleep(IDLE);
                passage = gate.pass_now();
            }
            if passage != Passage::Open {
                return Err(io::Error::other("this site's log takes no writes"));
            }
        }
        let Batch { from, to, vector, items } = whole;
        let mut part = Batch { from, to: from, ..Batch::default() };
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
        let id = self.sites.id.to_string();
        let bytes = part.encode();
        let args: [&[u8]; 5] = [b"SITE", b"MERGE", id.as_bytes(), &self.session, &bytes];
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
        let answer = self.link.demand(&[b"SITE", b"DIGEST"])?;
        let words = String::from_utf8_lossy(&answer).into_owned();
        let theirs: Vec<u64> = words
            .trim_start_matches('+')
            .split(' ')
            .filter_map(|word| u64::from_str_radix(word, 16).ok())
            .collect();
        if theirs.len() != GROUPS {
            return Err(io::Error::other("digests of another form"));
        }
        let ours = self.sites.node.site().group_digests();
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
