//! The laws of the merge, over random histories: it is commutative, associative and idempotent, sites
//! that know the same show the same, counters are exact.

use super::codec::{self, Batch, Item};
use super::element::{Element, Sum};
use super::key::{Key, Kind};
use super::shown::shown;
use super::site::Site;
use proptest::prelude::*;

/// Histories in CI, over all properties here.
const CASES: u32 = 10_000;

/// What a site does.
#[derive(Clone, Debug)]
enum Act {
    Write(u8, u8),
    Count(u8, i8),
    Remove(u8),
    RemoveAll,
    Expire(u8),
}

/// A site does something, or takes in what another knows of one element, or of all.
#[derive(Clone, Debug)]
enum Step {
    Do(u8, Act),
    Tell { from: u8, to: u8, name: Option<u8> },
    Clock(u8, i8),
}

const SITES: u8 = 3;
const KEY: &[u8] = b"key";

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6u8, any::<u8>()).prop_map(|(name, value)| Act::Write(name, value)),
        4 => (0..6u8, any::<i8>()).prop_map(|(name, by)| Act::Count(name, by)),
        3 => (0..6u8).prop_map(Act::Remove),
        1 => Just(Act::RemoveAll),
        1 => any::<u8>().prop_map(Act::Expire),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..SITES, act()).prop_map(|(site, act)| Step::Do(site, act)),
        4 => (0..SITES, 0..SITES, prop::option::of(0..6u8))
            .prop_map(|(from, to, name)| Step::Tell { from, to, name }),
        1 => (0..SITES, any::<i8>()).prop_map(|(site, by)| Step::Clock(site, by)),
    ]
}

/// Names of several kinds, so that types meet as well.
fn name_of(nth: u8) -> Vec<u8> {
    match nth {
        0 => Kind::String.name(b""),
        1 | 2 => Kind::Hash.name(&[nth]),
        3 => Kind::Set.name(b"m"),
        _ => Kind::Zset.name(&[nth]),
    }
}

fn value_of(name: &[u8], value: u8) -> Vec<u8> {
    match Kind::of(name) {
        Some(Kind::Zset) => f64::from(value).to_le_bytes().to_vec(),
        Some(Kind::Set) => Vec::new(),
        _ => value.to_string().into_bytes(),
    }
}

struct World {
    sites: Vec<Site>,
    /// Up to where each site has told each other everything.
    told: [[u64; SITES as usize]; SITES as usize],
    clocks: Vec<i64>,
}

impl World {
    fn new() -> World {
        let sites = (1..=SITES).map(|id| Site::new(id.into(), 7)).collect();
        World { sites, told: Default::default(), clocks: vec![1_000; SITES.into()] }
    }

    fn run(steps: &[Step]) -> World {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Clock(site, by) => self.clocks[usize::from(*site)] += i64::from(*by),
            Step::Tell { from, to, name } => {
                let all = self.elements(*from);
                let wanted = name.map(name_of);
                let told = self.told[usize::from(*from)][usize::from(*to)];
                for (name, element) in all {
                    if wanted.as_ref().is_none_or(|wanted| *wanted == name) {
                        self.sites[usize::from(*to)].open(KEY).join(&name, &element, told);
                    }
                }
                if name.is_none() {
                    let last = self.sites[usize::from(*from)].clock.last();
                    self.told[usize::from(*from)][usize::from(*to)] = last;
                }
            }
            Step::Do(site, act) => {
                let now_ms = self.clocks[usize::from(*site)];
                self.sites[usize::from(*site)].edit(KEY, now_ms, |edit| match act {
                    Act::Write(name, value) => {
                        let name = name_of(*name);
                        edit.write(&name, Some(&value_of(&name, *value)));
                    }
                    Act::Count(name, by) => {
                        let name = name_of(*name);
                        let sum = match Kind::of(&name) {
                            Some(Kind::Set) => return,
                            Some(Kind::Zset) => Sum { int: 0, float: f64::from(*by) },
                            _ => Sum { int: i64::from(*by), float: 0.0 },
                        };
                        edit.count(&name, None, sum);
                    }
                    Act::Remove(name) => edit.remove(&name_of(*name)),
                    Act::RemoveAll => edit.remove_all(),
                    Act::Expire(at) => {
                        let at_ms = i64::from(*at).to_le_bytes();
                        edit.write(&[Kind::Expiry as u8], Some(&at_ms));
                    }
                });
            }
        }
    }

    fn elements(&self, site: u8) -> Vec<(Vec<u8>, Element)> {
        let state = self.sites[usize::from(site)].key(KEY);
        let Some(state) = state else { return Vec::new() };
        state.iter().map(|(name, element)| (name.to_vec(), element.into_owned())).collect()
    }

    /// Every site hears everything of every other.
    fn meet(&mut self) {
        for _ in 0..2 {
            for from in 0..SITES {
                for to in 0..SITES {
                    self.step(&Step::Tell { from, to, name: None });
                }
            }
        }
    }

    /// What clients see.
    fn shows(&self, site: u8) -> String {
        let state = self.sites[usize::from(site)].key(KEY);
        let state = state.as_deref();
        let kind = state.and_then(Key::kind);
        let elements = self.elements(site);
        let live = elements
            .iter()
            .filter_map(|(name, element)| Some((name.clone(), shown(Kind::of(name)?, element)?)));
        let live: Vec<_> = live.collect();
        format!("{kind:?} {:?} {live:?}", state.and_then(Key::expiry))
    }
}

