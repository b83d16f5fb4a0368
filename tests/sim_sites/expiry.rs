//! Keys that expire at one site, and not at another.

use crate::failures::{call, same, world};
use crate::world::World;

/// What a link has to send arrives.
fn arrives(world: &mut World, from: usize, to: usize) {
    world.advance_link(from, to);
    world.advance_link(from, to);
}

/// An expiry comes late, takes along what was written meanwhile, and turns out to be undone.
#[test]
fn a_value_that_an_undone_expiry_took_comes_back() {
    let mut world = world(3);
    world.heal().expect("they come to rest");
    call(&mut world, 1, "HSET h a 1");
    call(&mut world, 1, "PEXPIRE h 50");
    arrives(&mut world, 1, 2);
    call(&mut world, 0, "HSET h b 2");
    world.advance_link(0, 1);
    world.advance_link(0, 2);
    world.now_ms += 100;
    call(&mut world, 2, "HSET h c 3");
    world.advance_link(0, 1);
    world.advance_link(0, 2);
    arrives(&mut world, 1, 0);
    assert_eq!(call(&mut world, 0, "EXISTS h"), "0", "it has expired here");
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 0, "HGET h b"), "2");
    assert_eq!(call(&mut world, 0, "HGET h c"), "3");
}

/// A key expires at a site in its time, with a field that was written at once with the expiry, which is undone: the
/// value is gone there, so it goes everywhere.
#[test]
fn a_value_that_has_expired_at_one_site_goes_everywhere() {
    let mut world = world(3);
    world.heal().expect("they come to rest");
    call(&mut world, 2, "HSET h a 1");
    call(&mut world, 2, "PEXPIRE h 50");
    arrives(&mut world, 2, 0);
    call(&mut world, 0, "HSET h b 2");
    world.advance_link(0, 2);
    arrives(&mut world, 0, 1);
    world.now_ms += 100;
    call(&mut world, 2, "HSET h c 3");
    world.advance_link(0, 2);
    assert_eq!(call(&mut world, 2, "HGET h b"), "2");
    world.heal().expect("they come to rest");
    same(&mut world);
    assert_eq!(call(&mut world, 1, "HEXISTS h b"), "0");
    assert_eq!(call(&mut world, 1, "HGET h c"), "3");
}
