//! The same random calls against two servers, an oracle and a subject: replies are compared as far
//! as Redis determines them (see [`compare`]), at the end also what every key holds. A sequence that
//! shows a difference is shrunk (see [`shrink`]) and printed as a script for `redis-cli`.
//!
//! ```text
//! table of commands -> sequence of steps -> oracle  -> replies --+
//!                                      \--> subject -> replies --+--> compare -> shrink -> report
//! ```

pub mod compare;
pub mod sequence;
pub mod shrink;

use crate::cli;
use crate::golden::Host;
use crate::grammar::{Generator, Spec, table};
use crate::host::InProcess;
use crate::process::Server;
use crate::resp::{Argv, Client, Value};
use sequence::{Step, is_comparable, sequence};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many commands are sent before replies are read.
const BATCH: usize = 100;
/// Steps of a sequence: enough for collections to outgrow their small representations.
const SEQUENCE_STEPS: usize = 300;
/// How many different findings a run collects before it stops looking.
const FINDINGS_MAX: usize = 12;

/// Something that answers commands. Sending and receiving are apart, so that two servers can work
/// at the same time.
pub trait Target {
    /// Empties every database and starts a fresh connection of this protocol.
    fn reset(&mut self, protocol: u8);
    /// Sends commands.
    fn send(&mut self, commands: &[Argv]) -> io::Result<()>;
    /// The replies to the last `send`.
    fn replies(&mut self, commands: &[Argv]) -> io::Result<Vec<Value>>;
}

/// A server reached over its socket.
#[derive(Debug)]
pub struct Live<'a> {
    server: &'a Server,
    client: Client,
}

impl<'a> Live<'a> {
    /// Connects.
    pub fn new(server: &'a Server) -> Live<'a> {
        Live { server, client: server.client() }
    }
}

impl Target for Live<'_> {
    fn reset(&mut self, protocol: u8) {
        self.client = self.server.client_of(protocol);
        let reply = self.client.line("FLUSHALL");
        assert_eq!(reply.ok(), Some(Value::Simple(b"OK".to_vec())), "FLUSHALL");
    }

    fn send(&mut self, commands: &[Argv]) -> io::Result<()> {
        let mut out = Vec::new();
        commands.iter().for_each(|argv| crate::resp::encode(argv, &mut out));
        self.client.send_raw(&out)
    }

    fn replies(&mut self, commands: &[Argv]) -> io::Result<Vec<Value>> {
        commands.iter().map(|_| self.client.reply()).collect()
    }
}

impl Target for InProcess {
    fn reset(&mut self, protocol: u8) {
        Host::reset(self);
        self.protocol(protocol);
    }

    fn send(&mut self, _commands: &[Argv]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        self.now_ms = now.as_millis() as i64;
        Ok(())
    }

    fn replies(&mut self, commands: &[Argv]) -> io::Result<Vec<Value>> {
        Ok(commands.iter().map(|argv| self.run(argv)).collect())
    }
}

/// Where two servers part.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The command, or the probe after the last step that found it.
    pub command: Argv,
    /// What the oracle answered.
    pub oracle: Value,
    /// What the subject answered.
    pub subject: Value,
    /// The step, or the number of steps if a probe found it.
    pub step: usize,
}

/// Two servers side by side.
#[derive(Debug)]
pub struct Pair<O, S> {
    /// The one that is right.
    pub oracle: O,
    /// The one under test.
    pub subject: S,
    /// RESP2 or RESP3.
    pub protocol: u8,
}

impl<O: Target, S: Target> Pair<O, S> {
    /// Runs the steps on flushed servers; the first difference, if any.
    pub fn run(&mut self, steps: &[Step]) -> Option<Difference> {
        self.oracle.reset(self.protocol);
        self.subject.reset(self.protocol);
        let mut start = 0;
        while start < steps.len() {
            let mut end = start + 1;
            let size = |steps: &[Step]| steps.iter().map(|step| step.0.len()).sum::<usize>();
            while end < steps.len() && size(&steps[start..=end]) <= BATCH {
                end += 1;
            }
            if let Some(difference) = self.batch(steps, start, end) {
                return Some(difference);
            }
            start = end;
        }
        self.probe(steps.len())
    }

    fn batch(&mut self, steps: &[Step], start: usize, end: usize) -> Option<Difference> {
        let commands: Vec<Argv> =
            steps[start..end].iter().flat_map(|step| step.0.clone()).collect();
        let (oracle, subject) = self.both(&commands);
        let mut at = 0;
        for (offset, step) in steps[start..end].iter().enumerate() {
            let range = at..at + step.0.len();
            at = range.end;
            let found = compare::step(step, &oracle[range.clone()], &subject[range.clone()]);
            if let Some(index) = found {
                return Some(Difference {
                    command: step.0[index].clone(),
                    oracle: oracle[range.start + index].clone(),
                    subject: subject[range.start + index].clone(),
                    step: start + offset,
                });
            }
        }
        None
    }

    /// The replies of both; a lost connection becomes an error reply in place of the missing ones.
    fn both(&mut self, commands: &[Argv]) -> (Vec<Value>, Vec<Value>) {
        let (oracle, subject) = (self.oracle.send(commands), self.subject.send(commands));
        let lost = |error: io::Error| {
            let text = format!("CONNECTION lost: {error}");
            vec![Value::Error(text.into_bytes()); commands.len()]
        };
        let oracle = oracle.and_then(|()| self.oracle.replies(commands)).unwrap_or_else(lost);
        let subject = subject.and_then(|()| self.subject.replies(commands)).unwrap_or_else(lost);
        (oracle, subject)
    }

