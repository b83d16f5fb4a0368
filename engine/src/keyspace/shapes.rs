//! The shapes of a database's small hashes ([`Shape`]): found by their names, made once they pay.
//!
//! A list of names gets a shape when it was seen [`SIGHTINGS`] times; until then only a counter in a
//! small table stands for it, so hashes that each have names of their own cost nothing here. A
//! shape goes when no entry has it any more and there is need for its place.

use super::db::KeyHasher;
use crate::value::hash::shape::Shape;
use crate::value::packed::{Encoded, skip};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Shapes that a database has in each shard.
pub const SHAPES_MAX: usize = 256;
/// Fields of a hash with a shape.
pub const FIELDS_MAX: usize = 32;
/// Bytes of the names of a shape.
pub const NAMES_BYTES_MAX: usize = 1024;
/// Bytes of names below which a hash keeps them: the pointer to the shape takes eight.
const NAMES_BYTES_MIN: usize = 16;
/// How often a list of names is seen before it gets a shape.
const SIGHTINGS: u8 = 8;
/// Places of lists that have no shape yet.
const SEEN: usize = 256;
/// The hash of no names.
const NO_NAMES: u64 = 0x9E37_79B9_7F4A_7C15;

/// The shapes of one database in one shard.
#[derive(Default)]
pub(crate) struct Shapes {
    known: HashMap<u64, Arc<Shape>, foldhash::fast::FixedState>,
    /// Where a hash leads to: its upper half, and how often it was seen.
    seen: Option<Box<[(u32, u8); SEEN]>>,
    /// Shapes at which those that nobody has are looked for.
    sweep_at: usize,
}

impl Shapes {
    /// The shape of a small hash in pairs, and the bytes of its values; `None` if it has none.
    pub fn of_pairs(&mut self, hasher: &KeyHasher, pairs: &[u8]) -> Option<(Arc<Shape>, usize)> {
        let (mut at, mut len, mut names_bytes, mut hash) = (0, 0, 0, NO_NAMES);
        while let Some(value) = skip(pairs, at) {
            hash = grown(hash, hasher.hash(&pairs[at..value]));
            names_bytes += value - at;
            len += 1;
            if len > FIELDS_MAX || names_bytes > NAMES_BYTES_MAX {
                return None;
            }
            at = skip(pairs, value)?;
        }
        let shape =
            self.get(hash, len, names_bytes, || names(pairs), |shape| has_names(shape, pairs))?;
        Some((shape, pairs.len() - names_bytes))
    }

    /// The shape of a hash that gets one more field.
    pub fn with(
        &mut self,
        hasher: &KeyHasher,
        shape: &Shape,
        field: &Encoded<'_>,
    ) -> Option<Arc<Shape>> {
        let (old, len) = (shape.names(), shape.len() + 1);
        let names_bytes = old.len() + field.size();
        if len > FIELDS_MAX || names_bytes > NAMES_BYTES_MAX {
            return None;
        }
        let mut room = [0; NAMES_BYTES_MAX];
        let name = &mut room[..field.size()];
        name[..field.head().len()].copy_from_slice(field.head());
        name[field.head().len()..].copy_from_slice(field.body());
        let hash = grown(shape.hash(), hasher.hash(name));
        let names = || [old, &*name].concat();
        self.get(hash, len, names_bytes, names, |shape| {
            shape.names().strip_prefix(old).is_some_and(|last| last == &*name)
        })
    }

