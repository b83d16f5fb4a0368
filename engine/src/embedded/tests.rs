use crate::clock::ManualClock;
use crate::embedded::Tx;
use crate::keyspace::EvictionPolicy;
use crate::prelude::*;
use crate::value::Type;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn manual() -> (Store, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000_000));
    (Store::builder().shards(4).clock(clock.clone()).open(), clock)
}

#[test]
fn reads_see_what_the_commands_see() {
    let (store, clock) = manual();
    store.set("int", "17").unwrap();
    store.set("text", "abc").unwrap();
    store.set("long", "x".repeat(100_000)).unwrap();
    store.rpush("list", &["a"]).unwrap();
    for key in ["int", "text", "long", "absent"] {
        let by_command = store.call(&[b"GET", key.as_bytes()]).unwrap().into_bytes().unwrap();
        assert_eq!(store.get(key).unwrap(), by_command, "{key}");
    }
    assert_eq!(store.get("list"), Err(Error::WrongType));
    store.expire("text", Duration::from_millis(50)).unwrap();
    clock.advance(Duration::from_secs(7));
    let idle = |key: &str| store.call(&[b"OBJECT", b"IDLETIME", key.as_bytes()]).unwrap();
    assert_eq!(idle("int").into_int(), Ok(7));
    store.get("int").unwrap();
    assert_eq!(idle("int").into_int(), Ok(0));
    assert_eq!(Keys::len(&store), Ok(4));
    assert_eq!(store.get("text"), Ok(None));
    assert_eq!(Keys::len(&store), Ok(3));
    assert_eq!(store.type_of("list"), Ok(Some(Type::List)));
    assert_eq!(store.type_of("text"), Ok(None));
}

#[test]
fn frequency_counts_direct_reads() {
    let (store, _) = manual();
    let policy = EvictionPolicy::AllKeysLfu;
    store.engine().update_config(|config| config.access = policy.access_scheme());
    store.set("k", "v").unwrap();
    (0..200).for_each(|_| drop(store.get("k").unwrap()));
    let counter = store.call(&[b"OBJECT", b"FREQ", b"k"]).unwrap().into_int().unwrap();
    assert!(counter > 6, "{counter}");
    assert_eq!(&*store.evict(policy, 5).unwrap().key, b"k");
}

#[test]
fn refusals_are_those_of_redis() {
    let (store, _) = manual();
    let refused = |args: &[&[u8]]| store.call(args).unwrap_err().message().into_owned();
    assert_eq!(
        refused(&[b"NOSUCH", b"a", b"b"]),
        "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "
    );
    assert_eq!(refused(&[]), "ERR unknown command '', with args beginning with: ");
    assert_eq!(refused(&[b"get"]), "ERR wrong number of arguments for 'get' command");
    assert_eq!(refused(&[b"object"]), "ERR wrong number of arguments for 'object' command");
    assert_eq!(
        refused(&[b"object", b"freq"]),
        "ERR wrong number of arguments for 'object|freq' command"
    );
    assert_eq!(refused(&[b"object", b"x"]), "ERR unknown subcommand 'x'. Try OBJECT HELP.");
    assert!(refused(&[b"ASHLAR.EVICT", b"k"]).starts_with("ERR unknown command"));
    assert!(refused(&[b"DEBUG", b"SLEEP", b"1"]).starts_with("ERR unknown command"));
    assert_eq!(store.call(&[b"BLPOP", b"k", b"0"]), Ok(ReplyValue::Nil));
}

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let store = Store::builder().shards(8).open();
    let swap = |tx: &Tx<'_>, by: i64| {
        tx.incr_by("a", -by)?;
        tx.incr_by("b", by).map(drop)
    };
    store.mset(&[("a", "0"), ("b", "0")]).unwrap();
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for by in [1, 2] {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..500 {
                    store.transaction(&["a", "b"], |tx| swap(tx, by)).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..500 {
                let values = store.mget(&["a", "b"]).unwrap();
                let number = |value: &Option<Vec<u8>>| -> i64 {
                    String::from_utf8(value.clone().unwrap()).unwrap().parse().unwrap()
                };
                assert_eq!(number(&values[0]), -number(&values[1]));
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    assert_eq!(seen.into_inner(), 500);
    assert_eq!(store.get("b"), Ok(Some(b"1500".to_vec())));
    let none: [&str; 0] = [];
    let all = store.transaction(&none, |tx| {
        tx.set("anything", "x")?;
        Keys::len(tx)
    });
    assert_eq!(all, Ok(3));
    assert!(store.transaction(&["a"], |tx| Keys::len(tx)).is_err());
}

#[test]
fn optimistic_counters_lose_nothing() {
    let store = Store::builder().shards(8).open();
    store.set("n", "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 200 {
                    let watch = store.watch(&["n"]);
                    let n = String::from_utf8(store.get("n").unwrap().unwrap()).unwrap();
                    let next = (n.parse::<i64>().unwrap() + 1).to_string();
                    let none: [&str; 0] = [];
                    let made = watch.commit(&none, |tx| tx.set("n", &next)).unwrap();
                    done += usize::from(made.is_some());
                }
            });
        }
    });
    assert_eq!(store.get("n"), Ok(Some(b"600".to_vec())));
}

