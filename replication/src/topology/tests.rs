use super::plan::{empty_node, place, rebalance};
use super::*;
use ashlar_engine::policy::Rule;
use proptest::prelude::*;

fn node(id: NodeId, site: &str, role: Role) -> NodeInfo {
    NodeInfo {
        id,
        name: [id as u8; 20],
        host: "127.0.0.1".into(),
        port: 7000 + id as u16,
        peer_port: 17000 + id as u16,
        site: site.into(),
        role,
        version: "1".into(),
        ..NodeInfo::default()
    }
}

fn data(count: u64) -> Vec<NodeInfo> {
    (1..=count).map(|id| node(id, "", Role::Data)).collect()
}

fn created(nodes: Vec<NodeInfo>, groups: usize, replicas: usize) -> Topology {
    let (groups, slots) = place(&nodes, groups, replicas).unwrap();
    let mut made = Topology::default();
    made.apply(&Change::Create { cluster_id: [7; 20], nodes, groups, slots }).unwrap();
    made
}

fn apply_all(topology: &mut Topology, changes: Vec<Change>) {
    let version = topology.version;
    topology.apply(&Change::Batch { version, changes }).unwrap();
    for id in topology.moves.keys().copied().collect::<Vec<_>>() {
        topology.apply(&Change::FinishMove(id)).unwrap();
    }
}

fn rule(line: &str) -> Rule {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    Rule::parse(&words).unwrap()
}

/// A cluster of two sites whose nodes have this version.
fn of_version(version: &str) -> Topology {
    let sites = ["east", "west", ""];
    let nodes = (1..=3).map(|id| NodeInfo {
        version: version.into(),
        ..node(id, sites[id as usize - 1], Role::Data)
    });
    created(nodes.collect(), 1, 2)
}

#[test]
fn rules_that_a_cluster_cannot_keep_are_refused_by_name() {
    let mut old = of_version("0.1.0");
    let refused = old.apply(&Change::SetPolicy(rule("a async"))).unwrap_err();
    assert!(refused.contains("of release 0.1, and policies need 0.2"), "{refused}");

    let mut topology = of_version("0.2.0");
    for (line, reason) in [
        ("a global", "CLUSTER ASHLAR SET site-id"),
        ("a async tier cold", "no tier cold"),
        ("a local", "several sites (east west)"),
    ] {
        let before = topology.clone();
        let refused = topology.apply(&Change::SetPolicy(rule(line))).unwrap_err();
        assert!(refused.contains(reason), "{line}: {refused}");
        assert_eq!(topology, before);
    }
    let made = |version: u64, count: u64| version << 16 | count;
    assert_eq!(topology.apply(&Change::SetPolicy(rule("a:* async ttl 5"))), Ok(made(1, 1)));
    assert_eq!(topology.apply(&Change::SetPolicy(rule("a:* async ttl 5"))), Ok(made(1, 1)));
    assert_eq!(topology.apply(&Change::SetPolicy(rule("b strong"))), Ok(made(2, 1)));
    assert_eq!(Topology::decode(&topology.encode()).as_ref(), Ok(&topology));
    let gone = Change::RemovePolicies(vec![b"a:*".to_vec(), b"other".to_vec()]);
    assert_eq!(topology.apply(&gone), Ok(made(3, 1)));
    assert_eq!(policies_made(made(3, 1)), (3, 1));
}

#[test]
fn while_keys_stay_in_their_site_a_cluster_gets_no_other_one() {
    let nodes =
        (1..=3).map(|id| NodeInfo { version: "0.2.0".into(), ..node(id, "east", Role::Data) });
    let mut topology = created(nodes.collect(), 1, 2);
    topology.apply(&Change::SetPolicy(rule("session:* local"))).unwrap();
    let far = NodeInfo { version: "0.2.0".into(), ..node(4, "west", Role::Data) };
    let refused = topology.apply(&Change::AddNode(far.clone())).unwrap_err();
    assert!(refused.contains("policies of the class local"), "{refused}");
    let moved = NodeInfo { id: 3, name: [3; 20], port: 7003, peer_port: 17003, ..far.clone() };
    assert!(topology.apply(&Change::UpdateNode(moved)).is_err());
    let witness = NodeInfo { role: Role::Witness, ..far.clone() };
    topology.apply(&Change::AddNode(witness)).expect("a witness has no keys");
    topology.apply(&Change::RemovePolicies(vec![b"session:*".to_vec()])).unwrap();
    let far = NodeInfo { name: [5; 20], peer_port: 17005, id: 5, ..far };
    topology.apply(&Change::AddNode(far)).expect("there is no such rule any more");
}

