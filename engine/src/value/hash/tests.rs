//! Tests of large hashes.

use super::*;

fn numbered(count: usize) -> Hash {
    let mut hash = Hash::new();
    for n in 0..count {
        assert!(hash.set(format!("field:{n}").as_bytes(), n.to_string().as_bytes()));
    }
    hash
}

fn roundtrip(hash: &Hash) -> Hash {
    let mut bytes = Vec::new();
    hash.encode(&mut bytes);
    let decoded = Hash::decode(&bytes).unwrap();
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(bytes, again);
    for end in 0..bytes.len() {
        assert!(Hash::decode(&bytes[..end]).is_none());
    }
    decoded
}

#[test]
fn fields_are_set_read_and_removed() {
    let mut hash = numbered(1000);
    assert!(!hash.set(b"field:7", b"seven, a value that does not fit in place"));
    assert_eq!(hash.get(b"field:7", 0).unwrap(), b"seven, a value that does not fit in place");
    assert!(hash.remove(b"field:0"));
    assert!(!hash.remove(b"field:0"));
    assert_eq!(hash.len(), 999);
    assert_eq!(hash.at(0, 0).unwrap(), (&b"field:999"[..], &b"999"[..]));
    assert_eq!(roundtrip(&hash).len(), 999);
}

#[test]
fn a_small_hash_becomes_a_large_one_in_the_same_order() {
    let mut blob = Vec::new();
    for n in 0..100 {
        let field = n.to_string();
        packed::push(&mut blob, &Encoded::new(field.as_bytes()), &Encoded::new(b"v"));
    }
    let hash = Hash::from_packed(&blob);
    let small: Vec<_> = HashRef::Packed(&blob).iter().map(|(field, _)| field.to_vec()).collect();
    let large: Vec<_> = HashRef::Big(&hash, 0).iter().map(|(field, _)| field.to_vec()).collect();
    assert_eq!(small, large);
}

#[test]
fn expired_fields_are_absent_and_go_in_order_of_time() {
    let mut hash = numbered(10);
    hash.set_deadline(b"field:3", 100);
    hash.set_deadline(b"field:5", 50);
    hash.set_deadline(b"field:6", 200);
    hash.set_deadline(b"field:6", 60);
    assert_eq!((hash.next_deadline(), hash.deadline(b"field:6")), (Some(50), Some(60)));
    assert_eq!(hash.live_len(50), 10);
    assert_eq!(hash.live_len(61), 8);
    assert_eq!((hash.get(b"field:5", 51), hash.get(b"field:6", 60)), (None, Some(&b"6"[..])));
    assert_eq!(HashRef::Big(&hash, 101).iter().count(), 7);
    assert_eq!(hash.scan(0, 100, 101, |field, _| assert!(field != b"field:3")), 0);

    let mut copy = roundtrip(&hash);
    assert_eq!(copy.purge(1000, 1), 1);
    assert_eq!(copy.next_deadline(), Some(60));
    assert_eq!(copy.purge(60, 10), 0);
    assert_eq!(copy.purge(1000, 10), 2);
    assert_eq!((copy.len(), copy.next_deadline()), (7, None));

    assert_eq!(hash.persist(b"field:5"), Some(50));
    assert_eq!(hash.persist(b"field:5"), None);
    // A value that is set anew stays, one that is changed keeps its time.
    assert!(!hash.set_keeping_deadline(b"field:3", b"x"));
    assert_eq!(hash.deadline(b"field:3"), Some(100));
    assert!(!hash.set(b"field:3", b"x"));
    assert_eq!(hash.deadline(b"field:3"), None);
    assert!(hash.remove(b"field:6"));
    assert_eq!(hash.next_deadline(), None);
}

#[test]
fn what_is_no_hash_is_refused() {
    let mut with_deadlines = Vec::new();
    let mut hash = numbered(1);
    hash.set_deadline(b"field:0", 1);
    hash.encode(&mut with_deadlines);
    let mut negative = with_deadlines.clone();
    *negative.last_mut().unwrap() = 0x80;
    let twice = [0, 2, 1, b'a', 1, b'b', 1, b'a', 1, b'b'];
    assert!(Hash::decode(&[0, 1, 1, b'a', 1, b'b']).is_some());
    for bad in [&[][..], &[0, 0], &[4, 1, 1, b'a', 1, b'b'], &twice, &negative] {
        assert!(Hash::decode(bad).is_none(), "{bad:?}");
    }
}