#[test]
fn expiry_breaks_a_watch() {
    let (store, clock) = manual();
    store.set_with("k", "v", SetOptions::new().ttl(Duration::from_secs(1))).unwrap();
    let watch = store.watch(&["k"]);
    assert!(!watch.is_changed());
    clock.advance(Duration::from_secs(2));
    assert_eq!(watch.commit(&["k"], |tx| tx.set("k", "w")), Ok(None));
    assert_eq!(store.get("k"), Ok(None));
    let watch = store.watch(&["k"]);
    assert!(watch.commit(&["k"], |tx| tx.set("k", "w")).unwrap().is_some());
}

#[test]
fn upkeep_frees_what_expired() {
    let (store, clock) = manual();
    for n in 0..1_000 {
        store.set(format!("k{n}"), "v").unwrap();
        store.expire(format!("k{n}"), Duration::from_millis(10)).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    assert_eq!(Keys::len(&store), Ok(1_000));
    while store.upkeep().keys > 0 {}
    assert_eq!(Keys::is_empty(&store), Ok(true));
}

#[test]
fn scan_meets_every_key() {
    let store = Store::in_memory();
    let keys: Vec<String> = (0..5_000).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| store.set(key, "v").unwrap());
    let mut found: Vec<Vec<u8>> = store.scan("*").map(Result::unwrap).collect();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), keys.len());
    assert_eq!(store.scan("k123").count(), 1);
    assert_eq!(store.scan("x").count(), 0);
}

/// The bound is lower in builds of the unit tests, or it would take a machine of its own.
#[test]
fn a_collection_that_is_full_takes_nothing_more() {
    let store = Store::in_memory();
    let names: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
    let call = |args: &[&str]| {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        store.call(&args)
    };
    let mut sadd = vec!["SADD", "s"];
    sadd.extend(names.iter().map(String::as_str));
    assert_eq!(call(&sadd).unwrap().into_int(), Ok(200_000));
    call(&["ZUNIONSTORE", "z", "1", "s"]).unwrap();
    let mut hset = vec!["HSET", "h"];
    hset.extend(names.iter().flat_map(|name| [name.as_str(), "v"]));
    call(&hset).unwrap();
    for full in [
        &["SADD", "s", "x"][..],
        &["SUNION", "s", "s"],
        &["HSET", "h", "x", "v"],
        &["HINCRBY", "h", "x", "1"],
        &["ZADD", "z", "1", "x"],
        &["ZUNION", "2", "z", "s"],
    ] {
        let error = call(full).unwrap_err();
        assert_eq!(error.message(), "ERR the collection has too many elements", "{full:?}");
    }
    assert_eq!(call(&["SREM", "s", "0"]).unwrap().into_int(), Ok(1));
    assert_eq!(call(&["SADD", "s", "x"]).unwrap().into_int(), Ok(1));
}
