//! The number of files, and so of clients, that the system lets this process have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files besides clients: listeners, pollers, logs.
const OTHER_FILES: u64 = 32;

/// Raises the limit of open files as far as `clients` need and the system allows. Returns how many
/// clients fit; less than asked for means that the administrator's hard limit is in the way.
pub fn raise_open_files(clients: u64) -> u64 {
    let wanted = clients.saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return clients;
    }
    let reachable = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    let raised = Rlimit { current: Some(reachable), maximum: limit.maximum };
    let got = if setrlimit(Resource::Nofile, raised).is_ok() { reachable } else { current };
    got.saturating_sub(OTHER_FILES).clamp(1, clients.max(1))
}