fn joined(a: &Element, b: &Element) -> Element {
    let mut both = a.clone();
    both.join(b);
    both
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES * 6 / 10, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_commutative_associative_and_idempotent(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let world = World::run(&steps);
        for nth in 0..6 {
            let name = name_of(nth);
            let of = |site: u8| {
                let state = world.sites[usize::from(site)].key(KEY);
                let element = state.as_deref().and_then(|key| key.get(&name));
                element.map(|one| one.into_owned()).unwrap_or_default()
            };
            let (a, b, c) = (of(0), of(1), of(2));
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(joined(&a, &a), a.clone());
            let both = joined(&a, &b);
            prop_assert_eq!(joined(&both, &b), both);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES * 2 / 10, ..ProptestConfig::default() })]

    #[test]
    fn sites_that_know_the_same_show_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::run(&steps);
        world.meet();
        for site in 1..SITES {
            prop_assert_eq!(world.shows(site), world.shows(0));
            prop_assert_eq!(world.sites[usize::from(site)].digest(), world.sites[0].digest());
        }
    }

    #[test]
    fn what_is_forgotten_was_not_needed(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::run(&steps);
        world.meet();
        let before = world.shows(0);
        // All know all: so all may forget, one after the other, and go on.
        for site in 0..SITES {
            let site = &mut world.sites[usize::from(site)];
            let own = site.clock.last();
            drop(site.forget(own, 0, 100));
            let tombstones = site.key(KEY).is_some_and(|key| {
                key.iter().any(|(_, element)| !element.is_live())
            });
            prop_assert!(!tombstones, "site {}", site.id());
        }
        prop_assert_eq!(world.shows(0), before);
        let more = Step::Do(0, Act::Count(1, 7));
        world.step(&more);
        world.meet();
        for site in 1..SITES {
            prop_assert_eq!(world.shows(site), world.shows(0));
        }
    }

    #[test]
    fn elements_survive_their_byte_form(steps in prop::collection::vec(step(), 1..30)) {
        let world = World::run(&steps);
        let items = world.elements(1).into_iter();
        let items = items.map(|(name, element)| Item { key: KEY.to_vec(), name, element });
        let vector = [(1, 5), (3, u64::MAX)].into();
        let batch = Batch { from: 3, to: 1 << 60, vector, slots: None, items: items.collect() };
        let bytes = batch.encode();
        prop_assert_eq!(Batch::decode(&bytes).expect("it was encoded"), batch);
        for len in 0..bytes.len() {
            prop_assert!(Batch::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Batch::decode(&bytes);
        let mut marked = vec![codec::VERSION];
        marked.extend_from_slice(&bytes);
        let _ = Batch::decode(&marked);
    }
}

/// Increments of all sites, with resets that have seen everything: the sum is exact.
#[test]
fn counters_are_exact() {
    let mut world = World::new();
    let counter = name_of(0);
    let show = |world: &World, site: u8| {
        let elements = world.elements(site);
        let element = elements.iter().find(|(name, _)| *name == counter).map(|(_, one)| one);
        element.and_then(|element| shown(Kind::String, element))
    };
    for round in 1..50i64 {
        for site in 0..SITES {
            world.step(&Step::Do(site, Act::Count(0, round as i8)));
        }
    }
    world.meet();
    let sum: i64 = (1..50).sum::<i64>() * i64::from(SITES);
    let text = |number: i64| Some(super::shown::Shown::Bytes(number.to_string().into_bytes()));
    assert_eq!(show(&world, 0), text(sum));
    // A SET resets what it has seen; what another site counts meanwhile stays.
    world.step(&Step::Do(1, Act::Count(0, 5)));
    world.step(&Step::Do(0, Act::Write(0, 100)));
    world.step(&Step::Do(2, Act::Count(0, -2)));
    world.meet();
    assert_eq!(show(&world, 2), text(103));
    assert_eq!(show(&world, 0), text(103));
}

/// A removal that has not seen an add does not undo it; the removal is counted as dropped.
#[test]
fn an_add_wins_and_the_removal_is_listed() {
    let mut world = World::new();
    world.step(&Step::Do(0, Act::Write(3, 0)));
    world.meet();
    world.step(&Step::Do(0, Act::Remove(3)));
    world.step(&Step::Do(1, Act::Write(3, 0)));
    world.meet();
    assert_eq!(world.shows(0), world.shows(1));
    assert!(world.shows(0).contains("Some(Set)"), "{}", world.shows(0));
    let counted =
        |world: &World| world.sites.iter().map(|site| site.conflicts.count()).collect::<Vec<u64>>();
    assert_eq!(counted(&world)[1], 1, "the site that added knows for sure");
    // Without a conflict nothing is counted.
    let count = counted(&world);
    world.step(&Step::Do(0, Act::Remove(3)));
    world.meet();
    world.step(&Step::Do(1, Act::Write(3, 0)));
    world.meet();
    assert_eq!(counted(&world), count);
}

/// Of two writes that do not know each other one is dropped, and listed with its value.
#[test]
fn a_dropped_write_is_listed_with_its_value() {
    let mut world = World::new();
    world.clocks = vec![1_000, 2_000, 1_000];
    world.step(&Step::Do(0, Act::Write(0, 1)));
    world.step(&Step::Do(1, Act::Write(0, 2)));
    world.meet();
    assert!(world.shows(0).contains("[50]"), "the later one holds: {}", world.shows(0));
    for site in 0..SITES {
        let conflicts = &world.sites[usize::from(site)].conflicts;
        assert_eq!(conflicts.count(), 1, "site {site}");
        let listed = conflicts.list().next().expect("it was counted");
        assert_eq!((listed.winner.0, listed.loser.0), (2, 1));
        assert_eq!(listed.dropped.as_deref(), Some(&b"1"[..]));
    }
}
