//! Libraries of functions, which all nodes of a cluster have.
//!
//! They are part of the topology, so that they come to every node that is there or will be, and
//! stay. What their text means is the host's business; it has looked at it before it proposes a change,
//! which therefore says on which libraries it was planned.

use super::{Release, Topology};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of all libraries of a cluster, names included: each node keeps them in the snapshots of the topology.
pub const LIBRARIES_BYTES_MAX: usize = 4 << 20;

/// The libraries, and how often they have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// Rises with every change; 0 where there never was one.
    pub version: u64,
    /// Text by name.
    pub by_name: BTreeMap<Vec<u8>, Arc<[u8]>>,
}

/// A change of the libraries: first some are taken away, then some put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryChange {
    /// The version that it was planned on.
    pub version: u64,
    /// Whether all go.
    pub flush: bool,
    /// Which others go.
    pub remove: Vec<Vec<u8>>,
    /// Names and texts of those that come.
    pub set: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Topology {
    pub(super) fn change_libraries(&mut self, change: &LibraryChange) -> Result<(), String> {
        if self.release() < Release::FUNCTIONS {
            return Err(format!(
                "functions need all nodes to be of release {}",
                Release::FUNCTIONS
            ));
        }
        if change.version != self.libraries.version {
            return Err("the libraries have changed meanwhile; try again".into());
        }
        let mut by_name = match change.flush {
            true => BTreeMap::new(),
            false => self.libraries.by_name.clone(),
        };
        for name in &change.remove {
            by_name.remove(name);
        }
        for (name, text) in &change.set {
            by_name.insert(name.clone(), text.as_slice().into());
        }
        check(&by_name)?;
        self.libraries = Libraries { version: self.libraries.version + 1, by_name };
        Ok(())
    }
}

pub(super) fn check(by_name: &BTreeMap<Vec<u8>, Arc<[u8]>>) -> Result<(), String> {
    let bytes: usize = by_name.iter().map(|(name, text)| name.len() + text.len()).sum();
    match bytes <= LIBRARIES_BYTES_MAX {
        true => Ok(()),
        false => Err(format!("a cluster keeps at most {LIBRARIES_BYTES_MAX} bytes of libraries")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, RELEASE_SETTING};
    use super::*;

    fn change(version: u64, set: &[(&str, &str)], remove: &[&str], flush: bool) -> Change {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let set = set.iter().map(|(name, text)| (bytes(name), bytes(text))).collect();
        let remove = remove.iter().map(|name| bytes(name)).collect();
        Change::Libraries(LibraryChange { version, flush, remove, set })
    }

    #[test]
    fn libraries_change_and_come_back_from_their_bytes() {
        let mut topology = Topology::default();
        let first = change(0, &[("a", "1"), ("b", "2")], &[], false);
        assert!(topology.apply(&first).unwrap_err().contains("release"), "an old cluster");
        topology.settings.insert(RELEASE_SETTING.into(), Release::FUNCTIONS.to_string());
        let before = topology.encode();
        for change in [
            first.clone(),
            change(1, &[("c", "3"), ("b", "4")], &["a"], false),
            change(2, &[("d", "")], &["nothing"], false),
        ] {
            assert_eq!(Change::decode(&change.encode()).unwrap(), change);
            topology.apply(&change).unwrap();
            assert_eq!(Topology::decode(&topology.encode()).unwrap(), topology);
        }
        let names: Vec<&[u8]> = topology.libraries.by_name.keys().map(Vec::as_slice).collect();
        assert_eq!(names, [b"b", b"c", b"d"]);
        assert_eq!(&*topology.libraries.by_name[&b"b"[..]], b"4");
        assert!(topology.apply(&first).unwrap_err().contains("meanwhile"));
        topology.apply(&change(3, &[], &[], true)).unwrap();
        assert!(topology.libraries.by_name.is_empty());
        let large = "x".repeat(LIBRARIES_BYTES_MAX);
        let large = topology.apply(&change(4, &[("large", &large)], &[], false));
        assert!(large.unwrap_err().contains("at most"));
        // Where there never were any, the bytes are those of software that knows none.
        assert_eq!(Topology::decode(&before).unwrap().encode(), before);
    }
}
