//! Runs a pipeline in groups: parse, prefetch, execute.
//!
//! What a key-value server waits for is memory. So up to [`GROUP`] requests are parsed first and
//! the buckets of their keys asked for, then the entries, and only then are they run: by the time
//! each is, its cache lines have arrived.

use crate::config::ids;
use crate::conn::Again;
use crate::host::{Flow, Host};
use crate::registry::{LastCommand, Resolved};
use crate::resp::decode::{Limits, Parsed, ProtocolError, Resume, parse, split_inline};
use crate::strong::{Agreement, Confirmed};
use crate::timer::Timer;
use crate::worker::WRITE_BYTES;
use ashlar_engine::command::{Command, Flags, Group, KeyList, Keys};
use ashlar_engine::error::Error;
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::reply::Reply;
use ashlar_engine::tier::Needs;

/// Requests that are parsed ahead.
pub const GROUP: usize = 32;
/// Keys of one request that are asked for ahead, besides its first: more than that would push each
/// other out of the cache.
const MORE_KEYS_MAX: usize = 16;
/// Bytes of an incomplete request above which it is not read again from its start.
const RESUME_BYTES: usize = 16 * 1024;

/// A parsed request.
struct Item<'e> {
    /// Where its arguments end; they start where those of the one before end.
    args_end: usize,
    /// Where it ends in the input.
    end: usize,
    /// Its command; `None` where it has none, or no arguments at all.
    found: Option<&'e Resolved>,
    /// Its first key among those of the group, if it has one.
    key: Option<u32>,
    /// Hash of the field or member that it looks up; 0 for none.
    member: u32,
}

/// The buffers of a group, kept from one to the next.
#[derive(Default)]
pub struct Pipeline<'e> {
    args: Vec<&'static [u8]>,
    items: Vec<Item<'e>>,
    /// Keys of the group's commands.
    keys: Vec<Prefetched>,
    /// Whether any of them looks up a field or member.
    members: bool,
    /// Whether any of them writes, or runs a script that may.
    writes: bool,
    /// The command of the request before.
    last: LastCommand<'e>,
}

/// What a step came to.
pub struct Step {
    /// How far the input was used.
    pub at: usize,
    /// What becomes of the connection.
    pub flow: Flow,
    /// Whether there is no further whole request.
    pub done: bool,
}

/// Gives a vector of slices back empty, with its allocation, for slices of any lifetime.
fn recycle(mut args: Vec<&[u8]>) -> Vec<&'static [u8]> {
    args.clear();
    args.into_iter().map(|_| -> &'static [u8] { &[] }).collect()
}

impl<'e> Pipeline<'e> {
    /// Runs the next group of requests in `bytes` from offset `at` on.
    pub fn step(
        &mut self,
        host: &mut Host<'_, 'e>,
        resume: &mut Option<Box<Resume>>,
        bytes: &[u8],
        at: usize,
        out: &mut Vec<u8>,
    ) -> Step {
        let limits = Limits {
            authenticated: host.session.authenticated,
            bulk_bytes_max: host.shared.settings.number(ids::PROTO_MAX_BULK_LEN),
        };
        if resume.is_some() {
            return resumed(host, resume, bytes, limits, out);
        }
        let mut args: Vec<&[u8]> = std::mem::take(&mut self.args);
        let end = self.parse_group(host, bytes, at, limits, &mut args);
        let (mut at, flow) = self.run_group(host, &args, at, out);
        self.args = recycle(args);
        if !matches!(flow, Flow::Next) {
            return Step { at, flow, done: true };
        }
        if out.len() >= WRITE_BYTES {
            // Perhaps not all of the group was run.
            return Step { at, flow, done: false };
        }
        match end {
            GroupEnd::Full => Step { at, flow, done: at == bytes.len() },
            GroupEnd::Incomplete => {
                // An inline request has no header to go on from, and is short.
                if bytes.len() - at >= RESUME_BYTES && bytes.get(at) == Some(&b'*') {
                    *resume = Some(Box::default());
                }
                Step { at, flow, done: true }
            }
            GroupEnd::Inline(start, text_end, next) => {
                at = next;
                match split_inline(&bytes[start..text_end]) {
                    Err(error) => refuse(host, &error, bytes.len(), out),
                    Ok(words) => {
                        let flow = run_words(host, &words, out);
                        let at = if flow.is_done() { at } else { start };
                        Step { at, flow, done: false }
                    }
                }
            }
            GroupEnd::Error(error) => refuse(host, &error, bytes.len(), out),
        }
    }

