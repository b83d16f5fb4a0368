//! Bytes a key: what the resident set and INFO's `used_memory` grow by while data are loaded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::options::Settings;
use crate::proc;
use crate::protocol::command;
use crate::results::{Growth, Memory};
use crate::server::{Program, Server};

/// How often memory is looked at until it does not change any more: redis-server moves its tables
/// bit by bit, and allocators give free pages back after some seconds.
const SETTLE: Duration = Duration::from_millis(500);
/// How many looks in a row must find it as it was.
const SETTLED_LOOKS: usize = 6;
/// How many looks there are at most.
const SETTLE_TRIES: usize = 40;

/// The part of the keys that is loaded before the measurement begins: the pages of code that the
/// command needs, and buffers, come once and are no key's.
const WARM_UP_SHARE: u64 = 10;

/// A shape of data.
struct Shape {
    name: &'static str,
    keys: u64,
    write: fn(&mut Vec<u8>, u64),
}

const SHAPES: &[Shape] = &[
    Shape { name: "string: 16 B key, 32 B value", keys: 1_000_000, write: string },
    Shape { name: "hash of 5 fields", keys: 100_000, write: hash },
    Shape { name: "sorted set of 20 members", keys: 100_000, write: sorted_set },
];

/// Loads each shape into a new server of each kind.
pub fn measure(settings: &Settings) -> Result<Vec<Memory>, String> {
    let mut results = Vec::new();
    for shape in SHAPES {
        let keys = (shape.keys as f64 * settings.memory_scale) as u64;
        let ashlar = growth(&settings.ashlar, shape, keys)?;
        let redis = growth(&settings.redis, shape, keys)?;
        let memory = Memory { shape: shape.name.to_owned(), keys, ashlar, redis };
        let (rss, used) = memory.ratios();
        eprintln!("{:<30} {keys:>8} keys: RSS {rss:.2}x  used_memory {used:.2}x", shape.name);
        results.push(memory);
    }
    Ok(results)
}

fn growth(program: &Program, shape: &Shape, keys: u64) -> Result<Growth, String> {
    let server = program.start()?;
    let load = || {
        let mut client = Client::connect(&server)?;
        let warm_up = keys / WARM_UP_SHARE;
        client.fill(warm_up, shape.write)?;
        let (rss_before, used_before) = settled(&server, &mut client)?;
        let start = Instant::now();
        client.fill(keys - warm_up, |out, index| (shape.write)(out, index + warm_up))?;
        let load_s = start.elapsed().as_secs_f64();
        let (rss, used) = settled(&server, &mut client)?;
        let counted = (keys - warm_up) as f64;
        let per_key = |after: u64, before: u64| after.saturating_sub(before) as f64 / counted;
        let (rss_per_key, used_per_key) = (per_key(rss, rss_before), per_key(used, used_before));
        Ok(Growth { rss_per_key, used_per_key, load_s })
    };
    load().map_err(|error: String| server.with_log(&error))
}

/// Resident set and `used_memory`, once they have stopped to change.
fn settled(server: &Server, client: &mut Client) -> Result<(u64, u64), String> {
    let mut read = || -> Result<(u64, u64), String> {
        Ok((proc::rss_bytes(server.pid())?, client.info_number("memory", "used_memory")?))
    };
    let (mut last, mut looks) = (read()?, 0);
    for _ in 0..SETTLE_TRIES {
        sleep(SETTLE);
        let now = read()?;
        let same = now.0.abs_diff(last.0) < 64 << 10 && now.1.abs_diff(last.1) < 64 << 10;
        looks = if same { looks + 1 } else { 0 };
        if looks == SETTLED_LOOKS {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Keys in an order that is not theirs: multiplication by an odd number permutes the low bits.
fn scattered(index: u64) -> u64 {
    index.wrapping_mul(0x9E37_79B1) & 0xFFFF_FFFF
}

pub fn string(out: &mut Vec<u8>, index: u64) {
    let key = format!("key:{:012}", scattered(index));
    let value = format!("value:{:026}", scattered(index + 1));
    command(out, &[b"SET", key.as_bytes(), value.as_bytes()]);
}

/// An account as programs keep them: short names, values of 4 to 19 bytes.
pub fn hash(out: &mut Vec<u8>, index: u64) {
    let number = scattered(index);
    let key = format!("hash:{number:011}");
    let values = [
        ("name", format!("user {number:010}")),
        ("email", format!("u{number}@example.org")),
        ("visits", format!("{}", number % 10_000)),
        ("country", "Iceland".to_owned()),
        ("changed", "2024-05-06T07:08:09".to_owned()),
    ];
    let mut args: Vec<&[u8]> = vec![b"HSET", key.as_bytes()];
    for (field, value) in &values {
        args.extend([field.as_bytes(), value.as_bytes()]);
    }
    command(out, &args);
}

fn sorted_set(out: &mut Vec<u8>, index: u64) {
    let key = format!("zset:{:011}", scattered(index));
    let pairs: Vec<_> = (0..20)
        .map(|member| {
            let score = scattered(index * 20 + member) % 1_000_000;
            (score.to_string(), format!("member:{:010}", scattered(index + member)))
        })
        .collect();
    let mut args: Vec<&[u8]> = vec![b"ZADD", key.as_bytes()];
    for (score, member) in &pairs {
        args.extend([score.as_bytes(), member.as_bytes()]);
    }
    command(out, &args);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_string_is_of_the_promised_size_and_keys_differ() {
        let mut out = Vec::new();
        string(&mut out, 7);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\r\n$16\r\nkey:") && text.contains("\r\n$32\r\nvalue:"), "{text}");
        let keys: HashSet<u64> = (0..100_000).map(scattered).collect();
        assert_eq!(keys.len(), 100_000);
    }
}
