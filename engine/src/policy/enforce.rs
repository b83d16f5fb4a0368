//! What the rules do to calls: calls over two classes are refused, and keys get their time to live.

use super::{Class, Policies, Table};
use crate::command::{Command, Flags, KeyList};
use crate::context::Cx;
use crate::error::Error;
use crate::executor::Call;
use crate::stamp::Stamp;
use std::sync::Arc;

/// The class of what runs as one, and the key that it is from; none before the first key.
pub(crate) type Owner = Option<(Class, Box<[u8]>)>;

/// Looks for two classes among the keys of calls that are to run as one; each is a command with its
/// arguments.
///
/// # Errors
/// With two keys of two classes.
pub fn check_one_class<'a>(
    policies: &Policies,
    calls: impl IntoIterator<Item = (&'a Command, Vec<&'a [u8]>)>,
) -> Result<(), Error> {
    if !policies.any() {
        return Ok(());
    }
    let (rules, mut owner) = (Rules::of(policies), None);
    calls.into_iter().try_for_each(|(command, args)| join(&rules, command, &args, &mut owner))
}

/// The same for keys.
///
/// # Errors
/// With two keys of two classes.
pub fn check_keys(policies: &Policies, keys: &[&[u8]]) -> Result<(), Error> {
    if !policies.any() {
        return Ok(());
    }
    let (rules, mut owner) = (Rules::of(policies), None);
    keys.iter().try_for_each(|key| join_key(&rules, key, &mut owner))
}

/// The rules of one moment.
struct Rules {
    table: Arc<Table>,
    default: Class,
}

impl Rules {
    fn of(policies: &Policies) -> Rules {
        Rules { table: policies.table(), default: policies.default_class() }
    }

    fn class_of(&self, key: &[u8]) -> Class {
        self.table.find(key).map_or(self.default, |rule| rule.class)
    }
}

/// The keys of a call are of the owner's class, which is theirs if there is none yet.
fn join(rules: &Rules, command: &Command, args: &[&[u8]], owner: &mut Owner) -> Result<(), Error> {
    let mut positions = KeyList::new();
    command.keys.positions(args, &mut positions);
    positions.iter().try_for_each(|&at| join_key(rules, args[at], owner))
}

fn join_key(rules: &Rules, key: &[u8], owner: &mut Owner) -> Result<(), Error> {
    let class = rules.class_of(key);
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
    policies: &Policies,
    call: &Call<'_>,
    unit: Option<&mut Owner>,
) -> Result<(), Error> {
    let of_host = call.command.flags.contains(Flags::INTERNAL);
    if of_host || call.stamp.site == Stamp::FOLLOWED {
        return Ok(());
    }
    let rules = Rules::of(policies);
    let (mut own, alone) = (None, unit.is_none());
    let owner = unit.unwrap_or(&mut own);
    let joined = join(&rules, call.command, call.args, owner);
    if alone && joined.is_err() && !call.command.is_write() && !any_strong(&rules, call) {
        return Ok(());
    }
    joined
}

fn any_strong(rules: &Rules, call: &Call<'_>) -> bool {
    let mut positions = KeyList::new();
    call.command.keys.positions(call.args, &mut positions);
    positions.iter().any(|&at| rules.class_of(call.args[at]) == Class::Strong)
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
