//! What the own load client sends: a few commands, the same for every server.

use std::io::Write as _;
use std::sync::Arc;

use crate::catalogue::KEYSPACE;
use crate::client::Client;
use crate::protocol::{Protocol, command};

/// A command of the own load client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads a random key, which is there.
    Get,
    /// Writes a random key.
    Set,
    /// Adds a random member with a random score to one sorted set.
    Zadd,
    /// The words that the work was made of: see [`Work::of_words`].
    Words,
}

/// What stands for twelve random digits in words, as in redis-benchmark.
pub const RANDOM: &str = "__rand_int__";

/// A command as bytes: between two of these are twelve random digits.
#[derive(Clone, Debug, Default)]
struct Template(Vec<Vec<u8>>);

impl Template {
    fn new(request: &[u8]) -> Template {
        let text = String::from_utf8_lossy(request);
        Template(text.split(RANDOM).map(|part| part.as_bytes().to_vec()).collect())
    }

    fn write(&self, mut key: u64, out: &mut Vec<u8>) {
        for (nth, part) in self.0.iter().enumerate() {
            if nth > 0 {
                out.extend_from_slice(&name(key % KEYSPACE)[4..]);
                // Keys of one command differ.
                key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17;
            }
            out.extend_from_slice(part);
        }
    }
}

/// A stream of commands over random keys; the same seed gives every server the same ones.
#[derive(Clone, Debug)]
pub struct Work {
    /// The command.
    pub op: Op,
    value: Vec<u8>,
    random: u64,
    keys: Keys,
    template: Arc<Template>,
}

/// Which keys are chosen.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Each of so many equally often.
    Uniform(u64),
    /// A few very often.
    Zipf(Arc<Zipf>),
}

/// Zipf's distribution, by the method of Gray et al., "Quickly generating billion-record synthetic
/// databases", SIGMOD 1994, which YCSB uses too. Often read keys lie anywhere among the others.
#[derive(Debug)]
pub struct Zipf {
    keys: u64,
    skew: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// Over so many keys; 0 < `skew` < 1.
    pub fn new(keys: u64, skew: f64) -> Zipf {
        let zeta = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-skew)).sum::<f64>();
        let all = zeta(keys);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - skew)) / (1.0 - zeta(2) / all);
        Zipf { keys, skew, zeta: all, eta }
    }

    /// The key that 64 random bits choose.
    pub fn draw(&self, random: u64) -> u64 {
        let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
        let at = unit * self.zeta;
        let rank = if at < 1.0 {
            0
        } else if at < 1.0 + 0.5f64.powf(self.skew) {
            1
        } else {
            let base = self.eta * unit - self.eta + 1.0;
            (self.keys as f64 * base.powf(1.0 / (1.0 - self.skew))) as u64
        };
        rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.keys
    }
}

impl Op {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Op::Get => "GET",
            Op::Set => "SET",
            Op::Zadd => "ZADD",
            Op::Words => "",
        }
    }
}

impl Work {
    /// Commands `op` with values of `size` bytes.
    pub fn new(op: Op, size: usize) -> Self {
        Work::over(op, size, Keys::Uniform(KEYSPACE))
    }

    /// The same over other keys.
    pub fn over(op: Op, size: usize, keys: Keys) -> Self {
        let (value, random) = (vec![b'x'; size], 0x9E37_79B9_7F4A_7C15);
        Work { op, value, random, keys, template: Arc::default() }
    }

    /// The same with other random keys.
    pub fn with_seed(&self, seed: u64) -> Self {
        let random = self.random ^ seed.wrapping_add(1).wrapping_mul(0xD134_2543_DE82_EF95);
        Work { random, ..self.clone() }
    }

    /// One command over and over, [`RANDOM`] replaced; a single word is sent as a line.
    pub fn of_words(words: &[String]) -> Self {
        let mut request = Vec::new();
        match words {
            [line] if line.ends_with("\r\n") => request.extend_from_slice(line.as_bytes()),
            words => {
                // The random digits take as much room as what stands for them.
                let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                command(&mut request, &args);
            }
        }
        let template = Arc::new(Template::new(&request));
        Work { template, ..Work::new(Op::Words, 0) }
    }

    /// Appends the command for one key.
    pub fn write_key(&self, protocol: Protocol, key: u64, out: &mut Vec<u8>) {
        self.write(protocol, key, 0, out);
    }

