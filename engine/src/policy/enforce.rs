//! What the rules do to calls: calls over two classes are refused, and keys get their time to live.

use super::{Class, Table};
use crate::command::{Command, Flags, KeyList};
use crate::context::Cx;
use crate::engine::Engine;
use crate::error::Error;
use crate::executor::Call;
use crate::stamp::Stamp;

/// The class of what runs as one, and the key that it is from; none before the first key.
pub(crate) type Owner = Option<(Class, Box<[u8]>)>;

/// Looks for two classes among the keys of calls that are to run as one; each is a command with its
/// arguments.
///
/// # Errors
/// With two keys of two classes.
pub fn check_one_class<'a>(
    engine: &Engine,
    calls: impl IntoIterator<Item = (&'a Command, Vec<&'a [u8]>)>,
) -> Result<(), Error> {
    if !engine.policies().any() {
        return Ok(());
    }
    let (table, mut owner) = (engine.policies().table(), None);
    calls.into_iter().try_for_each(|(command, args)| join(&table, command, &args, &mut owner))
}

/// The same for keys.
///
/// # Errors
/// With two keys of two classes.
pub fn check_keys(engine: &Engine, keys: &[&[u8]]) -> Result<(), Error> {
    if !engine.policies().any() {
        return Ok(());
    }
    let (table, mut owner) = (engine.policies().table(), None);
    keys.iter().try_for_each(|key| join_key(&table, key, &mut owner))
}

/// The keys of a call are of the owner's class, which is theirs if there is none yet.
fn join(table: &Table, command: &Command, args: &[&[u8]], owner: &mut Owner) -> Result<(), Error> {
    let mut positions = KeyList::new();
    command.keys.positions(args, &mut positions);
    positions.iter().try_for_each(|&at| join_key(table, args[at], owner))
}

fn join_key(table: &Table, key: &[u8], owner: &mut Owner) -> Result<(), Error> {
    let class = table.find(key).map_or(Class::Local, |rule| rule.class);
    match owner {
        None => *owner = Some((class, key.into())),
        Some((first, _)) if *first == class => {}
        Some((first, other)) => return Err(crossing(other, *first, key, class)),
    }
    Ok(())
}

fn crossing(one: &[u8], first: Class, other: &[u8], second: Class) -> Error {
    Error::quoting(
        "CROSSPOLICY Keys of two classes in one request: '{}' is {}, '{}' is {}",
        &[one, first.name().as_bytes(), other, second.name().as_bytes()],
    )
}

/// The same for one call, whose shards are locked; `unit` is the transaction or script that it belongs
/// to. A call by itself may read keys of several classes, as long as none is strong.
pub(crate) fn check_call(
    engine: &Engine,
    call: &Call<'_>,
    unit: Option<&mut Owner>,
) -> Result<(), Error> {
    let of_host = call.command.flags.contains(Flags::INTERNAL);
    if of_host || call.stamp.site == Stamp::FOLLOWED {
        return Ok(());
    }
    let table = engine.policies().table();
    let (mut own, alone) = (None, unit.is_none());
    let owner = unit.unwrap_or(&mut own);
    let joined = join(&table, call.command, call.args, owner);
    if alone && joined.is_err() && !call.command.is_write() && !any_strong(&table, call) {
        return Ok(());
    }
    joined
}

fn any_strong(table: &Table, call: &Call<'_>) -> bool {
    let mut positions = KeyList::new();
    call.command.keys.positions(call.args, &mut positions);
    let rule = |at: &usize| table.find(call.args[*at]);
    positions.iter().filter_map(rule).any(|rule| rule.class == Class::Strong)
}

/// Gives keys that a call has left without an expiry the time to live of their rule.
#[cold]
pub(crate) fn give_ttls(cx: &mut Cx<'_>, call: &Call<'_>) {
    let of_host = call.command.flags.contains(Flags::INTERNAL);
    if of_host || call.stamp.site == Stamp::FOLLOWED {
        return;
    }
    let table = cx.policies.table();
    let mut positions = KeyList::new();
    call.command.keys.positions(call.args, &mut positions);
    for key in positions.iter().map(|&at| call.args[at]) {
        let ttl = table.find(key).map_or(0, |rule| rule.ttl_seconds);
        if ttl == 0 || cx.key_expiry(key) != Some(None) {
            continue;
        }
        let ttl_ms = i64::try_from(ttl).unwrap_or(i64::MAX).saturating_mul(1000);
        let at_ms = cx.now_ms().saturating_add(ttl_ms);
        cx.set_expiry(key, Some(at_ms));
        cx.tell_after(&[b"PEXPIREAT", key, at_ms.to_string().as_bytes()]);
    }
}
