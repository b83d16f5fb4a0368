//! An engine's whole state as bytes, and a digest of it.
//!
//! Both follow from the history of calls alone: not from the number of shards, the seed of the hash
//! tables or the order of their buckets. So two engines that ran the same calls with the same
//! stamps can be compared, and one can go on from the image of the other.
//!
//! ```text
//! image: entries, sorted by database and key; if there are any, a mark and the policies with their
//!        length; if there are any, a mark and the libraries
//! entry: database, flags, [expiry i64], access u32, key length, key, value length, value
//! ```
//! Numbers without a size are varints; the value is in its byte form, see `value::form`. The image
//! lives in memory; a format for disks has checksums and a version of its own.

use crate::cut::Row;
use crate::engine::{Engine, EngineOptions};
use crate::keyspace::{EntryRef, Place};
use crate::value::{form, varint};
use std::hash::{BuildHasher, Hasher};

const HAS_EXPIRY: u64 = 1;
/// In the place of a database: the rest is the libraries of functions.
const LIBRARIES: u64 = u64::MAX;
/// The same: the classes of keys come next.
const POLICIES: u64 = u64::MAX - 1;
/// Seed of the digest: fixed, so that digests of two engines can be compared.
const DIGEST_SEED: u64 = 0x5EED_0FA5_41A2;

impl Engine {
    /// A digest of the keys with their values and expiries, in memory and on disk. Access data is no part of it: reads
    /// change it, and they are not replicated. Digests compare within one version of ashlar.
    pub fn digest(&self) -> u64 {
        let mut buf = Vec::new();
        let (mut sum, mut cold) = (0u64, 0u64);
        // A sum, since entries come in no particular order.
        self.for_each_entry(
            |db, entry| sum = sum.wrapping_add(entry_digest(db, &entry, &mut buf)),
            |row| cold = cold.wrapping_add(row_digest(&row)),
        );
        let mut sum = sum.wrapping_add(cold);
        let mut policies = Vec::new();
        self.policies().encode(&mut policies);
        if !policies.is_empty() {
            sum = sum.wrapping_add(hash(&policies));
        }
        let mut libraries = Vec::new();
        self.libraries().encode(&mut libraries);
        if libraries.is_empty() { sum } else { sum.wrapping_add(hash(&libraries)) }
    }

    /// The whole state as bytes, values on disk included; [`Engine::from_image`] reads them.
    pub fn image(&self) -> Vec<u8> {
        let (mut entries, mut cold) = (Vec::new(), Vec::new());
        self.for_each_entry(
            |db, entry| {
                let mut bytes = Vec::new();
                push_entry(db, &entry, &mut bytes);
                entries.push((db, entry.key().to_vec(), bytes));
            },
            |row| {
                let mut bytes = Vec::new();
                push_row(&row, &mut bytes);
                cold.push((row.db, row.key.to_vec(), bytes));
            },
        );
        entries.append(&mut cold);
        entries.sort_unstable();
        let mut image: Vec<u8> = entries.into_iter().flat_map(|(_, _, bytes)| bytes).collect();
        let mut policies = Vec::new();
        self.policies().encode(&mut policies);
        if !policies.is_empty() {
            varint::push(&mut image, POLICIES);
            varint::push(&mut image, policies.len() as u64);
            image.extend_from_slice(&policies);
        }
        let mut libraries = Vec::new();
        self.libraries().encode(&mut libraries);
        if !libraries.is_empty() {
            varint::push(&mut image, LIBRARIES);
            image.extend_from_slice(&libraries);
        }
        image
    }

    /// An engine with the state of an image; `None` if the bytes are none.
    ///
    /// # Panics
    /// As [`Engine::with_options`].
    pub fn from_image(options: EngineOptions, image: &[u8]) -> Option<Engine> {
        let engine = Engine::with_options(options);
        let mut at = 0;
        while at < image.len() {
            at = engine.read_entry(image, at)?;
        }
        Some(engine)
    }

    fn read_entry(&self, image: &[u8], at: usize) -> Option<usize> {
        let (db, at) = varint::read(image, at)?;
        if db == LIBRARIES {
            self.libraries().decode(&image[at..])?;
            return Some(image.len());
        }
        if db == POLICIES {
            let (policies, at) = string(image, at)?;
            self.policies().decode(policies)?;
            return Some(at);
        }
        let db = u32::try_from(db).ok().filter(|db| *db < self.config().databases)?;
        let (flags, at) = varint::read(image, at)?;
        let (expiry, at) = match flags {
            0 => (None, at),
            HAS_EXPIRY => {
                let bytes = image.get(at..at.checked_add(8)?)?;
                (Some(i64::from_le_bytes(bytes.try_into().ok()?)), at + 8)
            }
            _ => return None,
        };
        let (access, at) = varint::read(image, at)?;
        let (key, at) = string(image, at)?;
        let (value, at) = string(image, at)?;
        let value = form::decode(value)?;
        let mut shard = self.lock_shard(self.shard_of(key));
        let database = shard.db_mut(db);
        let hash = self.hasher().hash(key);
        let (mut entry, fresh) =
            database.put((hash, Place::NONE), key, value, false, &mut Vec::new());
        entry.set_expiry(expiry);
        entry.set_access(u32::try_from(access).ok()?);
        fresh.then_some(at)
    }

