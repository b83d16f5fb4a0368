//! A simulated cluster that is a site: groups with slots, whose replicas apply the same entries, and slots that move
//! between them. What groups agree by is not simulated here (see `tests/sim`): an entry is applied by all replicas.

use crate::site::text;
use ashlar_engine::engine::{Engine, EngineOptions, command_table};
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::policy::{Rule, Table};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::raft::OwnedCall;
use ashlar_replication::runtime::calls;
use ashlar_replication::sites::group::{GroupSite, GroupSites};
use ashlar_replication::sites::peers::Peer;
use ashlar_replication::sites::slots::Slots;
use ashlar_replication::slots::GroupShard;
use ashlar_replication::topology::{SiteTable, SlotRange};
use ashlar_tests::random::Random;
use ashlar_tests::resp::{Value, parse};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Slots that move together.
const SECTOR: u16 = 1_024;
const SECTORS: u16 = 16;
const SHARDS: usize = 8;
const STALLS_MAX: usize = 60;
/// Bytes of a piece: few, so that much happens between them.
const PIECE_BYTES: usize = 64;

/// One replica of a group.
struct Replica {
    engine: Arc<Engine>,
    shard: GroupShard,
}

impl Replica {
    fn new(group: usize) -> Replica {
        let options = EngineOptions { shards: SHARDS, groups: true, ..EngineOptions::default() };
        let engine = Arc::new(Engine::with_options(options));
        let sites = GroupSites::install(&engine, 7);
        let shard = GroupShard::new(engine.clone(), group, |_, _| {}).with_sites(sites);
        Replica { engine, shard }
    }

    fn apply(&mut self, stamp: &Stamp, call: &OwnedCall) -> Vec<u8> {
        self.shard.advance(stamp.now_ms);
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp2);
        let mut exec = self.engine.executor();
        exec.see_only(self.shard.shard());
        let result = match self.shard.move_slots(call) {
            None => self.shard.site_call(&mut exec, call),
            moved => moved,
        };
        match result {
            Some(Ok(())) => reply.ok(),
            Some(Err(error)) => reply.error(&error),
            None => {
                let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
                let (_, command) = command_table().find(args[0]).expect("a command");
                let stamp = Stamp { now_ms: self.shard.now_ms, ..*stamp };
                let (db, stamp) = (0, &stamp);
                let call =
                    Call { command, args: &args, db, stamp, may_block: false, no_touch: true };
                exec.run(&call, Prefetched::NONE, &mut reply);
            }
        }
        drop(exec);
        out
    }

    /// Comes up again from its snapshot.
    fn restart(&mut self) {
        let bytes = self.shard.snapshot();
        let mut again = Replica::new(self.shard.shard());
        again.shard.restore(&bytes).expect("its own snapshot");
        *self = again;
    }
}

/// A group: two replicas, of which the first leads.
pub struct Group {
    pub number: usize,
    replicas: [Replica; 2],
    calls: u64,
    /// Rises whenever another replica leads.
    pub term: u64,
}

impl Group {
    fn new(number: usize) -> Group {
        let replicas = [Replica::new(number), Replica::new(number)];
        Group { number, replicas, calls: 0, term: 1 }
    }

    /// Applies an entry on all replicas.
    pub fn apply(&mut self, now_ms: i64, cluster: u16, args: &[&[u8]]) -> Value {
        self.calls += 1;
        let mut stamp = Stamp::new(now_ms, self.calls);
        stamp.site = cluster;
        let call = OwnedCall { db: 0, args: args.iter().map(|arg| arg.to_vec()).collect() };
        let replies = self.replicas.each_mut().map(|replica| replica.apply(&stamp, &call));
        // The order of keys follows from a random seed.
        let ordered = args[0] != b"KEYS";
        let name = String::from_utf8_lossy(args[0]);
        assert!(!ordered || replies[0] == replies[1], "replicas answer {name} differently");
        parse(&replies[0]).expect("a reply").expect("a whole one").0
    }

    fn leader(&self) -> &GroupShard {
        &self.replicas[0].shard
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.replicas[0].engine
    }

    pub fn site(&self) -> Arc<GroupSite> {
        self.leader().site().expect("the cluster is a site").clone()
    }

