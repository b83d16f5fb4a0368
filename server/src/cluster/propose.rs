//! Commands that wait for a change of the topology.

use crate::config::ids;
use crate::host::Host;
use ashlar_engine::error::{CmdResult, Error, Stop};
use ashlar_replication::topology::{Change, answer};

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
    let member = host.shared.cluster.get().ok_or(Error::text("ERR cluster mode is off"))?.clone();
    // These commands are kept out of transactions: it is the end of the wait that asks once more.
    if host.session.in_transaction {
        return Err(Error::text(
            "ERR the cluster has not decided in time; the change may still be made, see CLUSTER ASHLAR \
             STATUS",
        )
        .into());
    }
    let timeout_ms = host.shared.settings.number(ids::FAILOVER_TIMEOUT);
    host.block_until_ms = Some(Some(host.stamp.now_ms.saturating_add(timeout_ms)));
    host.after_park = Some(Box::new(move |shared, waiter| {
        let shared = std::sync::Arc::downgrade(shared);
        member.change(
            change,
            Box::new(move |result| {
                let Some(shared) = shared.upgrade() else { return };
                let reply = match result.and_then(|reply| answer(&reply)) {
                    Ok(made) => form(made),
                    Err(text) => {
                        [b"-", Error::owned(format!("ERR {text}")).bytes(), b"\r\n"].concat()
                    }
                };
                shared.answer(&mut shared.engine.executor(), &waiter, reply);
            }),
        );
    }));
    Err(Stop::WouldBlock)
}
