//! Several sites, the links between them, and what goes wrong.

use crate::site::{Site, text};
use ashlar_replication::known_bugs::{self, Bug};
use ashlar_replication::sites::codec::Batch;
use ashlar_replication::sites::node::Refused;
use ashlar_tests::random::Random;
use ashlar_tests::resp::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub sites: u16,
    pub steps: usize,
    /// Whether keys expire, and so wall clocks matter to what shows.
    pub expires: bool,
    /// Whether a site is replaced in the end by one that is made from a copy of its files, of the middle of the run.
    pub restores: bool,
}

/// A batch on its way.
struct Message {
    session: u64,
    bytes: Vec<u8>,
}

/// What must hold in the end, whatever happened.
#[derive(Default)]
pub struct Facts {
    /// Sums of the counters that are only ever incremented.
    pub counters: BTreeMap<String, i64>,
    /// Members that were added and never removed.
    pub added: BTreeSet<String>,
    /// Members that were removed after they were seen, and never added again.
    pub removed: BTreeSet<String>,
    /// Entries of the stream.
    pub entries: BTreeSet<String>,
    pub calls: usize,
    pub batches: usize,
}

/// Sites and links.
pub struct World {
    pub sites: Vec<Site>,
    up: Vec<bool>,
    wires: BTreeMap<(u16, u16), VecDeque<Message>>,
    cut: BTreeSet<(u16, u16)>,
    loss_percent: usize,
    pub random: Random,
    pub now_ms: i64,
    shape: Shape,
    pub facts: Facts,
    unique: u64,
    /// Elements that may be merged until the links are at rest.
    pub merged_max: u64,
    members: Vec<u16>,
    copy: Option<Site>,
}

const START_MS: i64 = 1_700_000_000_000;

/// Writes of any type on a key. The last five are those by which keys expire, and the very last removes all.
pub fn lines(key: &str, n: usize, m: i64, unique: &str) -> Vec<String> {
    vec![
        format!("SET {key} {unique}"),
        format!("INCRBY {key} {m}"),
        format!("APPEND {key} x"),
        format!("DEL {key}"),
        format!("HSET h{key} f{n} {unique} g{n} 7"),
        format!("HINCRBY h{key} g{n} {m}"),
        format!("HDEL h{key} f{n} g{n}"),
        format!("DEL h{key}"),
        format!("SADD s{key} m{n}"),
        format!("SREM s{key} m{n}"),
        format!("SPOP s{key}"),
        format!("SADD {key} m{n}"),
        format!("ZADD z{key} {m} m{n}"),
        format!("ZINCRBY z{key} 0.1 m{n}"),
        format!("ZREM z{key} m{n}"),
        format!("ZPOPMIN z{key}"),
        format!("RPUSH l{key} {unique} b{n}"),
        format!("LPUSH l{key} {unique} a{n}"),
        format!("LPOP l{key}"),
        format!("RPOP l{key}"),
        format!("LSET l{key} 0 {unique}"),
        format!("LINSERT l{key} BEFORE b{n} {unique}"),
        format!("LREM l{key} 0 a{n}"),
        format!("LTRIM l{key} 1 -2"),
        format!("RPOPLPUSH l{key} lk0"),
        format!("XADD x{key} * f {unique}"),
        format!("XTRIM x{key} MAXLEN 3"),
        format!("DEL x{key} l{key}"),
        format!("RENAME {key} k0"),
        format!("PFADD p{key} {unique} {n}"),
        format!("DEL p{key}"),
        format!("SUNIONSTORE s{key} sk0 sk1"),
        format!("PEXPIRE {key} {}", 50 * (n + 1)),
        format!("PEXPIRE h{key} {}", 200 * (n + 1)),
        format!("PERSIST {key}"),
        format!("SET {key} {unique} PX {}", 100 * (n + 1)),
        "FLUSHALL".to_string(),
    ]
}

impl World {
    pub fn new(shape: Shape, seed: u64, bug: Option<Bug>) -> World {
        known_bugs::switch_on(bug);
        let members: Vec<u16> = (1..=shape.sites).collect();
        let sites = members.iter().map(|id| Site::new(*id, &members)).collect();
        World {
            sites,
            up: vec![true; members.len()],
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            random: Random::new(seed),
            now_ms: START_MS,
            shape,
            facts: Facts::default(),
            unique: 0,
            merged_max: 20_000,
            members,
            copy: None,
        }
    }

