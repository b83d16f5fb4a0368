//! The tests that redis-benchmark runs: its twenty default ones, and commands that it has no test for.

use crate::client::Client;
use crate::protocol::command;

/// Keys, fields and members that the tests choose from: redis-benchmark's `-r`.
pub const KEYSPACE: u64 = 100_000;
/// Bytes that a test may lay down in a server before or while it runs.
const DATA_BYTES_MAX: u64 = 512 << 20;
/// What an element of a list, set or stream takes besides its value, roughly.
const ELEMENT_BYTES: u64 = 64;

/// One test.
pub struct Test {
    /// Its name in tables, and for `--tests`.
    pub name: &'static str,
    /// One of redis-benchmark's twenty default tests.
    pub standard: bool,
    /// The size of values changes something.
    pub sized: bool,
    /// What redis-benchmark is asked for.
    pub run: Run,
    /// What is in the server before the test; else it is empty.
    pub before: Before,
    /// The test adds an element with each request, so that its length is bounded by memory.
    pub grows: bool,
}

/// What redis-benchmark is asked for.
pub enum Run {
    /// `-t NAME`
    Named(&'static str),
    /// A command; `__data__` stands for the value.
    Command(&'static [&'static str]),
}

/// Data that a test needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// None.
    Nothing,
    /// Each `key:N`, with a value.
    Strings,
    /// As [`Before::Strings`], and [`SCRIPT`] loaded.
    Script,
    /// `mylist` with as many elements as the keyspace has keys.
    List,
    /// `myhash` with each field `element:N`.
    Hash,
    /// `myset` with each member `element:N`.
    Set,
    /// `myzset` with each member `element:N` and the score N.
    Zset,
    /// `mylist` with an element for each request.
    ListToPop,
    /// `myset` with a member for each request.
    SetToPop,
    /// `myzset` with a member for each request.
    ZsetToPop,
}

const fn standard(name: &'static str, named: &'static str, before: Before) -> Test {
    Test { name, standard: true, sized: false, run: Run::Named(named), before, grows: false }
}

