//! Takes an engine's whole state through the bytes of a snapshot and back, in one step for everybody else.

use super::{Info, Progress, SnapshotError, Writer, load};
use crate::cut::Rows;
use crate::engine::Engine;
use crate::keyspace::{Db, EntryRef};

impl Engine {
    /// Writes all keys as a snapshot in memory and loads that in their place, while all shards are
    /// locked. Returns how many keys there are. The thread must hold no lock of the engine.
    ///
    /// # Errors
    /// If a snapshot is on its way, there are keys on disk alone, or what was written does not load: then all is as before.
    pub fn reload(&self) -> Result<u64, SnapshotError> {
        let Some((cut, ())) = self.begin_cut(|| ()) else {
            return Err(SnapshotError::Unfit("a snapshot is being taken".into()));
        };
        // It was only begun to know that there is no other one.
        drop(cut);
        let mut executor = self.executor();
        executor.lock_all();
        let mut cold = 0;
        executor.for_each_shard(|shard| {
            cold += shard
                .dbs()
                .iter()
                .filter_map(Db::cold)
                .map(|cold| cold.index().len())
                .sum::<usize>();
        });
        if cold > 0 {
            return Err(SnapshotError::Unfit("there are keys in the cold tier".into()));
        }
        let mut rows = Rows::default();
        executor.for_each_shard(|shard| {
            for (number, db) in shard.dbs().iter().enumerate() {
                db.table().for_each(|entry| rows.push(number as u32, &EntryRef::new(entry, db)));
            }
        });
        let dbs = executor.db_stats().into_iter().enumerate().map(|(number, db)| super::DbInfo {
            db: number as u32,
            keys: db.keys as u64,
            expires: db.expires as u64,
        });
        let info = Info { dbs: dbs.collect(), ..Info::default() };
        let mut writer = Writer::new(Vec::new(), 0, &info)?;
        for row in rows.iter() {
            writer.row(&row)?;
        }
        let bytes = writer.finish()?;
        drop(rows);
        let other = self.sibling();
        let (len, progress) = (Some(bytes.len() as u64), Progress::default());
        let loaded = load(&other, &bytes[..], len, 1, &progress, &|_| Ok(()))?;
        for number in 0..self.shard_count() {
            executor.with_shard(number, |shard| shard.exchange(&mut other.lock_shard(number)));
        }
        executor.release();
        Ok(loaded.keys)
    }
}