    /// Compares what every key holds.
    fn probe(&mut self, step: usize) -> Option<Difference> {
        let mut types: Vec<Argv> = vec![crate::resp::words("KEYS *")];
        let key = |name: &str, key: &String| vec![name.into(), key.clone().into_bytes()];
        let keys = crate::pools::keys();
        types.extend(keys.iter().flat_map(|name| [key("TYPE", name), key("PTTL", name)]));
        let (oracle, subject) = self.both(&types);
        let found = first_difference(&types, &oracle, &subject, step);
        if found.is_some() {
            return found;
        }
        let reads: Vec<Argv> = keys
            .iter()
            .zip(oracle[1..].chunks(2))
            .filter_map(|(name, reply)| sequence::read_all(name.as_bytes(), &reply[0].text()))
            .collect();
        let (oracle, subject) = self.both(&reads);
        first_difference(&reads, &oracle, &subject, step)
    }
}

fn first_difference(
    commands: &[Argv],
    oracle: &[Value],
    subject: &[Value],
    step: usize,
) -> Option<Difference> {
    let is_there = |reply: &Value| !matches!(reply, Value::Error(text) if text.starts_with(b"ERR unknown command"));
    let mut all = commands.iter().zip(oracle.iter().zip(subject));
    let mut all = all.by_ref().filter(|(_, (_, subject))| is_there(subject));
    all.find(|(argv, (oracle, subject))| !compare::same(argv, oracle, subject)).map(
        |(argv, (oracle, subject))| Difference {
            command: argv.clone(),
            oracle: oracle.clone(),
            subject: subject.clone(),
            step,
        },
    )
}

/// The commands of the engine's table that a differential can send and that the oracle knows.
pub fn specs(oracle: &mut Client) -> io::Result<Vec<Spec>> {
    let known = oracle.line("COMMAND LIST")?;
    let known: HashSet<String> =
        known.items().unwrap_or_default().iter().map(|name| name.text().to_uppercase()).collect();
    let is_known = |spec: &Spec| {
        let first = spec.name.split(' ').next().unwrap_or_default();
        known.contains(first)
    };
    Ok(table().into_iter().filter(|spec| is_comparable(spec) && is_known(spec)).collect())
}

/// Runs random sequences over every family, half of them in RESP2 and half in RESP3, about
/// `commands` in all.
pub fn run<O: Target, S: Target>(
    pair: &mut Pair<O, S>,
    specs: &[Spec],
    seed: u64,
    commands: usize,
) -> Findings {
    let mut families: Vec<&str> = specs.iter().map(|spec| spec.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    if let Ok(only) = std::env::var("ASHLAR_FAMILY") {
        families.retain(|family| *family == only);
    }
    let mut findings = Findings::default();
    let mut generator = Generator::new(seed);
    for round in 0.. {
        if findings.commands >= commands || findings.is_full() {
            break;
        }
        pair.protocol = 2 + (round % 2) as u8;
        let family = families[round / 2 % families.len()];
        let steps = sequence(&mut generator, specs, family, SEQUENCE_STEPS);
        findings.check(pair, steps, seed);
    }
    findings
}

/// What a run over many sequences found.
#[derive(Debug, Default)]
pub struct Findings {
    /// One report a command that differed.
    pub reports: BTreeMap<String, String>,
    /// How many commands were compared.
    pub commands: usize,
}

impl Findings {
    /// Runs one sequence; a difference is shrunk and reported, unless one of the same command is
    /// known already.
    pub fn check<O: Target, S: Target>(
        &mut self,
        pair: &mut Pair<O, S>,
        steps: Vec<Step>,
        seed: u64,
    ) {
        self.commands += steps.iter().map(|step| step.0.len()).sum::<usize>();
        let Some(difference) = pair.run(&steps) else { return };
        let name = difference.command[0].to_ascii_uppercase();
        let name = String::from_utf8_lossy(&name).into_owned();
        if self.reports.contains_key(&name) {
            return;
        }
        let kept = steps[..steps.len().min(difference.step + 1)].to_vec();
        let same = |found: Difference| found.command[0].eq_ignore_ascii_case(name.as_bytes());
        let kept = shrink::shrink(kept, |steps| pair.run(steps).is_some_and(same));
        let last = pair.run(&kept).unwrap_or(difference);
        self.reports.insert(name, report(&kept, &last, pair.protocol, seed));
    }

    /// True when so much was found that more would not be read.
    pub fn is_full(&self) -> bool {
        self.reports.len() >= FINDINGS_MAX
    }

    /// Fails with every report, if there is one.
    pub fn finish(self) {
        let reports: Vec<String> = self.reports.into_values().collect();
        assert!(reports.is_empty(), "{} differences\n\n{}", reports.len(), reports.join("\n"));
    }
}

/// A difference as a script that shows it, with the two replies and the seed that found it.
pub fn report(steps: &[Step], difference: &Difference, protocol: u8, seed: u64) -> String {
    let mut out = format!("--- found with ASHLAR_SEED={seed}; redis-cli -{protocol}\n");
    for argv in steps.iter().flat_map(|step| &step.0) {
        out.push_str(&format!("{}\n", cli::join(argv)));
    }
    out.push_str(&format!("=== {}\n", cli::join(&difference.command)));
    for (who, reply) in [("oracle", &difference.oracle), ("subject", &difference.subject)] {
        out.push_str(&format!(
            "{who:>8}: {}\n",
            cli::show(reply).trim_end().replace('\n', "\n          ")
        ));
    }
    if cli::show(&difference.oracle) == cli::show(&difference.subject) {
        out.push_str(&format!("  (as {:?} / {:?})\n", difference.oracle, difference.subject));
    }
    out
}
