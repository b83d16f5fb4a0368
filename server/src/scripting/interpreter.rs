//! A worker's interpreter: compiled scripts, and how one is run.
//!
//! Each worker has two of its own, made when they are first needed: one for scripts, one for
//! functions. A script runs on its connection's thread, with every shard locked from its first
//! command to its last: which keys it will touch cannot be known beforehand.

use super::base::SOURCE_BYTES_MAX;
use super::cache::{Script, Sha};
use super::convert::write_reply;
use super::copies::{Copies, Known};
use super::lists::{Lists, push_list};
use super::lua::{Failed, Kind, Lua, MEMORY_BYTES_MAX, Raise, Stack};
use super::sandbox::{Globals, furnish};
use super::shebang::{ScriptFlags, parse_script};
use crate::config::ids;
use crate::host::{AGAIN_MAX, Host};
use crate::memory;
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_engine::reply::Reply;
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::sync::atomic::Ordering;

/// Compiled scripts that an interpreter keeps; with one more it starts over.
const COMPILED_SCRIPTS_MAX: usize = 1_000;
/// Instructions of a script after which it is looked at.
pub const LOOK_INSTRUCTIONS: c_int = 100_000;
/// Change of an interpreter's memory that is entered into the server's sum.
const REPORTED_STEP_BYTES: usize = 16 << 10;
/// Name of a script's chunk, as errors show it.
const CHUNK: &CStr = c"@user_script";

/// A Lua state with the scripts that it has compiled.
pub struct Interpreter {
    pub(super) lua: Lua,
    pub(super) globals: Globals,
    handler: c_int,
    scripts: HashMap<Sha, (c_int, ScriptFlags), foldhash::fast::FixedState>,
    /// KEYS and ARGV, once a script has run.
    lists: Option<Lists>,
    pub(super) version: u64,
    reported_bytes: usize,
    /// Of one for the replicas of a group: states that it can be put back to.
    copies: Option<Copies>,
}

/// What is to be run.
#[derive(Default)]
pub struct Invocation<'a> {
    /// The function, by its number in the interpreter.
    pub function: c_int,
    /// What it says of itself.
    pub flags: ScriptFlags,
    /// The script's digest or the function's name.
    pub name: &'a [u8],
    /// Whether it is a function, which gets its keys and arguments as arguments.
    pub is_function: bool,
    /// Whether it is called by a command that only reads.
    pub read_only: bool,
    /// Its keys.
    pub keys: &'a [&'a [u8]],
    /// Its arguments.
    pub args: &'a [&'a [u8]],
}

impl Invocation<'_> {
    /// The command that runs it.
    pub fn command(&self) -> Vec<Vec<u8>> {
        let name: &[u8] = match (self.is_function, self.read_only) {
            (true, true) => b"fcall_ro",
            (true, false) => b"fcall",
            (false, true) => b"evalsha_ro",
            (false, false) => b"evalsha",
        };
        let count = self.keys.len().to_string().into_bytes();
        let mut command = vec![name.to_vec(), self.name.to_vec(), count];
        command.extend(self.keys.iter().chain(self.args).map(|arg| arg.to_vec()));
        command
    }
}

