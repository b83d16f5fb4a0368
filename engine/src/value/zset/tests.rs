//! Both forms against a model: the same operations on a `BTreeMap` and a sorted vector.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Set(Vec<u8>, f64),
    Remove(Vec<u8>),
    RemoveRange(usize, usize, bool),
}

type Model = BTreeMap<Vec<u8>, f64>;

fn sorted(model: &Model) -> Vec<(Vec<u8>, f64)> {
    let mut elements: Vec<_> =
        model.iter().map(|(member, score)| (member.clone(), *score)).collect();
    elements.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    elements
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..400u32).prop_map(|n| format!("member:{n}").into_bytes()),
        (0..50u32).prop_map(|n| n.to_string().into_bytes()),
        (0..20u32).prop_map(|n| format!("a rather longer member, not kept in place {n}").into()),
        proptest::collection::vec(0..3u8, 0..4),
        Just(vec![b'x'; 300]),
    ]
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        (-3..3i32).prop_map(f64::from),
        (-1000..1000i32).prop_map(f64::from),
        (-1e15..1e15f64),
        Just(0.5),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(1.7e12),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (member(), score()).prop_map(|(member, score)| Op::Set(member, score)),
        5 => member().prop_map(Op::Remove),
        1 => (0..40usize, 0..40usize, any::<bool>())
            .prop_map(|(start, len, reverse)| Op::RemoveRange(start, start + len, reverse)),
    ]
}

fn collect(zset: ZsetRef<'_>, ranks: Range<usize>, reverse: bool) -> Vec<(Vec<u8>, f64)> {
    let mut out = Vec::new();
    zset.for_range(ranks, reverse, |member, score| out.push((member.to_vec(), score)));
    out
}

fn apply_to_model(model: &mut Model, op: &Op) {
    match op {
        Op::Set(member, score) => {
            model.insert(member.clone(), *score);
        }
        Op::Remove(member) => {
            model.remove(member);
        }
        Op::RemoveRange(start, end, _) => {
            for (member, _) in sorted(model).drain(..).take(*end).skip(*start) {
                model.remove(&member);
            }
        }
    }
}

fn apply_to_packed(blob: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Set(member, score) => match packed::find(blob, member).map(|(_, item)| item.span()) {
            Some(span) => packed::update(blob, member, span, *score),
            None => packed::insert(blob, member, *score),
        },
        Op::Remove(member) => {
            packed::remove(blob, member);
        }
        Op::RemoveRange(start, end, _) => packed::remove_range(blob, *start..*end),
    }
}

fn apply_to_big(zset: &mut Zset, op: &Op) {
    match op {
        Op::Set(member, score) => {
            zset.upsert(member, |_| Some(*score));
        }
        Op::Remove(member) => {
            zset.remove(member);
        }
        Op::RemoveRange(start, end, reverse) => {
            let expected = collect(ZsetRef::Big(zset), *start..*end, *reverse);
            let mut removed = Vec::new();
            zset.remove_range(*start..*end, *reverse, |member, score| {
                removed.push((member.to_vec(), score));
            });
            assert_eq!(removed, expected);
        }
    }
}