    /// The shape with this hash, if `is` it; or a new one, if it is time for it.
    fn get(
        &mut self,
        hash: u64,
        len: usize,
        names_bytes: usize,
        names: impl FnOnce() -> Vec<u8>,
        is: impl FnOnce(&Shape) -> bool,
    ) -> Option<Arc<Shape>> {
        if names_bytes < NAMES_BYTES_MIN {
            return None;
        }
        if let Some(shape) = self.known.get(&hash) {
            return is(shape).then(|| Arc::clone(shape));
        }
        if !self.is_time(hash) || !self.has_room() {
            return None;
        }
        match self.known.entry(hash) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                Some(Arc::clone(vacant.insert(Arc::new(Shape::new(hash, len, names())))))
            }
        }
    }

    /// Counts a list of names that has no shape, and says whether it is to get one.
    fn is_time(&mut self, hash: u64) -> bool {
        let seen = self.seen.get_or_insert_with(|| Box::new([(0, 0); SEEN]));
        let (tag, times) = &mut seen[hash as usize % SEEN];
        let print = (hash >> 32) as u32;
        if *tag != print {
            (*tag, *times) = (print, 0);
        }
        *times = times.saturating_add(1);
        *times >= SIGHTINGS
    }

    /// Whether there is room for one more, after those went that no entry has.
    fn has_room(&mut self) -> bool {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, shape| Arc::strong_count(shape) > 1);
            self.sweep_at = (2 * self.known.len()).clamp(16, SHAPES_MAX);
        }
        self.known.len() < SHAPES_MAX
    }

    /// Takes over what another part of the database knows, as far as there is room.
    pub fn learn(&mut self, other: &Shapes) {
        for (hash, shape) in &other.known {
            if self.known.len() >= SHAPES_MAX {
                return;
            }
            self.known.entry(*hash).or_insert_with(|| Arc::clone(shape));
        }
    }

    /// Number of shapes.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

