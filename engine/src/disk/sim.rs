//! A disk in memory, for tests and simulated nodes: everything that can go wrong, under one seed.
//!
//! Each file has its bytes as its process sees them and as they would be after a power cut; the
//! writes in between are kept in order. The same goes for names. [`SimDisk::stop_at`] ends the
//! machine at an operation, [`SimDisk::reboot`] says what the next start finds.
//!
//! ```text
//! write ---> seen by reads ---> pending ---sync---> durable
//!                                  |
//!                                  +---power cut---> all, none, a first part, or any sectors
//! ```
//!
//! It is harsher than most disks: un-synced sectors arrive in any order, a file that was synced has
//! no name until its directory was, and after a failed sync the data is gone though reads still
//! show it, as on Linux. Directories themselves are durable at once.

use super::{Disk, File, Lock, Mapping, Mode};
use crate::stamp::Rng;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a power cut leaves whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What an end of the machine does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Only the process ended, as by `kill -9`: the system still writes everything.
    Nothing,
    /// A power cut, and nothing un-synced had been written yet.
    Everything,
    /// A power cut, and of each file and directory some of it had: all, none, a first part, or
    /// any sectors.
    Some,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: Rng,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<Naming>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Operations that change something, so far.
    operations: u64,
    stop_at: Option<u64>,
    stopped: bool,
    capacity: u64,
    used: u64,
    read_only: bool,
    failing_syncs: u32,
    deaf_to_syncs: bool,
}

#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    links: usize,
}

enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// A change of names in a directory.
#[derive(Clone)]
enum Naming {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Naming {
    fn dir(&self) -> Option<&Path> {
        match self {
            Naming::Link(path, _) | Naming::Unlink(path) | Naming::Rename(path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Link(path, node) => drop(names.insert(path.clone(), *node)),
            Naming::Unlink(path) => drop(names.remove(path)),
            Naming::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, written) => {
            let end = at + written.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at..end].copy_from_slice(written);
        }
        Change::SetLen(len) => bytes.resize(*len, 0),
    }
}

/// What a power cut leaves of a file.
fn surviving(node: &Node, random: &mut Rng) -> Vec<u8> {
    let mut bytes = node.durable.clone();
    let count = node.pending.len();
    match random.below(6) {
        0 => {}
        1 => node.pending.iter().for_each(|change| apply(&mut bytes, change)),
        2 => {
            let kept = random.below(count + 1);
            node.pending[..kept].iter().for_each(|change| apply(&mut bytes, change));
            if let Some(Change::Write(at, written)) = node.pending.get(kept) {
                let torn = random.below(written.len() + 1);
                apply(&mut bytes, &Change::Write(*at, written[..torn].to_vec()));
            }
        }
        kind => {
            // Any sectors, few or many of them.
            let chance = [10, 50, 90][kind - 3];
            for change in &node.pending {
                let Change::Write(at, written) = change else {
                    if random.below(2) == 0 {
                        apply(&mut bytes, change);
                    }
                    continue;
                };
                let (mut from, end) = (*at, at + written.len());
                while from < end {
                    let to = end.min((from / SECTOR_BYTES + 1) * SECTOR_BYTES);
                    if random.below(100) < chance {
                        apply(&mut bytes, &Change::Write(from, written[from - at..to - at].into()));
                    }
                    from = to;
                }
            }
        }
    }
    bytes
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            random: Rng::new(seed),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            operations: 0,
            stop_at: None,
            stopped: false,
            capacity: u64::MAX,
            used: 0,
            read_only: false,
            failing_syncs: 0,
            deaf_to_syncs: false,
        })))
    }

    /// Operations so far that change something: writes, syncs, names.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The machine ends within the operation of that number (the first is 1), and every later one
    /// fails: a write is done in part, a sync is done or not, and nobody is told.
    pub fn stop_at(&self, operation: u64) {
        self.0.lock().stop_at = Some(operation);
    }

    /// The machine ends now.
    pub fn stop(&self) {
        self.0.lock().stopped = true;
    }

    /// Whether the machine has ended.
    pub fn is_stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// Bytes that files may have in total; writes beyond fail as on a full disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Whether every change fails, as on a disk mounted read-only.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// The next `count` syncs of files fail. What they should have written is lost by the next
    /// power cut, even if a later sync succeeds.
    pub fn fail_syncs(&self, count: u32) {
        self.0.lock().failing_syncs = count;
    }

    /// Syncs of files claim to succeed and do nothing: a broken disk, or code that forgot the sync.
    pub fn ignore_syncs(&self) {
        self.0.lock().deaf_to_syncs = true;
    }

    /// Changes one bit of a file, durable and all.
    ///
    /// # Panics
    /// If the file is not there or has no such byte.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u32) {
        let mut state = self.0.lock();
        let node = state.names[path];
        let node = &mut state.nodes[node];
        node.bytes[byte] ^= 1 << bit;
        if let Some(durable) = node.durable.get_mut(byte) {
            *durable ^= 1 << bit;
        }
    }

    /// What a start after the end of the machine finds: the process ended, or the power was cut.
    /// This disk is left as it is, so that several ends can be tried.
    pub fn reboot(&self, loss: Loss, seed: u64) -> SimDisk {
        let state = self.0.lock();
        let mut random = Rng::new(seed);
        let mut names = state.durable_names.clone();
        for naming in &state.pending_names {
            let happened = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Some => random.below(2) == 0,
            };
            if happened {
                naming.apply(&mut names);
            }
        }
        let disk = SimDisk::new(random.next_u64());
        let mut next = disk.0.lock();
        let mut moved = BTreeMap::new();
        for (path, node) in names {
            let count = next.nodes.len();
            let place = *moved.entry(node).or_insert(count);
            if place == count {
                let node = &state.nodes[node];
                let bytes = match loss {
                    Loss::Nothing => node.bytes.clone(),
                    Loss::Everything => node.durable.clone(),
                    Loss::Some => surviving(node, &mut random),
                };
                next.used += bytes.len() as u64;
                let durable = bytes.clone();
                next.nodes.push(Node { bytes, durable, pending: Vec::new(), links: 0 });
            }
            next.nodes[place].links += 1;
            next.names.insert(path, place);
        }
        next.durable_names = next.names.clone();
        next.dirs = state.dirs.clone();
        next.capacity = state.capacity;
        drop(next);
        disk
    }

    /// The state for an operation that only looks.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        if state.stopped { Err(stopped()) } else { Ok(state) }
    }

    /// The state for an operation that changes something; `true` if the machine ends within it.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.look()?;
        if state.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        state.operations += 1;
        state.stopped = state.stop_at == Some(state.operations);
        let stopped = state.stopped;
        Ok((state, stopped))
    }

    /// Changes names, unless the machine ends before.
    fn rename_things(
        &self,
        naming: impl FnOnce(&mut State) -> io::Result<Naming>,
    ) -> io::Result<()> {
        let (mut state, ends) = self.change()?;
        let naming = naming(&mut state)?;
        if ends && state.random.below(2) == 0 {
            return Err(stopped());
        }
        naming.apply(&mut state.names);
        state.pending_names.push(naming);
        if ends { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}

impl State {
    /// A file's last name has gone: its room is free again.
    fn unlink(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.links -= 1;
        if node.links == 0 {
            self.used -= node.bytes.len() as u64;
        }
    }

    /// Does a change to a file, of which the system keeps a memory until it is synced.
    fn edit(&mut self, node: usize, change: Change) -> io::Result<()> {
        let node = &mut self.nodes[node];
        let before = node.bytes.len();
        let after = match &change {
            Change::Write(at, written) => before.max(at + written.len()),
            Change::SetLen(len) => *len,
        };
        if node.links > 0 {
            let used = self.used - before as u64 + after as u64;
            if after > before && used > self.capacity {
                return Err(ErrorKind::StorageFull.into());
            }
            self.used = used;
        }
        apply(&mut node.bytes, &change);
        node.pending.push(change);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let known = self.look()?.names.get(path).copied();
        let node = match (known, mode) {
            (Some(_), Mode::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(node), _) => node,
            (None, Mode::Read | Mode::Write) => return Err(not_found(path)),
            (None, Mode::Create | Mode::CreateNew) => {
                let mut created = 0;
                self.rename_things(|state| {
                    let dir = path.parent().unwrap_or(Path::new(""));
                    if !state.dirs.contains(dir) {
                        return Err(not_found(dir));
                    }
                    created = state.nodes.len();
                    state.nodes.push(Node { links: 1, ..Node::default() });
                    Ok(Naming::Link(path.into(), created))
                })?;
                created
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), node }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.look()?;
        if !state.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let below = state.names.keys().chain(&state.dirs);
        let below = below.filter(|path| path.parent() == Some(dir));
        let names = below.filter_map(|path| path.file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_things(|state| {
            if !state.names.contains_key(from) {
                return Err(not_found(from));
            }
            if let Some(replaced) = state.names.get(to).copied() {
                state.unlink(replaced);
            }
            Ok(Naming::Rename(from.into(), to.into()))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.rename_things(|state| {
            let node = state.names.get(path).copied().ok_or_else(|| not_found(path))?;
            state.unlink(node);
            Ok(Naming::Unlink(path.into()))
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, ends) = self.change()?;
        state.dirs.extend(path.ancestors().map(Path::to_path_buf));
        if ends { Err(stopped()) } else { Ok(()) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, ends) = self.change()?;
        if ends && state.random.below(2) == 0 {
            return Err(stopped());
        }
        let State { pending_names, durable_names, .. } = &mut *state;
        pending_names.retain(|naming| {
            let here = naming.dir() == Some(dir);
            if here {
                naming.apply(durable_names);
            }
            !here
        });
        if ends { Err(stopped()) } else { Ok(()) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = self.look()?;
        if !state.locks.insert(path.into()) {
            let text = format!("{} is in use by another process", path.display());
            return Err(io::Error::new(ErrorKind::WouldBlock, text));
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.into() }))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.look()?;
        Ok(state.capacity.saturating_sub(state.used))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    node: usize,
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput.into())
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.look()?;
        let bytes = state.nodes[self.node].bytes.get(place(offset)?..).unwrap_or_default();
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, ends) = self.disk.change()?;
        let mut bytes = bytes;
        if ends {
            let torn = state.random.below(bytes.len() + 1);
            bytes = &bytes[..torn];
        }
        state.edit(self.node, Change::Write(place(offset)?, bytes.to_vec()))?;
        if ends { Err(stopped()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, ends) = self.disk.change()?;
        if ends && state.random.below(2) == 0 {
            return Err(stopped());
        }
        if state.deaf_to_syncs {
            return Ok(());
        }
        let fails = state.failing_syncs > 0;
        state.failing_syncs = state.failing_syncs.saturating_sub(1);
        let pending = std::mem::take(&mut state.nodes[self.node].pending);
        if fails {
            return Err(io::Error::other("simulated I/O error"));
        }
        let durable = &mut state.nodes[self.node].durable;
        pending.iter().for_each(|change| apply(durable, change));
        if ends { Err(stopped()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, ends) = self.disk.change()?;
        if ends && state.random.below(2) == 0 {
            return Err(stopped());
        }
        state.edit(self.node, Change::SetLen(place(len)?))?;
        if ends { Err(stopped()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.look()?.nodes[self.node].bytes.len() as u64)
    }

    fn map(&self) -> io::Result<Mapping> {
        let state = self.disk.look()?;
        Ok(Mapping::Copied(state.nodes[self.node].bytes.as_slice().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_exact_at;
    use super::*;

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(Path::new("/d")).unwrap();
        disk
    }

    fn contents(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), Mode::Read).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn only_what_was_synced_survives_a_power_cut() {
        let disk = disk();
        let file = disk.open(Path::new("/d/f"), Mode::CreateNew).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(contents(&disk.reboot(Loss::Everything, 1), "/d/f"), None);
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(b"two", 3).unwrap();
        assert_eq!(contents(&disk, "/d/f").unwrap(), b"onetwo");
        assert_eq!(contents(&disk.reboot(Loss::Everything, 1), "/d/f").unwrap(), b"one");
        assert_eq!(contents(&disk.reboot(Loss::Nothing, 1), "/d/f").unwrap(), b"onetwo");
        let some: BTreeSet<_> =
            (0..50).map(|seed| contents(&disk.reboot(Loss::Some, seed), "/d/f")).collect();
        assert!(some.len() > 2, "{some:?}");
        assert!(some.iter().flatten().all(|bytes| bytes.starts_with(b"one")));
    }

    #[test]
    fn sectors_arrive_in_any_order() {
        let disk = disk();
        let file = disk.open(Path::new("/d/f"), Mode::CreateNew).unwrap();
        file.write_at(&[0; 4 * SECTOR_BYTES], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[1; 4 * SECTOR_BYTES], 0).unwrap();
        let later_without_earlier = |seed| {
            let bytes = contents(&disk.reboot(Loss::Some, seed), "/d/f").unwrap();
            bytes[0] == 0 && bytes[3 * SECTOR_BYTES] == 1
        };
        assert!((0..50).any(later_without_earlier));
    }

    #[test]
    fn a_stop_ends_everything() {
        let disk = disk();
        disk.stop_at(disk.operations() + 2);
        let file = disk.open(Path::new("/d/f"), Mode::CreateNew).unwrap();
        assert!(file.write_at(b"bytes", 0).is_err() && disk.is_stopped());
        assert!(file.sync_data().is_err() && disk.list(Path::new("/d")).is_err());
        let found = contents(&disk.reboot(Loss::Nothing, 1), "/d/f").unwrap();
        assert!(b"bytes".starts_with(&found[..]));
    }

    #[test]
    fn a_failed_sync_loses_what_it_should_have_written() {
        let disk = disk();
        let file = disk.open(Path::new("/d/f"), Mode::CreateNew).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(b"lost", 0).unwrap();
        disk.fail_syncs(1);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(contents(&disk, "/d/f").unwrap(), b"lost");
        assert_eq!(contents(&disk.reboot(Loss::Everything, 1), "/d/f").unwrap(), b"");
    }

    #[test]
    fn a_disk_fills_up_and_gets_room_again() {
        let disk = disk();
        disk.set_capacity(10);
        let one = disk.open(Path::new("/d/1"), Mode::Create).unwrap();
        let two = disk.open(Path::new("/d/2"), Mode::Create).unwrap();
        one.write_at(&[1; 8], 0).unwrap();
        assert_eq!(two.write_at(&[2; 3], 0).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes(Path::new("/d")).unwrap(), 2);
        disk.remove(Path::new("/d/1")).unwrap();
        two.write_at(&[2; 3], 0).unwrap();
        disk.set_read_only(true);
        assert_eq!(two.set_len(0).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(disk.list(Path::new("/d")).unwrap(), ["2"]);
        let lock = disk.lock(Path::new("/d/LOCK")).unwrap();
        assert!(disk.lock(Path::new("/d/LOCK")).is_err());
        drop(lock);
        assert!(disk.lock(Path::new("/d/LOCK")).is_ok());
    }
}
