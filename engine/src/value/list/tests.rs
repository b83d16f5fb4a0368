use super::*;
use crate::value::packed::IntBuf;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Push(Side, Vec<u8>),
    Trim(Side, usize),
    Insert(usize, Vec<u8>),
    Set(usize, Vec<u8>),
    Remove(Vec<u8>, usize, bool),
    Get(usize),
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..20i64).prop_map(|n| n.to_string().into_bytes()),
        2 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        2 => proptest::collection::vec(any::<u8>(), 0..12),
        1 => (0..700usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (0..6000usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let side = prop_oneof![Just(Side::Left), Just(Side::Right)];
    prop_oneof![
        8 => (side.clone(), value()).prop_map(|(side, value)| Op::Push(side, value)),
        1 => (side, 0..20usize).prop_map(|(side, n)| Op::Trim(side, n)),
        3 => (any::<usize>(), value()).prop_map(|(at, value)| Op::Insert(at, value)),
        3 => (any::<usize>(), value()).prop_map(|(at, value)| Op::Set(at, value)),
        1 => (value(), 0..4usize, any::<bool>()).prop_map(|(v, n, tail)| Op::Remove(v, n, tail)),
        2 => any::<usize>().prop_map(Op::Get),
    ]
}

fn remove(model: &mut Vec<Vec<u8>>, value: &[u8], limit: usize, from_tail: bool) -> usize {
    let mut hits: Vec<usize> = (0..model.len()).filter(|&i| model[i] == value).collect();
    if from_tail {
        hits.reverse();
    }
    hits.truncate(limit);
    hits.sort_unstable();
    for &hit in hits.iter().rev() {
        model.remove(hit);
    }
    hits.len()
}

fn apply(model: &mut Vec<Vec<u8>>, op: &Op) {
    match op {
        Op::Push(Side::Left, value) => model.insert(0, value.clone()),
        Op::Push(Side::Right, value) => model.push(value.clone()),
        Op::Trim(Side::Left, n) => drop(model.drain(..(*n).min(model.len()))),
        Op::Trim(Side::Right, n) => model.truncate(model.len() - (*n).min(model.len())),
        Op::Insert(at, value) => {
            let at = at % (model.len() + 1);
            model.insert(at, value.clone());
        }
        Op::Set(at, value) if !model.is_empty() => {
            let at = at % model.len();
            model[at] = value.clone();
        }
        Op::Remove(value, limit, from_tail) => {
            remove(model, value, *limit, *from_tail);
        }
        _ => {}
    }
}

fn check(list: ListRef<'_>, model: &[Vec<u8>]) {
    let mut buf = IntBuf::new();
    assert_eq!(list.len(), model.len());
    let all: Vec<Vec<u8>> = list.iter().map(|elem| elem.to_vec()).collect();
    assert_eq!(all, model);
    if let Some(last) = model.len().checked_sub(1) {
        let mut all: Vec<Vec<u8>> = list.iter_at(last, true).map(|elem| elem.to_vec()).collect();
        all.reverse();
        assert_eq!(all, model);
        let middle = model.len() / 2;
        for (reverse, want) in [(false, &model[middle..]), (true, &model[..=middle])] {
            let mut got: Vec<_> = list.iter_at(middle, reverse).map(|e| e.to_vec()).collect();
            if reverse {
                got.reverse();
            }
            assert_eq!(got, want);
        }
        assert_eq!(list.get(last).unwrap().as_bytes(&mut buf), &model[last][..]);
    }
    assert!(list.get(model.len()).is_none());
}

proptest! {
    #[test]
    fn a_large_list_behaves_like_a_vec(ops in proptest::collection::vec(op(), 0..200)) {
        let mut list = List::new();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for op in &ops {
            let len = model.len();
            apply(&mut model, op);
            match op {
                Op::Push(Side::Left, value) => list.push_front(value),
                Op::Push(Side::Right, value) => list.push_back(value),
                Op::Trim(Side::Left, n) => list.trim_front(*n),
                Op::Trim(Side::Right, n) => list.trim_back(*n),
                Op::Insert(at, value) => list.insert(at % (len + 1), value),
                Op::Set(at, value) => {
                    prop_assert_eq!(list.set(at.checked_rem(len).unwrap_or(0), value), len > 0);
                }
                Op::Remove(value, limit, from_tail) => {
                    prop_assert_eq!(list.remove(value, *limit, *from_tail), len - model.len());
                }
                Op::Get(at) if len > 0 => {
                    prop_assert_eq!(list.get(at % len).unwrap().to_vec(), &model[at % len][..]);
                }
                Op::Get(_) => {}
            }
        }
        check(ListRef::Big(&list), &model);
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        let again = List::decode(&bytes).unwrap();
        check(ListRef::Big(&again), &model);
        check(ListRef::Big(&list.clone()), &model);
        if let Some(packed) = list.to_packed(packed::Limit::new(-2)) {
            prop_assert!(packed::validate(&packed));
            check(ListRef::Packed(&packed), &model);
            check(ListRef::Big(&List::from_packed(&packed)), &model);
        }
    }

    #[test]
    fn a_small_list_behaves_like_a_vec(ops in proptest::collection::vec(op(), 0..60)) {
        let mut bytes = packed::EMPTY.to_vec();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for op in &ops {
            let len = model.len();
            if let Op::Push(_, value) | Op::Insert(_, value) | Op::Set(_, value) = op
                && bytes.len() + value.len() > 50_000
            {
                continue;
            }
            apply(&mut model, op);
            match op {
                Op::Push(Side::Left, value) => packed::push_front(&mut bytes, &Framed::new(value)),
                Op::Push(Side::Right, value) => packed::push_back(&mut bytes, &Framed::new(value)),
                Op::Trim(Side::Left, n) => packed::trim_front(&mut bytes, *n),
                Op::Trim(Side::Right, n) => packed::trim_back(&mut bytes, *n),
                Op::Insert(at, value) => {
                    packed::insert(&mut bytes, at % (len + 1), &Framed::new(value));
                }
                Op::Set(at, value) if len > 0 => {
                    packed::set(&mut bytes, at % len, &Framed::new(value));
                }
                Op::Remove(value, limit, from_tail) => {
                    let removed = packed::remove(&mut bytes, value, *limit, *from_tail);
                    prop_assert_eq!(removed, len - model.len());
                }
                _ => {}
            }
            prop_assert!(packed::validate(&bytes));
        }
        check(ListRef::Packed(&bytes), &model);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = List::decode(&bytes);
        if packed::validate(&bytes) {
            prop_assert_eq!(packed::iter(&bytes).count(), packed::len(&bytes));
        }
        let _ = packed::iter(&bytes).count();
        let _ = packed::iter(&bytes).rev().count();
    }
}

#[test]
fn head_pushes_do_not_move_the_chunk() {
    let mut list = List::new();
    for n in 0..100_000 {
        list.push_front(n.to_string().as_bytes());
    }
    assert_eq!(list.len(), 100_000);
    assert_eq!(list.get(0), Some(Elem::Int(99_999)));
    assert_eq!(list.get(50_000), Some(Elem::Int(49_999)));
    assert!(list.memory() < 100_000 * 6 + 20_000, "{}", list.memory());
}

#[test]
fn a_queue_keeps_to_its_chunk() {
    let mut list = List::new();
    for n in 0..100_000 {
        list.push_back(b"some work to be done");
        if n >= 10 {
            list.trim_front(1);
        }
    }
    assert_eq!(list.len(), 10);
    assert!(list.memory() < 20_000, "{}", list.memory());
}

#[test]
fn limits_follow_the_setting() {
    assert!(packed::Limit::new(-2).allows(8192, 5000));
    assert!(!packed::Limit::new(-2).allows(8193, 1));
    assert!(packed::Limit::new(3).allows(100, 3));
    assert!(!packed::Limit::new(3).allows(100, 4));
    assert!(!packed::Limit::new(-5).allows(60_001, 1));
    assert!(packed::Limit::new(i64::MIN).allows(60_000, 1));
    assert!(!packed::Limit::new(4).allows_again(10, 3));
}
