//! `redis.call` and `redis.pcall`: commands from a script.

use super::convert::push_reply;
use super::gformat::format_g;
use super::lua::{Kind, Raise, Stack};
use super::run::Run;
use crate::acl::{Place, Reason, Refusal};
use crate::cluster::route;
use crate::host::{Flow, Host};
use crate::monitor;
use crate::registry::Resolved;
use crate::timer::Timer;
use ashlar_engine::command::Flags;
use ashlar_engine::error::{Error, Stop};
use ashlar_engine::executor::Prefetched;
use ashlar_engine::reply::Reply;
use smallvec::SmallVec;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::Ordering;

/// Bytes of the reply buffer that are kept from one call to the next.
const KEPT_BYTES: usize = 64 * 1024;

/// `redis.call(command, ...)`: an error of the command ends the script.
pub fn call(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    dispatch(stack, false)
}

/// `redis.pcall(command, ...)`: an error of the command is its result.
pub fn pcall(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    dispatch(stack, true)
}

/// The arguments of a call.
pub type Arguments<'a> = SmallVec<[&'a [u8]; 12]>;
/// The texts of those that are numbers.
pub type Numbers = SmallVec<[NumberText; 4]>;
type NumberText = SmallVec<[u8; 24]>;

/// Reads the arguments from the stack.
///
/// # Errors
/// Redis's texts where there are none, or one is of another type.
pub fn arguments<'a>(
    stack: &Stack<'a>,
    numbers: &'a mut Numbers,
) -> Result<Arguments<'a>, &'static str> {
    let count = stack.top();
    if count == 0 {
        return Err("ERR Please specify at least one argument for this redis lib call");
    }
    let mut args = Arguments::new();
    let mut has_numbers = false;
    for at in 1..=count {
        let Some(bytes) = stack.bytes(at) else {
            if stack.kind(at) != Kind::Number {
                return Err("ERR Lua redis lib command arguments must be strings or integers");
            }
            has_numbers = true;
            args.push(&[]);
            continue;
        };
        args.push(bytes);
    }
    if has_numbers {
        write_numbers(stack, numbers, &mut args);
    }
    Ok(args)
}

/// Fills in the texts of the numbers among the arguments.
fn write_numbers<'a>(stack: &Stack<'a>, numbers: &'a mut Numbers, args: &mut Arguments<'a>) {
    let places = || (1..).zip(0..args.len()).filter(|(at, _)| stack.kind(*at) == Kind::Number);
    let places: SmallVec<[_; 12]> = places().collect();
    for (at, _) in &places {
        let number = stack.number(*at).unwrap_or(0.0);
        let mut text = NumberText::new();
        if number.fract() == 0.0 && number.abs() < 1e15 && number != 0.0 {
            text.extend_from_slice(itoa::Buffer::new().format(number as i64).as_bytes());
        } else {
            // 17 digits, where Lua itself would give 14: whole numbers must come through whole.
            text.extend_from_slice(format_g(number, 17).as_bytes());
        }
        numbers.push(text);
    }
    for ((_, place), text) in places.iter().zip(&*numbers) {
        args[*place] = text;
    }
}

/// Commands by the address of their name: Lua has each text once, so a name that stands in a script
/// needs to be looked up once. The names are kept, so that no other text gets their addresses.
pub struct Known {
    places: [Cell<Option<(usize, Resolved)>>; Known::PLACES],
    /// The table of the names, by [`Stack::push_kept`].
    names: Cell<Option<c_int>>,
}

impl Default for Known {
    fn default() -> Known {
        Known { places: std::array::from_fn(|_| Cell::new(None)), names: Cell::new(None) }
    }
}

impl Known {
    const PLACES: usize = 64;

    /// Strings of up to 7 bytes take 32 bytes of memory, so those of one time differ there.
    fn place(name: &[u8]) -> usize {
        let address = name.as_ptr().addr();
        ((address >> 5) ^ (address >> 11)) % Known::PLACES
    }

    #[inline]
    fn find(&self, args: &[&[u8]]) -> Option<Resolved> {
        let name = args.first()?;
        let (address, resolved) = self.places[Known::place(name)].get()?;
        let fits = address == name.as_ptr().addr() && resolved.command.accepts(args.len());
        fits.then_some(resolved)
    }

    /// Keeps a command whose name is the function's first argument.
    fn keep(&self, stack: &mut Stack<'_>, name: &[u8], resolved: Resolved) {
        if !resolved.command.subcommands.is_empty() || !stack.has_room(4) {
            return;
        }
        let names = self.names.get().unwrap_or_else(|| {
            stack.push_table(Known::PLACES, 0);
            stack.keep()
        });
        self.names.set(Some(names));
        let place = Known::place(name);
        stack.push_kept(names);
        stack.push_copy(1);
        stack.set_index(-2, place as c_int + 1);
        stack.pop(1);
        self.places[place].set(Some((name.as_ptr().addr(), resolved)));
    }
}

