//! What the tier does, key by key.

use super::memory::MemoryStore;
use super::{KeyCounts, Tier};
use crate::clock::ManualClock;
use crate::effects::Notification;
use crate::embedded::{Builder, Call, Store};
use crate::prelude::*;
use crate::stamp::Stamp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Rig {
    store: Store,
    tier: Arc<Tier>,
    disk: MemoryStore,
    clock: Arc<ManualClock>,
}

fn rig_with(build: impl FnOnce(Builder) -> Builder) -> Rig {
    let (disk, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(1_000_000)));
    let tier = Tier::new(Box::new(disk.clone()), "memory", 5);
    let builder = Store::builder().shards(3).seed(5).clock(clock.clone()).tier(tier.clone());
    Rig { store: build(builder).open(), tier, disk, clock }
}

fn rig() -> Rig {
    rig_with(|builder| builder)
}

impl Rig {
    fn now_ms(&self) -> i64 {
        crate::clock::Clock::now_ms(&*self.clock)
    }

    fn demote(&self) {
        let engine = self.store.engine();
        let all = || usize::MAX / 2;
        self.tier.make_room(engine, self.now_ms(), 1, usize::MAX, &all).unwrap();
    }

    fn tidy(&self) -> super::Tidied {
        let stamp = Stamp::new(self.now_ms(), 1);
        self.tier.tidy(&mut self.store.engine().executor(), &stamp).unwrap()
    }

    fn counts(&self) -> (usize, usize, usize) {
        let KeyCounts { hot, cached, cold, .. } = self.store.engine().executor().tier_counts();
        (hot, cached, cold)
    }