fn check(zset: ZsetRef<'_>, model: &Model, spec: &RangeSpec<'_>) {
    let all = sorted(model);
    assert_eq!(zset.len(), all.len());
    assert_eq!(collect(zset, 0..all.len(), false), all);
    let mut reversed = all.clone();
    reversed.reverse();
    assert_eq!(collect(zset, 0..all.len(), true), reversed);
    for (rank, (member, score)) in all.iter().enumerate() {
        assert_eq!(zset.rank(member), Some((rank, *score)));
        assert_eq!(zset.score(member), Some(*score));
    }
    let selected = zset.resolve(spec);
    if let RangeSpec::Score(min, max) = spec {
        let inside = |score: f64| !min.is_above(score) && !max.is_below(score);
        let expected: Vec<_> = all.iter().filter(|element| inside(element.1)).cloned().collect();
        assert_eq!(collect(zset, selected, false), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 48 }))]

    #[test]
    fn both_forms_follow_the_model(
        ops in proptest::collection::vec(op(), 0..600),
        min in score(),
        max in score(),
        exclusive in any::<bool>(),
    ) {
        let mut model = Model::new();
        let mut blob = packed::EMPTY.to_vec();
        let mut zset = Zset::new();
        let spec = RangeSpec::Score(
            ScoreBound { value: min, exclusive },
            ScoreBound { value: max, exclusive: !exclusive },
        );
        for (count, op) in ops.iter().enumerate() {
            apply_to_model(&mut model, op);
            apply_to_packed(&mut blob, op);
            apply_to_big(&mut zset, op);
            if count % 50 == 0 || count + 1 == ops.len() {
                zset.check();
                check(ZsetRef::Packed(&blob), &model, &spec);
                check(ZsetRef::Big(&zset), &model, &spec);
                assert_eq!(packed::validate(&blob), !model.is_empty());
                let mut bytes = Vec::new();
                zset.encode(&mut bytes);
                let copy = Zset::decode(&bytes).unwrap();
                copy.check();
                let mut again = Vec::new();
                copy.encode(&mut again);
                assert_eq!(bytes, again);
            }
        }
    }

    #[test]
    fn ranges_of_members_are_right(
        members in proptest::collection::btree_set(member(), 0..200),
        min in member(),
        max in member(),
    ) {
        let mut blob = packed::EMPTY.to_vec();
        let mut zset = Zset::new();
        for member in &members {
            packed::insert(&mut blob, member, 0.0);
            zset.upsert(member, |_| Some(0.0));
        }
        for (spec, expected) in [
            (
                RangeSpec::Lex(LexBound::Included(&min), LexBound::Excluded(&max)),
                members.iter().filter(|member| **member >= min && **member < max).collect::<Vec<_>>(),
            ),
            (
                RangeSpec::Lex(LexBound::Excluded(&min), LexBound::Included(&max)),
                members.iter().filter(|member| **member > min && **member <= max).collect(),
            ),
            (
                RangeSpec::Lex(LexBound::Min, LexBound::Included(&max)),
                members.iter().filter(|member| **member <= max).collect(),
            ),
            (RangeSpec::Lex(LexBound::Max, LexBound::Min), vec![]),
        ] {
            for zset in [ZsetRef::Packed(&blob), ZsetRef::Big(&zset)] {
                let found = collect(zset, zset.resolve(&spec), false);
                assert_eq!(found.iter().map(|(member, _)| member).collect::<Vec<_>>(), expected);
            }
        }
    }
}

#[test]
fn a_large_one_grows_and_shrinks() {
    let count = if cfg!(miri) { 1_000 } else { 50_000u64 };
    let mut zset = Zset::new();
    let mut random = 1u64;
    for n in 0..count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
        zset.upsert(format!("m{n}").as_bytes(), |_| Some((random >> 40) as f64));
    }
    zset.check();
    let full = zset.memory();
    for n in (0..count).filter(|n| n % 50 != 0) {
        assert!(zset.remove(format!("m{n}").as_bytes()).is_some());
    }
    zset.check();
    assert_eq!(zset.len() as u64, count.div_ceil(50));
    assert!(zset.memory() < full / 4, "{} of {full}", zset.memory());
    zset.remove_range(0..usize::MAX, true, |_, _| {});
    zset.check();
    assert!(zset.is_empty());
}

#[test]
fn garbage_is_not_decoded() {
    let mut zset = Zset::new();
    for n in 0..5 {
        zset.upsert(format!("m{n}").as_bytes(), |_| Some(f64::from(n)));
    }
    let mut bytes = Vec::new();
    zset.encode(&mut bytes);
    assert!((0..bytes.len()).all(|len| Zset::decode(&bytes[..len]).is_none()));
    let mut twice = bytes.clone();
    twice[0] += 5;
    twice.extend_from_slice(&bytes[4..]);
    assert!(Zset::decode(&twice).is_none());
    let mut nan = bytes;
    nan[4..12].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(Zset::decode(&nan).is_none());
}
