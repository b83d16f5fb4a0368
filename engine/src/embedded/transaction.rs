//! Several calls as one: under locks, or if watched keys were not changed.

use super::call::{Call, resolve};
use super::store::Store;
use super::value::ReplyValue;
use crate::command::{Command, Flags, KeyList};
use crate::error::Error;
use crate::executor::Executor;
use crate::keyspace::WatchToken;
use std::cell::RefCell;

/// A transaction on its way: its keys are locked until it ends. Made by
/// [`Store::transaction`] and [`Watch::commit`].
pub struct Tx<'a> {
    store: &'a Store,
    executor: RefCell<Executor<'a>>,
    /// Keys that calls may be on; `None` is all.
    keys: Option<Vec<Box<[u8]>>>,
    /// All calls have one time.
    now_ms: i64,
}

impl<'a> Tx<'a> {
    pub(super) fn begin(store: &'a Store, keys: &[&[u8]]) -> Tx<'a> {
        let mut executor = store.inner.engine.executor();
        let keys = if keys.is_empty() {
            executor.lock_all();
            None
        } else {
            executor.lock_keys(keys);
            Some(keys.iter().map(|&key| key.into()).collect())
        };
        executor.begin_batch();
        let now_ms = store.inner.stamp().now_ms;
        Tx { store, executor: RefCell::new(executor), keys, now_ms }
    }
}

impl Tx<'_> {
    /// Whether a call is on named keys only. A key that merely shares their locks will not do: which
    /// ones share follows from hashes, and a program should not work by chance.
    fn allows(&self, command: &Command, args: &[&[u8]]) -> bool {
        let Some(keys) = &self.keys else { return true };
        let mut positions = KeyList::new();
        command.keys.positions(args, &mut positions);
        !command.flags.contains(Flags::WHOLE_KEYSPACE)
            && positions.iter().all(|&at| keys.iter().any(|key| **key == *args[at]))
    }
}

impl Call for Tx<'_> {
    fn call(&self, args: &[&[u8]]) -> Result<ReplyValue, Error> {
        let command = resolve(args)?;
        if !self.allows(command, args) {
            return Err(Error::text("ERR a transaction calls only on keys that it has named"));
        }
        let mut executor = self.executor.borrow_mut();
        let stamp = self.store.inner.stamp_at(self.now_ms);
        self.store.inner.run(&mut executor, self.store.db, &stamp, args)
    }
}

impl Tx<'_> {
    /// The calls are one record of the log, and the locks are let go of. Returns the record's
    /// index, 0 if nothing was changed.
    pub(super) fn end(&mut self) -> u64 {
        let stamp = self.store.inner.stamp_at(self.now_ms);
        let executor = self.executor.get_mut();
        executor.commit_batch();
        executor.delete_lapsed(&stamp);
        executor.release();
        executor.effects.log_index
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keys that are watched, until this is dropped or committed. Made by [`Store::watch`].
pub struct Watch {
    store: Store,
    keys: Vec<Box<[u8]>>,
    token: WatchToken,
}

impl Watch {
    pub(super) fn begin(store: &Store, keys: Vec<Box<[u8]>>) -> Watch {
        let watch = Watch { store: store.clone(), keys, token: WatchToken::default() };
        let stamp = watch.store.inner.stamp();
        let mut executor = watch.store.inner.engine.executor();
        for key in &watch.keys {
            // A key that has expired by now is deleted first: only what changes from now on counts.
            executor.effects.lapsed.get_mut().push((watch.store.db, key.clone()));
            executor.delete_lapsed(&stamp);
            executor.watch(watch.store.db, key, &watch.token);
        }
        drop(executor);
        watch
    }

    /// Whether a watched key was changed by now.
    pub fn is_changed(&self) -> bool {
        self.token.is_dirty()
    }

    /// Runs `work` as [`Store::transaction`] does, unless a watched key was changed or has expired
    /// since the watch began: then nothing is done and the result is `None`.
    ///
    /// # Errors
    /// Those of `work`. A call on a key that is neither watched nor one of `keys` is refused.
    pub fn commit<K: AsRef<[u8]>, T>(
        self,
        keys: &[K],
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let watched = self.keys.iter().map(|key| &**key);
        let all: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).chain(watched).collect();
        self.store.load(&all)?;
        let tx = Tx::begin(&self.store, &all);
        let lapsed = |key: &[u8]| tx.executor.borrow_mut().is_lapsed(self.store.db, key, tx.now_ms);
        if self.token.is_dirty() || self.keys.iter().any(|key| lapsed(key)) {
            return Ok(None);
        }
        let mut tx = tx;
        let result = work(&tx);
        self.store.inner.settle(tx.end())?;
        result.map(Some)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut executor = self.store.inner.engine.executor();
        for key in &self.keys {
            executor.unwatch(self.store.db, key, &self.token);
        }
    }
}