    /// Runs with faults.
    pub fn run(&mut self) -> Result<(), String> {
        for step in 0..self.shape.steps {
            if self.shape.restores && step == self.shape.steps / 2 {
                self.copy_last();
            }
            self.now_ms += self.random.below(20) as i64;
            match self.random.below(100) {
                0..=49 => self.client()?,
                50..=89 => self.link_step(),
                90..=94 => self.promise_and_tidy(),
                _ => self.fault(),
            }
        }
        Ok(())
    }

    fn any_site(&mut self) -> Option<usize> {
        let at = self.random.below(self.sites.len());
        self.up[at].then_some(at)
    }

    fn client(&mut self) -> Result<(), String> {
        let Some(at) = self.any_site() else { return Ok(()) };
        self.facts.calls += 1;
        self.unique += 1;
        let unique = format!("u{}", self.unique);
        match self.random.below(10) {
            0 | 1 => self.count(at),
            2 => {
                self.call(at, &format!("SADD added {unique}"));
                self.facts.added.insert(unique);
            }
            3 => {
                self.call(at, &format!("SADD gone {unique}"));
            }
            4 => {
                let member = self.call(at, "SRANDMEMBER gone");
                if let Some(member) = member.bytes() {
                    let member = String::from_utf8_lossy(member).into_owned();
                    let removed = self.call(at, &format!("SREM gone {member}"));
                    if removed == Value::Int(1) {
                        self.facts.removed.insert(member);
                    }
                }
            }
            5 => {
                let id = text(&self.call(at, &format!("XADD stream * f {unique}")));
                if !self.facts.entries.insert(id.clone()) {
                    return Err(format!("two sites gave the same id {id}"));
                }
            }
            _ => self.anything(at, &unique),
        }
        Ok(())
    }

    /// Increments a counter that nothing else touches.
    fn count(&mut self, at: usize) {
        let by = self.random.between(-5, 9);
        let (line, name) = match self.random.below(3) {
            0 => (format!("INCRBY count {by}"), "count"),
            1 => (format!("HINCRBY counts f {by}"), "counts"),
            _ => (format!("ZINCRBY scores {by} m"), "scores"),
        };
        let reply = self.call(at, &line);
        assert!(!reply.is_error(), "{reply:?}");
        *self.facts.counters.entry(name.to_string()).or_default() += by;
    }

    /// Any write of any type, on few keys, so that they meet.
    fn anything(&mut self, at: usize, unique: &str) {
        let key = format!("k{}", self.random.below(6));
        let (n, m) = (self.random.below(4), self.random.between(-3, 9));
        let lines = lines(&key, n, m, unique);
        let most = if self.shape.expires { lines.len() - 1 } else { lines.len() - 5 };
        let line = lines[self.random.below(most)].clone();
        self.call(at, &line);
    }

    fn call(&mut self, at: usize, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.sites[at].call(self.now_ms, &words)
    }

    /// One end of one link does the next thing.
    fn link_step(&mut self) {
        let Some(from) = self.any_site() else { return };
        let to = self.random.below(self.sites.len());
        if from != to {
            self.advance_link(from, to);
        }
    }

    /// The link of a site to another one does the next thing: it sends, or what it sent arrives.
    pub fn advance_link(&mut self, from: usize, to: usize) {
        let (a, b) = (self.sites[from].id, self.sites[to].id);
        if self.cut.contains(&(a, b)) || !self.up[to] || !self.up[from] {
            self.disconnect(from, b);
            return;
        }
        if self.sites[from].links.get(&b).is_none_or(|link| link.session == 0) {
            self.connect(from, to);
        }
        let waits = self.sites[from].links.get(&b).is_some_and(|link| link.waits_for.is_some());
        match waits {
            false => self.send(from, b),
            true if self.random.chance(self.loss_percent) => self.disconnect(from, b),
            true => self.deliver(from, to),
        }
    }

    fn disconnect(&mut self, from: usize, b: u16) {
        let a = self.sites[from].id;
        if let Some(link) = self.sites[from].links.get_mut(&b) {
            (link.session, link.waits_for) = (0, None);
        }
        // What was sent may still arrive: later than what the next connection brings.
        if self.random.chance(50) {
            self.wires.remove(&(a, b));
        }
    }