fn add_site(name: &str, host: &str, port: u16) -> Change {
    Change::Sites(SiteChange::Add { name: name.into(), host: host.into(), port })
}

fn learn_site(name: &str, id: u16) -> Change {
    Change::Sites(SiteChange::Learn { name: name.into(), id })
}

#[test]
fn a_cluster_is_a_site_with_a_number_for_good() {
    let mut old = of_version("0.1.0");
    let refused = old.apply(&Change::Sites(SiteChange::Id(1))).unwrap_err();
    assert!(refused.contains("of release 0.1, and sites need 0.2"), "{refused}");

    let mut topology = of_version("0.2.0");
    let without = topology.encode();
    let site = |change: SiteChange| Change::Sites(change);
    // The version grows with what changes something.
    for (change, version) in [
        (site(SiteChange::Name("east".into())), 1),
        (site(SiteChange::Id(7)), 2),
        (site(SiteChange::Id(7)), 2),
        (add_site("west", "10.0.0.1", 6379), 3),
        (add_site("west", "10.0.0.1", 6379), 3),
        (learn_site("west", 8), 4),
        (learn_site("west", 8), 4),
        (add_site("north", "10.0.0.2", 6379), 5),
        (site(SiteChange::Backup(true)), 6),
        (site(SiteChange::Backup(false)), 7),
    ] {
        assert_eq!(topology.apply(&change), Ok(version), "{change:?}");
        assert_eq!(Topology::decode(&topology.encode()).as_ref(), Ok(&topology));
    }
    let most = CLUSTER_SITE_MAX + 1;
    let group = GroupInfo { id: u32::from(most), ..topology.groups[&1].clone() };
    for (change, reason) in [
        (site(SiteChange::Id(8)), "is site 7 for good"),
        (site(SiteChange::Id(0)), "from 1 to 255"),
        (site(SiteChange::Id(most)), "numbered up to 255: 256 is above"),
        (site(SiteChange::Name("west".into())), "named east already"),
        (site(SiteChange::Remove("south".into())), "no such site"),
        (add_site("a b", "10.0.0.3", 6379), "blanks"),
        (add_site("south", "", 6379), "a host and a port"),
        (add_site("south", "10.0.0.3", 0), "a host and a port"),
        (learn_site("south", 9), "no such site"),
        (learn_site("north", 7), "number of this one"),
        (learn_site("north", 8), "site west has the number 8"),
        (learn_site("west", 9), "another one before"),
        (learn_site("north", most), "numbered up to 255: 256 is above"),
        (Change::AddGroup(group), "numbered up to 255"),
    ] {
        let before = topology.clone();
        let refused = topology.apply(&change).unwrap_err();
        assert!(refused.contains(reason), "{change:?}: {refused}");
        assert_eq!(topology, before);
    }
    // A site that is somewhere else now may be another one.
    topology.apply(&add_site("west", "10.0.0.9", 6379)).unwrap();
    assert_eq!(topology.sites.peers["west"].id, None);
    assert_eq!(topology.apply(&site(SiteChange::Remove("west".into()))), Ok(9));
    // Where there never was a number, the bytes are those of software that knows none.
    assert_eq!(Topology::decode(&without).unwrap().encode(), without);
    topology.apply(&Change::SetPolicy(rule("a global"))).expect("it is a site");
    assert_eq!(Topology::decode(&topology.encode()).as_ref(), Ok(&topology));
}

#[test]
fn a_table_of_sites_has_bounds_and_comes_back_from_its_bytes() {
    let mut topology = of_version("0.2.0");
    let refused = topology.apply(&add_site("west", "10.0.0.1", 6379)).unwrap_err();
    assert!(refused.contains("CLUSTER ASHLAR SET site-id"), "{refused}");
    topology.apply(&Change::Sites(SiteChange::Id(1))).unwrap();
    for nth in 0..crate::sites::peers::PEERS_MAX {
        topology.apply(&add_site(&format!("s{nth}"), "10.0.0.1", 6379)).unwrap();
    }
    let refused = topology.apply(&add_site("more", "10.0.0.1", 6379)).unwrap_err();
    assert!(refused.contains("at most 64 other sites"), "{refused}");
    topology.apply(&learn_site("s7", 9)).unwrap();
    let mut bytes = Vec::new();
    topology.sites.encode(&mut bytes);
    assert_eq!(SiteTable::decode(&bytes).as_ref(), Some(&topology.sites));
    for cut in 0..bytes.len() {
        assert_eq!(SiteTable::decode(&bytes[..cut]), None, "cut at {cut}");
    }
    bytes.push(0);
    assert_eq!(SiteTable::decode(&bytes), None);
}

