//! BITFIELD: integers of any width inside a string.

use super::bitmap::bit_offset;
use super::string_edit::{edit_raw, lookup};
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::bits::{FieldType, Overflow};
use crate::value::blob::Blob;
use crate::value::hll::BlobMut;
use crate::value::packed::IntBuf;
use crate::value::string::RawStr;
use smallvec::SmallVec;

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("BITFIELD", -2, Group::Bitmap, bitfield)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax(
            "key [GET encoding offset|[OVERFLOW (WRAP|SAT|FAIL)] \
             (SET encoding offset value:integer|INCRBY encoding offset increment:integer)]...",
        )
        .docs("3.2.0", "O(1) for each operation", "Reads and changes integers inside a string."),
    Command::new("BITFIELD_RO", -2, Group::Bitmap, bitfield_ro)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key [GET encoding offset]...")
        .docs("6.0.0", "O(1) for each operation", "Reads integers inside a string."),
];

/// One operation on a field.
#[derive(Clone, Copy)]
struct Op {
    field: FieldType,
    offset: u64,
    action: Action,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64, Overflow),
    Add(i64, Overflow),
}

impl Op {
    /// The value that a write stores (`None` if it fails) and what it replies.
    fn result(&self, old: i64) -> Option<(i64, i64)> {
        match self.action {
            Action::Get => Some((old, old)),
            Action::Set(value, overflow) => {
                self.field.add(value, 0, overflow).map(|new| (new, old))
            }
            Action::Add(increment, overflow) => {
                self.field.add(old, increment, overflow).map(|new| (new, new))
            }
        }
    }
}

type Ops = SmallVec<[Op; 4]>;

fn parse(cx: &Cx<'_>, args: &[&[u8]]) -> Result<Ops, Error> {
    let mut ops = Ops::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = args;
    while let [word, tail @ ..] = rest {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("OVERFLOW")
            && let [how, tail @ ..] = tail
        {
            let is = |name: &str| how.eq_ignore_ascii_case(name.as_bytes());
            overflow = match () {
                () if is("WRAP") => Overflow::Wrap,
                () if is("SAT") => Overflow::Sat,
                () if is("FAIL") => Overflow::Fail,
                () => return Err(Error::text("ERR Invalid OVERFLOW type specified")),
            };
            rest = tail;
            continue;
        }
        let [field, offset, tail @ ..] = tail else { return Err(Error::Syntax) };
        let value = || tail.first().and_then(|value| number::parse_i64(value));
        let write = is("SET") || is("INCRBY");
        if !(is("GET") || write && !tail.is_empty()) {
            return Err(Error::Syntax);
        }
        let field = FieldType::parse(field).ok_or(Error::text(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported \
             but i64 is.",
        ))?;
        let offset = match offset {
            [b'#', number @ ..] => {
                let width = field.bits() as i64;
                number::parse_i64(number).and_then(|nth| {
                    let wraps = known_bugs::is_back(Bug::BitfieldOverflows);
                    nth.checked_mul(width).or(wraps.then(|| nth.wrapping_mul(width)))
                })
            }
            number => number::parse_i64(number),
        };
        let offset = bit_offset(cx, offset)?;
        let action = match write {
            false => Action::Get,
            true if is("SET") => Action::Set(value().ok_or(Error::NotInteger)?, overflow),
            true => Action::Add(value().ok_or(Error::NotInteger)?, overflow),
        };
        ops.push(Op { field, offset, action });
        rest = &tail[usize::from(write)..];
    }
    Ok(ops)
}

/// The byte after the last one that is written; `None` if all operations read.
fn written_len(ops: &[Op]) -> Option<usize> {
    let writes = ops.iter().filter(|op| !matches!(op.action, Action::Get));
    writes.map(|op| ((op.offset + op.field.bits() - 1) / 8) as usize + 1).max()
}

fn bitfield(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let ops = parse(cx, &args[2..])?;
    let Some(len) = written_len(&ops) else { return read(cx, key, &ops, reply) };
    reply.array(ops.len());
    let (edited, changed) = edit_raw(cx, key, |text| {
        let grown = text.grow(len);
        let changed = apply(text, &ops, grown, reply);
        (changed || grown, changed)
    })?;
    if changed {
        cx.changed(key, Event::STRING, "setbit");
    } else if edited {
        cx.modified(key);
    }
    Ok(())
}

/// Runs the operations; whether the string is another one now.
fn apply(text: &mut RawStr<'_>, ops: &[Op], grown: bool, reply: &mut Reply<'_>) -> bool {
    let mut changed = false;
    for op in ops {
        let old = op.field.get(text.bytes(), op.offset);
        let Some((new, answer)) = op.result(old) else {
            reply.null();
            continue;
        };
        if !matches!(op.action, Action::Get) {
            op.field.set(text.bytes_mut(), op.offset, new);
            changed |= grown || new != old;
        }
        reply.int(answer);
    }
    changed
}

fn bitfield_ro(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let ops = parse(cx, &args[2..])?;
    if written_len(&ops).is_some() {
        return Err(Error::text("ERR BITFIELD_RO only supports the GET subcommand").into());
    }
    read(cx, args[1], &ops, reply)
}

fn read(cx: &Cx<'_>, key: &[u8], ops: &[Op], reply: &mut Reply<'_>) -> CmdResult {
    let mut buf = IntBuf::new();
    let text = lookup(cx, key, &mut buf)?.unwrap_or_default();
    reply.array(ops.len());
    for op in ops {
        reply.int(op.field.get(text, op.offset));
    }
    Ok(())
}