impl Interpreter {
    /// A fresh one.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn new(version: u64) -> Result<Interpreter, Error> {
        Interpreter::furnished(version, false)
    }

    /// One for a single script that the replicas of a group run: see `agreed.rs`.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn agreed() -> Result<Interpreter, Error> {
        Interpreter::furnished(0, true)
    }

    /// Makes one for the replicas of a group as it was when it was made, or when the script that has just run was
    /// compiled: chances are that it comes again. Returns whether it could; if not, it is to go.
    pub fn put_back(&mut self) -> bool {
        let current = self.copies.as_ref().and_then(|copies| copies.current);
        self.put_back_to(current)
    }

    /// Makes one for the replicas of a group as it was when it was made. Returns as [`Interpreter::put_back`].
    pub fn put_back_to_base(&mut self) -> bool {
        self.copies.as_ref().is_none_or(|copies| copies.current.is_none()) || self.put_back_to(None)
    }

    fn put_back_to(&mut self, script: Option<Sha>) -> bool {
        let Some(copies) = &mut self.copies else { return false };
        self.scripts.clear();
        self.lists = None;
        copies.current = None;
        let Some((sha, known)) = script.and_then(|sha| Some((sha, copies.find(&sha)?))) else {
            return self.lua.put_back(&copies.base);
        };
        if !self.lua.put_back(&known.state) {
            return false;
        }
        self.scripts.insert(sha, (known.function, known.flags));
        copies.current = Some(sha);
        true
    }

    fn furnished(version: u64, is_agreed: bool) -> Result<Interpreter, Error> {
        let lua = Lua::new(is_agreed);
        let mut lua = lua.ok_or(Error::text("ERR no memory for a Lua interpreter"))?;
        let globals = furnish(&mut lua, is_agreed);
        let stack = &mut lua.stack();
        stack.push_function(explain);
        let handler = stack.keep();
        let (scripts, lists, reported_bytes) = (HashMap::default(), None, 0);
        let copies = if is_agreed { lua.copy().map(Copies::new) } else { None };
        Ok(Interpreter { lua, globals, handler, scripts, lists, version, reported_bytes, copies })
    }

    /// Bytes of the states that it can be put back to.
    #[cfg(test)]
    pub fn copied_bytes(&self) -> usize {
        self.copies.as_ref().map_or(0, Copies::bytes)
    }

    /// The error handler of all calls, by its number.
    pub(super) fn handler(&self) -> c_int {
        self.handler
    }

    /// The compiled script with this digest. One for the replicas of a group is put back for it to where it was
    /// compiled, or where none was.
    #[inline]
    pub fn find(&mut self, sha: &Sha) -> Option<(c_int, ScriptFlags)> {
        if self.copies.as_mut().is_some_and(|copies| copies.is_elsewhere(sha)) {
            self.put_back_to(Some(*sha));
        }
        self.scripts.get(sha).copied()
    }

    /// Compiles a script.
    ///
    /// # Errors
    /// Where it does not compile.
    pub fn compile(&mut self, sha: &Sha, body: &[u8]) -> Result<(c_int, ScriptFlags), Error> {
        let (flags, text) = parse_script(body)?;
        if body.len() > SOURCE_BYTES_MAX {
            return Err(Error::text("ERR the script is too large"));
        }
        let stack = &mut self.lua.stack();
        if stack.load(text, CHUNK).is_err() {
            let reason = String::from_utf8_lossy(stack.bytes(-1).unwrap_or_default()).into_owned();
            stack.pop(1);
            return Err(Error::owned(format!(
                "ERR Error compiling script (new function): {reason}"
            )));
        }
        if self.scripts.len() >= COMPILED_SCRIPTS_MAX {
            let old = std::mem::take(&mut self.scripts);
            old.into_values().for_each(|(function, _)| stack.let_go(function));
        }
        if !stack.may_assign_globals() {
            stack.push_kept(self.globals.quick_names);
            stack.set_environment();
        }
        let function = stack.keep();
        self.scripts.insert(*sha, (function, flags));
        if let Some(copies) = &mut self.copies
            && copies.comes_again(sha)
            && let Some(state) = self.lua.copy()
        {
            copies.add(*sha, Known { function, flags, state });
        }
        Ok((function, flags))
    }

    /// As [`Interpreter::compile`], for a script of the cache.
    ///
    /// # Errors
    /// As there.
    pub fn compile_known(&mut self, script: &Script) -> Result<(c_int, ScriptFlags), Error> {
        self.compile(&script.sha, &script.body)
    }

    /// Runs a script or function for a client and writes its reply.
    ///
    /// # Errors
    /// What ended it.
    pub fn invoke(
        &mut self,
        host: &mut Host<'_, '_>,
        what: &Invocation<'_>,
        reply: &mut Reply<'_>,
    ) -> CmdResult {
        if self.lua.used_bytes() > MEMORY_BYTES_MAX / 2 {
            self.lua.stack().collect(true);
        }
        let run = &self.lua.extra().run;
        run.reset(host.stamp.seed);
        run.agree(host.session.applies);
        run.is_function.set(what.is_function);
        let may_wait = may_wait(host);
        if may_wait {
            look_at_keys(host, what.keys)?;
        }
        prepare(host, what, run)?;
        run.may_wait.set(may_wait);
        // All shards are locked; keys that are not declared are looked at call by call.
        if let Some(first) = what.keys.first() {
            ashlar_engine::policy::check_keys(host.exec.policies_of(first), what.keys)?;
        }
        let before = (host.stamp, host.session.db, host.session.in_transaction);
        host.session.in_transaction = true;
        host.session.in_script = true;
        // One record in the log, unless it is part of a transaction's.
        if !before.2 {
            host.exec.begin_batch();
            host.exec.begin_group();
        }
        let result = self.run(host, what, reply);
        if !before.2 && self.lua.extra().run.is_cut_short() {
            host.exec.abandon_batch();
        } else if !before.2 {
            host.exec.commit_batch();
            host.exec.end_group();
        }
        host.session.in_script = false;
        (host.stamp, host.session.db, host.session.in_transaction) = before;
        self.report(host);
        if let Some(panic) = self.lua.take_panic() {
            std::panic::resume_unwind(panic);
        }
        result
    }

    /// Runs a script that has no server behind it, and ends it after so many looks: for fuzzing.
    /// Returns its reply.
    ///
    /// # Errors
    /// Where it does not compile, or what ended it.
    pub fn run_alone(&mut self, source: &[u8], looks: u32) -> Result<Vec<u8>, Error> {
        let (_, text) = parse_script(source)?;
        self.run_without_server(looks, |stack| stack.load(text, CHUNK))
    }

    /// The same as a server has it for the replicas of a group: with what is known of the script.
    #[cfg(test)]
    pub fn run_known(&mut self, source: &[u8], looks: u32) -> Result<Vec<u8>, Error> {
        let sha = super::cache::sha_of(source);
        let (function, _) = match self.find(&sha) {
            Some(found) => found,
            None => self.compile(&sha, source)?,
        };
        self.run_without_server(looks, |stack| {
            stack.push_kept(function);
            Ok(())
        })
    }

    fn run_without_server(
        &mut self,
        looks: u32,
        push: impl FnOnce(&mut Stack<'_>) -> Result<(), Failed>,
    ) -> Result<Vec<u8>, Error> {
        self.lua.extra().run.reset(1);
        self.lua.extra().run.looks_left.set(Some(looks));
        self.lua.set_hook(LOOK_INSTRUCTIONS / 10);
        let handler = self.handler;
        let stack = &mut self.lua.stack();
        stack.push_kept(handler);
        let mut out = Vec::new();
        let result = match push(stack).and_then(|()| stack.call(0, 1, 1)) {
            Ok(()) => {
                let protocol = stack.extra().run.protocol.get();
                write_reply(stack, &mut Reply::new(&mut out, protocol), protocol);
                Ok(out)
            }
            Err(Failed) => Err(failure(stack, b"alone")),
        };
        stack.set_top(0);
        self.lua.set_hook(0);
        self.lua.extra().run.looks_left.set(None);
        if let Some(panic) = self.lua.take_panic() {
            std::panic::resume_unwind(panic);
        }
        result
    }

    fn run(
        &mut self,
        host: &mut Host<'_, '_>,
        what: &Invocation<'_>,
        reply: &mut Reply<'_>,
    ) -> CmdResult {
        let limit = host.shared.settings.number(ids::BUSY_REPLY_THRESHOLD);
        let is_looked_at = limit > 0 || host.session.applies;
        if is_looked_at {
            self.lua.set_hook(LOOK_INSTRUCTIONS);
        }
        let (globals, handler) = (self.globals, self.handler);
        let stack = &mut self.lua.stack();
        if !what.is_function {
            let lists = self.lists.get_or_insert_with(|| Lists::new(stack, &globals));
            lists.fill(stack, &globals, what.keys, what.args);
        }
        stack.push_kept(handler);
        stack.push_kept(what.function);
        if what.is_function {
            push_list(stack, what.keys);
            push_list(stack, what.args);
        }
        let args = if what.is_function { 2 } else { 0 };
        let run = &stack.extra().run;
        host.shared.scripts.is_running.store(true, Ordering::Release);
        let outcome = run.lend(host, what, || stack.call(args, 1, 1));
        host.shared.scripts.is_running.store(false, Ordering::Release);
        let lacks = run.lacks.take();
        let result = match (outcome, run.why_ended()) {
            _ if lacks.is_some() => {
                host.exec.set_needs(lacks.unwrap_or_default());
                Err(Stop::Cold)
            }
            // It has caught the error, and nothing came after that.
            (Ok(()), Some(reason)) => {
                stack.push_error_table(reason.as_bytes());
                Err(failure(stack, what.name).into())
            }
            (Ok(()), None) => {
                write_reply(stack, reply, run.protocol.get());
                Ok(())
            }
            (Err(Failed), _) => Err(failure(stack, what.name).into()),
        };
        stack.set_top(0);
        if is_looked_at {
            self.lua.set_hook(0);
        }
        host.shared.scripts.done(&self.lua.extra().run, &host.shared.engine);
        result
    }

    /// Enters how much memory the interpreter has into the server's sum, once that has changed much.
    pub(super) fn report(&mut self, host: &Host<'_, '_>) {
        let used = self.lua.used_bytes();
        if used.abs_diff(self.reported_bytes) < REPORTED_STEP_BYTES {
            return;
        }
        self.lua.relax();
        let sum = &host.shared.scripts.lua_bytes;
        sum.fetch_add(used.wrapping_sub(self.reported_bytes), Ordering::Relaxed);
        self.reported_bytes = used;
    }

    /// Takes the interpreter's memory out of the server's sum, before it goes.
    pub fn retire(self, host: &Host<'_, '_>) {
        host.shared.scripts.lua_bytes.fetch_sub(self.reported_bytes, Ordering::Relaxed);
    }
}