    fn connect(&mut self, from: usize, to: usize) {
        let (a, b) = (self.sites[from].id, self.sites[to].id);
        let session = self.sites[to].sessions.entry(a).or_default();
        *session += 1 + self.facts.batches as u64;
        let session = *session;
        let known = self.sites[to].node.site().known_of(a);
        self.sites[from].node.site().clock.observe(known);
        if let Some(link) = self.sites[from].links.get_mut(&b) {
            link.session = session;
            link.outgoing.restart(known);
        }
    }

    fn send(&mut self, from: usize, b: u16) {
        let (now_ms, a) = (self.now_ms, self.sites[from].id);
        let own = self.sites[from].promise(now_ms);
        let site = &mut self.sites[from];
        let (node, engine, stamp) = (site.node.clone(), site.engine.clone(), site.stamp(now_ms));
        let Some(link) = site.links.get_mut(&b) else { return };
        let plan = node.plan(&mut link.outgoing, own);
        link.idle_steps = if plan.elements.is_empty() { link.idle_steps + 1 } else { 0 };
        let batch = node.read(&mut engine.executor(), &plan, own, &stamp);
        let message = Message { session: link.session, bytes: batch.encode() };
        link.waits_for = Some(plan);
        self.facts.batches += 1;
        self.wires.entry((a, b)).or_default().push_back(message);
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let (a, b) = (self.sites[from].id, self.sites[to].id);
        let wire = self.wires.entry((a, b)).or_default();
        let at = self.random.below(wire.len());
        let Some(message) = wire.remove(at) else { return self.disconnect(from, b) };
        let current = self.sites[to].sessions.get(&a).copied();
        if current != Some(message.session) {
            return;
        }
        let batch = Batch::decode(&message.bytes).expect("it was encoded");
        let twice = if self.random.chance(10) { 2 } else { 1 };
        let mut result = Ok(());
        for _ in 0..twice {
            let site = &self.sites[to];
            let stamp = site.stamp(self.now_ms);
            result = site.node.take(&mut site.engine.executor(), a, &batch, &stamp);
        }
        let link = self.sites[from].links.get_mut(&b).expect("it has a link to each");
        let plan = link.waits_for.take().expect("it waits");
        match result {
            Ok(()) if self.random.chance(self.loss_percent) => self.disconnect(from, b),
            Ok(()) => link.outgoing.accepted(&plan),
            Err(Refused::Gap(known)) => link.outgoing.restart(known),
            Err(Refused::Malformed) => unreachable!("it was encoded here"),
        }
    }

    fn promise_and_tidy(&mut self) {
        if let Some(at) = self.any_site() {
            let now_ms = self.now_ms;
            self.sites[at].promise(now_ms);
            self.sites[at].tidy(now_ms);
        }
    }

    fn fault(&mut self) {
        let at = self.random.below(self.sites.len());
        let other = self.random.below(self.sites.len());
        let (a, b) = (self.sites[at].id, self.sites[other].id);
        match self.random.below(10) {
            0 => {
                self.up[at] = false;
                self.sites[at].links.clear();
            }
            1 | 2 => self.start(at),
            3 => {
                self.cut.insert((a, b));
            }
            4 => {
                self.cut.insert((a, b));
                self.cut.insert((b, a));
            }
            5 => self.cut.clear(),
            6 => self.loss_percent = self.random.below(40),
            7 => {
                let jump = if self.shape.expires { 30 } else { 3_600_000 };
                self.sites[at].offset_ms += self.random.between(-jump, jump);
            }
            8 if self.up[at] => self.sites[at].snapshot(self.now_ms),
            _ => self.now_ms += self.random.below(500) as i64,
        }
    }

    fn start(&mut self, at: usize) {
        let members = self.members.clone();
        self.sites[at].start(&members);
        self.up[at] = true;
    }

    /// Copies the files of the last site.
    pub fn copy_last(&mut self) {
        let id = self.members.len() as u16 + 1;
        self.copy = self.sites.last().map(|site| site.copy(id));
    }

