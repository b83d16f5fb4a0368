//! A client that writes, knows what was acknowledged, and checks it after a crash.

use ashlar_engine::engine::EngineOptions;
use ashlar_tests::host::InProcess;
use ashlar_tests::process::Server;
use ashlar_tests::random::Random;
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Units that are sent without waiting for replies.
const DEPTH_MAX: usize = 16;
/// Keys of each type.
const KEYS: usize = 3;
/// An expiry that never comes, in seconds.
const FAR_SECONDS: i64 = 4_000_000_000;

/// A call, or MULTI to EXEC: what takes effect as one.
type Unit = Vec<Argv>;

/// A writer with keys of its own.
pub struct Writer {
    number: usize,
    random: Random,
    /// The state that the acknowledged calls lead to.
    model: InProcess,
    /// Sent and not acknowledged.
    in_flight: VecDeque<Unit>,
    acknowledged: u64,
}

impl Writer {
    /// A writer with no keys yet.
    pub fn new(number: usize, seed: u64) -> Writer {
        let model = InProcess::new(EngineOptions::default());
        let random = Random::new(seed);
        Writer { number, random, model, in_flight: VecDeque::new(), acknowledged: 0 }
    }

    /// The key that each of its transactions raises by one.
    pub fn counter(&self) -> String {
        format!("{}:counter", self.number)
    }

    fn key(&mut self, kind: &str) -> String {
        format!("{}:{kind}{}", self.number, self.random.below(KEYS))
    }

    fn unit(&mut self) -> Unit {
        let n = self.random.below(100);
        let line = match self.random.below(14) {
            0 => format!("SET {} {n}", self.key("string")),
            1 => format!("APPEND {} {}", self.key("string"), "x".repeat(n + 1)),
            2 => format!("DEL {}", self.key("string")),
            3 => format!("RPUSH {} {n} {n}", self.key("list")),
            4 => format!("LPOP {}", self.key("list")),
            5 => format!("HSET {} f{} {n}", self.key("hash"), n % 10),
            6 => format!("HDEL {} f{}", self.key("hash"), n % 10),
            7 => format!("ZADD {} {n} m{}", self.key("zset"), n % 10),
            8 => format!("SADD {} {n}", self.key("set")),
            9 => format!("SREM {} {n}", self.key("set")),
            10 => format!("EXPIREAT {} {}", self.key("hash"), FAR_SECONDS + n as i64),
            11 => format!("SET {} gone PX 1", self.key("brief")),
            12 => format!("SET {} {}", self.key("string"), "large".repeat(2_000)),
            _ => {
                let counter = self.counter();
                let list = self.key("list");
                let lines = [
                    "MULTI".into(),
                    format!("INCR {counter}"),
                    format!("RPUSH {list} {n}"),
                    format!("INCR {counter}:twin"),
                    "EXEC".into(),
                ];
                return lines.iter().map(|line: &String| words(line)).collect();
            }
        };
        vec![words(&line)]
    }

    /// Writes until the server is gone.
    pub fn work(&mut self, mut client: Client, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let depth = 1 + self.random.below(DEPTH_MAX);
            for _ in 0..depth {
                let unit = self.unit();
                let sent = unit.iter().try_for_each(|argv| client.send(argv));
                self.in_flight.push_back(unit);
                if sent.is_err() {
                    return;
                }
            }
            for _ in 0..depth {
                let replies = self.in_flight.front().map_or(0, Vec::len);
                for _ in 0..replies {
                    let Ok(reply) = client.reply() else { return };
                    assert!(!reply.is_error(), "{reply:?}");
                }
                let unit = self.in_flight.pop_front().expect("it was just answered");
                self.run(&unit);
                self.acknowledged += 1;
            }
        }
    }

    fn run(&mut self, unit: &Unit) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        // A brief expiry is over by the time of any check, in the model as in the server.
        self.model.now_ms = i64::try_from(now.as_millis()).expect("a time of this age");
        unit.iter().for_each(|argv| drop(self.model.run(argv)));
    }

    /// What the writer's keys hold, by what `run` answers.
    fn contents(&self, mut run: impl FnMut(&Argv) -> Value) -> Vec<(String, Value)> {
        let mut lines =
            vec![format!("GET {}", self.counter()), format!("GET {}:twin", self.counter())];
        for nth in 0..KEYS {
            let key = |kind: &str| format!("{}:{kind}{nth}", self.number);
            lines.push(format!("GET {}", key("string")));
            lines.push(format!("LRANGE {} 0 -1", key("list")));
            lines.push(format!("HGETALL {}", key("hash")));
            lines.push(format!("EXPIRETIME {}", key("hash")));
            lines.push(format!("ZRANGE {} 0 -1 WITHSCORES", key("zset")));
            lines.push(format!("SMEMBERS {}", key("set")));
            lines.push(format!("EXISTS {}", key("brief")));
        }
        lines.into_iter().map(|line| (line.clone(), run(&words(&line)))).collect()
    }

    /// Calls and transactions that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Checks the server's keys after a start, and goes on from them.
    pub fn check(&mut self, server: &Server, cycle: usize) {
        // The briefest expiry, a millisecond, is over then in the server as it is in the model.
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mut client = server.client();
        let found = self.contents(|argv| client.call(argv).expect("a reply"));
        let mut first_difference = None;
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
            self.model.now_ms = i64::try_from(now.as_millis()).expect("a time of this age") + 2;
            let mut model =
                std::mem::replace(&mut self.model, InProcess::new(EngineOptions::default()));
            let expected = self.contents(|argv| model.run(argv));
            self.model = model;
            let difference =
                found.iter().zip(&expected).find(|(found, expected)| found != expected);
            let Some((found, expected)) = difference else { break };
            let text = format!("found {found:?}, expected {expected:?}");
            let first_difference = first_difference.get_or_insert(text);
            let Some(unit) = self.in_flight.pop_front() else {
                panic!(
                    "cycle {cycle}, writer {}: the keys are none of the states that they may be; \
                     as acknowledged: {first_difference}",
                    self.number
                );
            };
            self.run(&unit);
        }
        self.in_flight.clear();
        let twins: Vec<&Value> = found.iter().take(2).map(|(_, value)| value).collect();
        assert_eq!(twins[0], twins[1], "cycle {cycle}: a transaction is there in part");
    }
}