#[test]
fn a_cluster_with_too_large_a_group_is_no_site() {
    let mut topology = of_version("0.2.0");
    let group = GroupInfo { id: 256, ..topology.groups[&1].clone() };
    topology.apply(&Change::AddGroup(group)).unwrap();
    let refused = topology.apply(&Change::Sites(SiteChange::Id(1))).unwrap_err();
    assert!(refused.contains("numbered up to 255"), "{refused}");
}

/// The difference of the most and the least of what nodes that keep data have.
fn spread(topology: &Topology, count: impl Fn(NodeId) -> usize) -> usize {
    let nodes = topology.nodes.values().filter(|node| node.role == Role::Data && !node.draining);
    let counts: Vec<usize> = nodes.map(|node| count(node.id)).collect();
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

fn led(topology: &Topology, node: NodeId) -> usize {
    topology.groups.values().filter(|group| group.preferred == node).count()
}

#[test]
fn three_nodes_share_three_groups() {
    let topology = created(data(3), 3, 2);
    assert_eq!(topology.assigned(), SLOTS);
    assert_eq!(topology.ranges_of(1), [(0, 5460)]);
    assert_eq!(topology.ranges_of(2), [(5461, 10921)]);
    assert_eq!(topology.ranges_of(3), [(10922, 16383)]);
    assert!(topology.groups.values().all(|group| group.members == [1, 2, 3]));
    assert_eq!(spread(&topology, |node| led(&topology, node)), 0);
    assert_eq!(rebalance(&topology), Ok(Vec::new()));
}

#[test]
fn two_sites_get_a_witness_at_a_third_place() {
    let mut nodes: Vec<NodeInfo> = (1..=2).map(|id| node(id, "a", Role::Data)).collect();
    nodes.extend((3..=4).map(|id| node(id, "b", Role::Data)));
    nodes.push(node(5, "c", Role::Witness));
    let topology = created(nodes, 2, 1);
    for group in topology.groups.values() {
        let sites: Vec<&str> =
            group.members.iter().map(|member| &*topology.nodes[member].site).collect();
        assert_eq!(sites, ["a", "b", "c"]);
    }
    assert!(place(&data(2), 1, 2).unwrap_err().contains("3 nodes"));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut topology = created(data(3), 2, 1);
    let before = topology.clone();
    let refused = [
        Change::Create { cluster_id: [0; 20], nodes: data(1), groups: vec![], slots: vec![] },
        Change::AddNode(node(3, "", Role::Data)),
        Change::AddNode(NodeInfo { name: [1; 20], ..node(4, "", Role::Data) }),
        Change::AddNode(NodeInfo { host: "a b".into(), ..node(4, "", Role::Data) }),
        Change::UpdateNode(NodeInfo { name: [9; 20], ..node(1, "", Role::Data) }),
        Change::RemoveNode(1),
        Change::RemoveNode(9),
        Change::RemoveGroup(1),
        Change::AddGroup(GroupInfo { id: 257, ..before.groups[&1].clone() }),
        Change::SetMembers { group: 1, members: vec![], learners: vec![] },
        Change::SetMembers { group: 1, members: vec![1, 1], learners: vec![] },
        Change::SetMembers { group: 1, members: vec![1], learners: vec![1] },
        Change::SetMembers { group: 1, members: vec![9], learners: vec![] },
        Change::Assign { slots: vec![(0, 0)], group: 1 },
        Change::Assign { slots: vec![(5, 4)], group: 0 },
        Change::Assign { slots: vec![(0, 16384)], group: 0 },
        Change::StartMove { slots: vec![(0, 0)], from: 2, to: 1 },
        Change::StartMove { slots: vec![(0, 0)], from: 1, to: 1 },
        Change::StartMove { slots: vec![(0, 0), (0, 1)], from: 1, to: 2 },
        Change::FinishMove(1),
        Change::SetPreferred(1, 9),
        Change::Set("a".into(), "b\r\nc".into()),
        Change::Batch { version: 999, changes: vec![] },
        Change::Batch {
            version: before.version,
            changes: vec![Change::Drain(1, true), Change::Drain(9, true)],
        },
    ];
    for change in refused {
        assert!(topology.apply(&change).is_err(), "{change:?}");
        assert_eq!(topology, before, "{change:?}");
    }
}

#[test]
fn slots_belong_to_the_old_group_until_the_move_ends() {
    let mut topology = created(data(3), 2, 2);
    let start = Change::StartMove { slots: vec![(0, 9), (20, 29)], from: 1, to: 2 };
    let id = topology.apply(&start).unwrap();
    assert!(topology.apply(&start).is_err(), "they are moving already");
    assert_eq!((topology.group_of(5), topology.move_of(25).unwrap().id), (Some(1), id));
    topology.apply(&Change::SetMoveState(id, MoveState::Switching)).unwrap();
    assert!(topology.apply(&Change::Assign { slots: vec![(5, 5)], group: 0 }).is_err());
    let epoch = topology.current_epoch;
    topology.apply(&Change::FinishMove(id)).unwrap();
    assert_eq!(topology.group_of(5), Some(2));
    assert_eq!(topology.group_of(10), Some(1));
    assert!(topology.current_epoch > epoch && topology.moves.is_empty());
    // The next one has another number.
    let again = Change::StartMove { slots: vec![(0, 9)], from: 2, to: 1 };
    assert_eq!(topology.apply(&again), Ok(id + 1));
    topology.apply(&Change::AbortMove(id + 1)).unwrap();
    assert_eq!(topology.group_of(5), Some(2));
}

#[test]
fn a_node_that_leaves_is_replaced() {
    let mut topology = created(data(4), 4, 2);
    let plan = empty_node(&topology, 2, false).unwrap();
    apply_all(&mut topology, plan);
    assert_eq!(topology.groups_of(2).count(), 0);
    assert!(topology.groups.values().all(|group| group.members.len() == 3));
    assert!(spread(&topology, |node| led(&topology, node)) <= 1, "{topology:?}");
    topology.apply(&Change::RemoveNode(2)).unwrap();
    // Its number is not given again.
    assert_eq!(
        topology.apply(&Change::AddNode(NodeInfo { id: 0, ..node(9, "", Role::Data) })),
        Ok(5)
    );
    let small = created(data(3), 1, 2);
    assert!(empty_node(&small, 1, false).unwrap_err().contains("SHRINK"));
    let plan = empty_node(&small, 1, true).unwrap();
    let mut small = small;
    apply_all(&mut small, plan);
    assert_eq!(small.groups[&1].members, [2, 3]);
}

#[test]
fn the_meta_group_answers_what_it_was_asked() {
    use crate::raft::{Machine, Request, RequestId};
    let ask = |topology: &mut Topology, change: &Change| {
        let stamp = ashlar_engine::stamp::Stamp::new(0, 0);
        let mut asked = Request::one(RequestId::default(), stamp, &[]);
        asked.calls = vec![request(change)];
        let mut out = Vec::new();
        Machine::apply(topology, &asked, &mut out);
        answer(&out)
    };
    let mut topology = created(data(1), 1, 0);
    let new = NodeInfo { id: 0, ..node(9, "", Role::Data) };
    assert_eq!(ask(&mut topology, &Change::AddNode(new)), Ok(2));
    assert_eq!(ask(&mut topology, &Change::RemoveNode(7)), Err("there is no node 7".into()));
    let mut copy = Topology::default();
    copy.restore(&topology.snapshot()).unwrap();
    assert_eq!((copy.digest(), &copy), (topology.digest(), &topology));
    assert!(answer(b"").is_err() && answer(&[0, 1]).is_err());
}

#[test]
fn every_change_comes_back_from_its_bytes() {
    let (groups, slots) = place(&data(3), 3, 1).unwrap();
    let changes = vec![
        Change::Create { cluster_id: [7; 20], nodes: data(3), groups, slots },
        Change::AddNode(node(4, "x", Role::Witness)),
        Change::UpdateNode(NodeInfo { draining: true, ..node(1, "", Role::Data) }),
        Change::RemoveNode(u64::MAX),
        Change::AddGroup(GroupInfo { id: 9, members: vec![1], ..GroupInfo::default() }),
        Change::RemoveGroup(3),
        Change::SetMembers { group: 1, members: vec![1, 2], learners: vec![3] },
        Change::Assign { slots: vec![(0, 16383)], group: 2 },
        Change::StartMove { slots: vec![(1, 2), (4, 4)], from: 1, to: 2 },
        Change::SetMoveState(7, MoveState::Switching),
        Change::FinishMove(7),
        Change::AbortMove(8),
        Change::SetPreferred(1, 2),
        Change::Drain(1, true),
        Change::Set("name".into(), "value".into()),
        Change::BumpEpoch(1),
        Change::Born(1),
        Change::SetPolicy(rule("log:* async ttl 60")),
        Change::RemovePolicies(vec![b"log:*".to_vec(), b"x".to_vec()]),
        Change::Sites(SiteChange::Id(7)),
        Change::Sites(SiteChange::Name("east".into())),
        add_site("west", "10.0.0.1", 6379),
        Change::Sites(SiteChange::Remove("west".into())),
        Change::Sites(SiteChange::Learn { name: "west".into(), id: 8 }),
        Change::Sites(SiteChange::Backup(true)),
    ];
    let batch = Change::Batch { version: 5, changes: changes.clone() };
    for change in changes.iter().chain([&batch]) {
        let bytes = change.encode();
        assert_eq!(Change::decode(&bytes).as_ref(), Ok(change));
        for cut in 0..bytes.len() {
            assert!(Change::decode(&bytes[..cut]).is_err(), "{change:?} cut at {cut}");
        }
    }
    let nested = Change::Batch { version: 1, changes: vec![batch] };
    assert!(Change::decode(&nested.encode()).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Change::decode(&bytes);
        let _ = Topology::decode(&bytes);
        let _ = answer(&bytes);
        let _ = SiteTable::decode(&bytes);
    }

    /// Damage is found, or gives a topology that changes could have led to.
    #[test]
    fn a_damaged_topology_is_refused_or_sound(at in 0_usize..2_000, bit in 0_u8..8) {
        let mut bytes = created(data(4), 5, 1).encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(topology) = Topology::decode(&bytes) {
            prop_assert!(topology.check().is_ok());
        }
    }

    #[test]
    fn groups_are_placed_evenly(
        count in 1_u64..9, groups in 1_usize..40, replicas in 0_usize..4, sites in 1_u64..4,
    ) {
        let nodes: Vec<NodeInfo> =
            (1..=count).map(|id| node(id, &format!("s{}", id % sites), Role::Data)).collect();
        let fits = (replicas as u64) < count;
        prop_assert_eq!(place(&nodes, groups, replicas).is_ok(), fits);
        if fits {
            let topology = created(nodes, groups, replicas);
            prop_assert_eq!(topology.assigned(), SLOTS);
            let most_sites = (replicas as u64 + 1).min(sites.min(count)) as usize;
            for group in topology.groups.values() {
                prop_assert_eq!(group.members.len(), replicas + 1);
                let in_sites: std::collections::BTreeSet<_> =
                    group.members.iter().map(|member| &topology.nodes[member].site).collect();
                prop_assert_eq!(in_sites.len(), most_sites);
            }
            if sites == 1 {
                prop_assert!(spread(&topology, |node| topology.groups_of(node).count()) <= 1);
            }
            prop_assert_eq!(Topology::decode(&topology.encode()), Ok(topology));
        }
    }

    /// Nodes join; then everything is even, no more slots move than have to, and planning again
    /// finds nothing to do.
    #[test]
    fn rebalancing_is_even_least_and_final(
        count in 2_u64..6, joining in 0_u64..4, groups in 1_usize..12, replicas in 0_usize..3,
        more in 0_usize..4,
    ) {
        prop_assume!((replicas as u64) < count);
        let mut topology = created(data(count), groups, replicas);
        for id in 0..joining {
            topology.apply(&Change::AddNode(node(count + 1 + id, "", Role::Data))).unwrap();
        }
        for _ in 0..more {
            let members = (1..=replicas as u64 + 1).collect();
            let group = GroupInfo { members, preferred: 1, ..GroupInfo::default() };
            topology.apply(&Change::AddGroup(group)).unwrap();
        }
        let plan = rebalance(&topology).unwrap();
        let moved: usize = plan.iter().map(|change| match change {
            Change::StartMove { slots, .. } => count_slots(slots),
            _ => 0,
        }).sum();
        let mut sizes: Vec<usize> =
            topology.groups.keys().map(|group| topology.slots_of(*group).count()).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let (share, rest) = (SLOTS / sizes.len(), SLOTS % sizes.len());
        let least: usize = sizes.iter().enumerate()
            .map(|(nth, size)| size.saturating_sub(share + usize::from(nth < rest))).sum();
        prop_assert_eq!(moved, least);
        apply_all(&mut topology, plan);
        prop_assert!(spread(&topology, |node| topology.groups_of(node).count()) <= 1);
        let sizes = topology.groups.keys().map(|group| topology.slots_of(*group).count());
        let sizes: Vec<usize> = sizes.collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        prop_assert_eq!(rebalance(&topology), Ok(Vec::new()));
    }
}

fn count_slots(slots: &[SlotRange]) -> usize {
    count(slots)
}