fn dispatch(stack: &mut Stack<'_>, protected: bool) -> Result<c_int, Raise> {
    let mut numbers = SmallVec::new();
    let args = match arguments(stack, &mut numbers) {
        Ok(args) => args,
        Err(text) => return fail(stack, text, protected),
    };
    let run = &stack.extra().run;
    let known = run.commands.find(&args);
    let mut out = run.out.take();
    out.clear();
    let outcome = run.with_host(|host| run_command(host, run, known, &args, &mut out));
    let result = match outcome {
        None => fail(stack, "ERR redis.call can only be called inside a script invocation", false),
        Some(Err(error)) => {
            stack.push_error_table(error.bytes());
            if protected { Ok(1) } else { Err(stack.raise()) }
        }
        Some(Ok(resolved)) => {
            if known.is_none() && stack.kind(1) == Kind::String {
                run.commands.keep(stack, args[0], resolved);
            }
            let failed = out.first() == Some(&b'-');
            if !failed && stack.results_are_dropped() {
                Ok(0)
            } else {
                push_reply(stack, &out);
                if failed && !protected { Err(stack.raise()) } else { Ok(1) }
            }
        }
    };
    out.shrink_to(KEPT_BYTES);
    run.out.replace(out);
    result
}

fn fail(stack: &mut Stack<'_>, text: &str, protected: bool) -> Result<c_int, Raise> {
    stack.push_error_table(text.as_bytes());
    if protected { Ok(1) } else { Err(stack.raise()) }
}

/// Runs a command and writes its reply, and tells which it was; an error of the command itself is a reply too.
fn run_command(
    host: &mut Host<'_, '_>,
    run: &Run,
    known: Option<Resolved>,
    args: &[&[u8]],
    out: &mut Vec<u8>,
) -> Result<Resolved, Error> {
    let resolved = match known {
        Some(resolved) => resolved,
        None => resolve(host, args)?,
    };
    let flags = resolved.command.flags;
    if flags.contains(Flags::NOSCRIPT) {
        return Err(Error::text("ERR This Redis command is not allowed from script"));
    }
    let writes = Flags::WRITE.union(Flags::MAY_REPLICATE);
    if run.read_only.get() && flags.intersects(writes) {
        return Err(Error::text("ERR Write commands are not allowed from read-only scripts."));
    }
    if host.shared.replication.restricted.load(Ordering::Relaxed) {
        host.admit_on_replica(flags)?;
    }
    if let Some(member) = host.shared.cluster.get() {
        route::admit_in_script(host, &**member, &resolved, args, &run.slot)?;
    }
    if run.is_full.get() && !run.wrote.get() && flags.contains(Flags::DENYOOM) {
        return Err(Error::OutOfMemory);
    }
    host.check_permissions(&resolved, args, Place::Lua).map_err(not_permitted)?;
    if run.lacks.borrow().is_some() {
        // It is given up: nothing that it does from here on counts.
        return Err(Error::text(WAITS));
    }
    host.script_waits = run.may_wait.get() && !run.acted.get();
    if flags.intersects(writes) || resolved.host.is_some() {
        run.acted.set(true);
    }
    if flags.contains(Flags::WRITE) {
        run.wrote.set(true);
    }
    // Each call has random numbers of its own, or SPOP would take the same place every time.
    host.stamp.seed = host.stamp.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    if let Some(reason) = run.count_call() {
        return Err(Error::text(reason));
    }
    monitor::feed_from(host, "lua", &resolved, args);
    let mut timer = match run.timer.take() {
        Some(mut timer) => {
            timer.skip();
            timer
        }
        None => Timer::start(host),
    };
    let mut reply = Reply::new(out, run.protocol.get());
    execute(host, run, &resolved, args, &mut reply);
    timer.lap(host, Some(&resolved), args, out);
    timer.finish(host);
    run.timer.set(Some(timer));
    Ok(resolved)
}

/// What ends a script that is to be run again; nobody sees it.
const WAITS: &str = "ERR The script waits for the disk";

/// What a script is told that its user may not.
fn not_permitted(refusal: Refusal) -> Error {
    Error::text(match refusal {
        Refusal::Sort(error) => return error,
        Refusal::Denied(denied) => match denied.reason {
            Reason::Command | Reason::Auth => {
                "ERR The user executing the script can't run this command or subcommand"
            }
            Reason::Key => {
                "ERR The user executing the script can't access at least one of the keys \
                 mentioned in the command arguments"
            }
            Reason::Channel => {
                "ERR The user executing the script can't publish to the channel mentioned in \
                 the command"
            }
        },
    })
}

fn execute(
    host: &mut Host<'_, '_>,
    script: &Run,
    resolved: &Resolved,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) {
    let Some(run) = resolved.host else {
        match host.call_engine(resolved, args, Prefetched::NONE, reply) {
            Flow::Next => return,
            Flow::Cold(needs) => {
                script.lacks.replace(Some(needs));
                return reply.error(&Error::text(WAITS));
            }
            flow => unreachable!("commands do not block in a script, but {flow:?}"),
        }
    };
    match run(host, args, reply) {
        Ok(()) => {}
        Err(Stop::Error(error)) => reply.error(&error),
        Err(Stop::WouldBlock | Stop::Cold) => {
            reply.error(&Error::text("ERR the command would block, which it cannot in a script"));
        }
    }
}

/// The command that a script calls.
///
/// # Errors
/// Redis's texts for scripts.
pub fn resolve(host: &Host<'_, '_>, args: &[&[u8]]) -> Result<Resolved, Error> {
    host.shared.registry.resolve(args).copied().map_err(|error| {
        if error.message().starts_with("ERR wrong number") {
            Error::text("ERR Wrong number of args calling Redis command from script")
        } else {
            Error::text("ERR Unknown Redis command called from script")
        }
    })
}
