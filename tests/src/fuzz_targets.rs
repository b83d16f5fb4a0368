//! What arbitrary bytes must not be able to do: panic, answer with something that is no RESP, or
//! leave a state that does not survive being written out and read again.
//!
//! The functions take bytes and panic when they find something. `cargo fuzz` runs them in `fuzz/`,
//! guided by coverage; `cargo test` runs them on the corpus that is kept there and on mutations of
//! it, for a bounded time.

use crate::host::InProcess;
use crate::pools;
use crate::random::Random;
use crate::resp::{self, Argv, Value};
use ashlar_engine::command::Flags;
use ashlar_engine::config::EngineConfig;
use ashlar_engine::engine::{Engine, EngineOptions, command_table};
use ashlar_engine::rdb;
use ashlar_server::acl::Acl;
use ashlar_server::acl::parse::Context;
use ashlar_server::registry::Registry;
use ashlar_server::resp::decode::{Limits, Parsed, Resume, parse, split_inline};
use ashlar_server::scripting::interpreter::Interpreter;

/// Longest string that a command may make: valid, but huge, offsets would only test the allocator.
const STRING_BYTES_MAX: usize = 1 << 20;
/// Most calls that one input makes.
const CALLS_MAX: usize = 200;
/// Most arguments of a call.
const ARGS_MAX: usize = 12;

/// The request decoder.
pub fn decode(data: &[u8]) {
    for authenticated in [true, false] {
        let limits = Limits { authenticated, bulk_bytes_max: 1 << 16 };
        decode_with(data, limits);
    }
    if let Ok(words) = split_inline(data) {
        // No word can come from nothing.
        assert!(words.iter().map(|word| word.len().max(1)).sum::<usize>() <= data.len().max(1));
    }
}

fn decode_with(data: &[u8], limits: Limits) {
    let (mut at, mut args) = (0, Vec::new());
    while let Ok(parsed) = parse(data, at, limits, &mut args) {
        let end = match parsed {
            Parsed::Request(end) => end,
            Parsed::Inline(start, line_end, end) => {
                assert!(at <= start && start <= line_end && line_end < end);
                end
            }
            Parsed::Incomplete => {
                assert!(args.is_empty(), "an incomplete request leaves no arguments");
                break;
            }
        };
        assert!(at < end && end <= data.len(), "a request has bytes, and all of them are there");
        let request = &data[at..end];
        if request.starts_with(b"*") {
            resumed(request, limits, &args);
            reencoded(&args, limits);
        }
        args.clear();
        at = end;
    }
}

/// A request that comes in pieces is the same as one that comes whole.
fn resumed(request: &[u8], limits: Limits, args: &[&[u8]]) {
    let mut resume = Resume::default();
    let step = request.len().div_ceil(5).max(1);
    for end in (0..request.len()).step_by(step) {
        assert_eq!(resume.advance(&request[..end], limits), Ok(false), "a part is not the whole");
    }
    assert_eq!(resume.advance(request, limits), Ok(true));
    assert_eq!(resume.end(), request.len());
    let spans = resume.spans().iter().map(|&(start, end)| &request[start..end]);
    assert!(spans.eq(args.iter().copied()));
}

fn reencoded(args: &[&[u8]], limits: Limits) {
    let (mut bytes, mut again) = (Vec::new(), Vec::new());
    resp::encode(args, &mut bytes);
    assert_eq!(parse(&bytes, 0, limits, &mut again), Ok(Parsed::Request(bytes.len())));
    assert_eq!(again, args);
}

/// The parser of replies that the tests themselves use.
pub fn reply(data: &[u8]) {
    if let Ok(Some((_, len))) = resp::parse(data) {
        assert!(len <= data.len());
    }
}

/// Calls with arbitrary arguments, one after the other on one engine. `ASHLAR_SHOW=1` prints them.
pub fn execute(data: &[u8]) {
    let config = EngineConfig { proto_max_bulk_len: STRING_BYTES_MAX, ..Default::default() };
    let options = EngineOptions { config, shards: 2, ..Default::default() };
    let mut host = InProcess::new(options.clone());
    let mut bytes = Bytes(data);
    for _ in 0..CALLS_MAX {
        let Some(argv) = bytes.call() else { break };
        host.now_ms += i64::from(bytes.byte().unwrap_or(0));
        let reply = host.run(&argv);
        if std::env::var_os("ASHLAR_SHOW").is_some() {
            println!("{}\n{}", crate::cli::join(&argv), crate::cli::show(&reply).trim_end());
        }
        let Value::Error(text) = reply else { continue };
        let text = String::from_utf8_lossy(&text);
        let wrong = text.starts_with("PANIC") || text.starts_with("MALFORMED");
        assert!(!wrong, "{}: {text}", crate::cli::join(&argv));
    }
    let image = host.engine.image();
    let copy = Engine::from_image(options, &image).expect("an engine reads its own image");
    assert_eq!(copy.image(), image);
    assert_eq!(copy.digest(), host.engine.digest());
}

