use super::fake::Fake;
use super::show;
use super::view::{Endpoint, View};
use super::*;
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_replication::topology::{Change, NodeInfo};

const NOW_MS: i64 = 1_700_000_000_000;

fn view(fake: &Fake) -> View<'_> {
    View::of(fake, NOW_MS, (15_000, 1_000), Endpoint::Ip)
}

fn lines(fake: &Fake) -> Vec<String> {
    let text = show::nodes(&view(fake), &NodeInfo::default(), false);
    text.lines().map(str::to_owned).collect()
}

fn slots(fake: &Fake) -> String {
    let mut out = Vec::new();
    show::slots(&view(fake), &mut Reply::new(&mut out, Protocol::Resp2), false);
    String::from_utf8(out).unwrap()
}

fn name(id: u8) -> String {
    format!("{id:02x}").repeat(20)
}

/// Every byte of a line is as Redis 7.0 writes it.
#[test]
fn nodes_are_listed_as_redis_does() {
    let fake = Fake::cluster(3, 1);
    fake.state.lock().silent_ms.extend([(2, 1_000), (3, 15_001)]);
    let (one, two, three) = (name(1), name(2), name(3));
    assert_eq!(
        lines(&fake),
        [
            format!("{one} 10.0.0.1:7001@17001 myself,master - 0 0 7 connected 0-16383"),
            format!("{two} 10.0.0.2:7002@17002 slave {one} 0 {} 7 connected", NOW_MS - 1_000),
            format!(
                "{three} 10.0.0.3:7003@17003 slave,fail {one} 0 {} 7 disconnected",
                NOW_MS - 15_001
            ),
        ]
    );
    // Whoever has no majority cannot tell who is cut off.
    fake.state.lock().no_quorum.insert(0);
    assert!(lines(&fake)[2].contains(" slave,fail? "));
}

#[test]
fn a_fail_over_moves_the_slots_to_the_new_leader() {
    let fake = Fake::cluster(3, 3);
    let owned = |fake: &Fake| -> Vec<String> {
        lines(fake)
            .iter()
            .map(|line| line.split(' ').skip(8).collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(owned(&fake), ["0-5460", "5461-10921", "10922-16383"]);
    fake.state.lock().leaders.insert(1, Some(3));
    assert_eq!(owned(&fake), ["", "5461-10921", "0-5460 10922-16383"]);
    // A group that has no leader for a moment is shown with the one that it is meant to have.
    fake.state.lock().leaders.insert(1, None);
    assert_eq!(owned(&fake), ["0-5460", "5461-10921", "10922-16383"]);
    assert_eq!(view(&fake).known_leader(1), None);
    assert_eq!(view(&fake).served_slots(), (16384 - 5461, 5461));
    // One that is silent is not waited for.
    fake.state.lock().leaders.insert(1, Some(2));
    fake.state.lock().silent_ms.insert(2, 1_001);
    assert_eq!((view(&fake).known_leader(1), view(&fake).leader(1)), (None, 1));
    fake.state.lock().leaders.clear();
    assert_eq!((view(&fake).known_leader(2), view(&fake).leader(2)), (None, 1));
}

#[test]
fn slots_that_one_node_leads_are_joined() {
    let fake = Fake::cluster(3, 3);
    fake.state.lock().leaders.extend([(1, Some(2)), (2, Some(2)), (3, Some(2))]);
    assert_eq!(view(&fake).slots_of(2), [(0, 16383)]);
    assert_eq!(view(&fake).primary_of(1), Some(2));
    assert_eq!(view(&fake).replicas_of(2).count(), 2);
}

/// redis-py takes a node for what it meets it as first.
#[test]
fn every_primary_is_met_as_one_first() {
    let fake = Fake::cluster(3, 3);
    let text = slots(&fake);
    assert!(text.starts_with("*6\r\n"), "{text}");
    let mut seen = Vec::new();
    let mut entries = text.split("\r\n*").skip(1).peekable();
    for _ in 0..3 {
        // An entry of three parts has a primary and no replica.
        assert!(entries.next().unwrap().starts_with("3\r\n"), "{text}");
        seen.push(entries.next().unwrap().to_owned());
        entries.next();
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{text}");
    // Where every node has one part, nothing comes ahead.
    let fake = Fake::cluster(3, 1);
    assert!(slots(&fake).starts_with("*1\r\n*5\r\n:0\r\n:16383\r\n"), "{}", slots(&fake));
    // A replica that is down is left out.
    fake.state.lock().silent_ms.insert(2, 60_000);
    assert!(slots(&fake).starts_with("*1\r\n*4\r\n"), "{}", slots(&fake));
}

#[test]
fn a_witness_is_no_clients_business() {
    let fake = Fake::cluster(2, 1);
    let witness = NodeInfo {
        name: [9; 20],
        host: "10.0.0.9".into(),
        peer_port: 17009,
        role: ashlar_replication::topology::Role::Witness,
        version: crate::info::ASHLAR_VERSION.into(),
        ..NodeInfo::default()
    };
    fake.apply(&Change::AddNode(witness)).unwrap();
    let members = Change::SetMembers { group: 1, members: vec![1, 2, 3], learners: vec![] };
    fake.apply(&members).unwrap();
    assert!(lines(&fake)[2].starts_with(&format!("{} :0@17009 master,noaddr - ", name(9))));
    assert!(!slots(&fake).contains("10.0.0.9"), "{}", slots(&fake));
    assert_eq!(view(&fake).followers(&fake.topology().groups[&1]).count(), 1);
}

#[test]
fn endpoints_are_named_as_the_settings_say() {
    let node = NodeInfo { host: "10.0.0.1".into(), hostname: "one".into(), ..NodeInfo::default() };
    assert_eq!(Endpoint::Ip.name(&node), Some("10.0.0.1"));
    assert_eq!(Endpoint::Hostname.name(&node), Some("one"));
    assert_eq!(Endpoint::Hostname.name(&NodeInfo::default()), Some("?"));
    assert_eq!(Endpoint::Unknown.name(&node), None);
    let both = NodeInfo { port: 1, tls_port: 2, ..NodeInfo::default() };
    assert_eq!((route::port(&both, false), route::port(&both, true)), (1, 2));
    let plain = NodeInfo { port: 1, ..NodeInfo::default() };
    assert_eq!(route::port(&plain, true), 1);
    let encrypted = NodeInfo { tls_port: 2, ..NodeInfo::default() };
    assert_eq!(route::port(&encrypted, false), 2);
}