    /// Puts in every key, where the commands read them.
    pub fn prepare(&self, client: &mut Client, protocol: Protocol) -> Result<(), String> {
        if protocol == Protocol::Resp {
            client.call(&["FLUSHALL", "SYNC"])?;
        }
        let set = Work { op: Op::Set, ..self.clone() };
        let count = if self.op == Op::Get { KEYSPACE } else { 0 };
        client.fill(count, |out, index| set.write(protocol, index, 0, out))
    }

    /// Appends the next `count` commands; answers how many replies they get.
    ///
    /// memcached is asked for all keys with one command, as its clients do: it answers single ones
    /// with a system call each.
    pub fn batch(&mut self, protocol: Protocol, count: u32, out: &mut Vec<u8>) -> u32 {
        if (protocol, self.op) == (Protocol::Memcached, Op::Get) {
            out.extend_from_slice(b"get");
            for _ in 0..count {
                let (key, _) = self.draw();
                out.push(b' ');
                out.extend_from_slice(&name(key));
            }
            out.extend_from_slice(b"\r\n");
            return 1;
        }
        for _ in 0..count {
            let (key, score) = self.draw();
            self.write(protocol, key, score, out);
        }
        count
    }

    /// A random key and score.
    fn draw(&mut self) -> (u64, u64) {
        // xorshift64 (Marsaglia, 2003): cheap, and good enough to choose keys.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let key = match &self.keys {
            Keys::Uniform(keys) => (self.random >> 32) % keys,
            Keys::Zipf(zipf) => zipf.draw(self.random),
        };
        (key, (self.random & 0xFFFF) % 10_000)
    }

    fn write(&self, protocol: Protocol, key: u64, score: u64, out: &mut Vec<u8>) {
        let name = name(key);
        match (protocol, self.op) {
            (Protocol::Resp, Op::Get) => command(out, &[b"GET", &name]),
            (Protocol::Resp, Op::Set) => command(out, &[b"SET", &name, &self.value]),
            (Protocol::Resp, Op::Zadd) => {
                command(out, &[b"ZADD", b"myzset", score.to_string().as_bytes(), &name]);
            }
            (Protocol::Resp, Op::Words) => self.template.write(key, out),
            (Protocol::Memcached, _) => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(&name);
                // Writing to a Vec does not fail.
                let _ = write!(out, " 0 0 {}\r\n", self.value.len());
                out.extend_from_slice(&self.value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

fn name(key: u64) -> [u8; 16] {
    let mut name = *b"key:000000000000";
    let mut rest = key;
    for digit in name.iter_mut().rev().take(12) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memcached_is_asked_for_many_keys_at_once() {
        let mut out = Vec::new();
        assert_eq!(Work::new(Op::Get, 3).batch(Protocol::Memcached, 3, &mut out), 1);
        assert!(out.starts_with(b"get key:") && out.ends_with(b"\r\n"));
        assert_eq!(out.len(), 3 + 3 * 17 + 2);
        assert_eq!(Work::new(Op::Get, 3).batch(Protocol::Resp, 3, &mut out), 3);
    }

    #[test]
    fn random_digits_of_a_command_differ_and_take_their_room() {
        let words = ["mset", "key:__rand_int__", "x", "key:__rand_int__", "y"].map(str::to_owned);
        let mut out = Vec::new();
        Work::of_words(&words).batch(Protocol::Resp, 1, &mut out);
        let text = String::from_utf8(out).unwrap();
        let keys: Vec<&str> = text.split("\r\n").filter(|line| line.starts_with("key:")).collect();
        assert!(text.starts_with("*5\r\n$4\r\nmset\r\n$16\r\nkey:0000000"), "{text}");
        assert!(keys.len() == 2 && keys[0] != keys[1] && keys.iter().all(|key| key.len() == 16));
        let mut line = Vec::new();
        Work::of_words(&["PING\r\n".to_owned()]).batch(Protocol::Resp, 2, &mut line);
        assert_eq!(line, b"PING\r\nPING\r\n");
    }

    #[test]
    fn zipf_is_skewed() {
        let zipf = Zipf::new(10_000, 0.99);
        let mut counts = vec![0; 10_000];
        let mut random = 1u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            counts[zipf.draw(random) as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: u32 = counts[..1_000].iter().sum();
        assert!((65_000..85_000).contains(&top), "{top}");
    }

    #[test]
    fn both_protocols_name_the_same_key() {
        let work = Work::new(Op::Set, 3);
        let mut out = Vec::new();
        work.write(Protocol::Memcached, 42, 0, &mut out);
        assert_eq!(out, b"set key:000000000042 0 0 3\r\nxxx\r\n");
        out.clear();
        work.write(Protocol::Resp, 42, 0, &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nxxx\r\n");
    }
}
