//! Large values on disk, key by key.

use super::super::memory::MemoryStore;
use super::super::store::ColdStore;
use super::super::{Tier, row};
use crate::clock::ManualClock;
use crate::config::EngineConfig;
use crate::embedded::{Call as _, Store};
use crate::prelude::*;
use crate::stamp::{Rng, Stamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Rig {
    store: Store,
    plain: Store,
    tier: Arc<Tier>,
    disk: MemoryStore,
    clock: Arc<ManualClock>,
}

/// Uses after which a value is brought in as a whole: never.
const UNUSED: u32 = 1_000;

fn rig() -> Rig {
    rig_with(UNUSED)
}

fn rig_with(hot_threshold: u32) -> Rig {
    let (disk, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(1_000_000)));
    let tier = Tier::new(Box::new(disk.clone()), "memory", 5);
    let config = || EngineConfig { hot_threshold, ..EngineConfig::default() };
    let builder = || Store::builder().shards(3).seed(5).config(config()).clock(clock.clone());
    let (store, plain) = (builder().tier(tier.clone()).open(), builder().open());
    Rig { store, plain, tier, disk, clock }
}

fn call(store: &Store, args: &[&[u8]]) -> String {
    match store.call(args) {
        Ok(reply) => format!("{reply:?}"),
        Err(error) => error.to_string(),
    }
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

impl Rig {
    /// Runs a call with and without a tier, and asks for the same reply.
    fn both(&self, args: &[&[u8]]) -> String {
        let replies = [&self.store, &self.plain].map(|store| call(store, args));
        let name =
            args.iter().map(|arg| String::from_utf8_lossy(arg)).collect::<Vec<_>>().join(" ");
        assert!(replies[0] == replies[1], "{name}:\n{:.300}\n{:.300}", replies[0], replies[1]);
        replies[0].clone()
    }

    fn line(&self, line: &str) -> String {
        self.both(&words(line))
    }

    fn demote(&self) {
        self.clock.advance(Duration::from_secs(10));
        let (engine, now_ms) = (self.store.engine(), crate::clock::Clock::now_ms(&*self.clock));
        self.tier.make_room(engine, now_ms, 1, usize::MAX, &|| usize::MAX / 2).unwrap();
    }

    fn tidy(&self) {
        let stamp = Stamp::new(crate::clock::Clock::now_ms(&*self.clock), 1);
        self.tier.tidy(&mut self.store.engine().executor(), &stamp).unwrap();
    }

    fn tier_of(&self, key: &str) -> String {
        let reply = self.store.call(&[b"OBJECT", b"TIER", key.as_bytes()]).unwrap();
        String::from_utf8(reply.into_bytes().unwrap().unwrap_or_default()).unwrap()
    }

    fn digests(&self) {
        for key in ["hash", "set", "zset", "list", "text"] {
            self.line(&format!("DEBUG DIGEST-VALUE {key}"));
        }
    }

    /// Large values of each type, with long and short elements.
    fn fill(&self) {
        for nth in 0..6_000usize {
            let long = vec![b'v'; if nth % 700 == 13 { 20_000 } else { nth % 50 }];
            let name = format!("name{nth}");
            self.both(&[b"HSET", b"hash", name.as_bytes(), &long]);
            self.both(&[b"HSET", b"hash", format!("{nth}").as_bytes(), name.as_bytes()]);
            self.both(&[b"SADD", b"set", name.as_bytes(), format!("{nth}").as_bytes(), &long]);
            let score = format!("{}", nth * 31 % 997);
            self.both(&[b"ZADD", b"zset", score.as_bytes(), name.as_bytes()]);
            self.both(&[b"RPUSH", b"list", name.as_bytes(), &long]);
            self.both(&[b"APPEND", b"text", format!("{nth:6}-").as_bytes()]);
        }
        for line in ["HDEL hash name3 7", "SREM set name3 7", "ZREM zset name3", "LPOP list"] {
            self.line(line);
        }
    }
}

/// Calls that read parts, and for each that they have to be answered without the whole.
fn reads() -> Vec<String> {
    let mut lines: Vec<String> = [
        "HLEN hash",
        "SCARD set",
        "ZCARD zset",
        "LLEN list",
        "STRLEN text",
        "TYPE hash",
        "TYPE set",
        "TYPE zset",
        "TYPE list",
        "TYPE text",
        "HGET list name1",
        "LINDEX hash 0",
        "STRLEN set",
        "GETRANGE list 0 1",
        "SISMEMBER hash x",
        "ZSCORE text x",
        "LLEN text",
        "HLEN set",
        "HMGET hash name1 nothing 12 name3 name713 name12 name1",
        "SMISMEMBER set 1 2 name5 none name3",
        "ZMSCORE zset name1 nothing name3 name5999",
        "HEXISTS hash nothing",
        "HGET hash name713",
        "LRANGE list 0 3",
        "LRANGE list -3 -1",
        "LRANGE list 5 2",
        "LRANGE list 11000 20000",
        "LRANGE list -99999 1",
        "LRANGE list 40000 50000",
        "LINDEX list 99999",
        "LINDEX list -99999",
        "ZRANGE zset 0 5",
        "ZRANGE zset -3 -1 WITHSCORES",
        "ZRANGE zset 0 5 REV WITHSCORES",
        "ZREVRANGE zset 40 45",
        "ZRANGE zset 9000 9010",
        "ZRANGE zset 5 2",
        "ZRANGEBYSCORE zset 10 11",
        "ZRANGEBYSCORE zset (10 (10",
        "ZRANGEBYSCORE zset -inf +inf LIMIT 100 3",
        "ZREVRANGEBYSCORE zset 500 0 WITHSCORES LIMIT 2 4",
        "ZRANGE zset (500 0 BYSCORE REV LIMIT 3 2",
        "ZRANGEBYSCORE zset 10 11 LIMIT -1 2",
        "ZCOUNT zset 100 (200",
        "ZCOUNT zset -inf +inf",
        "ZCOUNT zset 5 1",
        "ZCOUNT zset a 1",
        "ZRANGEBYSCORE zset 1 b",
        "ZRANK zset nothing",
        "ZRANK zset name77",
        "ZREVRANK zset name78 WITHSCORE",
        "ZRANK list x",
        "ZRANGE set 0 1",
        "ZCOUNT text 1 2",
        "GETRANGE text 0 20",
        "GETRANGE text -5 -1",
        "GETRANGE text 0 -100000",
        "SUBSTR text 9 -41900",
        "GETRANGE text 41990 99999",
        "GETRANGE text 5 3",
        "GETRANGE text -1 -5",
        "GETRANGE text 0 -1",
    ]
    .map(str::to_owned)
    .to_vec();
    for nth in (0..6_200).step_by(37) {
        lines.push(format!("HGET hash name{nth}"));
        lines.push(format!("HSTRLEN hash {nth}"));
        lines.push(format!("HEXISTS hash {nth}"));
        lines.push(format!("SISMEMBER set name{nth}"));
        lines.push(format!("SISMEMBER set {nth}"));
        lines.push(format!("ZSCORE zset name{nth}"));
        lines.push(format!("ZRANK zset name{nth} WITHSCORE"));
        lines.push(format!("ZREVRANK zset name{nth}"));
        lines.push(format!("ZRANGE zset {nth} {}", nth + 3));
        lines.push(format!("ZCOUNT zset {} ({nth}", nth / 2));
        lines.push(format!("LINDEX list {nth}"));
        lines.push(format!("LINDEX list -{nth}"));
        lines.push(format!("LRANGE list {nth} {}", nth + 30));
        lines.push(format!("GETRANGE text {nth} {}", nth * 2));
    }
    lines
}

#[test]
fn parts_are_read_without_the_whole() {
    let rig = rig();
    rig.fill();
    rig.demote();
    let rows = rig.disk.rows();
    assert!(rows > 200, "{rows} rows");
    let mut parts = 0;
    for line in reads() {
        let before = rig.disk.reads();
        let reply = rig.line(&line);
        let read = rig.disk.reads() - before;
        // Bounds that are none are refused without a look at the key.
        let least = if reply.contains("is not a float") { 0 } else { 1 };
        parts += least;
        let max = match line.split(' ').next() {
            Some("HMGET" | "SMISMEMBER" | "ZMSCORE") => 40,
            Some(name) if name.starts_with("ZR") || name == "ZCOUNT" => 40,
            Some("GETRANGE" | "LRANGE") => 30,
            _ => 12,
        };
        assert!((least..=max).contains(&read), "{line}: {read} rows");
    }
    for key in ["hash", "set", "zset", "list", "text"] {
        assert_eq!(rig.tier_of(key), "cold", "{key}");
    }
    assert_eq!(rig.tier.stats.loads.load(Ordering::Relaxed), 0);
    assert_eq!(rig.tier.stats.parts.load(Ordering::Relaxed), parts);
    // The rest brings the whole in, and a change does.
    for line in [
        "HRANDFIELD hash 0",
        "HSET hash name3 again",
        "SADD set name3 name4",
        "ZRANGE zset 0 -1",
        "ZADD zset 5 name3",
        "LPUSH list first",
        "LRANGE list 0 -1",
        "APPEND text end",
        "GET text",
    ] {
        rig.line(line);
    }
    rig.digests();
    for line in reads() {
        rig.line(&line);
    }
    rig.demote();
    for line in reads() {
        rig.line(&line);
    }
    rig.digests();
    rig.tidy();
    rig.line("DEL hash set zset list text");
    rig.tidy();
    assert_eq!((rig.disk.rows(), rig.tier.stats.row_bytes.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_part_that_is_read_often_brings_the_whole_in() {
    let rig = rig_with(100);
    rig.fill();
    rig.demote();
    for _ in 0..100 {
        rig.line("HGET hash name5");
    }
    assert_eq!(rig.tier_of("hash"), "cold");
    rig.line("HGET hash name5");
    rig.line("HGET hash name5");
    assert_ne!(rig.tier_of("hash"), "cold");
    rig.digests();
}

#[test]
fn a_part_is_void_once_its_key_has_changed() {
    use crate::executor::{Call, Outcome, Prefetched};
    use crate::reply::{Protocol, Reply};
    let rig = rig();
    rig.fill();
    rig.demote();
    let engine = rig.store.engine();
    let args: &[&[u8]] = &[b"HGET", b"hash", b"name5"];
    let (_, command) = crate::engine::command_table().find(b"HGET").unwrap();
    let stamp = Stamp::new(2_000_000, 1);
    let call = Call { command, args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
    let mut executor = engine.executor();
    executor.set_loads_elsewhere(true);
    for changed in ["DEL hash", "HSET hash name5 other", "EXPIRE hash 100000"] {
        executor.drop_parts();
        let mut out = Vec::new();
        let mut run = |executor: &mut crate::executor::Executor<'_>| {
            out.clear();
            let mut reply = Reply::new(&mut out, Protocol::Resp2);
            let outcome = executor.run(&call, Prefetched::NONE, &mut reply);
            executor.release();
            (outcome, out.clone())
        };
        assert_eq!(run(&mut executor).0, Outcome::NeedsCold);
        let brought = rig.tier.load(engine, &executor.take_needs()).unwrap();
        assert_eq!(brought.parts.len(), 1);
        executor.give(brought);
        // Somebody else is faster, and the new value is on disk as well, perhaps in the very same rows.
        rig.store.call(&words(changed)).unwrap();
        if changed == "DEL hash" {
            (0..3_000).for_each(|nth| {
                rig.store.hset("hash", &[(format!("name{nth}"), "y".repeat(40))]).unwrap();
            });
            rig.tidy();
        }
        rig.demote();
        let (outcome, _) = run(&mut executor);
        assert_eq!(outcome, Outcome::NeedsCold, "{changed}");
        let brought = rig.tier.load(engine, &executor.take_needs()).unwrap();
        executor.give(brought);
        let (outcome, reply) = run(&mut executor);
        let expected = if changed == "DEL hash" { "y".repeat(40) } else { "other".to_owned() };
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(reply, format!("${}\r\n{expected}\r\n", expected.len()).into_bytes());
    }
}

/// A store that lets something happen before each batch is written.
struct Between {
    rows: MemoryStore,
    before: parking_lot::Mutex<Box<dyn FnMut() + Send>>,
}

impl ColdStore for Arc<Between> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, super::super::store::ColdError> {
        self.rows.get(key)
    }

    fn apply(
        &self,
        batch: &super::super::store::Batch,
    ) -> Result<(), super::super::store::ColdError> {
        (self.before.lock())();
        self.rows.apply(batch)
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut super::super::store::EachRow<'_>,
    ) -> Result<(), super::super::store::ColdError> {
        self.rows.range(from, to, each)
    }

    fn flush_durable(&self) -> Result<(), super::super::store::ColdError> {
        self.rows.flush_durable()
    }

    fn size(&self) -> u64 {
        self.rows.size()
    }

    fn destroy(self: Box<Self>) -> Result<(), super::super::store::ColdError> {
        Ok(())
    }
}

#[test]
fn a_change_while_a_value_is_written_ends_that_and_leaves_no_rows() {
    let rows = MemoryStore::default();
    let between =
        Arc::new(Between { rows: rows.clone(), before: parking_lot::Mutex::new(Box::new(|| ())) });
    let tier = Tier::new(Box::new(between.clone()), "memory", 5);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let store = Store::builder().shards(2).seed(5).clock(clock.clone()).tier(tier.clone()).open();
    for nth in 0..40_000 {
        store.hset("hash", &[(format!("field{nth}"), "v".repeat(60))]).unwrap();
    }
    let demote = || {
        clock.advance(Duration::from_secs(10));
        let now_ms = crate::clock::Clock::now_ms(&*clock);
        tier.make_room(store.engine(), now_ms, 1, usize::MAX, &|| usize::MAX / 2)
    };
    let changes: [fn(&Store); 2] = [
        |store| _ = store.hset("hash", &[("field7", "changed")]).unwrap(),
        |store| drop(store.call(&[b"DEL", b"hash"]).unwrap()),
    ];
    for change in changes {
        let other = store.clone();
        let mut batches = 0;
        *between.before.lock() = Box::new(move || {
            batches += 1;
            if batches == 2 {
                change(&other);
            }
        });
        demote().unwrap();
        *between.before.lock() = Box::new(|| ());
        assert!(tier.stats.stale_demotions.load(Ordering::Relaxed) > 0);
        if store.exists("hash").unwrap() {
            demote().unwrap();
            assert_eq!(store.hget("hash", "field7").unwrap().as_deref(), Some(&b"changed"[..]));
            assert_eq!(store.hlen("hash").unwrap(), 40_000);
            assert_eq!(tier.stats.loads.load(Ordering::Relaxed), 0);
            store.hset("hash", &[("field7", "again")]).unwrap();
        }
    }
    let stamp = Stamp::new(crate::clock::Clock::now_ms(&*clock), 1);
    tier.tidy(&mut store.engine().executor(), &stamp).unwrap();
    assert_eq!(rows.rows(), 0, "what was written in part is deleted");
}

#[test]
fn damage_names_the_key_and_harms_nothing_else() {
    let rig = rig();
    rig.fill();
    rig.demote();
    let (rows, mut random) = (rig.disk.rows(), Rng::new(3));
    let (mut damaged, mut whole) = (0, 0);
    for nth in 0..60 {
        let place = random.below(rows) + rows * nth;
        assert!(rig.disk.damage(place));
        for line in ["HGET hash name5", "HGET hash 17", "SISMEMBER set name9", "LINDEX list 4000"] {
            let key = line.split(' ').nth(1).unwrap();
            match rig.store.call(&words(line)) {
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("damaged") && text.contains(&format!("'{key}'")),
                        "{text}"
                    );
                    damaged += 1;
                }
                Ok(reply) => {
                    assert_eq!(format!("{reply:?}"), call(&rig.plain, &words(line)), "{line}");
                    whole += 1;
                }
            }
        }
        // The same bit again.
        assert!(rig.disk.damage(place));
    }
    assert!(whole > 0, "{damaged} damaged, {whole} whole");
    rig.digests();
    // Every row of a value counts for its whole.
    rig.demote();
    for place in 0..rows {
        assert!(rig.disk.damage(place));
    }
    for line in ["HGETALL hash", "SMEMBERS set", "LRANGE list 0 -1", "GET text", "HGET hash name5"]
    {
        assert!(rig.store.call(&words(line)).is_err(), "{line}");
    }
}

#[test]
fn rows_of_earlier_versions_are_read() {
    use super::super::store::Batch;
    let rig = rig();
    rig.fill();
    rig.demote();
    // All values as they were written before there were large ones: as a whole.
    let mut ids = std::collections::BTreeSet::new();
    let every = (&[0u8; 4][..], &[0xFF; 4][..]);
    rig.disk
        .range(every.0, every.1, &mut |key, _| {
            ids.extend(row::RowId::from_key(key).map(|(id, _)| id));
            true
        })
        .unwrap();
    for id in ids {
        let value = row::read(&rig.disk, id, usize::MAX).unwrap().unwrap();
        let mut batch = Batch::default();
        row::delete(&rig.disk, &mut batch, id).unwrap();
        row::write(&rig.disk, &mut batch, id, 77, &value).unwrap();
        rig.disk.apply(&batch).unwrap();
    }
    rig.line("HGET hash name5");
    assert_eq!(rig.tier_of("hash"), "cached", "it is read as a whole");
    for line in reads() {
        rig.line(&line);
    }
    rig.digests();
}

/// The rows of a store one after the other: length of the key u16, of the row u16, key, row.
fn dump(store: &MemoryStore) -> Vec<u8> {
    let mut out = Vec::new();
    let each = &mut |key: &[u8], row: &[u8]| {
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(row.len() as u16).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(row);
        true
    };
    store.range(&[0; 4], &[0xFF; 4], each).unwrap();
    out
}

/// What is in the fixture.
fn fill_fixture(store: &Store) {
    for nth in 0..600 {
        call(store, &[b"HSET", b"hash", format!("field{nth}").as_bytes(), &vec![b'v'; nth % 30]]);
        call(store, &[b"SADD", b"set", format!("member{nth}").as_bytes()]);
        call(
            store,
            &[b"ZADD", b"zset", format!("{}", nth % 50).as_bytes(), format!("{nth}").as_bytes()],
        );
        call(store, &[b"RPUSH", b"list", format!("element{nth}").as_bytes(), b"7"]);
        call(store, &[b"APPEND", b"text", format!("{nth}-").as_bytes()]);
    }
    call(store, &[b"SET", b"small", b"a value of its own"]);
}

#[test]
fn rows_of_the_fixture_are_read() {
    use super::super::store::Batch;
    let rig = rig();
    if std::env::var_os("ASHLAR_WRITE_FIXTURES").is_some() {
        let made = rig_with(UNUSED);
        made.tier.set_large_bytes(0);
        fill_fixture(&made.store);
        made.demote();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tier/large/fixtures/rows-v2.bin");
        std::fs::write(path, dump(&made.disk)).unwrap();
    }
    let (mut rest, mut batch) = (&include_bytes!("fixtures/rows-v2.bin")[..], Batch::default());
    let mut take = |len: usize| {
        let (bytes, after) = rest.split_at(len);
        rest = after;
        (bytes.to_vec(), after.is_empty())
    };
    loop {
        let lens = take(4).0;
        let len = |at: usize| usize::from(u16::from_le_bytes([lens[at], lens[at + 1]]));
        let (key, (row, is_last)) = (take(len(0)).0, take(len(2)));
        let (id, chunk) = row::RowId::from_key(&key).unwrap();
        if chunk == 0 {
            let engine = rig.store.engine();
            let mut shard = engine.lock_shard(id.print.slot() % engine.shard_count());
            assert!(shard.db_mut(0).restore_cold(&rig.tier, (id.print, id.epoch), None));
        }
        batch.put(key, row);
        if is_last {
            break;
        }
    }
    rig.disk.apply(&batch).unwrap();
    fill_fixture(&rig.plain);
    for nth in (0..620).step_by(9) {
        rig.line(&format!("HGET hash field{nth}"));
        rig.line(&format!("SISMEMBER set member{nth}"));
        rig.line(&format!("ZRANK zset {nth} WITHSCORE"));
        rig.line(&format!("LRANGE list {nth} {}", nth + 4));
        rig.line(&format!("GETRANGE text {nth} {}", nth + 20));
    }
    rig.line("ZRANGEBYSCORE zset 7 8");
    for key in ["hash", "set", "zset", "list", "text"] {
        assert_eq!(rig.tier_of(key), "cold", "{key}");
    }
    rig.line("GET small");
    rig.digests();
}