fn grown(hash: u64, name: u64) -> u64 {
    (hash.rotate_left(23) ^ name).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// The names in pairs.
fn names(pairs: &[u8]) -> Vec<u8> {
    let (mut names, mut at) = (Vec::new(), 0);
    while let Some(value) = skip(pairs, at) {
        names.extend_from_slice(&pairs[at..value]);
        at = skip(pairs, value).unwrap_or(pairs.len());
    }
    names
}

/// Whether the names in `pairs` are those of `shape`.
fn has_names(shape: &Shape, pairs: &[u8]) -> bool {
    let (mut left, mut at) = (shape.names(), 0);
    while let Some(value) = skip(pairs, at) {
        match left.strip_prefix(&pairs[at..value]) {
            Some(rest) => left = rest,
            None => return false,
        }
        at = skip(pairs, value).unwrap_or(pairs.len());
    }
    left.is_empty()
}

/// Copies the values of `pairs` to `out`, which has room for just these.
pub(super) fn copy_values(pairs: &[u8], out: &mut [u8]) {
    let (mut at, mut to) = (0, 0);
    while let Some(value) = skip(pairs, at) {
        let end = skip(pairs, value).unwrap_or(pairs.len());
        out[to..to + end - value].copy_from_slice(&pairs[value..end]);
        to += end - value;
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::super::db::{Db, EntryRef};
    use super::super::{Detached, Kind, Place};
    use super::*;
    use crate::stamp::Rng;
    use crate::value::hash::{HashMut, HashRef, Limits};
    use crate::value::holder::Draft;
    use crate::value::{form, view};

    /// Some names are integers, one is empty, and one is too short for a shape by itself.
    const NAMES: [&str; 9] =
        ["", "1000000", "a", "country", "email", "last-visit", "name", "the longest of all", "x1"];
    const LIMITS: Limits = Limits { entries: 8, value: 64 };

    type Model = Vec<(String, String)>;

    fn db() -> Db {
        Db::new(KeyHasher::new(7), 0, 1)
    }

    fn draft(pairs: &Model) -> Draft {
        let mut draft = Draft::packed(Kind::PackedHash);
        let mut hash = HashMut::of(&mut draft, LIMITS).unwrap();
        pairs.iter().for_each(|(field, value)| {
            hash.set(field.as_bytes(), value.as_bytes());
        });
        draft
    }

    fn put(db: &mut Db, key: &str, pairs: &Model) {
        let hash = db.hasher().hash(key.as_bytes());
        let mut draft = draft(pairs);
        let at = (hash, Place::NONE);
        db.put(at, key.as_bytes(), draft.value(), true, &mut Vec::new());
    }

    fn read<'a>(db: &'a Db, key: &str) -> Option<EntryRef<'a>> {
        let hash = db.hasher().hash(key.as_bytes());
        db.find(hash, key.as_bytes()).map(|entry| EntryRef::new(entry, db))
    }

    fn record(n: usize) -> Model {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("name", format!("Ada {n}")),
            pair("visits", n.to_string()),
            pair("email", "".into()),
        ]
    }

    /// What is in the database is what the model says, in its order and in its byte form.
    fn check(db: &Db, key: &str, model: Option<&Model>) {
        let entry = read(db, key);
        assert_eq!(entry.is_some(), model.is_some());
        let (Some(entry), Some(model)) = (entry, model) else { return };
        let hash = HashRef::of(entry, 0).unwrap();
        let found: Model = hash
            .iter()
            .map(|(field, value)| (field.to_vec(), value.to_vec()))
            .map(|(field, value)| {
                (String::from_utf8(field).unwrap(), String::from_utf8(value).unwrap())
            })
            .collect();
        if entry.kind() != Kind::Big {
            assert_eq!(&found, model);
        }
        for (field, value) in model {
            assert_eq!(hash.get(field.as_bytes()).unwrap().to_vec(), value.as_bytes());
        }
        assert_eq!(hash.len(), model.len());
        assert!(hash.get(b"none of these").is_none());
        let mut bytes = Vec::new();
        form::encode(&entry, &mut bytes);
        assert!(form::decode(&bytes).is_some());
        if entry.kind() != Kind::Big {
            let mut plain = vec![Kind::PackedHash as u8];
            plain.extend_from_slice(crate::value::blob::Blob::bytes(&draft(model)));
            assert_eq!(bytes, plain);
        }
    }

    fn step(rng: &mut Rng, db: &mut Db, key: &str, model: &mut Option<Model>) {
        let hash = db.hasher().hash(key.as_bytes());
        let (field, value) = (NAMES[rng.below(NAMES.len())], "v".repeat(rng.below(20)));
        match (rng.below(10), &mut *model) {
            (0, _) => {
                db.remove(hash, key.as_bytes(), &mut Vec::new());
                *model = None;
            }
            (1, _) | (_, None) => {
                let pairs = record(rng.below(300));
                put(db, key, &pairs);
                *model = Some(pairs);
            }
            (2, Some(_)) => {
                let mut entry = db.entry(hash, Place::NONE, key.as_bytes()).unwrap();
                entry.set_expiry((rng.below(2) == 0).then_some(5));
            }
            (3 | 4, Some(pairs)) => {
                let mut entry = db.entry(hash, Place::NONE, key.as_bytes()).unwrap();
                let mut edited = HashMut::of(&mut entry, LIMITS).unwrap();
                let removed = edited.remove(field.as_bytes());
                let is_empty = edited.is_empty();
                let at = pairs.iter().position(|(name, _)| name == field);
                assert_eq!(removed, at.is_some());
                at.map(|at| pairs.remove(at));
                assert_eq!(is_empty, pairs.is_empty());
                if is_empty {
                    db.remove(hash, key.as_bytes(), &mut Vec::new());
                    *model = None;
                }
            }
            (_, Some(pairs)) => {
                let mut entry = db.entry(hash, Place::NONE, key.as_bytes()).unwrap();
                let mut edited = HashMut::of(&mut entry, LIMITS).unwrap();
                edited.set(field.as_bytes(), value.as_bytes());
                match pairs.iter_mut().find(|(name, _)| name == field) {
                    Some((_, old)) => *old = value,
                    None => pairs.push((field.to_owned(), value)),
                }
            }
        }
    }

    #[test]
    fn hashes_with_shapes_behave_as_a_model() {
        let (seeds, steps) = if cfg!(miri) { (2, 300) } else { (20, 5_000) };
        let mut shaped = 0;
        for seed in 0..seeds {
            println!("seed {seed}");
            let (mut rng, mut db) = (Rng::new(seed), db());
            let keys: Vec<String> = (0..30).map(|key| format!("key:{key}")).collect();
            let mut models: Vec<Option<Model>> = vec![None; keys.len()];
            for _ in 0..steps {
                let key = rng.below(keys.len());
                step(&mut rng, &mut db, &keys[key], &mut models[key]);
                check(&db, &keys[key], models[key].as_ref());
            }
            for (key, model) in keys.iter().zip(&models) {
                check(&db, key, model.as_ref());
                let kind = read(&db, key).map(|entry| entry.kind());
                shaped += usize::from(kind == Some(Kind::ShapedHash));
            }
        }
        assert!(shaped > seeds as usize, "the test meets hashes with shapes: {shaped}");
    }

    #[test]
    fn names_are_kept_once_and_go_with_their_last_hash() {
        let mut db = db();
        for n in 0..100 {
            put(&mut db, &format!("key:{n}"), &record(n));
        }
        let (first, last) = (read(&db, "key:0").unwrap(), read(&db, "key:99").unwrap());
        assert_eq!((first.kind(), last.kind()), (Kind::PackedHash, Kind::ShapedHash));
        assert_eq!(view::encoding(&last), "listpack");
        assert!(view::memory(&last) < view::memory(&first));
        // A copy is whole by itself.
        let copy = Detached::copy(&last);
        assert!(matches!(copy, Detached::Inline(Kind::PackedHash, _)));
        assert_eq!(db.shapes().len(), 1);
        for n in 0..100 {
            let key = format!("key:{n}");
            let hash = db.hasher().hash(key.as_bytes());
            db.remove(hash, key.as_bytes(), &mut Vec::new());
        }
        // More lists of names, each used and given up, never make more shapes than the bound.
        for list in 0..3 * SHAPES_MAX {
            for n in 0..=SIGHTINGS {
                let mut pairs = record(list);
                pairs.push((format!("field {list}"), n.to_string()));
                put(&mut db, "one key", &pairs);
            }
        }
        assert!(db.shapes().len() <= 32, "{}", db.shapes().len());
    }

    #[test]
    fn used_shapes_are_bounded_and_further_hashes_keep_their_names() {
        let lists = if cfg!(miri) { 3 } else { SHAPES_MAX + 50 };
        let mut db = db();
        for list in 0..lists {
            for n in 0..=SIGHTINGS {
                let mut pairs = record(list);
                pairs.push((format!("field {list}"), n.to_string()));
                put(&mut db, &format!("key:{list}:{n}"), &pairs);
            }
        }
        assert_eq!(db.shapes().len(), lists.min(SHAPES_MAX));
        let last = read(&db, &format!("key:{}:{SIGHTINGS}", lists - 1)).unwrap();
        assert_eq!(HashRef::of(last, 0).unwrap().len(), 4);
    }

    #[test]
    fn many_fields_and_long_names_stay_with_their_hash() {
        let (mut shapes, hasher) = (Shapes::default(), KeyHasher::new(1));
        let wide: Model = (0..=FIELDS_MAX).map(|n| (format!("field {n}"), "1".into())).collect();
        let long = vec![("n".repeat(NAMES_BYTES_MAX), "1".into())];
        let short = vec![("a".into(), "a long value that is none of the names".into())];
        for pairs in [wide, long, short] {
            let mut packed = Vec::new();
            for (field, value) in &pairs {
                Encoded::new(field.as_bytes()).push_to(&mut packed);
                Encoded::new(value.as_bytes()).push_to(&mut packed);
            }
            for _ in 0..20 {
                assert!(shapes.of_pairs(&hasher, &packed).is_none());
            }
        }
        assert_eq!(shapes.len(), 0);
    }
}
