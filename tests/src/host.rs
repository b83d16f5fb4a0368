//! The engine in this process, behind the little of a server that scripts of commands need: the
//! checks before a command runs, MULTI, SELECT, HELLO, and a clock that only moves when it is told
//! to. A panic becomes an error reply, so that a test can shrink what led to it.

use crate::golden::Host;
use crate::resp::{self, Argv, Value};
use ashlar_engine::engine::{Engine, EngineOptions, command_table};
use ashlar_engine::executor::{Call, Outcome, Prefetched};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::Stamp;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Where the clock of a script starts: 2023-11-14 22:13:20 UTC.
pub const START_MS: i64 = 1_700_000_000_000;

/// An engine with one connection.
pub struct InProcess {
    /// The engine.
    pub engine: Arc<Engine>,
    options: EngineOptions,
    db: u32,
    protocol: Protocol,
    /// The time of the next call.
    pub now_ms: i64,
    /// Counts calls; each one's random seed follows from it.
    pub calls: u64,
    /// What MULTI collected.
    queue: Option<Vec<Argv>>,
    aborted: bool,
    /// Whether reads leave the access data as it is.
    pub no_touch: bool,
    /// Whether what calls need from disk is loaded here, as a server does, not by the executor.
    pub loads_elsewhere: bool,
}

impl InProcess {
    /// An empty engine.
    pub fn new(options: EngineOptions) -> InProcess {
        InProcess {
            engine: Arc::new(Engine::with_options(options.clone())),
            options,
            db: 0,
            protocol: Protocol::Resp2,
            now_ms: START_MS,
            calls: 0,
            queue: None,
            aborted: false,
            no_touch: false,
            loads_elsewhere: false,
        }
    }

    /// Goes on with an engine of these options that was made from the image of the present one.
    pub fn through_image(&mut self, options: EngineOptions) {
        let image = self.engine.image();
        let copy = Engine::from_image(options.clone(), &image);
        let copy = copy.expect("an engine reads its own image");
        assert_eq!(copy.image(), image, "an image brings back what it was made from");
        (self.engine, self.options) = (Arc::new(copy), options);
    }

    /// Runs one command.
    pub fn run(&mut self, argv: &Argv) -> Value {
        let args: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let name = String::from_utf8_lossy(args.first().unwrap_or(&&b""[..])).to_ascii_uppercase();
        match (name.as_str(), &mut self.queue) {
            ("MULTI", None) => {
                (self.queue, self.aborted) = (Some(Vec::new()), false);
                simple("OK")
            }
            ("EXEC", queue) => match queue.take() {
                None => error("ERR EXEC without MULTI"),
                Some(_) if self.aborted => {
                    error("EXECABORT Transaction discarded because of previous errors.")
                }
                Some(queue) => {
                    Value::Array(queue.iter().map(|argv| self.execute(argv, false)).collect())
                }
            },
            ("DISCARD", queue) => match queue.take() {
                None => error("ERR DISCARD without MULTI"),
                Some(_) => simple("OK"),
            },
            (_, Some(queue)) => match check(&args) {
                Ok(_) => {
                    queue.push(argv.clone());
                    simple("QUEUED")
                }
                Err(text) => {
                    self.aborted = true;
                    error(&text)
                }
            },
            ("SELECT", None) => match args.get(1).and_then(|db| std::str::from_utf8(db).ok()) {
                Some(db) if db.parse().is_ok_and(|db: u32| db < self.engine.config().databases) => {
                    self.db = db.parse().unwrap_or(0);
                    simple("OK")
                }
                _ => error("ERR DB index is out of range"),
            },
            _ => self.execute(argv, true),
        }
    }

    fn execute(&mut self, argv: &Argv, may_block: bool) -> Value {
        let args: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let command = match check(&args) {
            Ok(command) => command,
            Err(text) => return error(&text),
        };
        self.calls += 1;
        let stamp = Stamp::new(self.now_ms, self.calls);
        let (db, no_touch) = (self.db, self.no_touch);
        let call = Call { command, args: &args, db, stamp: &stamp, may_block, no_touch };
        let mut out = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut executor = self.engine.executor();
            executor.set_loads_elsewhere(self.loads_elsewhere);
            loop {
                let mut reply = Reply::new(&mut out, self.protocol);
                let outcome = executor.run(&call, Prefetched::NONE, &mut reply);
                if outcome != Outcome::NeedsCold {
                    return outcome;
                }
                assert!(out.is_empty(), "a call that needs more has no reply yet");
                if executor.load_ready() {
                    continue;
                }
                let needs = executor.take_needs();
                executor.release();
                let tier = self.engine.tier().expect("an engine with a tier");
                let brought = tier.load(&self.engine, &needs).expect("the store works");
                executor.give(brought);
            }
        }));
        match outcome {
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                error(&format!("PANIC {text}"))
            }
            // Nobody else can make it ready: the time it would wait passes at once.
            Ok(Outcome::WouldBlock) if self.protocol == Protocol::Resp2 => Value::NullArray,
            Ok(Outcome::WouldBlock) => Value::Null,
            Ok(_) => match resp::parse(&out) {
                Ok(Some((value, len))) if len == out.len() => value,
                _ => error(&format!("MALFORMED {:?}", String::from_utf8_lossy(&out))),
            },
        }
    }
}

/// The checks that a server makes before it runs a command.
fn check(args: &[&[u8]]) -> Result<&'static ashlar_engine::command::Command, String> {
    let show = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
    let name = args.first().copied().unwrap_or_default();
    let Some((_, command)) = command_table().find(name) else {
        let rest = args.iter().skip(1).map(|arg| format!("'{}' ", show(arg)));
        let rest = rest.collect::<String>();
        return Err(format!(
            "ERR unknown command '{}', with args beginning with: {rest}",
            show(name)
        ));
    };
    let lower = name.to_ascii_lowercase();
    let wrong = |name: &str| Err(format!("ERR wrong number of arguments for '{name}' command"));
    if command.subcommands.is_empty() {
        return if command.accepts(args.len()) { Ok(command) } else { wrong(&show(&lower)) };
    }
    let Some(second) = args.get(1) else {
        return if command.run.is_some() && command.accepts(1) {
            Ok(command)
        } else {
            wrong(&show(&lower))
        };
    };
    match command.subcommand(second) {
        Some(sub) if sub.accepts(args.len()) => Ok(sub),
        Some(sub) => wrong(&format!("{}|{}", show(&lower), sub.name.to_ascii_lowercase())),
        None if command.run.is_some() => Ok(command),
        None => {
            let name = command.name;
            Err(format!("ERR unknown subcommand '{}'. Try {name} HELP.", show(second)))
        }
    }
}

fn simple(text: &str) -> Value {
    Value::Simple(text.as_bytes().to_vec())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

impl Host for InProcess {
    fn reset(&mut self) {
        *self = InProcess::new(self.options.clone());
    }

    fn advance(&mut self, ms: i64) {
        self.now_ms += ms;
    }

    fn protocol(&mut self, protocol: u8) {
        self.protocol = if protocol == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
    }

    fn call(&mut self, argv: &Argv) -> Value {
        self.run(argv)
    }
}