    fn parse_group<'a>(
        &mut self,
        host: &mut Host<'_, 'e>,
        bytes: &'a [u8],
        mut at: usize,
        limits: Limits,
        args: &mut Vec<&'a [u8]>,
    ) -> GroupEnd {
        self.items.clear();
        self.keys.clear();
        (self.members, self.writes) = (false, false);
        let mut end = GroupEnd::Full;
        while self.items.len() < GROUP {
            let before = args.len();
            match parse(bytes, at, limits, args) {
                Ok(Parsed::Request(next)) => {
                    at = next;
                    self.enter(host, &args[before..], args.len(), next);
                }
                Ok(Parsed::Inline(start, text_end, next)) => {
                    end = GroupEnd::Inline(start, text_end, next);
                    break;
                }
                Ok(Parsed::Incomplete) => {
                    end = GroupEnd::Incomplete;
                    break;
                }
                Err(error) => {
                    end = GroupEnd::Error(error);
                    break;
                }
            }
        }
        if self.keys.len() > 1 {
            host.exec.prefetch(host.session.db, &mut self.keys, self.writes);
            if self.members {
                self.prefetch_members(host, args);
            }
        }
        end
    }

    /// Adds a request to the group.
    #[inline]
    fn enter(&mut self, host: &mut Host<'_, 'e>, args: &[&[u8]], args_end: usize, end: usize) {
        let mut key = None;
        // An empty line or array has no command: it is used up when it is its turn.
        let found = host.shared.registry.resolve_next(args, &mut self.last);
        if let Some(resolved) = found {
            let command = resolved.command;
            if resolved.host.is_none() {
                let first = command.first_key(args);
                if first != 0 {
                    key = Some(self.keys.len() as u32);
                    self.keys.push(host.exec.hint(args[first]));
                    hint_more(host, command, args, &mut self.keys);
                }
                self.members |= command.member != 0;
                self.writes |= command.flags.contains(Flags::WRITE);
            } else if command.group == Group::Scripting {
                // Its calls are not known, but the keys that it names are those that they need.
                let mut positions = KeyList::new();
                command.keys.positions(args, &mut positions);
                let keys = positions.iter().filter_map(|at| args.get(*at)).take(MORE_KEYS_MAX);
                self.keys.extend(keys.map(|key| host.exec.hint(key)));
                self.writes = true;
            }
        }
        self.items.push(Item { args_end, end, found, key, member: 0 });
    }

    /// Asks for the fields and members of large values to be brought near.
    fn prefetch_members(&mut self, host: &mut Host<'_, 'e>, args: &[&[u8]]) {
        let db = host.session.db;
        let mut start = 0;
        for item in &mut self.items {
            let args = &args[start..item.args_end];
            start = item.args_end;
            if let (Some(resolved), Some(key)) = (item.found, item.key)
                && resolved.command.member != 0
                && let Some(member) = args.get(resolved.command.member)
            {
                let hint = &self.keys[key as usize];
                item.member = host.exec.prefetch_member(db, hint, args[1], member);
            }
        }
        let mut start = 0;
        for item in &self.items {
            if let Some(key) = item.key.filter(|_| item.member != 0) {
                let hint = &self.keys[key as usize];
                host.exec.prefetch_element(db, hint, args[start + 1], item.member);
            }
            start = item.args_end;
        }
    }

    fn run_group(
        &mut self,
        host: &mut Host<'_, 'e>,
        args: &[&[u8]],
        mut at: usize,
        out: &mut Vec<u8>,
    ) -> (usize, Flow) {
        let mut flow = Flow::Next;
        let mut timer = Timer::start(host);
        let mut args_start = 0;
        for (nth, item) in self.items.iter().enumerate() {
            let request = &args[args_start..item.args_end];
            args_start = item.args_end;
            if request.is_empty() {
                at = item.end;
                continue;
            }
            let start = out.len();
            let hint = item.key.map_or(Prefetched::NONE, |key| self.keys[key as usize]);
            flow = match host.request(item.found, request, hint, out) {
                // Most requests by far, so they pass by what follows for the others.
                Flow::Next => {
                    host.again.answered();
                    timer.lap(host, item.found, request, out.get(start..).unwrap_or_default());
                    at = item.end;
                    // A few large replies are enough for a write: a group of them has no bound.
                    if out.len() >= WRITE_BYTES {
                        break;
                    }
                    continue;
                }
                other => other,
            };
            match &mut flow {
                Flow::Cold(needs) => {
                    look_ahead(host, &self.items[nth + 1..], args_start, args, needs);
                }
                Flow::Agree(agreement) => {
                    let more = &self.items[nth + 1..];
                    if let Some(end) = gather(host, more, args_start, args, agreement)
                        && flow.is_done()
                    {
                        at = end;
                        break;
                    }
                }
                _ => {}
            }
            if !flow.is_done() {
                break;
            }
            host.again.answered();
            timer.lap(host, item.found, request, out.get(start..).unwrap_or_default());
            at = item.end;
            break;
        }
        // And for no request that came later.
        host.again.confirmed = Confirmed::NONE;
        timer.finish(host);
        host.exec.release();
        (at, flow)
    }
}