    /// Replicas must not differ.
    pub fn check(&self) -> Result<(), String> {
        let [one, other] = self.replicas.each_ref().map(|replica| replica.shard.digest());
        match one == other {
            true => Ok(()),
            false => Err(format!("the replicas of group {} differ", self.number)),
        }
    }

    /// The other replica leads, or one of them comes up again.
    pub fn fault(&mut self, random: &mut Random) {
        match random.below(3) {
            0 => {
                self.replicas.swap(0, 1);
                self.term += 1;
            }
            1 => {
                self.replicas[0].restart();
                self.term += 1;
            }
            _ => self.replicas[1].restart(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Copy(u64),
    Follow,
    Freeze,
    Rest,
    Finish,
}

/// Slots on their way.
struct Move {
    id: u64,
    slots: Vec<SlotRange>,
    from: usize,
    to: usize,
    attempt: u64,
    sequence: u64,
    term: u64,
    step: Step,
    follows: u32,
}

/// A cluster.
pub struct Cluster {
    pub number: u16,
    pub groups: Vec<Group>,
    /// The group of each sector, by its place.
    owners: Vec<usize>,
    moving: Option<Move>,
    /// Steps for which the move does not go on.
    stalls: usize,
    moves: u64,
    attempts: u64,
    /// Sectors whose keys the group at this place is to drop.
    gone: Vec<(usize, SlotRange)>,
    pub moved: usize,
}

fn text_of(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn with_slots(fixed: &[&[u8]], slots: &[SlotRange]) -> Vec<Vec<u8>> {
    let slots = slots.iter().flat_map(|(first, last)| [text_of(first), text_of(last)]);
    fixed.iter().map(|arg| arg.to_vec()).chain(slots).collect()
}

impl Cluster {
    /// A cluster of so many groups, of which the last has no slots.
    pub fn new(number: u16, groups: usize) -> Cluster {
        let owners = (0..SECTORS).map(|sector| usize::from(sector) % (groups - 1)).collect();
        Cluster {
            number,
            groups: (1..=groups).map(Group::new).collect(),
            owners,
            moving: None,
            stalls: 0,
            moves: 0,
            attempts: 0,
            gone: Vec::new(),
            moved: 0,
        }
    }

    /// It becomes one of several sites; of others that are clusters with the numbers of their groups.
    pub fn begin(&mut self, now_ms: i64, others: &[(u16, Vec<u16>)]) {
        let peer = |(number, _): &(u16, Vec<u16>)| {
            let name = format!("site-{number}");
            let (host, groups) = ("peer".to_string(), Vec::new());
            (name, Peer { id: Some(*number), host, port: 1, groups })
        };
        let mut table = SiteTable { version: 1, id: self.number, ..SiteTable::default() };
        table.peers = others.iter().map(peer).collect();
        let (mut sites, mut policies) = (Vec::new(), Vec::new());
        table.encode(&mut sites);
        let mut rules = Table::default();
        assert!(rules.set(Rule::parse(&[b"*", b"global"]).expect("a rule")));
        rules.encode(&mut policies);
        for at in 0..self.groups.len() {
            self.entry(now_ms, at, &[calls::SITES, &sites]);
            let slots = with_slots(&[calls::SITE_SLOTS], &self.ranges(at));
            self.entry_of(now_ms, at, &slots);
            for (number, groups) in others.iter().filter(|(_, groups)| !groups.is_empty()) {
                let numbers = groups.iter().map(text_of);
                let head = [calls::SITE_GROUPS.to_vec(), text_of(number)];
                let call: Vec<Vec<u8>> = head.into_iter().chain(numbers).collect();
                self.entry_of(now_ms, at, &call);
            }
            self.entry(now_ms, at, &[calls::POLICIES, &policies]);
        }
    }

    /// The numbers of its groups as sites.
    pub fn ids(&self) -> Vec<u16> {
        (1..=self.groups.len() as u16).map(|group| group * 256 + self.number).collect()
    }

    fn ranges(&self, at: usize) -> Vec<SlotRange> {
        let of = (0..SECTORS).filter(|sector| self.owners[usize::from(*sector)] == at);
        of.map(sector).collect()
    }

    fn entry(&mut self, now_ms: i64, at: usize, args: &[&[u8]]) {
        let number = self.number;
        let reply = self.groups[at].apply(now_ms, number, args);
        assert!(!reply.is_error(), "{reply:?}");
    }

    fn entry_of(&mut self, now_ms: i64, at: usize, args: &[Vec<u8>]) {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        self.entry(now_ms, at, &args);
    }

    fn owner(&self, slot: u16) -> usize {
        self.owners[usize::from(slot / SECTOR)]
    }

    /// A client's call on one key; `None` where its slot is about to move.
    pub fn call(&mut self, now_ms: i64, args: &[&[u8]]) -> Option<Value> {
        let slot = slot_of(args.get(1)?);
        let at = self.owner(slot);
        if self.groups[at].leader().is_frozen(slot) {
            return None;
        }
        let number = self.number;
        Some(self.groups[at].apply(now_ms, number, args))
    }

    /// Forgets, deletes what has expired, and settles what has lost its value: what leaders do now and then.
    pub fn tidy(&mut self, now_ms: i64) {
        let number = self.number;
        for group in &mut self.groups {
            let site = group.site();
            for (key, names) in site.take_lost() {
                let call = [calls::SITE_LOST, &key].into_iter();
                let args: Vec<&[u8]> = call.chain(names.iter().map(Vec::as_slice)).collect();
                group.apply(now_ms, number, &args);
            }
            let expired = group.engine().find_expired(group.number, now_ms, 16);
            if !expired.is_empty() {
                let call = [&b"ASHLAR.EXPIRE"[..]].into_iter();
                let args: Vec<&[u8]> = call.chain(expired.iter().map(Vec::as_slice)).collect();
                group.apply(now_ms, number, &args);
            }
            if let Some(from) = site.tidy_from() {
                group.apply(now_ms, number, &[calls::SITE_TIDY, &from]);
            }
        }
    }

    /// Whether slots are on their way, or keys are to be dropped.
    pub fn is_at_rest(&self) -> bool {
        let agree = |at: usize| self.groups[at].leader().site_slots() == Some(self.slots(at));
        self.moving.is_none() && self.gone.is_empty() && (0..self.groups.len()).all(agree)
    }

    /// Tells groups which slots they have, where they do not know: what the leaders do while nothing moves.
    fn tell_slots(&mut self, now_ms: i64) {
        for at in 0..self.groups.len() {
            if self.groups[at].leader().site_slots() != Some(self.slots(at)) {
                self.entry_of(now_ms, at, &with_slots(&[calls::SITE_SLOTS], &self.ranges(at)));
            }
        }
    }

    fn slots(&self, at: usize) -> Vec<SlotRange> {
        Slots::new(&self.ranges(at)).ranges().to_vec()
    }

    /// The next step of whatever moves; starts a move where there is none, unless it is to end.
    pub fn move_step(&mut self, now_ms: i64, random: &mut Random, ends: bool) {
        if self.stalls > 0 && !ends {
            self.stalls -= 1;
            return;
        }
        if !self.gone.is_empty() && (ends || random.chance(50)) {
            let (at, range) = self.gone.remove(0);
            return self.entry_of(now_ms, at, &with_slots(&[calls::DROP_GONE], &[range]));
        }
        let Some(moving) = self.moving.take() else {
            if ends || random.chance(30) {
                self.tell_slots(now_ms);
            }
            if !ends && self.gone.is_empty() && random.chance(20) {
                self.start_move(random);
            }
            return;
        };
        let given_up = if matches!(moving.step, Step::Rest | Step::Finish) { 8 } else { 2 };
        if !ends && random.chance(given_up) {
            return self.give_up(now_ms, &moving);
        }
        // Long enough for all sites to tell each other what they know, and to forget: while slots are frozen, while
        // both groups have their keys, and while they are being copied.
        let percent = match moving.step {
            Step::Freeze | Step::Finish => 30,
            Step::Rest => 15,
            Step::Copy(_) | Step::Follow => 5,
        };
        self.moving = self.advance(now_ms, moving);
        if random.chance(percent) {
            self.stalls = random.below(STALLS_MAX);
        }
    }

    fn start_move(&mut self, random: &mut Random) {
        let at = random.below(usize::from(SECTORS)) as u16;
        let from = self.owner(at * SECTOR);
        let to = random.below(self.groups.len());
        if from == to {
            return;
        }
        (self.moves, self.attempts) = (self.moves + 1, self.attempts + 1);
        self.moving = Some(Move {
            id: self.moves,
            slots: vec![sector(at)],
            from,
            to,
            attempt: self.attempts,
            sequence: 0,
            term: 0,
            step: Step::Copy(0),
            follows: 0,
        });
    }

    /// The slots stay where they were.
    fn give_up(&mut self, now_ms: i64, moving: &Move) {
        let id = text_of(moving.id);
        self.entry_of(now_ms, moving.to, &with_slots(&[calls::END_MOVE, &id], &moving.slots));
        self.entry_of(now_ms, moving.from, &with_slots(&[calls::THAW], &moving.slots));
        self.groups[moving.from].leader().note_changes(&[]);
    }

    fn advance(&mut self, now_ms: i64, mut moving: Move) -> Option<Move> {
        if self.groups[moving.from].term != moving.term {
            // Another leader starts over.
            self.attempts += 1;
            moving.term = self.groups[moving.from].term;
            (moving.attempt, moving.sequence, moving.follows) = (self.attempts, 0, 0);
            moving.step = Step::Copy(0);
            self.groups[moving.from].leader().note_changes(&moving.slots);
        }
        let from = self.groups[moving.from].leader();
        match moving.step {
            Step::Copy(position) => {
                let piece = from.copy(&moving.slots, position, PIECE_BYTES);
                moving.step = if piece.next == 0 { Step::Follow } else { Step::Copy(piece.next) };
                if piece.keys > 0 {
                    self.install(now_ms, &mut moving, &piece.bytes, false);
                }
            }
            Step::Follow => {
                let piece = from.changes(&moving.slots, PIECE_BYTES).expect("all is noted");
                moving.follows += 1;
                if piece.next == 0 && piece.keys <= 2 || moving.follows > 9 {
                    moving.step = Step::Freeze;
                }
                if piece.keys > 0 {
                    self.install(now_ms, &mut moving, &piece.bytes, false);
                }
            }
            Step::Freeze => {
                moving.step = Step::Rest;
                self.entry_of(
                    now_ms,
                    moving.from,
                    &with_slots(&[calls::FREEZE, b"1"], &moving.slots),
                );
            }
            Step::Rest => {
                let piece = from.changes(&moving.slots, PIECE_BYTES).expect("all is noted");
                let last = piece.next == 0;
                if last {
                    moving.step = Step::Finish;
                }
                self.install(now_ms, &mut moving, &piece.bytes, last);
            }
            Step::Finish => {
                for range in &moving.slots {
                    self.owners[usize::from(range.0 / SECTOR)] = moving.to;
                    self.gone.push((moving.from, *range));
                }
                self.groups[moving.from].leader().note_changes(&[]);
                self.moved += 1;
                return None;
            }
        }
        Some(moving)
    }

    fn install(&mut self, now_ms: i64, moving: &mut Move, piece: &[u8], last: bool) {
        let numbers = [moving.id, moving.attempt, moving.sequence].map(text_of);
        moving.sequence += 1;
        let [id, attempt, sequence] = &numbers;
        let last: &[u8] = if last { b"1" } else { b"0" };
        let call = with_slots(&[calls::INSTALL, id, attempt, sequence, last, piece], &moving.slots);
        self.entry_of(now_ms, moving.to, &call);
    }

    /// All that clients see of the keys, in one order.
    pub fn content(&mut self, now_ms: i64) -> BTreeMap<String, String> {
        let number = self.number;
        let mut all = BTreeMap::new();
        for group in &mut self.groups {
            all.extend(crate::site::content(|args| group.apply(now_ms, number, args)));
        }
        all
    }

    /// What is shown for a line.
    pub fn show(&mut self, now_ms: i64, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        text(&self.call(now_ms, &words).expect("no slot moves"))
    }
}

fn sector(at: u16) -> SlotRange {
    (at * SECTOR, at * SECTOR + SECTOR - 1)
}