const fn further(name: &'static str, words: &'static [&'static str], before: Before) -> Test {
    Test { name, standard: false, sized: false, run: Run::Command(words), before, grows: false }
}

/// LRANGE as redis-benchmark itself runs it, but without its filling of the list within the measurement.
const fn lrange(name: &'static str, words: &'static [&'static str]) -> Test {
    Test { standard: true, sized: true, ..further(name, words, Before::List) }
}

const fn sized(test: Test) -> Test {
    Test { sized: true, ..test }
}

const fn growing(test: Test) -> Test {
    Test { sized: true, grows: true, ..test }
}

/// A script of three commands, and its SHA1 digest.
const SCRIPT: &str = "local old = redis.call('get', KEYS[1]) redis.call('set', KEYS[1], ARGV[1]) \
                      redis.call('expire', KEYS[1], 1000) return old";
const SCRIPT_SHA: &str = "14d3e2339b1eba6634f39fe791a29d68cb055fff";

const KEY: &str = "key:__rand_int__";
const ELEMENT: &str = "element:__rand_int__";

/// Every test, in redis-benchmark's order.
pub const TESTS: &[Test] = &[
    standard("PING_INLINE", "ping_inline", Before::Nothing),
    standard("PING_MBULK", "ping_mbulk", Before::Nothing),
    sized(standard("SET", "set", Before::Nothing)),
    sized(standard("GET", "get", Before::Strings)),
    standard("INCR", "incr", Before::Nothing),
    growing(standard("LPUSH", "lpush", Before::Nothing)),
    growing(standard("RPUSH", "rpush", Before::Nothing)),
    growing(standard("LPOP", "lpop", Before::ListToPop)),
    growing(standard("RPOP", "rpop", Before::ListToPop)),
    standard("SADD", "sadd", Before::Nothing),
    sized(standard("HSET", "hset", Before::Nothing)),
    Test { grows: true, ..standard("SPOP", "spop", Before::SetToPop) },
    standard("ZADD", "zadd", Before::Nothing),
    Test { grows: true, ..standard("ZPOPMIN", "zpopmin", Before::ZsetToPop) },
    growing(standard("LPUSH_LRANGE", "lpush", Before::List)),
    lrange("LRANGE_100", &["lrange", "mylist", "0", "99"]),
    lrange("LRANGE_300", &["lrange", "mylist", "0", "299"]),
    lrange("LRANGE_500", &["lrange", "mylist", "0", "499"]),
    lrange("LRANGE_600", &["lrange", "mylist", "0", "599"]),
    sized(standard("MSET", "mset", Before::Nothing)),
    growing(further("XADD", &["xadd", "mystream", "*", "field", "__data__"], Before::Nothing)),
    further("EXPIRE", &["expire", KEY, "1000"], Before::Strings),
    sized(further(
        "MGET",
        &["mget", KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY, KEY],
        Before::Strings,
    )),
    further("SETRANGE", &["setrange", KEY, "2", "abcdefgh"], Before::Strings),
    sized(further("HGET", &["hget", "myhash", ELEMENT], Before::Hash)),
    further("SISMEMBER", &["sismember", "myset", ELEMENT], Before::Set),
    further("ZSCORE", &["zscore", "myzset", ELEMENT], Before::Zset),
    further("ZRANGE", &["zrange", "myzset", "1000", "1009"], Before::Zset),
    further("ZINCRBY", &["zincrby", "myzset", "1", ELEMENT], Before::Zset),
    sized(further("EVALSHA", &["evalsha", SCRIPT_SHA, "1", KEY, "__data__"], Before::Script)),
];

impl Test {
    /// redis-benchmark's arguments after the general ones.
    pub fn args(&self, size: usize) -> Vec<String> {
        match self.run {
            Run::Named(name) => vec!["-t".to_owned(), name.to_owned()],
            Run::Command(words) => {
                let data = "x".repeat(size);
                words.iter().map(|&word| word.replace("__data__", &data)).collect()
            }
        }
    }

    /// The words of the test's command, for the own load client; `__rand_int__` stands for random digits.
    pub fn words(&self, size: usize) -> Vec<String> {
        let words: &[&str] = match self.run {
            Run::Command(words) => words,
            Run::Named("ping_inline") => &["PING\r\n"],
            Run::Named("ping_mbulk") => &["PING"],
            Run::Named("set") => &["SET", KEY, "__data__"],
            Run::Named("get") => &["GET", KEY],
            Run::Named("incr") => &["INCR", "counter:__rand_int__"],
            Run::Named("lpush") => &["LPUSH", "mylist", "__data__"],
            Run::Named("rpush") => &["RPUSH", "mylist", "__data__"],
            Run::Named("lpop") => &["LPOP", "mylist"],
            Run::Named("rpop") => &["RPOP", "mylist"],
            Run::Named("sadd") => &["SADD", "myset", ELEMENT],
            Run::Named("hset") => &["HSET", "myhash", ELEMENT, "__data__"],
            Run::Named("spop") => &["SPOP", "myset"],
            Run::Named("zadd") => &["ZADD", "myzset", "__rand_int__", ELEMENT],
            Run::Named("zpopmin") => &["ZPOPMIN", "myzset"],
            Run::Named("mset") => &[
                "MSET", KEY, "__data__", KEY, "__data__", KEY, "__data__", KEY, "__data__", KEY,
                "__data__", KEY, "__data__", KEY, "__data__", KEY, "__data__", KEY, "__data__",
                KEY, "__data__",
            ],
            Run::Named(name) => unreachable!("{name} is no test of redis-benchmark"),
        };
        let data = "x".repeat(size);
        words.iter().map(|&word| word.replace("__data__", &data)).collect()
    }

    /// The most requests that the test may be given with values of `size`.
    pub fn requests_max(&self, size: usize) -> u64 {
        let element = ELEMENT_BYTES + if self.sized { size as u64 } else { 0 };
        if self.grows { DATA_BYTES_MAX / element } else { u64::MAX }
    }

    /// Empties the server and puts in what the test needs.
    pub fn prepare(&self, client: &mut Client, size: usize, requests: u64) -> Result<(), String> {
        client.call(&["FLUSHALL", "SYNC"])?;
        let data = "x".repeat(size);
        let data = data.as_bytes();
        let many = |client: &mut Client, name: &str, key: &str, count: u64, member: Member| {
            add_many(client, &[name, key], count, |index, args| member(index, data, args))
        };
        match self.before {
            Before::Nothing => Ok(()),
            Before::Script => {
                client.call(&["SCRIPT", "LOAD", SCRIPT])?;
                fill_strings(client, data)
            }
            Before::Strings => fill_strings(client, data),
            Before::List => many(client, "LPUSH", "mylist", KEYSPACE, value),
            Before::ListToPop => many(client, "LPUSH", "mylist", requests, value),
            Before::Hash => many(client, "HSET", "myhash", KEYSPACE, field),
            Before::Set => many(client, "SADD", "myset", KEYSPACE, element),
            Before::SetToPop => many(client, "SADD", "myset", requests, element),
            Before::Zset => many(client, "ZADD", "myzset", KEYSPACE, scored),
            Before::ZsetToPop => many(client, "ZADD", "myzset", requests, scored),
        }
    }
}

/// Sets each `key:N`.
fn fill_strings(client: &mut Client, data: &[u8]) -> Result<(), String> {
    client.fill(KEYSPACE, |out, index| {
        let key = format!("key:{index:012}");
        command(out, &[b"SET", key.as_bytes(), data]);
    })
}

/// Appends the arguments that add element `index`, given the value of the run.
type Member = fn(u64, &[u8], &mut Vec<Vec<u8>>);

fn value(_: u64, data: &[u8], args: &mut Vec<Vec<u8>>) {
    args.push(data.to_vec());
}

fn element(index: u64, _: &[u8], args: &mut Vec<Vec<u8>>) {
    args.push(format!("element:{index:012}").into_bytes());
}

fn field(index: u64, data: &[u8], args: &mut Vec<Vec<u8>>) {
    element(index, data, args);
    args.push(data.to_vec());
}

fn scored(index: u64, data: &[u8], args: &mut Vec<Vec<u8>>) {
    args.push(index.to_string().into_bytes());
    element(index, data, args);
}

/// Adds `count` elements to one key, a hundred a command.
fn add_many(
    client: &mut Client,
    head: &[&str],
    count: u64,
    add: impl Fn(u64, &mut Vec<Vec<u8>>),
) -> Result<(), String> {
    const ELEMENTS: u64 = 100;
    client.fill(count.div_ceil(ELEMENTS), |out, index| {
        let mut args: Vec<_> = head.iter().map(|word| word.as_bytes().to_vec()).collect();
        let first = index * ELEMENTS;
        (first..count.min(first + ELEMENTS)).for_each(|index| add(index, &mut args));
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        command(out, &args);
    })
}

/// The tests that `names` names, in any case; all where it is empty.
pub fn select(names: &[String]) -> Result<Vec<&'static Test>, String> {
    let wanted = |test: &Test| {
        names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(test.name))
    };
    let unknown = names.iter().find(|n| !TESTS.iter().any(|t| n.eq_ignore_ascii_case(t.name)));
    match unknown {
        Some(name) => {
            let all: Vec<_> = TESTS.iter().map(|test| test.name).collect();
            Err(format!("there is no test {name}; there are {}", all.join(", ")))
        }
        None => Ok(TESTS.iter().filter(|test| wanted(test)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_tests_are_redis_benchmarks_own() {
        assert_eq!(TESTS.iter().filter(|test| test.standard).count(), 20);
    }

    #[test]
    fn every_test_has_its_words() {
        for test in TESTS {
            let words = test.words(3);
            assert!(words.iter().all(|word| !word.contains("__data__")), "{words:?}");
            let named = test.name.split('_').next().unwrap();
            assert!(words[0].trim().eq_ignore_ascii_case(named), "{} {words:?}", test.name);
        }
    }

    #[test]
    fn tests_are_chosen_by_name_in_any_case() {
        let chosen = select(&["get".to_owned(), "ZADD".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|t| t.name).collect::<Vec<_>>(), ["GET", "ZADD"]);
        assert!(select(&["nosuch".to_owned()]).is_err());
        assert_eq!(select(&[]).unwrap().len(), TESTS.len());
    }
}