    fn call(&self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match self.store.call(&args) {
            Ok(reply) => format!("{reply:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn tier_of(&self, key: &str) -> Option<String> {
        let reply = self.store.call(&[b"OBJECT", b"TIER", key.as_bytes()]).unwrap();
        reply.into_bytes().unwrap().map(|tier| String::from_utf8(tier).unwrap())
    }
}

#[test]
fn a_value_goes_to_disk_and_comes_back() {
    let rig = rig();
    rig.store.set("k", "value").unwrap();
    rig.store.hset("h", &[("f", "v")]).unwrap();
    assert_eq!((rig.tier_of("k").as_deref(), rig.counts()), (Some("hot"), (2, 0, 0)));
    rig.demote();
    assert_eq!((rig.tier_of("k").as_deref(), rig.counts()), (Some("cold"), (0, 0, 2)));
    assert_eq!(rig.store.get("k").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!((rig.tier_of("k").as_deref(), rig.counts()), (Some("cached"), (1, 1, 1)));
    let written = rig.tier.stats.demotions.load(Ordering::Relaxed);
    rig.clock.advance(Duration::from_secs(5));
    rig.demote();
    assert_eq!(rig.counts(), (0, 0, 2));
    assert_eq!(rig.tier.stats.demotions.load(Ordering::Relaxed), written, "its row was valid");
    assert_eq!(rig.store.hget("h", "f").unwrap().as_deref(), Some(&b"v"[..]));
    rig.store.hset("h", &[("f", "w")]).unwrap();
    assert_eq!(rig.tier_of("h").as_deref(), Some("hot"));
    rig.demote();
    assert_eq!(rig.store.hget("h", "f").unwrap().as_deref(), Some(&b"w"[..]));
    assert_eq!(rig.tier_of("nothing"), None);
}

#[test]
fn deleting_and_overwriting_reads_nothing() {
    let rig = rig();
    for line in ["SET a 1", "SET b 2 PX 50000", "SET c 3", "RPUSH d x", "SET e 5", "SET f 6"] {
        rig.call(line);
    }
    rig.demote();
    let reads = rig.disk.reads();
    for (line, reply) in [
        ("DEL a nothing", "Int(1)"),
        ("EXISTS a b c", "Int(2)"),
        ("PTTL b", "Int(50000)"),
        ("TTL c", "Int(-1)"),
        ("TTL a", "Int(-2)"),
        ("EXPIRE c 10", "Int(1)"),
        ("EXPIRE c 5 GT", "Int(0)"),
        ("PTTL c", "Int(10000)"),
        ("PERSIST c", "Int(1)"),
        ("PERSIST c", "Int(0)"),
        ("SET d string", "Simple(\"OK\")"),
        ("SETNX e x", "Int(0)"),
        ("SET e x NX", "Nil"),
        ("SET b new KEEPTTL", "Simple(\"OK\")"),
        ("PTTL b", "Int(50000)"),
        ("MSETNX f 1 g 2", "Int(0)"),
        ("DBSIZE", "Int(5)"),
        ("UNLINK f", "Int(1)"),
        ("EXPIRE e -1", "Int(1)"),
        ("DBSIZE", "Int(3)"),
    ] {
        assert_eq!(rig.call(line), reply, "{line}");
    }
    assert_eq!(rig.disk.reads(), reads);
    assert_eq!(rig.store.get("d").unwrap().as_deref(), Some(&b"string"[..]));
    assert_eq!(rig.disk.reads(), reads, "what was overwritten is not read");
    assert_eq!(rig.store.get("c").unwrap().as_deref(), Some(&b"3"[..]));
    assert!(rig.tidy().rows >= 4);
    rig.call("FLUSHALL");
    assert_eq!(rig.counts(), (0, 0, 0));
    rig.tidy();
    assert_eq!(rig.disk.rows(), 0, "all space is given back");
    assert_eq!(rig.tier.stats.row_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_key_that_does_not_exist_reads_nothing() {
    let rig = rig();
    (0..1_000).for_each(|nth| rig.store.set(format!("k{nth}"), "v").unwrap());
    rig.demote();
    let reads = rig.disk.reads();
    for nth in 0..1_000 {
        assert_eq!(rig.store.get(format!("other{nth}")).unwrap(), None);
        assert_eq!(rig.call(&format!("INCR n{nth}")), "Int(1)");
    }
    assert_eq!(rig.disk.reads(), reads);
}

#[test]
fn cold_keys_expire_by_themselves_and_tell() {
    use crate::config::{EngineConfig, Event};
    let config = EngineConfig { notify: Event::ALL | Event::KEYEVENT, ..EngineConfig::default() };
    let rig = rig_with(|builder| builder.config(config));
    rig.call("SET gone v PX 100");
    rig.call("SET stays v PX 100000");
    rig.demote();
    rig.clock.advance(Duration::from_millis(200));
    assert_eq!(rig.call("EXISTS gone stays"), "Int(1)");
    rig.call("SET again v PX 100");
    rig.demote();
    rig.clock.advance(Duration::from_millis(200));
    let mut executor = rig.store.engine().executor();
    let done = rig.tier.tidy(&mut executor, &Stamp::new(rig.now_ms(), 1)).unwrap();
    assert_eq!(done.expired, 1);
    let told = executor.effects.notifications.iter();
    let told: Vec<_> = told.map(|Notification { event, key, .. }| (*event, &key[..])).collect();
    assert_eq!(told, [("expired", &b"again"[..])]);
    drop(executor);
    assert_eq!(rig.counts(), (0, 0, 1));
}

#[test]
fn frequent_use_promotes_for_good_and_a_scan_does_not() {
    let rig = rig();
    for nth in 0..50 {
        rig.store.set(format!("k{nth}"), vec![b'x'; 100]).unwrap();
    }
    rig.demote();
    for _ in 0..100 {
        rig.store.get("k0").unwrap();
    }
    assert_eq!(rig.tier_of("k0").as_deref(), Some("hot"));
    for _ in 0..3 {
        rig.store.get("k1").unwrap();
    }
    for nth in 2..50 {
        rig.store.get(format!("k{nth}")).unwrap();
    }
    rig.clock.advance(Duration::from_secs(10));
    rig.store.get("k0").unwrap();
    rig.store.get("k1").unwrap();
    rig.clock.advance(Duration::from_secs(10));
    // Half of what is in memory is to go: that is what was read once.
    let engine = rig.store.engine();
    let target = rig.counts().0 / 2;
    let excess = || rig.counts().0.saturating_sub(target);
    rig.tier.make_room(engine, rig.now_ms(), 3, usize::MAX, &excess).unwrap();
    assert_eq!(rig.tier_of("k0").as_deref(), Some("hot"));
    assert_eq!(rig.tier_of("k1").as_deref(), Some("cached"));
}

#[test]
fn idle_keys_leave() {
    let rig = rig();
    rig.store.set("old", "v").unwrap();
    rig.clock.advance(Duration::from_secs(100));
    rig.store.set("new", "v").unwrap();
    let engine = rig.store.engine();
    let done = rig.tier.age(engine, rig.now_ms(), 60_000, 1_000).unwrap();
    assert_eq!((done.written, rig.counts()), (1, (1, 0, 1)));
    assert_eq!(rig.tier_of("old").as_deref(), Some("cold"));
}

#[test]
fn looks_for_idle_keys_are_as_many_as_it_takes() {
    let rig = rig();
    (0..10_000).for_each(|nth| rig.store.set(format!("k{nth}"), "v").unwrap());
    let engine = rig.store.engine();
    let share = |idle_ms, ms| rig.tier.age_share(engine, idle_ms, Duration::from_millis(ms));
    // A sixteenth of 160 s, in steps of 0.1 s.
    assert_eq!(share(160_000, 100), 100);
    assert_eq!((share(16_000, 100), share(16_000, 200)), (1_000, 2_000));
    assert_eq!((share(86_400_000, 100), share(1, 100)), (100, 20_000));
}

/// Values that are at hand come in under the locks of the call that needs them; for the others it has to wait.
#[test]
fn what_is_at_hand_is_not_waited_for() {
    use crate::executor::{Call, Outcome, Prefetched};
    use crate::reply::{Protocol, Reply};
    let rig = rig();
    let keys: Vec<String> = (0..40).map(|nth| format!("k{nth}")).collect();
    keys.iter().for_each(|key| rig.store.set(key, "value").unwrap());
    for nth in 0..30_000 {
        rig.store.hset("large", &[(format!("{nth}"), "v")]).unwrap();
    }
    rig.demote();
    let mut executor = rig.store.engine().executor();
    executor.set_loads_elsewhere(true);
    let (_, get) = crate::engine::command_table().find(b"GET").unwrap();
    let (_, mget) = crate::engine::command_table().find(b"MGET").unwrap();
    let (_, hset) = crate::engine::command_table().find(b"HSET").unwrap();
    let stamp = Stamp::new(rig.now_ms(), 1);
    let mut run = |command, args: &[&[u8]]| {
        let mut out = Vec::new();
        let call = Call { command, args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
        let mut run = |executor: &mut crate::executor::Executor<'_>| {
            executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2))
        };
        let mut outcome = run(&mut executor);
        let is_ready = outcome == Outcome::NeedsCold && executor.load_ready();
        if is_ready {
            outcome = run(&mut executor);
        }
        let needs = executor.take_needs();
        executor.release();
        (outcome, is_ready, needs.values.len(), String::from_utf8(out).unwrap())
    };
    assert_eq!(run(get, &[b"GET", b"k0"]), (Outcome::NeedsCold, false, 1, String::new()));
    rig.disk.set_ready();
    let reads = rig.disk.reads();
    let is_ready = |key: &&String| {
        let (outcome, is_ready, needs, reply) = run(get, &[b"GET", key.as_bytes()]);
        assert_eq!(outcome, if is_ready { Outcome::Done } else { Outcome::NeedsCold });
        assert_eq!(
            (needs, reply.as_str()),
            if is_ready { (0, "$5\r\nvalue\r\n") } else { (1, "") }
        );
        is_ready
    };
    let (ready, others): (Vec<_>, Vec<_>) = keys.iter().partition(is_ready);
    assert!(ready.len() > 5 && others.len() > 5, "{ready:?}");
    assert_eq!(rig.tier.stats.ready_loads.load(Ordering::Relaxed), ready.len() as u64);
    // One of two is at hand: the call waits for the other one.
    rig.clock.advance(Duration::from_secs(5));
    rig.demote();
    let args: &[&[u8]] = &[b"MGET", ready[0].as_bytes(), ready[1].as_bytes()];
    assert_eq!(run(mget, args).3, "*2\r\n$5\r\nvalue\r\n$5\r\nvalue\r\n");
    let args: &[&[u8]] = &[b"MGET", ready[0].as_bytes(), others[0].as_bytes()];
    assert_eq!(run(mget, args), (Outcome::NeedsCold, false, 1, String::new()));
    // A large value has many rows.
    let args: &[&[u8]] = &[b"HSET", b"large", b"x", b"y"];
    assert_eq!(run(hset, args), (Outcome::NeedsCold, false, 1, String::new()));
    assert_eq!(rig.disk.reads(), reads, "nothing was read that might have to be waited for");
    assert!(executor.take_ready_bytes() > 0 && executor.take_ready_bytes() == 0);
}

/// A thread that serves connections lets go of what needs no write, and of nothing else; it waits for nobody.
#[test]
fn what_has_a_row_leaves_without_a_wait() {
    let rig = rig();
    (0..300).for_each(|nth| rig.store.set(format!("k{nth}"), "value").unwrap());
    rig.demote();
    (0..200).for_each(|nth| drop(rig.store.get(format!("k{nth}")).unwrap()));
    (0..50).for_each(|nth| rig.store.set(format!("new{nth}"), "value").unwrap());
    rig.clock.advance(Duration::from_secs(5));
    let engine = rig.store.engine();
    let (batches, before) = (rig.disk.reads(), rig.counts());
    assert_eq!(before, (250, 200, 100));
    let locked: Vec<_> = (0..engine.shard_count()).map(|shard| engine.lock_shard(shard)).collect();
    assert_eq!(rig.tier.drop_some(engine, rig.now_ms(), 1, 1_000), 0);
    drop(locked);
    let freed = rig.tier.drop_some(engine, rig.now_ms(), 1, 1_000);
    let gone = before.0 - rig.counts().0;
    assert!(gone > 0 && gone < 50 && freed >= 1_000, "{gone} values, {freed} bytes");
    for seed in 0..500 {
        rig.tier.drop_some(engine, rig.now_ms(), seed, usize::MAX);
    }
    assert_eq!(rig.counts(), (50, 0, 300), "what has no row stays");
    assert_eq!(rig.disk.reads(), batches);
    assert_eq!(rig.store.get("k7").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_key_that_changes_while_it_is_read_or_written_is_not_mixed_up() {
    let rig = rig();
    let engine = rig.store.engine();
    let hash = engine.hasher().hash(b"k");
    let shard = engine.shard_of(b"k");
    // A read that began before the key was deleted, set anew and demoted again.
    rig.store.set("k", "one").unwrap();
    rig.demote();
    let (row, number) = engine.lock_shard(shard).db_mut(0).begin_load(hash, b"k").unwrap();
    rig.store.del("k").unwrap();
    rig.tidy();
    rig.store.set("k", "two").unwrap();
    rig.demote();
    assert!(!engine.lock_shard(shard).db_mut(0).end_load(row, number));
    assert_eq!(rig.store.get("k").unwrap().as_deref(), Some(&b"two"[..]));
    // A write during which the key changes.
    rig.store.set("m", "one").unwrap();
    let hash = engine.hasher().hash(b"m");
    let shard = engine.shard_of(b"m");
    let row = {
        let mut shard = engine.lock_shard(shard);
        let entry = shard.db(0).find(hash, b"m").unwrap();
        shard.db_mut(0).begin_demotion(&rig.tier, entry, 0).unwrap()
    };
    rig.store.append("m", "!").unwrap();
    assert!(!engine.lock_shard(shard).db_mut(0).end_demotion(row, b"m", true, &mut Vec::new()));
    assert_eq!(rig.store.get("m").unwrap().as_deref(), Some(&b"one!"[..]));
}

#[test]
fn damage_is_named_and_never_served() {
    let rig = rig();
    for nth in 0..20 {
        rig.store.set(format!("k{nth}"), vec![b'a' + nth; 200]).unwrap();
    }
    rig.demote();
    assert!(rig.disk.damage(7 * 20 + 3));
    let mut damaged = 0;
    for nth in 0..20 {
        match rig.store.get(format!("k{nth}")) {
            Ok(value) => assert_eq!(value, Some(vec![b'a' + nth; 200])),
            Err(error) => {
                assert!(error.to_string().contains("damaged"), "{error}");
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    assert!(rig.tier.fault().is_some());
}

#[test]
fn without_the_disk_memory_goes_on() {
    let rig = rig();
    rig.store.set("cold", "v").unwrap();
    rig.demote();
    rig.store.set("hot", "v").unwrap();
    rig.disk.set_failing(true);
    let engine = rig.store.engine();
    assert!(rig.tier.make_room(engine, rig.now_ms(), 1, 1000, &|| 1000).is_err());
    assert_eq!(rig.store.get("hot").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(rig.tier_of("hot").as_deref(), Some("hot"));
    assert!(rig.store.get("cold").is_err());
    rig.disk.set_failing(false);
    rig.demote();
    assert_eq!(rig.store.get("cold").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(rig.store.get("hot").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn sort_finds_values_on_disk_and_stores_once() {
    let rig = rig();
    rig.call("RPUSH list 3 1 2");
    for nth in 1..4 {
        rig.call(&format!("SET weight:{nth} {}", 9 - nth));
        rig.call(&format!("SET name:{nth} name{nth}"));
    }
    rig.demote();
    assert_eq!(rig.call("SORT list BY weight:* GET name:* STORE out"), "Int(3)");
    let names = rig.store.lrange("out", 0, -1).unwrap();
    assert_eq!(names, [&b"name3"[..], b"name2", b"name1"]);
}

#[test]
fn transactions_find_cold_keys() {
    let rig = rig();
    rig.store.set("a", "1").unwrap();
    rig.store.set("b", "2").unwrap();
    rig.demote();
    let sum =
        rig.store.transaction(&["a", "b"], |tx| Ok(tx.incr_by("a", 1)? + tx.incr_by("b", 1)?));
    assert_eq!(sum.unwrap(), 5);
    rig.demote();
    // With the whole store locked it is read under the lock.
    let keys: &[&str] = &[];
    assert_eq!(rig.store.transaction(keys, |tx| tx.incr_by("a", 1)).unwrap(), 3);
    assert_eq!(rig.tier.stats.locked_loads.load(Ordering::Relaxed), 1);
    rig.demote();
    let watch = rig.store.watch(&["a"]);
    rig.store.get("a").unwrap();
    assert!(watch.commit(&["a"], |tx| tx.set("a", "x")).unwrap().is_some(), "loading is no change");
    rig.demote();
    let watch = rig.store.watch(&["a"]);
    rig.store.del("a").unwrap();
    assert!(watch.commit(&["a"], |tx| tx.set("a", "x")).unwrap().is_none());
}

/// What a directory would do: a snapshot of the hot keys and the index, and the same store again.
#[test]
fn a_snapshot_brings_cold_keys_back() {
    use crate::cut::Rows;
    let (disk, clock) = (MemoryStore::default(), Arc::new(ManualClock::new(1_000_000)));
    let open = |shards: usize| {
        let tier = Tier::new(Box::new(disk.clone()), "memory", 5);
        tier.set_durable();
        let builder = Store::builder().shards(shards).seed(5).clock(clock.clone());
        Rig {
            store: builder.tier(tier.clone()).open(),
            tier,
            disk: disk.clone(),
            clock: clock.clone(),
        }
    };
    let snapshot = |rig: &Rig, meanwhile: &dyn Fn()| {
        let engine = rig.store.engine();
        let (mut cut, ()) = engine.begin_cut(|| rig.tier.begin_snapshot()).unwrap();
        meanwhile();
        let (mut parts, mut rows) = (Vec::new(), Rows::default());
        rig.tier
            .write_index(engine, &mut |part| {
                parts.push(part.to_vec());
                Ok(())
            })
            .unwrap();
        while cut.step(&mut rows) {}
        drop(cut);
        rig.tier.store().flush_durable().unwrap();
        rig.tier.end_snapshot();
        let rows: Vec<_> =
            rows.iter().map(|row| (row.db, row.key.to_vec(), row.value.to_vec())).collect();
        (rows, parts)
    };
    let rig = open(3);
    for nth in 0..300 {
        rig.store.set(format!("k{nth}"), format!("v{nth}")).unwrap();
    }
    rig.call("PEXPIRE k7 500000");
    rig.store.db(3).unwrap().set("other", "db").unwrap();
    rig.demote();
    rig.store.set("hot", "h").unwrap();
    // k1 is cached, k2 gone and k3 changed before the cut; k4 to k6 change while it is written.
    rig.store.get("k1").unwrap();
    rig.store.del("k2").unwrap();
    rig.store.append("k3", "!").unwrap();
    let (rows, parts) = snapshot(&rig, &|| {
        rig.store.del("k4").unwrap();
        rig.store.append("k5", "!").unwrap();
        rig.call("PEXPIRE k6 1");
        rig.store.get("k8").unwrap();
        rig.demote();
        rig.tidy();
    });
    // Changes after it, and rows of a later time.
    rig.store.set("k9", "later").unwrap();
    rig.demote();
    rig.tidy();
    disk.cut_power();
    for (turn, shards) in [3, 1, 8].into_iter().enumerate() {
        let again = open(shards);
        for part in &parts {
            again.tier.load_index(again.store.engine(), part).unwrap();
        }
        for (db, key, value) in &rows {
            let engine = again.store.engine();
            let mut shard = engine.lock_shard(engine.shard_of(key));
            let hash = engine.hasher().hash(key);
            let value = crate::value::form::decode(value).unwrap();
            let (_, fresh) = shard.db_mut(*db).put(
                (hash, crate::keyspace::Place::NONE),
                key,
                value,
                false,
                &mut Vec::new(),
            );
            assert!(fresh, "a key is in the snapshot twice");
        }
        assert_eq!(again.call("DBSIZE"), "Int(300)");
        for nth in 0..300 {
            let expected = match nth {
                2 => None,
                3 => Some("v3!".to_owned()),
                _ => Some(format!("v{nth}")),
            };
            let value = again.store.get(format!("k{nth}")).unwrap();
            assert_eq!(value, expected.map(String::into_bytes), "k{nth} with {shards} shards");
        }
        assert_eq!(again.call("PTTL k6"), "Int(-1)");
        assert_eq!(again.call("PTTL k7"), "Int(500000)");
        let other = again.store.db(3).unwrap().get("other").unwrap();
        assert_eq!(other.as_deref(), Some(&b"db"[..]));
        if turn < 2 {
            continue;
        }
        // Two snapshots later what nothing names any more is gone.
        again.store.del("k0").unwrap();
        again.demote();
        for _ in 0..3 {
            snapshot(&again, &|| ());
            again.tidy();
        }
        assert_eq!(again.counts().2 + again.counts().1, disk.rows());
        for nth in 10..300 {
            assert!(again.store.get(format!("k{nth}")).unwrap().is_some());
        }
    }
    for cut in 0..parts[0].len() {
        let fresh = open(2);
        drop(fresh.tier.load_index(fresh.store.engine(), &parts[0][..cut]));
    }
}

#[test]
fn what_is_asked_for_together_is_read_once_and_a_fault_keeps_nothing_else_back() {
    let rig = rig();
    for nth in 0..100 {
        rig.store.set(format!("k{nth}"), vec![b'x'; 100]).unwrap();
    }
    rig.store.set("large", vec![b'y'; 300_000]).unwrap();
    rig.demote();
    let mut needs = super::Needs::default();
    for nth in (0..100).chain(0..100) {
        needs.values.push(super::Want::whole(0, format!("k{nth}").as_bytes()));
    }
    needs.values.push(super::Want::whole(0, b"large"));
    needs.values.push(super::Want::whole(0, b"nothing"));
    let before = rig.disk.reads();
    rig.tier.load(rig.store.engine(), &needs).unwrap();
    let rows = 100 + u64::from(super::row::chunks(300_000 + 10));
    assert_eq!(rig.counts(), (101, 101, 0));
    assert_eq!(rig.disk.reads() - before, rows);
    rig.clock.advance(Duration::from_secs(10));
    rig.demote();
    assert!(rig.disk.damage(0));
    assert!(rig.tier.load(rig.store.engine(), &needs).is_err());
    assert_eq!(rig.counts(), (100, 100, 1));
}

#[test]
fn what_is_read_ahead_is_left_out_where_there_is_no_room() {
    let rig = rig();
    for name in ["a", "b", "c", "d"] {
        rig.store.set(name, vec![b'x'; 100]).unwrap();
    }
    rig.demote();
    let key = |name: &str| super::Want::whole(0, name.as_bytes());
    let needs = super::Needs {
        values: vec![key("a")],
        ahead: vec![key("b"), key("c")],
        ..super::Needs::default()
    };
    let asked = std::cell::RefCell::new(Vec::new());
    let room = |needed| {
        asked.borrow_mut().push(needed);
        needed
    };
    rig.tier.load_with(rig.store.engine(), &needs, &room).unwrap();
    assert_eq!((rig.counts(), asked.take()), ((1, 1, 3), vec![true, false]));
    rig.tier.load_with(rig.store.engine(), &needs, &|_| true).unwrap();
    assert_eq!(rig.counts(), (3, 3, 1));
    // A fault of what is only read ahead is told to those who need it.
    assert!(rig.disk.damage(0));
    let ahead = super::Needs { ahead: vec![key("d")], ..super::Needs::default() };
    rig.tier.load(rig.store.engine(), &ahead).unwrap();
    let needed = super::Needs { values: vec![key("d")], ..super::Needs::default() };
    assert!(rig.tier.load(rig.store.engine(), &needed).is_err());
}

/// A host whose clock and log stand still, since all who write wait for room, gives each search the same seed.
#[test]
fn searches_with_one_seed_go_on_until_nothing_is_left() {
    let rig = rig();
    for nth in 0..20_000 {
        rig.store.set(format!("key {nth}"), "v".repeat(100)).unwrap();
    }
    let (engine, now_ms) = (rig.store.engine(), rig.now_ms());
    while rig.counts().0 > 0 {
        let done = rig.tier.make_room(engine, now_ms, 1, 1_000, &|| 20_000).unwrap();
        assert!(done.written > 0, "{:?} are in memory, and none leaves", rig.counts());
    }
    assert_eq!(rig.counts().2, 20_000);
}
