//! Changes of the table of policies, see [`crate::policy`]. The host checks what it can promise.

use crate::command::{Command, Flags, Group};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::policy::{Rule, Table};
use crate::reply::Reply;

/// Changes rules: a list of changes that take effect as one.
pub const POLICY: &str = "ASHLAR.POLICY";

/// The family's commands.
pub const COMMANDS: &[Command] = &[Command::new(POLICY, -2, Group::Server, policy)
    .flags(
        Flags::WRITE.union(Flags::INTERNAL).union(Flags::SKIP_MONITOR).union(Flags::WHOLE_KEYSPACE),
    )
    .syntax("[TABLE bytes] [REMOVE pattern]... [SET pattern class ttl tier]...")
    .docs("7.4.0", "O(N) for N rules", "Changes the classes of keys.")];

fn policy(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut table = Table::clone(&cx.policies.table());
    let mut rest = &args[1..];
    let mut changes = 0;
    // A Redis that follows knows nothing of it.
    cx.tell_nothing();
    loop {
        rest = match rest {
            [] => break,
            [b"TABLE", bytes, rest @ ..] => {
                table = Table::decode(bytes).ok_or(Error::text("ERR no table of policies"))?;
                changes += 1;
                rest
            }
            [b"REMOVE", pattern, rest @ ..] => {
                changes += i64::from(table.remove(pattern));
                rest
            }
            [b"SET", pattern, class, ttl, tier, rest @ ..] => {
                let rule = Rule::parse(&[pattern, class, b"ttl", ttl, b"tier", tier]);
                let rule = rule.map_err(|text| Error::owned(format!("ERR {text}")))?;
                if table.rule(pattern) != Some(&rule) {
                    if !table.set(rule) {
                        return Err(Error::text("ERR too many policies").into());
                    }
                    changes += 1;
                }
                rest
            }
            _ => return Err(Error::Syntax.into()),
        };
    }
    if changes > 0 {
        cx.policies.replace(table);
        cx.add_dirty(1);
    }
    reply.int(changes);
    Ok(())
}