/// A payload for RESTORE, its type first, without version and checksum: it is refused, or the key
/// that comes of it can be used, written out and read again.
pub fn payload(data: &[u8]) {
    let config = EngineConfig { proto_max_bulk_len: STRING_BYTES_MAX, ..Default::default() };
    let mut host = InProcess::new(EngineOptions { config, ..Default::default() });
    let mut sealed = data.to_vec();
    rdb::seal(&mut sealed);
    let mut call = |words: &[&[u8]]| {
        let argv: Argv = words.iter().map(|word| word.to_vec()).collect();
        let reply = host.run(&argv);
        if let Value::Error(text) = &reply {
            let text = String::from_utf8_lossy(text);
            let wrong = text.starts_with("PANIC") || text.starts_with("MALFORMED");
            assert!(!wrong, "{}: {text}", crate::cli::join(&argv));
        }
        reply
    };
    if call(&[b"RESTORE", b"k", b"0", &sealed]).is_error() {
        return;
    }
    let Value::Bulk(dumped) = call(&[b"DUMP", b"k"]) else {
        // A hash without a field that has not expired is all that may come to nothing.
        assert_eq!(
            call(&[b"HGETALL", b"k"]),
            Value::Array(Vec::new()),
            "no dump of what was restored"
        );
        return;
    };
    let copied = call(&[b"RESTORE", b"copy", b"0", &dumped]);
    // Strings may be longer than their limit, in a copy as well as in what was restored.
    assert_eq!(copied, Value::Simple(b"OK".to_vec()), "its own dump is restored");
    // A consumer's times and a set of integers may be kept in another way, but not for ever.
    let Value::Bulk(again) = call(&[b"DUMP", b"copy"]) else { panic!("no dump of the copy") };
    assert_eq!(again, dumped, "the copy is equal");
    for line in PROBES {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        call(&words);
    }
    let image = host.engine.image();
    let options = EngineOptions { config: (*host.engine.config()).clone(), ..Default::default() };
    let copy = Engine::from_image(options, &image).expect("an engine reads its own image");
    assert_eq!(copy.image(), image);
}

/// Calls that look into every part of a value, and change it.
const PROBES: &[&str] = &[
    "OBJECT ENCODING k",
    "MEMORY USAGE k",
    "GET k",
    "PFCOUNT k",
    "PFADD k a b c",
    "PFMERGE k copy",
    "BITCOUNT k",
    "LRANGE k 0 -1",
    "LINSERT k AFTER a b",
    "LPOP k 2",
    "RPUSH k x 5",
    "SMEMBERS k",
    "SPOP k 2",
    "SADD k x 5 70000",
    "SSCAN k 0",
    "HGETALL k",
    "HTTL k FIELDS 1 a",
    "HSET k x 5",
    "HINCRBY k x 1",
    "HDEL k a",
    "ZRANGE k 0 -1 WITHSCORES",
    "ZADD k 1 x 2.5 y",
    "ZINCRBY k 1 x",
    "ZPOPMIN k",
    "XRANGE k - +",
    "XINFO STREAM k FULL",
    "XINFO GROUPS k",
    "XADD k * a b",
    "XREADGROUP GROUP g c COUNT 2 STREAMS k >",
    "XAUTOCLAIM k g c 0 0",
    "XPENDING k g - + 10",
    "XDEL k 1-1",
    "XTRIM k MAXLEN 1",
    "SORT k ALPHA",
    "COPY k other",
    "APPEND k x",
    "DEL copy",
];

/// An RDB file: it is read to its end or refused.
pub fn rdb_file(data: &[u8]) {
    let Ok(mut reader) = rdb::Reader::new(data) else { return };
    while let Ok(Some(record)) = reader.next_record() {
        if let rdb::Record::Entry(entry) = record {
            drop(rdb::decode(entry.kind, entry.body, &EngineConfig::default()));
        }
    }
    assert!(reader.position() <= data.len() as u64);
}

/// The bytes of an image, or almost: they are refused or read, and what was read is canonical.
pub fn image(data: &[u8]) {
    if let Some(engine) = Engine::from_image(EngineOptions::default(), data) {
        let image = engine.image();
        let again = Engine::from_image(EngineOptions::default(), &image);
        assert_eq!(again.expect("an engine reads its own image").image(), image);
    }
}

