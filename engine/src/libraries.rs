//! Libraries of functions: text that the engine keeps for its host.
//!
//! They are part of the state, so that they survive a restart and reach the replicas: they change
//! by calls (`ASHLAR.LIBRARY`), which are recorded as all others are, and the image of an engine
//! has them. What their text means is the host's business; it looks at [`Libraries::version`] to
//! learn of changes.

use crate::value::varint;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of all libraries together, names included.
pub const LIBRARIES_BYTES_MAX: usize = 128 << 20;

/// A library: its name and its text.
pub type Library = (Box<[u8]>, Arc<[u8]>);

type ByName = BTreeMap<Box<[u8]>, Arc<[u8]>>;

/// Text by name.
#[derive(Debug, Default)]
pub struct Libraries {
    by_name: Mutex<ByName>,
    version: AtomicU64,
}

impl Libraries {
    /// A number that grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All libraries, by name, and the version that they are of.
    pub fn all(&self) -> (Vec<Library>, u64) {
        let by_name = self.by_name.lock();
        let all = by_name.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
        (all, self.version())
    }

    /// Bytes of all libraries, names included.
    pub fn bytes(&self) -> usize {
        self.by_name.lock().iter().map(|(name, text)| name.len() + text.len()).sum()
    }

    /// Puts these libraries in the place of all that there are.
    pub fn replace_all<'a>(&self, libraries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
        let libraries = libraries.into_iter().map(|(name, text)| (name.into(), text.into()));
        *self.by_name.lock() = libraries.collect();
        self.changed();
    }

    pub(crate) fn set(&self, name: &[u8], text: &[u8]) {
        self.by_name.lock().insert(name.into(), text.into());
        self.changed();
    }

    pub(crate) fn remove(&self, name: &[u8]) -> bool {
        let removed = self.by_name.lock().remove(name).is_some();
        if removed {
            self.changed();
        }
        removed
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Appends all libraries as bytes: pairs of name and text, each with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(&self.all().0, out);
    }

    /// Puts the libraries of [`Libraries::encode`]'s bytes in the place of all that there are; `None`
    /// if the bytes are something else.
    pub fn decode(&self, bytes: &[u8]) -> Option<()> {
        let mut libraries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (name, after) = part(bytes, at)?;
            let (text, after) = part(bytes, after)?;
            libraries.push((name, text));
            at = after;
        }
        self.replace_all(libraries);
        Some(())
    }
}

/// Appends libraries as bytes, see [`Libraries::encode`].
pub fn encode(libraries: &[Library], out: &mut Vec<u8>) {
    for (name, text) in libraries {
        for part in [&name[..], &text[..]] {
            varint::push(out, part.len() as u64);
            out.extend_from_slice(part);
        }
    }
}

/// The part at offset `at`, behind its length, and where it ends.
fn part(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, start) = varint::read(bytes, at)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    Some((bytes.get(start..end)?, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_come_back_from_their_bytes() {
        let libraries = Libraries::default();
        libraries.set(b"b", b"text of b");
        libraries.set(b"a", b"");
        libraries.set(b"c", &[b'x'; 300]);
        assert!(libraries.remove(b"a") && !libraries.remove(b"a"));
        let mut bytes = Vec::new();
        libraries.encode(&mut bytes);
        let copy = Libraries::default();
        copy.set(b"old", b"gone");
        copy.decode(&bytes).unwrap();
        assert_eq!(copy.all().0, libraries.all().0);
        assert_eq!(copy.bytes(), 1 + 9 + 1 + 300);
        for cut in 1..bytes.len() {
            if let Some(()) = Libraries::default().decode(&bytes[..cut]) {
                assert_eq!(cut, 12, "only a whole library is one");
            }
        }
    }
}
