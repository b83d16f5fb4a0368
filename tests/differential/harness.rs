//! The harness itself: between a redis-server and another one that is made to misbehave, it must find
//! every kind of misbehaviour, shrink it to the few commands that show it, and find nothing else.

use ashlar_tests::differential::sequence::sequence;
use ashlar_tests::differential::{Findings, Live, Pair, Target};
use ashlar_tests::grammar::{Generator, Spec};
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, Value};
use std::io;

/// The ways to misbehave.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    IncrOffByOne,
    ErrorText,
    ListOrder,
    LostRemoval,
    NullKind,
    MissingExpiry,
    ScoreDigits,
    ProtocolType,
    WrongRandomMember,
    LostConnection,
}

const FAULTS: [Fault; 10] = [
    Fault::IncrOffByOne,
    Fault::ErrorText,
    Fault::ListOrder,
    Fault::LostRemoval,
    Fault::NullKind,
    Fault::MissingExpiry,
    Fault::ScoreDigits,
    Fault::ProtocolType,
    Fault::WrongRandomMember,
    Fault::LostConnection,
];

/// A redis-server whose commands or replies are tampered with on the way.
struct Faulty<'a> {
    live: Live<'a>,
    fault: Fault,
}

impl Target for Faulty<'_> {
    fn reset(&mut self, protocol: u8) {
        self.live.reset(protocol);
    }

    fn send(&mut self, commands: &[Argv]) -> io::Result<()> {
        let mut commands = commands.to_vec();
        for argv in &mut commands {
            match self.fault {
                // The command does nothing but answers as if it had.
                Fault::LostRemoval if argv[0] == b"SREM" && argv.len() == 3 => {
                    argv[0] = b"SISMEMBER".to_vec();
                }
                Fault::MissingExpiry if argv[0] == b"SET" && argv.len() == 5 => argv.truncate(3),
                _ => {}
            }
        }
        self.live.send(&commands)
    }

    fn replies(&mut self, commands: &[Argv]) -> io::Result<Vec<Value>> {
        let mut replies = self.live.replies(commands)?;
        for (argv, reply) in commands.iter().zip(&mut replies) {
            tamper(self.fault, argv, reply)?;
        }
        Ok(replies)
    }
}

fn tamper(fault: Fault, argv: &Argv, reply: &mut Value) -> io::Result<()> {
    match (fault, argv[0].as_slice(), &mut *reply) {
        (Fault::IncrOffByOne, b"INCRBY", Value::Int(number)) if *number > 3 => *number += 1,
        (Fault::ErrorText, _, Value::Error(text)) if text.starts_with(b"WRONGTYPE") => {
            text.push(b'!');
        }
        (Fault::ListOrder, b"LRANGE", Value::Array(items)) => items.reverse(),
        (Fault::NullKind, b"GET", Value::Null) => *reply = Value::NullArray,
        (Fault::ScoreDigits, b"ZSCORE", Value::Bulk(text)) if text.contains(&b'.') => {
            text.push(b'1');
        }
        (Fault::ProtocolType, b"SMEMBERS", Value::Set(items)) => {
            *reply = Value::Array(std::mem::take(items));
        }
        (Fault::WrongRandomMember, b"SRANDMEMBER", Value::Bulk(name)) => name.push(b'?'),
        (Fault::LostConnection, b"STRLEN", Value::Int(4..)) => {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        _ => {}
    }
    Ok(())
}

fn specs() -> Vec<Spec> {
    [
        ("string", "SET", "key value [NX|XX] [EX seconds:integer|KEEPTTL]"),
        ("string", "GET", "key"),
        ("string", "INCRBY", "key increment:integer"),
        ("string", "APPEND", "key value"),
        ("string", "STRLEN", "key"),
        ("list", "RPUSH", "key element..."),
        ("list", "LRANGE", "key start:integer stop:integer"),
        ("list", "BLPOP", "key... timeout:double"),
        ("set", "SADD", "key member..."),
        ("set", "SREM", "key member..."),
        ("set", "SMEMBERS", "key"),
        ("set", "SPOP", "key [count:integer]"),
        ("set", "SRANDMEMBER", "key [count:integer]"),
        ("set", "SSCAN", "key cursor:integer [MATCH pattern:pattern] [COUNT count:integer]"),
        ("sorted-set", "ZADD", "key [NX|XX] [CH] (score:double member)..."),
        ("sorted-set", "ZSCORE", "key member"),
        ("sorted-set", "ZRANGE", "key start stop [BYSCORE|BYLEX] [REV] [WITHSCORES]"),
        ("hash", "HSET", "key (field value)..."),
        ("hash", "HGETALL", "key"),
        ("generic", "DEL", "key..."),
        ("generic", "TTL", "key"),
        ("generic", "EXPIRE", "key seconds:integer"),
    ]
    .map(|(family, name, syntax)| Spec::new(family, name, syntax))
    .to_vec()
}

/// What is found between a redis-server and one with this fault.
fn find(fault: Fault, sequences: u64) -> Findings {
    let (oracle, subject) = (Server::redis(&[]), Server::redis(&[]));
    let subject = Faulty { live: Live::new(&subject), fault };
    let mut pair = Pair { oracle: Live::new(&oracle), subject, protocol: 2 };
    let mut findings = Findings::default();
    let specs = specs();
    for seed in 0..sequences {
        pair.protocol = 2 + (seed % 2) as u8;
        let mut generator = Generator::new(seed);
        let families = ["string", "list", "set", "sorted-set", "hash"];
        let family = families[seed as usize / 2 % families.len()];
        findings.check(&mut pair, sequence(&mut generator, &specs, family, 150), seed);
        if fault != Fault::None && !findings.reports.is_empty() {
            break;
        }
    }
    findings
}

#[test]
fn two_equal_servers_do_not_differ() {
    let findings = find(Fault::None, 100);
    assert!(findings.commands >= 15_000);
    findings.finish();
}

#[test]
fn every_fault_is_found_and_shrunk() {
    for fault in FAULTS {
        let findings = find(fault, 100);
        let (_, report) =
            findings.reports.first_key_value().unwrap_or_else(|| panic!("{fault:?} was not found"));
        let lines = report.lines().skip(1).take_while(|line| !line.starts_with("===")).count();
        assert!(lines <= 6, "{fault:?} was not shrunk:\n{report}");
    }
}
