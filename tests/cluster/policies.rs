//! Policies in a cluster: all keys are strong, and EXPLAIN says where a key is.

use ashlar_tests::cluster::Cluster;

/// Rules that one node alone had would make its data another than that of the others: they are refused by
/// name. EXPLAIN names the class, the group, its members and its quorum, the same at every node.
#[test]
fn a_cluster_refuses_policies_and_explains_where_keys_are() {
    let mut cluster = Cluster::start(0, &[]);
    for site in ["east", "west", "north"] {
        cluster.add(&["--cluster-site", site]);
    }
    cluster.create(1, 2);
    cluster.wait_ok();
    for node in 0..3 {
        let mut client = cluster.node(node).client();
        for text in ["POLICY SET a:* local", "POLICY SET a:* strong TTL 5", "POLICY DEL a:*"] {
            let refused = client.line(text).expect("a reply");
            assert!(
                refused.text().starts_with("ERR all keys of a cluster are strong"),
                "{refused:?}"
            );
        }
    }
    let leader = (0..3).find(|at| cluster.leader_of(0, *at).is_some()).expect("one leads");
    let leader = cluster.leader_of(0, leader).expect("it was just found");
    let explain = |node: usize| {
        let told = cluster.node(node).client().line("POLICY EXPLAIN key").expect("a reply");
        let items = told.items().expect("a map").to_vec();
        let field = |name: &str| {
            let at = items.iter().step_by(2).position(|item| item.text() == name);
            items[2 * at.expect("the field is there") + 1].clone()
        };
        let members = field("members");
        let members: Vec<String> =
            members.items().expect("a list").iter().map(|member| member.text()).collect();
        let quorum = format!("{:?}", field("quorum"));
        (
            field("class").text(),
            field("group").text(),
            field("sites").text(),
            field("write").text(),
            members,
            quorum,
        )
    };
    let port = cluster.node(leader).port();
    cluster.wait_until("every node knows who leads", |_| {
        (0..3).all(|node| explain(node).3.ends_with(&format!(":{port}")))
    });
    for node in 0..3 {
        let (class, group, sites, _, members, quorum) = explain(node);
        assert_eq!(
            (class.as_str(), group.as_str(), sites.as_str()),
            ("strong", "1", "east north west")
        );
        assert_eq!((members.len(), quorum.as_str()), (3, "Int(2)"), "{members:?}");
    }
}
