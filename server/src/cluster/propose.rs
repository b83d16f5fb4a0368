//! Commands that wait for a change of the topology.

use crate::config::ids;
use crate::host::Host;
use crate::shared::Shared;
use crate::strong::tables::Kind;
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{Change, answer};
use std::sync::Arc;

/// What answers the client that waits for a change.
pub type Answerer = Box<dyn FnOnce(&Arc<Shared>, Vec<u8>) + Send>;

/// Proposes a change and parks the client until the meta group has decided; `form` makes the reply of
/// the number of what was made. A client that gives up at `failover-timeout` is told so: the change may
/// still come.
///
/// # Errors
/// Always, as a command that blocks does; or as the cluster has not answered in time.
pub fn propose(
    host: &mut Host<'_, '_>,
    change: Change,
    form: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
) -> CmdResult {
    propose_then(host, change, move |shared, made, answer| answer(shared, form(made)))
}

/// The same where more is to be done before the client is answered: on the node's thread.
///
/// # Errors
/// As [`propose`].
pub fn propose_then(
    host: &mut Host<'_, '_>,
    change: Change,
    then: impl FnOnce(&Arc<Shared>, u64, Answerer) + Send + 'static,
) -> CmdResult {
    let member = host.shared.cluster.get().ok_or(Error::text("ERR cluster mode is off"))?.clone();
    // These commands are kept out of transactions: it is the end of the wait that asks once more.
    if host.session.in_transaction {
        return Err(Error::text(
            "ERR the cluster has not decided in time; the change may still be made, see CLUSTER ASHLAR \
             STATUS",
        )
        .into());
    }
    park(host, move |shared, answerer| {
        let shared = Arc::downgrade(shared);
        member.change(
            change,
            Box::new(move |result| {
                let Some(shared) = shared.upgrade() else { return };
                match result.and_then(|reply| answer(&reply)) {
                    Ok(made) => then(&shared, made, answerer),
                    Err(text) => {
                        let error = Error::owned(format!("ERR {text}"));
                        answerer(&shared, [b"-", error.bytes(), b"\r\n"].concat());
                    }
                }
            }),
        );
    })
}

/// Parks the client until somebody answers it, for at most `failover-timeout`: the command is then run once more, as
/// in a transaction.
///
/// # Errors
/// Always, as a command that blocks does.
pub fn park(
    host: &mut Host<'_, '_>,
    start: impl FnOnce(&Arc<Shared>, Answerer) + Send + 'static,
) -> CmdResult {
    let timeout_ms = host.shared.settings.number(ids::FAILOVER_TIMEOUT);
    host.block_until_ms = Some(Some(host.stamp.now_ms.saturating_add(timeout_ms)));
    host.after_park = Some(Box::new(move |shared, waiter| {
        let answerer: Answerer = Box::new(move |shared, reply| {
            shared.answer(&mut shared.engine.executor(), &waiter, reply);
        });
        start(shared, answerer);
    }));
    Err(Stop::WouldBlock)
}

/// Proposes a change of a table that each group takes over, of the version that `version` tells by what was made;
/// the client is answered once all groups have it.
///
/// # Errors
/// As [`propose`].
pub fn propose_table(
    host: &mut Host<'_, '_>,
    kind: Kind,
    change: Change,
    version: impl FnOnce(u64) -> u64 + Send + 'static,
    form: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
) -> CmdResult {
    propose_then(host, change, move |shared, made, answer| {
        let weak = Arc::downgrade(shared);
        let Some(strong) = shared.strong.get() else { return answer(shared, form(made)) };
        let done = move |left: Vec<GroupId>| {
            let Some(shared) = weak.upgrade() else { return };
            answer(&shared, if left.is_empty() { form(made) } else { not_yet(&left) });
        };
        strong.spread(kind, version(made), Box::new(done));
    })
}

/// What is said of a change that the cluster has made, but these groups have not taken over.
fn not_yet(groups: &[GroupId]) -> Vec<u8> {
    let groups: Vec<String> = groups.iter().map(GroupId::to_string).collect();
    let text = format!(
        "-TRYAGAIN the cluster has made the change, but these groups have not taken it over yet: {}. They will \
         once they have a leader\r\n",
        groups.join(" ")
    );
    text.into_bytes()
}
