//! Brings values and names of cold keys into memory.

use super::Tier;
use super::needs::{Name, Names, Needs};
use super::row::{self, ColdValue, RowId};
use super::store::ColdError;
use crate::engine::Engine;
use crate::keyspace::Shard;
use crate::value::{NewValue, form};
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a value that tell its type.
const TYPE_BYTES: usize = 2;

/// What reading a row came to.
type Read = Result<Option<ColdValue>, ColdError>;

/// The value of a row, which may be large; none where there is none, or it is damaged.
fn decode(read: &Read) -> Option<NewValue<'_>> {
    form::decode(read.as_ref().ok()?.as_ref()?.value())
}

impl Tier {
    /// Loads what a call lacks. No lock of the engine may be held by this thread. Values that cannot
    /// be decoded or whose rows are damaged are an error, unless their key was changed meanwhile.
    ///
    /// # Errors
    /// The first fault; all other values are loaded nevertheless.
    pub fn load(&self, engine: &Engine, needs: &Needs) -> Result<Names, ColdError> {
        let mut result = Ok(());
        for (db, key) in &needs.values {
            let number = engine.shard_of(key);
            let loaded = self.load_value(engine, *db, key, || engine.lock_shard(number));
            result = result.and(loaded);
        }
        let mut names = Names::default();
        for &row in &needs.names {
            match self.load_name(row) {
                Ok(Some(name)) => drop(names.insert(row, Arc::new(name))),
                Ok(None) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| names).map_err(|error| self.failed(error))
    }

    /// Loads one value: the row is read and its value made without a lock, `lock` is called before and after.
    fn load_value<'e>(
        &self,
        engine: &Engine,
        db: u32,
        key: &[u8],
        lock: impl Fn() -> MutexGuard<'e, Shard>,
    ) -> Result<(), ColdError> {
        let hash = engine.hasher().hash(key);
        let Some((row, number)) = lock().db_mut(db).begin_load(hash, key) else { return Ok(()) };
        let read = row::read(&*self.store, row, usize::MAX);
        let decoded = decode(&read);
        self.finish_load(&mut lock(), hash, (db, key), (row, number), (&read, decoded))
    }

    /// The same under the shard's lock, for calls that must not let go of it.
    pub(crate) fn load_locked(
        &self,
        engine: &Engine,
        shard: &mut Shard,
        db: u32,
        key: &[u8],
    ) -> Result<(), ColdError> {
        let hash = engine.hasher().hash(key);
        let Some((row, number)) = shard.db_mut(db).begin_load(hash, key) else { return Ok(()) };
        let read = row::read(&*self.store, row, usize::MAX);
        self.stats.locked_loads.fetch_add(1, Ordering::Relaxed);
        let decoded = decode(&read);
        self.finish_load(shard, hash, (db, key), (row, number), (&read, decoded))
            .map_err(|error| self.failed(error))
    }

    fn finish_load(
        &self,
        shard: &mut Shard,
        hash: u64,
        (db, key): (u32, &[u8]),
        (row, number): (RowId, u64),
        (read, decoded): (&Read, Option<NewValue<'_>>),
    ) -> Result<(), ColdError> {
        let database = shard.db_mut(db);
        if !database.end_load(row, number) {
            self.stats.stale_loads.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let damaged = |what: &str| {
            let key = String::from_utf8_lossy(key);
            ColdError::Damaged(format!("the value of key '{key}' {what}"))
        };
        let value = read.as_ref().map_err(Clone::clone)?;
        let value = value.as_ref().ok_or_else(|| damaged("is missing"))?;
        if value.key() != key {
            database.set_absent(key);
            return Ok(());
        }
        let decoded = decoded.ok_or_else(|| damaged("cannot be decoded"))?;
        database.insert_cached(hash, key, row, decoded, value.access);
        self.stats.loads.fetch_add(1, Ordering::Relaxed);
        self.stats.load_bytes.fetch_add(value.body.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The name of a row; `None` where it is gone.
    pub(super) fn load_name(&self, row: RowId) -> Result<Option<Name>, ColdError> {
        self.stats.names.fetch_add(1, Ordering::Relaxed);
        let Some(value) = row::read(&*self.store, row, TYPE_BYTES)? else { return Ok(None) };
        let value_type = form::type_of(value.value());
        let value_type = value_type
            .ok_or_else(|| ColdError::Damaged("the type of a value is unknown".to_owned()))?;
        Ok(Some(Name { key: value.key().into(), value_type }))
    }
}
