//! Failures that other systems with several sites have had, each as a test.

use crate::site::{Site, text};
use crate::world::{Shape, World};

pub fn world(sites: u16) -> World {
    World::new(Shape { sites, steps: 0, expires: false, restores: false }, 1, None)
}

pub fn call(world: &mut World, site: usize, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let now_ms = world.now_ms;
    text(&world.sites[site].call(now_ms, &words))
}

pub fn same(world: &mut World) {
    let now_ms = world.now_ms;
    let first = world.sites[0].content(now_ms);
    for site in &mut world.sites[1..] {
        assert_eq!(site.content(now_ms), first, "site {}", site.id);
    }
}

#[test]
fn nodes_that_were_split_are_the_same_afterwards() {
    let mut world = world(2);
    for nth in 0..50 {
        call(&mut world, 0, &format!("SET k{nth} here"));
        call(&mut world, 1, &format!("SET k{nth} there"));
        call(&mut world, nth % 2, &format!("RPUSH l {nth}"));
        call(&mut world, nth % 2, &format!("HSET h f{nth} {nth}"));
    }
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 0, "LLEN l"), "50");
    assert_eq!(call(&mut world, 1, "HLEN h"), "50");
    assert_eq!(world.sites[0].node.site().conflicts.count(), 50, "each SET that lost is counted");
}

#[test]
fn a_clock_that_is_wrong_does_not_bring_old_values_back() {
    let mut world = world(2);
    world.sites[0].offset_ms = 3_600_000;
    call(&mut world, 0, "SET k old");
    world.heal().expect("they come to rest");
    // An hour behind, and yet it has seen the other: it is the later one.
    call(&mut world, 1, "SET k new");
    world.heal().expect("they come to rest");
    assert_eq!(call(&mut world, 0, "GET k"), "new");
    assert_eq!(call(&mut world, 1, "GET k"), "new");
    assert_eq!(world.sites[0].node.site().conflicts.count(), 0);
}

#[test]
fn increments_do_not_diverge_after_a_restart() {
    let mut world = world(2);
    let members = [1, 2];
    for round in 0..5 {
        for _ in 0..10 {
            call(&mut world, 0, "INCR n");
            call(&mut world, 1, "INCRBY n 2");
        }
        let at = round % 2;
        // The clock of the site that restarts has gone back.
        world.sites[at].offset_ms -= 60_000;
        if round == 2 {
            let now_ms = world.now_ms;
            world.sites[at].snapshot(now_ms);
        }
        world.sites[at].start(&members);
        world.heal().expect("they come to rest");
    }
    same(&mut world);
    assert_eq!(call(&mut world, 0, "GET n"), "150");
}

#[test]
fn nothing_goes_round_and_round() {
    let mut world = world(3);
    for nth in 0..30 {
        call(&mut world, nth % 3, &format!("INCRBY n {nth}"));
        call(&mut world, nth % 3, &format!("SADD s {nth}"));
    }
    world.heal().expect("they come to rest");
    // Each element reached the two other sites once or twice, and nobody sent on what was not its own.
    let merged: u64 = world.sites.iter().map(|site| site.node.site().merged).sum();
    assert!(merged < 1_000, "{merged} elements were merged");
    let before = merged;
    world.heal().expect("they come to rest");
    let after: u64 = world.sites.iter().map(|site| site.node.site().merged).sum();
    assert_eq!(after, before, "there is nothing to send any more");
}

#[test]
fn a_site_is_added_to_others_at_work() {
    let mut world = world(2);
    world.merged_max = 100_000;
    for nth in 0..5_000 {
        call(&mut world, nth % 2, &format!("SADD s{} {nth}", nth % 7));
    }
    call(&mut world, 0, "INCRBY n 5");
    world.heal().expect("they come to rest");
    call(&mut world, 1, "SREM s0 0");
    world.add_site();
    call(&mut world, 2, "INCRBY n 2");
    call(&mut world, 0, "SREM s0 7");
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 2, "GET n"), "7");
    assert_eq!(call(&mut world, 2, "SISMEMBER s0 7"), "0");
}