/// Rules of ACL users: lines of words, each line for one user. They are taken or refused, what is
/// shown reads back as the same rules, and no call makes a check panic.
pub fn acl(data: &[u8]) {
    static REGISTRY: std::sync::OnceLock<Registry> = std::sync::OnceLock::new();
    let registry = REGISTRY.get_or_init(|| Registry::new(ashlar_server::commands::FAMILIES));
    let users = Acl::new(registry);
    for (nth, line) in data.split(|byte| *byte == b'\n').take(CALLS_MAX).enumerate() {
        let context = Context { registry, all_channels: nth % 2 == 1 };
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let name = format!("user{}", nth % 4);
        if users.set_user(context, name.as_bytes(), &words).is_err() {
            continue;
        }
        let user = users.find(name.as_bytes()).expect("the user was set");
        let shown = user.rules().show();
        // As a file is read: at blanks, so rules must not have any outside of parentheses.
        let again: Vec<&[u8]> = shown.split(|byte| *byte == b' ').collect();
        let again = [&[&b"reset"[..]], &again[..]].concat();
        let text = String::from_utf8_lossy(&shown).into_owned();
        users.set_user(context, b"again", &again).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(users.find(b"again").expect("the user").rules(), user.rules(), "{text}");
        if let Ok(resolved) = registry.resolve(&words) {
            let rules = user.rules();
            let _ = rules.check(resolved, &words);
            let _ = rules.forbidden_sort(resolved, &words);
        }
    }
    let path = std::path::Path::new("/nonexistent/users.acl");
    assert!(users.load(Context { registry, all_channels: false }, path).is_err());
}

/// Bytes that choose what to call.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// A command and a few arguments; `None` at the end of the bytes.
    fn call(&mut self) -> Option<Argv> {
        let names = names();
        let chosen = usize::from(self.byte()?) | usize::from(self.byte()?) << 8;
        let mut argv = names[chosen % names.len()].clone();
        let args = usize::from(self.byte()?) % ARGS_MAX;
        for _ in 0..args {
            argv.push(self.argument()?);
        }
        Some(argv)
    }

    fn argument(&mut self) -> Option<Vec<u8>> {
        let kind = self.byte()?;
        Some(match kind {
            0..96 => format!("k{}", kind % 6).into_bytes(),
            96..160 => pools::word(usize::from(self.byte()?) | usize::from(kind) << 8),
            160..192 => i64::from(self.byte()? as i8).to_string().into_bytes(),
            192..208 => {
                let mut word = [0; 8];
                let taken = self.take(8);
                word[..taken.len()].copy_from_slice(&taken);
                i64::from_le_bytes(word).to_string().into_bytes()
            }
            208..240 => token(usize::from(self.byte()?) | usize::from(kind) << 8),
            240..252 => self.take(usize::from(kind % 12)),
            _ => vec![self.byte()?; 100 * usize::from(self.byte()?)],
        })
    }
}

/// The commands that the engine runs, as the arguments that name them.
fn names() -> Vec<Argv> {
    // Their whole purpose is a reply of any wanted length, or a pause.
    let left_out = ["DEBUG"];
    let mut names = Vec::new();
    for command in command_table().all() {
        if command.flags.contains(Flags::INTERNAL) || left_out.contains(&command.name) {
            continue;
        }
        names.push(vec![command.name.into()]);
        names.extend(
            command.subcommands.iter().map(|sub| vec![command.name.into(), sub.name.into()]),
        );
    }
    names
}

/// A literal word of some command's syntax.
fn token(chosen: usize) -> Vec<u8> {
    static TOKENS: std::sync::OnceLock<Vec<&'static str>> = std::sync::OnceLock::new();
    let tokens = TOKENS.get_or_init(|| {
        let all = command_table().all().iter();
        let syntax = all.flat_map(|command| {
            std::iter::once(command.syntax).chain(command.subcommands.iter().map(|sub| sub.syntax))
        });
        let upper = |word: &&str| !word.is_empty() && !word.bytes().any(|b| b.is_ascii_lowercase());
        let split = |syntax: &'static str| syntax.split([' ', '|', '[', ']', '(', ')', '.']);
        let mut tokens: Vec<&str> = syntax.flat_map(split).filter(upper).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    });
    tokens[chosen % tokens.len()].as_bytes().to_vec()
}

/// An input like `input` but for a few changes; sometimes with a part of `other`.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        let len = random.below(16).min(bytes.len() - at);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 => bytes.insert(at, random.bits() as u8),
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let copy = bytes[at..at + len].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let from = random.below(other.len() + 1);
                let part = &other[from..(from + random.below(200)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => bytes.extend((0..random.below(64)).map(|_| random.bits() as u8)),
        }
    }
    bytes
}

/// The text of a script: run in a sandbox without a server, it may fail but not bring down the
/// process, and what it changed is not there for the next.
pub fn script(data: &[u8]) {
    const LOOKS_MAX: u32 = 20;
    let mut interpreter = Interpreter::new(0).expect("an interpreter");
    let _ = interpreter.run_alone(data, LOOKS_MAX);
    let check = b"for _, name in ipairs({'string', 'table', 'math', 'redis', 'cjson', 'bit'}) do \
                  assert(next(_G[name]) ~= nil and not pcall(rawset, _G[name], 'x', 1)) end \
                  assert(not pcall(rawset, _G, 'x', 1) and type(string.rep) == 'function') \
                  return 'clean'";
    let reply = interpreter.run_alone(check, LOOKS_MAX).expect("the next script runs");
    assert_eq!(reply, b"$5\r\nclean\r\n");
}
