use std::sync::atomic::AtomicBool;

use super::*;

fn set(settings: &Settings, pairs: &[(&str, &str)]) -> Result<(), String> {
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    settings.set(&pairs, Caller::Remote).map_err(|error| error.to_string())
}

fn get(settings: &Settings, name: &str) -> String {
    String::from_utf8(settings.get(&[name.as_bytes()])[0].1.clone()).unwrap()
}

#[test]
fn values_are_shown_as_redis_shows_them() {
    let settings = Settings::default();
    for (name, value) in [
        ("maxmemory", "0"),
        ("protected-mode", "yes"),
        ("maxmemory-policy", "noeviction"),
        (
            "client-output-buffer-limit",
            "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        ),
        ("latency-tracking-info-percentiles", "50 99 99.9"),
        ("slave-priority", "100"),
        ("unixsocketperm", "0"),
        ("shutdown-on-sigint", "default"),
        ("bind", "* -::*"),
    ] {
        assert_eq!(get(&settings, name), value, "{name}");
    }
    set(&settings, &[("notify-keyspace-events", "KEA")]).unwrap();
    assert_eq!(get(&settings, "notify-keyspace-events"), "AKE");
    set(&settings, &[("hz", "1000"), ("shutdown-on-sigint", "nosave force")]).unwrap();
    assert_eq!(get(&settings, "hz"), "500");
    assert_eq!(get(&settings, "shutdown-on-sigint"), "nosave force");
    set(&settings, &[("latency-tracking-info-percentiles", "50.5 99.990")]).unwrap();
    assert_eq!(get(&settings, "latency-tracking-info-percentiles"), "50.5 99.99");
}

#[test]
fn get_takes_patterns_and_names_each_setting_once() {
    let settings = Settings::default();
    let names: Vec<_> = settings
        .get(&[b"MAXMEMORY", b"maxmemory-s*", b"maxmemory*", b"nothing"])
        .into_iter()
        .map(|(name, _)| String::from_utf8(name).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "MAXMEMORY",
            "maxmemory-samples",
            "maxmemory-clients",
            "maxmemory-policy",
            "maxmemory-eviction-tenacity"
        ]
    );
    let both = settings.get(&[b"*-max-ziplist-value"]);
    assert_eq!(both.len(), 2);
    assert!(settings.get(&[b"*"]).len() > COUNT);
}

#[test]
fn refusals_have_redis_texts() {
    let settings = Settings::default();
    let failed = |name: &str, reason: &str| {
        format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")
    };
    let unknown =
        |name: &str| format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
    for (pairs, error) in [
        (&[("foo", "bar")][..], unknown("foo")),
        (&[("maxmemory", "1"), ("foo", "bar")], unknown("foo")),
        (&[("maxmemory", "1xb")], failed("maxmemory", "argument must be a memory value")),
        (&[("timeout", "1"), ("TIMEOUT", "2")], failed("TIMEOUT", "duplicate parameter")),
        (
            &[("slave-priority", "1"), ("replica-priority", "2")],
            failed("replica-priority", "duplicate parameter"),
        ),
        (&[("daemonize", "yes")], failed("daemonize", "can't set immutable config")),
        (&[("dir", "/tmp")], failed("dir", "can't set protected config")),
        (
            &[("maxmemory-policy", "x")],
            failed(
                "maxmemory-policy",
                "argument(s) must be one of the following: volatile-lru, volatile-lfu, \
                 volatile-random, volatile-ttl, allkeys-lru, allkeys-lfu, allkeys-random, \
                 noeviction, tier",
            ),
        ),
        (&[("timeout", "x")], failed("timeout", "argument couldn't be parsed into an integer")),
        (
            &[("timeout", "-1")],
            failed("timeout", "argument must be between 0 and 2147483647 inclusive"),
        ),
        (
            &[("latency-tracking", "maybe")],
            failed("latency-tracking", "argument must be 'yes' or 'no'"),
        ),
        (
            &[("maxmemory-clients", "101%")],
            failed("maxmemory-clients", "percentage argument must be less or equal to 100"),
        ),
        (
            &[("proto-max-bulk-len", "1")],
            failed(
                "proto-max-bulk-len",
                "argument must be between 1048576 and 9223372036854775807 inclusive",
            ),
        ),
        (
            &[("client-output-buffer-limit", "foo 1 2 3")],
            failed(
                "client-output-buffer-limit",
                "Invalid client class specified in buffer limit configuration.",
            ),
        ),
        (&[("save", "foo")], failed("save", "Invalid save parameters")),
    ] {
        assert_eq!(set(&settings, pairs).unwrap_err(), error);
    }
    assert!(settings.changed().is_empty(), "{:?}", settings.changed());
}

#[test]
fn a_refused_change_leaves_nothing_behind() {
    let settings = Settings::default();
    let refuse = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (own_refuse, own_seen) = (refuse.clone(), seen.clone());
    settings
        .subscribe(&[ids::TIMEOUT], move |settings| {
            own_seen.lock().push(settings.number(ids::TIMEOUT));
            let no = own_refuse.load(Ordering::Relaxed) && settings.number(ids::TIMEOUT) == 7;
            if no { Err("seven is not wanted".into()) } else { Ok(()) }
        })
        .unwrap();
    set(&settings, &[("timeout", "5"), ("maxmemory", "1kb")]).unwrap();
    set(&settings, &[("maxmemory", "2kb")]).unwrap();
    refuse.store(true, Ordering::Relaxed);
    let before = settings.version();
    let error = set(&settings, &[("maxmemory", "9kb"), ("Timeout", "7")]).unwrap_err();
    assert!(error.ends_with("argument 'Timeout') - seven is not wanted"), "{error}");
    assert_eq!((settings.number(ids::TIMEOUT), settings.number(ids::MAXMEMORY)), (5, 2048));
    assert_eq!(*seen.lock(), [0, 5, 7, 5]);
    assert!(settings.version() > before);
}

#[test]
fn secrets_are_hidden_from_the_start_up_text() {
    let settings = Settings::default();
    set(&settings, &[("requirepass", "hunter2"), ("timeout", "3")]).unwrap();
    assert_eq!(
        settings.changed(),
        [("timeout", "3".to_owned()), ("requirepass", "(redacted)".to_owned())]
    );
    assert!(!format!("{settings:?}").contains("hunter2"));
}