/// Whether a script can be run again once what it needs from disk is in memory.
fn may_wait(host: &Host<'_, '_>) -> bool {
    let session = &host.session;
    let alone = !session.in_transaction && !session.from_primary && !session.applies;
    alone && host.shared.cold.is_some() && host.again.tries < AGAIN_MAX
}

/// Has the values of the keys that a script declares brought in, before it runs for the first time: what it meets after
/// its first write is read with all shards locked.
fn look_at_keys(host: &mut Host<'_, '_>, keys: &[&[u8]]) -> CmdResult {
    if let Some(error) = host.again.error.take() {
        return Err(Error::owned(error).into());
    }
    if host.again.tries > 0 || keys.is_empty() {
        return Ok(());
    }
    let needs = host.exec.needs_of_keys(host.session.db, keys, host.stamp.now_ms);
    host.exec.release();
    if needs.is_empty() {
        return Ok(());
    }
    host.exec.set_needs(needs);
    Err(Stop::Cold)
}

/// What has to be true before a script runs; afterwards all shards are locked.
fn prepare(
    host: &mut Host<'_, '_>,
    what: &Invocation<'_>,
    run: &super::run::Run,
) -> Result<(), Error> {
    let no_writes = what.flags.contains(ScriptFlags::NO_WRITES);
    if what.read_only && what.flags.contains(ScriptFlags::DECLARED) && !no_writes {
        let text = "ERR Can not execute a script with write flag using *_ro command.";
        return Err(Error::text(text));
    }
    run.read_only.set(what.read_only || no_writes);
    run.slot.set(what.keys.first().map(|key| ashlar_engine::slot::slot_of(key)));
    let declared = what.flags.contains(ScriptFlags::DECLARED);
    if declared && host.shared.replication.restricted.load(Ordering::Relaxed) {
        admit_on_replica(host, what.flags)?;
    }
    if host.session.agreed.full || host.shared.settings.number(ids::MAXMEMORY) != 0 {
        let room = match host.session.in_transaction {
            // All replicas do as the one where it was proposed.
            true if host.session.applies => !host.session.agreed.full,
            true => memory::has_room(host.shared),
            // A script does not wait: what it needs is taken out meanwhile.
            false => memory::make_room(host) != memory::Room::No,
        };
        let may_fill = what.flags.intersects(ScriptFlags::ALLOW_OOM) || run.read_only.get();
        if !room && declared && !may_fill {
            return Err(Error::text(
                "OOM allow-oom flag is not set on the script, can not run it when used memory > \
                 'maxmemory'",
            ));
        }
        let is_allowed = declared && may_fill;
        run.is_full.set(!(room || is_allowed));
    }
    if host.session.in_transaction {
        host.exec.lock_all();
    } else if !host.exec.try_lock_all() {
        return Err(host.shared.scripts.busy_error());
    }
    Ok(())
}