    /// Visits every entry of every database, and every key that is on disk alone, in no particular order,
    /// while all shards are locked. A value that cannot be read is left out.
    fn for_each_entry(
        &self,
        mut each: impl FnMut(u32, EntryRef<'_>),
        mut each_cold: impl FnMut(Row<'_>),
    ) {
        let mut executor = self.executor();
        executor.lock_all();
        executor.for_each_shard(|shard| {
            for (number, db) in shard.dbs().iter().enumerate() {
                let number = number as u32;
                db.table().for_each(|entry| each(number, EntryRef::new(entry, db)));
                let (Some(cold), Some(tier)) = (db.cold(), self.tier()) else { continue };
                cold.for_all(|row, expiry| {
                    let Ok(value) = tier.read(row) else { return };
                    let (access, key, value) = (value.access, value.key(), value.value());
                    if db.find(self.hasher().hash(key), key).is_none() {
                        each_cold(Row { db: number, expiry, access, key, value });
                    }
                });
            }
        });
    }
}

/// The part of an entry in the digest of the whole; `buf` is room to work in.
pub(crate) fn entry_digest(db: u32, entry: &EntryRef<'_>, buf: &mut Vec<u8>) -> u64 {
    buf.clear();
    varint::push(buf, u64::from(db));
    varint::push(buf, entry.key().len() as u64);
    buf.extend_from_slice(entry.key());
    buf.extend_from_slice(&entry.expiry().unwrap_or(i64::MIN).to_le_bytes());
    form::encode(entry, buf);
    hash(buf)
}

/// A digest of an entry's value alone; `buf` is room to work in.
pub(crate) fn value_digest(entry: &EntryRef<'_>, buf: &mut Vec<u8>) -> u64 {
    buf.clear();
    form::encode(entry, buf);
    hash(buf)
}

/// The same of a row.
pub(crate) fn row_digest(row: &Row<'_>) -> u64 {
    let mut buf = Vec::new();
    varint::push(&mut buf, u64::from(row.db));
    varint::push(&mut buf, row.key.len() as u64);
    buf.extend_from_slice(row.key);
    buf.extend_from_slice(&row.expiry.unwrap_or(i64::MIN).to_le_bytes());
    buf.extend_from_slice(row.value);
    hash(&buf)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = foldhash::fast::FixedState::with_seed(DIGEST_SEED).build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// The image of an engine that has just these rows.
pub fn image_of_rows<'a>(rows: impl Iterator<Item = Row<'a>>) -> Vec<u8> {
    let mut entries: Vec<_> = rows
        .map(|row| {
            let mut bytes = Vec::new();
            push_row(&row, &mut bytes);
            (row.db, row.key, bytes)
        })
        .collect();
    entries.sort_unstable();
    entries.into_iter().flat_map(|(_, _, bytes)| bytes).collect()
}

fn push_entry(db: u32, entry: &EntryRef<'_>, out: &mut Vec<u8>) {
    let mut value = Vec::new();
    form::encode(entry, &mut value);
    let (expiry, access) = (entry.expiry(), entry.access());
    push_row(&Row { db, expiry, access, key: entry.key(), value: &value }, out);
}

fn push_row(row: &Row<'_>, out: &mut Vec<u8>) {
    varint::push(out, u64::from(row.db));
    varint::push(out, if row.expiry.is_some() { HAS_EXPIRY } else { 0 });
    out.extend(row.expiry.into_iter().flat_map(i64::to_le_bytes));
    varint::push(out, u64::from(row.access));
    varint::push(out, row.key.len() as u64);
    out.extend_from_slice(row.key);
    varint::push(out, row.value.len() as u64);
    out.extend_from_slice(row.value);
}

fn string(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, at) = varint::read(bytes, at)?;
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    Some((bytes.get(at..end)?, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Call, Prefetched};
    use crate::reply::{Protocol, Reply};
    use crate::stamp::Stamp;

    fn run(engine: &Engine, line: &str) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let command = Engine::find_command(&args).unwrap();
        let stamp = Stamp::new(1_000_000, 1);
        let (mut out, mut executor) = (Vec::new(), engine.executor());
        let call =
            Call { command, args: &args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
        executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
        assert_ne!(out[0], b'-', "{line}: {}", String::from_utf8_lossy(&out));
    }

    fn filled(shards: usize, hash_seed: u64) -> Engine {
        let engine =
            Engine::with_options(EngineOptions { shards, hash_seed, ..Default::default() });
        run(&engine, "SET a text");
        run(&engine, "SET b 12");
        run(&engine, &format!("SET long {}", "x".repeat(40_000)));
        for n in 0..100 {
            run(&engine, &format!("SET key{n} {n}"));
        }
        engine
    }

    #[test]
    fn equal_histories_give_equal_images_and_digests() {
        let (one, many) = (filled(1, 1), filled(16, 2));
        assert_eq!(one.image(), many.image());
        assert_eq!(one.digest(), many.digest());
        run(&many, "SET a other");
        assert_ne!(one.image(), many.image());
        assert_ne!(one.digest(), many.digest());
    }

    #[test]
    fn an_engine_goes_on_from_an_image() {
        let engine = filled(4, 3);
        let image = engine.image();
        let copy = Engine::from_image(EngineOptions::default(), &image).unwrap();
        assert_eq!((copy.digest(), copy.image()), (engine.digest(), image.clone()));
        run(&copy, "INCR b");
        assert_ne!(copy.digest(), engine.digest());
        for cut in 1..200 {
            let _ = Engine::from_image(EngineOptions::default(), &image[..cut]);
        }
        assert!(Engine::from_image(EngineOptions::default(), &image[..image.len() - 1]).is_none());
        assert!(
            Engine::from_image(EngineOptions::default(), &[image.clone(), image].concat())
                .is_none()
        );
    }
}