    /// Has all sites forget what they may, of all that they have undone.
    ///
    /// # Errors
    /// If the links do not come to rest.
    pub fn forget(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            self.heal()?;
            let now_ms = self.now_ms;
            for site in &mut self.sites {
                site.promise(now_ms);
                (0..20).for_each(|_| site.tidy(now_ms));
            }
        }
        self.heal()
    }

    /// Has sites whose digests differ send what differs again, as links do.
    ///
    /// # Errors
    /// If digests still differ after some rounds, or links do not come to rest.
    pub fn repair(&mut self) -> Result<(), String> {
        const ROUNDS_MAX: usize = 5;
        for _ in 0..ROUNDS_MAX {
            self.heal()?;
            let digests: BTreeMap<u16, Vec<u64>> = self
                .sites
                .iter()
                .map(|site| (site.id, site.node.site().group_digests(None)))
                .collect();
            let mut same = true;
            for site in &mut self.sites {
                for (peer, link) in &mut site.links {
                    let pairs = digests[&site.id].iter().zip(&digests[peer]).enumerate();
                    let differ: BTreeSet<usize> = pairs
                        .filter(|(_, (mine, theirs))| mine != theirs)
                        .map(|(at, _)| at)
                        .collect();
                    same &= differ.is_empty();
                    link.outgoing.repair(differ);
                }
            }
            if same {
                return Ok(());
            }
        }
        Err("sites still differ after repairs".to_string())
    }

    /// Each site comes up again from a new snapshot.
    pub fn restart_all(&mut self) {
        for at in 0..self.sites.len() {
            self.sites[at].snapshot(self.now_ms);
            self.start(at);
        }
    }

    /// The last site is gone for good, and one that is made from the copy of its files takes its place, under another
    /// number.
    pub fn restore_last(&mut self) {
        let (Some(mut copy), Some(old)) = (self.copy.take(), self.sites.pop()) else { return };
        self.members.retain(|member| *member != old.id);
        for site in &mut self.sites {
            site.leave(old.id);
            site.join(copy.id);
        }
        copy.start(&self.members);
        self.members.push(copy.id);
        self.sites.push(copy);
    }

    /// A new site, empty, that every other one hears of.
    pub fn add_site(&mut self) {
        let id = self.members.len() as u16 + 1;
        self.members.push(id);
        self.sites.iter_mut().for_each(|site| site.join(id));
        self.sites.push(Site::new(id, &self.members));
        self.up.push(true);
    }

    /// Breaks every link; what is on its way may still arrive.
    pub fn break_links(&mut self) {
        for from in 0..self.sites.len() {
            for to in (0..self.sites.len()).filter(|to| *to != from) {
                let peer = self.sites[to].id;
                self.disconnect(from, peer);
            }
        }
    }

    /// Lets every link do its next step.
    pub fn work_links(&mut self) {
        self.now_ms += 10;
        for from in 0..self.sites.len() {
            for to in (0..self.sites.len()).filter(|to| *to != from) {
                self.advance_link(from, to);
            }
        }
    }

    /// Ends all faults, and lets the links work until there is nothing to send any more.
    ///
    /// # Errors
    /// If they never come to an end: something is sent round and round.
    pub fn heal(&mut self) -> Result<(), String> {
        const ROUNDS_MAX: usize = 400;
        self.cut.clear();
        self.loss_percent = 0;
        for at in 0..self.sites.len() {
            if !self.up[at] {
                self.start(at);
            }
        }
        let mut quiet = 0;
        let merged =
            |world: &World| world.sites.iter().map(|site| site.node.site().merged).sum::<u64>();
        let before = merged(self);
        for _ in 0..ROUNDS_MAX {
            if merged(self) > before + self.merged_max {
                break;
            }
            self.now_ms += 10;
            for from in 0..self.sites.len() {
                for to in (0..self.sites.len()).filter(|to| *to != from) {
                    self.advance_link(from, to);
                    self.advance_link(from, to);
                }
            }
            let links = self.sites.iter().flat_map(|site| site.links.values());
            let idle = links.map(|link| link.idle_steps).min().unwrap_or(0);
            quiet = if idle >= 3 { quiet + 1 } else { 0 };
            if quiet >= 3 {
                return Ok(());
            }
        }
        Err("the links never come to rest: something is sent round and round".to_string())
    }
}