/// Whether a script that says what it does may run on a replica; of one that does not, each
/// command is looked at.
fn admit_on_replica(host: &Host<'_, '_>, flags: ScriptFlags) -> Result<(), Error> {
    let (follower, settings) = (&host.shared.replication.follower, &host.shared.settings);
    if !follower.is_following() {
        let writes = !flags.contains(ScriptFlags::NO_WRITES);
        return if writes { host.check_replicas() } else { Ok(()) };
    }
    let stale = !settings.flag(ids::REPLICA_SERVE_STALE_DATA) && !follower.is_connected();
    if stale && !flags.contains(ScriptFlags::ALLOW_STALE) {
        return Err(Error::text(
            "MASTERDOWN Link with MASTER is down, replica-serve-stale-data is set to 'no' and \
             'allow-stale' flag is not set on the script.",
        ));
    }
    let may_write = !flags.contains(ScriptFlags::NO_WRITES) && !host.session.from_primary;
    if may_write && settings.flag(ids::REPLICA_READ_ONLY) {
        let text = "READONLY You can't write against a read only replica.";
        return Err(Error::text(text));
    }
    Ok(())
}

/// Turns an error's value into `{err, source, line}`: with the place where it was raised.
fn explain(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let place = match stack.place(1) {
        Some((_, _, true)) => stack.place(2),
        place => place,
    };
    if stack.kind(1) != Kind::Table {
        let text = match stack.kind(1) {
            Kind::Nil => b"nil".to_vec(),
            Kind::Boolean => stack.is_true(1).to_string().into_bytes(),
            Kind::String | Kind::Number => stack.text(1).unwrap_or_default().to_vec(),
            other => other.name().as_bytes().to_vec(),
        };
        stack.push_error_table(&[b"ERR ", &*text].concat());
        stack.replace(1);
    }
    if let Some((source, line, _)) = place {
        stack.push_bytes(source);
        stack.set_field(1, c"source");
        stack.push_number(f64::from(line));
        stack.set_field(1, c"line");
    }
    stack.set_top(1);
    Ok(1)
}

/// The error reply for what ended a script: the value on top of the stack.
pub(super) fn failure(stack: &mut Stack<'_>, name: &[u8]) -> Error {
    if stack.kind(-1) != Kind::Table {
        // Lack of memory and errors in error handling come without a place.
        let reason = stack.bytes(-1).unwrap_or(b"execution failure");
        return Error::from_bytes([b"ERR Error running script ", name, b", ", reason].concat());
    }
    let table = stack.top();
    stack.get_field(table, c"err");
    let reason = stack.bytes(-1).unwrap_or(b"ERR unknown error");
    stack.get_field(table, c"source");
    stack.get_field(table, c"line");
    match (stack.bytes(-2), stack.number(-1)) {
        (Some(source), Some(line)) => {
            let end = format!(":{line}.");
            let parts = [reason, b" script: ", name, b", on ", source, end.as_bytes()];
            Error::from_bytes(parts.concat())
        }
        _ => Error::from_bytes(reason.to_vec()),
    }
}
