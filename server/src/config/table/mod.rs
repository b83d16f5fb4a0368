//! Every setting of the server, by group.
//!
//! Defaults are those of Redis 7.4 except where an entry's text says otherwise.

mod data;
pub use data::POLICY_TIER;
mod network;
mod observability;
mod persistence;
mod process;
mod replication;
pub use replication::{
    ASYNC_READS_NEAREST, READS_LEASE, READS_LOCAL, READS_READINDEX, REDIRECTS_READONLY,
};

use super::kind::Kind;
use super::setting::{Group, Setting};

/// The groups in the order of the documentation, with their settings.
pub const GROUPS: &[(Group, &[Setting])] = &[
    (Group::General, process::GENERAL),
    (Group::Network, network::NETWORK),
    (Group::Clients, network::CLIENTS),
    (Group::Security, network::SECURITY),
    (Group::Memory, data::MEMORY),
    (Group::Encodings, data::ENCODINGS),
    (Group::Observability, observability::OBSERVABILITY),
    (Group::Persistence, persistence::PERSISTENCE),
    (Group::Replication, replication::REPLICATION),
    (Group::Cluster, replication::CLUSTER),
    (Group::Scripting, process::SCRIPTING),
    (Group::Tls, network::TLS),
    (Group::Tuning, process::TUNING),
];

/// All settings, in the order of the groups. An [`Id`](super::Id) is an index into it.
pub static TABLE: [&Setting; COUNT] = flatten();

/// The number of settings.
pub const COUNT: usize = count();

/// Directives that are not settings here, and why they are refused.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("rename-command", "commands keep their names; protect the server with requirepass"),
    ("loadmodule", "modules can't be loaded"),
    ("loadmodule-ex", "modules can't be loaded"),
];

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;

/// A number from `min` up to what Redis keeps in an `int`.
const fn int_from(min: i64) -> Kind {
    Kind::Int { min, max: INT_MAX }
}

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

/// A number from `min` up to the largest one.
const fn long_from(min: i64) -> Kind {
    Kind::Int { min, max: LONG_MAX }
}

/// A byte count from `min`.
const fn memory_from(min: i64) -> Kind {
    Kind::Memory { min, max: LONG_MAX }
}

const fn count() -> usize {
    let (mut group, mut count) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].1.len();
        group += 1;
    }
    count
}

const fn flatten() -> [&'static Setting; COUNT] {
    let mut table = [&GROUPS[0].1[0]; COUNT];
    let (mut group, mut at) = (0, 0);
    while group < GROUPS.len() {
        let settings = GROUPS[group].1;
        let mut next = 0;
        while next < settings.len() {
            table[at] = &settings[next];
            at += 1;
            next += 1;
        }
        group += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::kind::Value;
    use super::*;

    #[test]
    fn defaults_read_back_as_they_are_shown() {
        for setting in TABLE {
            let empty = Value::Text(Vec::new());
            let value = setting.kind.read(&[setting.default.as_bytes()], &empty, false);
            let value = value.unwrap_or_else(|reason| panic!("{}: {reason}", setting.name));
            if setting.name != "dir" {
                let shown = setting.kind.show(&value);
                assert_eq!(String::from_utf8_lossy(&shown), setting.default, "{}", setting.name);
            }
        }
    }

    #[test]
    fn names_are_unique_lower_case_and_documented() {
        let mut seen = HashSet::new();
        for setting in TABLE {
            assert!(setting.doc.ends_with('.'), "{}", setting.name);
            for name in setting.names() {
                assert_eq!(name, name.to_ascii_lowercase());
                assert!(seen.insert(name), "{name} twice");
            }
        }
        assert!(REFUSED.iter().all(|(name, _)| !seen.contains(name)));
    }
}