/// Adds what the further requests of a group will need from disk, so that the group waits for it once.
#[cold]
fn look_ahead(
    host: &mut Host<'_, '_>,
    items: &[Item<'_>],
    mut args_start: usize,
    args: &[&[u8]],
    needs: &mut Needs,
) {
    for item in items {
        let request = &args[args_start..item.args_end];
        args_start = item.args_end;
        let Some(resolved) = item.found else { continue };
        if resolved.host.is_none() && !request.is_empty() {
            let call = Call {
                command: resolved.command,
                args: request,
                db: host.session.db,
                stamp: &host.stamp,
                may_block: false,
                no_touch: true,
            };
            needs.ahead.extend(host.exec.needs_ahead(&call));
        }
    }
    host.exec.release();
}

/// Adds the further requests of a group that wait for the same agreement; the end of the last one.
#[cold]
fn gather(
    host: &mut Host<'_, '_>,
    items: &[Item<'_>],
    mut args_start: usize,
    args: &[&[u8]],
    agreement: &mut Agreement,
) -> Option<usize> {
    let mut end = None;
    for item in items {
        let request = &args[args_start..item.args_end];
        args_start = item.args_end;
        let Some(resolved) = item.found.filter(|_| !request.is_empty()) else { break };
        if !host.joins(agreement, resolved, request) {
            break;
        }
        end = Some(item.end);
    }
    host.exec.release();
    end
}

/// How a group ended.
enum GroupEnd {
    Full,
    Incomplete,
    Inline(usize, usize, usize),
    Error(ProtocolError),
}

/// Looks at a command's keys after the first one, where it has several.
#[inline]
fn hint_more(
    host: &mut Host<'_, '_>,
    command: &Command,
    args: &[&[u8]],
    keys: &mut Vec<Prefetched>,
) {
    let Keys::Range { first, last, step } = command.keys else { return };
    if last == first as isize {
        return;
    }
    let end = if last < 0 { args.len() as isize + last } else { last };
    let all = args.iter().enumerate().take(usize::try_from(end).map_or(0, |end| end + 1));
    for (_, key) in all.skip(first + step).step_by(step.max(1)).take(MORE_KEYS_MAX) {
        keys.push(host.exec.hint(key));
    }
}

/// Answers what is no request, and closes the connection.
fn refuse(host: &mut Host<'_, '_>, error: &ProtocolError, end: usize, out: &mut Vec<u8>) -> Step {
    let error = Error::owned(error.0.clone().into_owned());
    Reply::new(out, host.session.protocol).error(&error);
    Step { at: end, flow: Flow::Close, done: true }
}

fn run_words(host: &mut Host<'_, '_>, words: &[Vec<u8>], out: &mut Vec<u8>) -> Flow {
    if words.is_empty() {
        return Flow::Next;
    }
    let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    run_one(host, &args, out)
}

/// Runs a request that is not part of a group.
fn run_one(host: &mut Host<'_, '_>, args: &[&[u8]], out: &mut Vec<u8>) -> Flow {
    let found = host.shared.registry.resolve(args).ok();
    let mut timer = Timer::start(host);
    let start = out.len();
    let flow = host.request(found, args, Prefetched::NONE, out);
    if flow.is_done() {
        *host.again = Again::default();
        timer.lap(host, found, args, out.get(start..).unwrap_or_default());
    }
    timer.finish(host);
    host.exec.release();
    flow
}

/// Goes on with a large request that arrives in pieces.
fn resumed(
    host: &mut Host<'_, '_>,
    resume: &mut Option<Box<Resume>>,
    bytes: &[u8],
    limits: Limits,
    out: &mut Vec<u8>,
) -> Step {
    let Some(state) = resume else { return Step { at: 0, flow: Flow::Next, done: true } };
    match state.advance(bytes, limits) {
        Err(error) => refuse(host, &error, bytes.len(), out),
        Ok(false) => Step { at: 0, flow: Flow::Next, done: true },
        Ok(true) => {
            let args: Vec<&[u8]> =
                state.spans().iter().map(|(start, end)| &bytes[*start..*end]).collect();
            let at = state.end();
            let mut flow = Flow::Next;
            if !args.is_empty() {
                flow = run_one(host, &args, out);
            }
            if !flow.is_done() {
                return Step { at: 0, flow, done: true };
            }
            *resume = None;
            let done = !matches!(flow, Flow::Next);
            Step { at, flow, done }
        }
    }
}
