//! Commands on keys of any type.

use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::Detached;
use crate::reply::Reply;
use crate::value::Type;

const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("COPY", -3, Group::Generic, copy)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST_TWO)
        .syntax("source destination [DB destination-db:integer] [REPLACE]")
        .docs("6.2.0", "O(N) for a collection of N elements", "Copies a key's value to another."),
    Command::new("DEL", -2, Group::Generic, del)
        .flags(Flags::WRITE.union(Flags::BLIND))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("1.0.0", "O(N) for N keys", "Deletes keys and returns how many there were."),
    Command::new("UNLINK", -2, Group::Generic, del)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("4.0.0", "O(N) for N keys", "Deletes keys; their memory is freed in the background."),
    Command::new("EXISTS", -2, Group::Generic, exists)
        .flags(READ_FAST.union(Flags::BLIND))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("1.0.0", "O(N) for N keys", "Counts how many of the keys there are."),
    Command::new("TOUCH", -2, Group::Generic, touch)
        .flags(READ_FAST)
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("3.2.1", "O(N) for N keys", "Marks keys as accessed now and counts them."),
    Command::new("TYPE", 2, Group::Generic, type_of)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the type of a key's value."),
    Command::new("RENAME", 3, Group::Generic, rename)
        .flags(Flags::WRITE)
        .keys(Keys::FIRST_TWO)
        .syntax("key newkey")
        .docs("1.0.0", "O(1)", "Gives a key another name, in place of what had it."),
    Command::new("RENAMENX", 3, Group::Generic, renamenx)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST_TWO)
        .syntax("key newkey")
        .docs("1.0.0", "O(1)", "Gives a key another name, unless a key has it."),
    Command::new("MOVE", 3, Group::Generic, move_key)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST)
        .syntax("key db:integer")
        .docs("1.0.0", "O(1)", "Moves a key to another database, unless there is one of its name."),
];

/// Whether an argument is this word, in any case.
pub(crate) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

fn del(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut deleted = 0;
    for key in &args[1..] {
        cx.remove_if_expired(key);
        if cx.remove(key) {
            cx.changed(key, Event::GENERIC, "del");
            deleted += 1;
        }
    }
    reply.int(deleted);
    Ok(())
}

fn exists(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = args[1..].iter().filter(|key| cx.look_expiry(key).is_some()).count();
    reply.int(count as i64);
    Ok(())
}

fn touch(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = args[1..].iter().filter(|key| cx.get(key).is_some()).count();
    reply.int(count as i64);
    Ok(())
}

fn type_of(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let value_type = match cx.look(args[1]) {
        Some(entry) => Some(entry.type_of()),
        None => cx.part(args[1]).map(|part| part.value_type),
    };
    reply.simple(value_type.map_or("none", Type::name));
    Ok(())
}

fn rename(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (from, to) = (args[1], args[2]);
    let there = cx.get_mut(from).is_some();
    if !there {
        return Err(Error::NoSuchKey.into());
    }
    if from != to {
        rename_to(cx, from, to);
    }
    reply.ok();
    Ok(())
}

fn renamenx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (from, to) = (args[1], args[2]);
    let there = cx.get_mut(from).is_some();
    if !there {
        return Err(Error::NoSuchKey.into());
    }
    let renamed = from != to && cx.get_mut(to).is_none();
    if renamed {
        rename_to(cx, from, to);
    }
    reply.int(i64::from(renamed));
    Ok(())
}

/// Moves the live key `from` to `to`, in place of what is there.
fn rename_to(cx: &mut Cx<'_>, from: &[u8], to: &[u8]) {
    let Some(entry) = take(cx, from) else { return };
    put(cx, to, entry);
    cx.changed(from, Event::GENERIC, "rename_from");
    cx.changed(to, Event::GENERIC, "rename_to");
}

/// A key's value, expiry and access data.
struct Entry {
    value: Detached,
    expiry: Option<i64>,
    access: Option<u32>,
}

/// Removes a live key and returns what it held.
fn take(cx: &mut Cx<'_>, key: &[u8]) -> Option<Entry> {
    let mut entry = cx.get_mut(key)?;
    let (expiry, access) = (entry.expiry(), Some(entry.as_ref().access()));
    let value = Detached::take(&mut entry);
    cx.remove(key);
    Some(Entry { value, expiry, access })
}

fn put(cx: &mut Cx<'_>, key: &[u8], from: Entry) {
    let mut room = Vec::new();
    let mut entry = cx.insert(key, from.value.into_new(&mut room));
    if from.expiry.is_some() {
        entry.set_expiry(from.expiry);
    }
    if let Some(access) = from.access {
        entry.set_access(access);
    }
}

const SAME: Error = Error::text("ERR source and destination objects are the same");

fn move_key(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let to = cx.parse_db(args[2])?;
    if to == cx.db() {
        return Err(SAME.into());
    }
    let movable = cx.get_mut(key).is_some() && cx.in_db(to, |cx| !cx.exists(key));
    if movable && let Some(entry) = take(cx, key) {
        cx.in_db(to, |cx| put(cx, key, entry));
        cx.changed(key, Event::GENERIC, "move_from");
        cx.in_db(to, |cx| cx.changed(key, Event::GENERIC, "move_to"));
    }
    reply.int(i64::from(movable));
    Ok(())
}

fn copy(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (from, to) = (args[1], args[2]);
    let (mut db, mut replace) = (cx.db(), false);
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        match options.as_slice().first() {
            _ if is(option, "REPLACE") => replace = true,
            Some(number) if is(option, "DB") => {
                db = cx.parse_db(number)?;
                options.next();
            }
            _ => return Err(Error::Syntax.into()),
        }
    }
    if db == cx.db() && from == to {
        return Err(SAME.into());
    }
    let Some(entry) = cx.get(from) else {
        reply.int(0);
        return Ok(());
    };
    let copied = Entry { value: Detached::copy(&entry), expiry: entry.expiry(), access: None };
    let done = cx.in_db(db, |cx| {
        if !replace && cx.exists(to) {
            return false;
        }
        put(cx, to, copied);
        cx.changed(to, Event::GENERIC, "copy_to");
        true
    });
    reply.int(i64::from(done));
    Ok(())
}
