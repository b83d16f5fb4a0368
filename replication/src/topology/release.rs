//! What all nodes of a cluster understand, while they are upgraded one after the other.
//!
//! Each node tells the release of its software. Once all of them tell a newer one than the cluster is of, the
//! leader of the meta group raises the cluster to it, for good; only then are entries made that older
//! software could not apply. From then on older software is not taken in any more.

use super::Topology;

/// The setting of the cluster that says which release it is of; without it, it is of the first one.
pub const RELEASE_SETTING: &str = "release";

/// Major and minor number of a version: what a cluster is of does not change with a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: u32,
    /// The second one.
    pub minor: u32,
}

impl Release {
    /// The first one: it told nobody what its cluster is of.
    pub const FIRST: Release = Release { major: 0, minor: 1 };
    /// Request ids travel with slots that move, from here on.
    pub const REQUESTS_MOVE: Release = Release { major: 0, minor: 2 };
    /// A node asks whether it is still a member of a group, from here on.
    pub const ASKS_MEMBER: Release = Release { major: 0, minor: 2 };

    /// A cluster agrees on the classes of keys, from here on.
    pub const POLICIES: Release = Release { major: 0, minor: 2 };
    /// All nodes have the libraries of functions, from here on, and scripts of users who may not do everything
    /// carry their rules.
    pub const FUNCTIONS: Release = Release { major: 0, minor: 2 };

    /// A cluster may be a site, and have keys of the class global, from here on.
    pub const SITES: Release = Release { major: 0, minor: 2 };

    /// Slots that are coming keep their keys, whatever a leader says that has not heard of it, from here on.
    pub const KEEPS_COMING: Release = Release { major: 0, minor: 2 };

    /// Reads a version, as `1.2` or `1.2.3-anything`.
    pub fn parse(version: &str) -> Option<Release> {
        let mut numbers = version.splitn(3, '.').map(|number| number.parse().ok());
        Some(Release { major: numbers.next()??, minor: numbers.next()?? })
    }

    /// The release of this software.
    pub fn own() -> Release {
        Release::parse(env!("CARGO_PKG_VERSION")).unwrap_or(Release::FIRST)
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Topology {
    /// What the cluster is of: all nodes understand it.
    pub fn release(&self) -> Release {
        let setting = self.settings.get(RELEASE_SETTING);
        setting.and_then(|text| Release::parse(text)).unwrap_or(Release::FIRST)
    }

    /// What it can be raised to: the oldest release that a node has.
    pub fn common_release(&self) -> Release {
        let of = |version: &str| Release::parse(version).unwrap_or(Release::FIRST);
        let releases = self.nodes.values().map(|node| of(&node.version));
        releases.min().unwrap_or(Release::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_up_to_the_minor_number() {
        let release = |major, minor| Some(Release { major, minor });
        assert_eq!(Release::parse("0.2.0"), release(0, 2));
        assert_eq!(Release::parse("1.12"), release(1, 12));
        assert_eq!(Release::parse("1.12.3-beta.4"), release(1, 12));
        assert_eq!(Release::parse("1"), None);
        assert_eq!(Release::parse(""), None);
        assert!(Release::parse("0.10.0") > Release::parse("0.9.9"));
    }
}