/// A new site gets all keys; its link breaks again and again meanwhile, batches come twice and late, and
/// everybody writes.
#[test]
fn a_resync_that_is_cut_short_loses_and_doubles_nothing() {
    let mut world = world(2);
    world.merged_max = 500_000;
    for nth in 0..6_000 {
        call(&mut world, nth % 2, &format!("SADD s{} {nth}", nth % 11));
    }
    call(&mut world, 0, "INCRBY n 5");
    world.heal().expect("they come to rest");
    world.add_site();
    let mut sum = 5;
    for round in 0..60 {
        world.break_links();
        for _ in 0..3 {
            world.work_links();
        }
        call(&mut world, round % 3, "INCRBY n 2");
        call(&mut world, round % 2, &format!("SREM s{} {round}", round % 11));
        call(&mut world, 2, &format!("SADD late {round}"));
        sum += 2;
    }
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 2, "GET n"), sum.to_string());
    assert_eq!(call(&mut world, 2, "SCARD late"), "60");
    assert_eq!(call(&mut world, 2, "SISMEMBER s0 0"), "0");
    assert_eq!(call(&mut world, 2, "SISMEMBER s0 5500"), "1");
}

#[test]
fn a_longer_expiry_wins_over_one_that_came_to_its_end() {
    let mut world = world(2);
    call(&mut world, 0, "RPUSH k a b");
    world.heal().expect("they come to rest");
    call(&mut world, 0, "PEXPIRE k 100");
    call(&mut world, 1, "PEXPIRE k 600000");
    world.now_ms += 200;
    assert_eq!(call(&mut world, 0, "EXISTS k"), "0", "it has expired at the one");
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 0, "LLEN k"), "2", "and is back, with its value");
}

#[test]
fn what_was_forgotten_stays_gone() {
    let mut world = world(2);
    for nth in 0..20 {
        call(&mut world, 0, &format!("SADD s {nth}"));
    }
    world.heal().expect("they come to rest");
    for nth in 0..20 {
        call(&mut world, nth % 2, &format!("SREM s {nth}"));
    }
    world.heal().expect("they come to rest");
    let now_ms = world.now_ms;
    for site in &mut world.sites {
        site.promise(now_ms);
    }
    world.heal().expect("they come to rest");
    world.heal().expect("they come to rest");
    for site in &mut world.sites {
        site.tidy(now_ms);
        site.tidy(now_ms);
        assert_eq!(site.node.site().len(), 0, "site {} has no tombstones left", site.id);
    }
    same(&mut world);
    assert_eq!(call(&mut world, 0, "EXISTS s"), "0");
}

/// A site is lost, and comes back from an old copy of its files under another number. What was removed since, and is
/// forgotten by all, stays gone; what the lost site alone had done before the copy was made comes with it.
#[test]
fn what_was_forgotten_is_not_brought_back_by_an_old_copy() {
    let mut world = world(3);
    for line in ["SADD s a b", "SET k x", "INCRBY n 5", "HSET h f 1 g 2", "RPUSH l a b"] {
        call(&mut world, 2, line);
    }
    for line in ["SADD others a", "SET otherk x", "INCRBY othern 5", "RPUSH otherl a"] {
        call(&mut world, 0, line);
    }
    world.heal().expect("they come to rest");
    call(&mut world, 2, "SADD s late");
    world.copy_last();
    world.heal().expect("they come to rest");
    for line in ["SREM s a", "DEL k", "DEL n", "HDEL h f", "LPOP l", "DEL others", "DEL otherk"] {
        call(&mut world, 1, line);
    }
    call(&mut world, 0, "INCRBY n 2");
    call(&mut world, 2, "SADD s since");
    world.forget().expect("they come to rest");
    assert_eq!(world.sites[0].node.site().undone(), 0, "all removals are forgotten");
    world.restore_last();
    // What was known of the site that has left comes back from a snapshot.
    world.restart_all();
    world.repair().expect("they come to rest");
    same(&mut world);
    for (line, wanted) in [
        ("SISMEMBER s a", "0"),
        ("SISMEMBER s b", "1"),
        ("SISMEMBER s late", "1"),
        ("SISMEMBER s since", "1"),
        ("EXISTS k others otherk", "0"),
        ("GET n", "2"),
        ("HEXISTS h f", "0"),
        ("HEXISTS h g", "1"),
        ("LLEN l", "1"),
        ("EXISTS othern otherl", "2"),
    ] {
        for site in 0..3 {
            assert_eq!(call(&mut world, site, line), wanted, "{line} at {site}");
        }
    }
}

/// Two sites' entries of a stream all come, under ids that no other site gives.
#[test]
fn entries_of_streams_have_ids_of_their_site() {
    let mut site = Site::new(3, &[3]);
    for _ in 0..5 {
        let id = text(&site.call(1_000, &[b"XADD", b"x", b"*", b"f", b"v"]));
        let seq: u64 = id.split_once('-').expect("ms-seq").1.parse().expect("a number");
        assert_eq!(seq % 1_024, 3, "{id}");
    }
}
