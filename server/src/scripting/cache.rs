//! The scripts that the server knows, by their SHA1 digest: shared by the workers, whose
//! interpreters compile what they are asked for.

use super::redis::sha1_hex;
use super::shebang::ScriptFlags;
use ashlar_engine::error::Error;
use parking_lot::RwLock;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Scripts that EVAL has left in the cache: the oldest makes room. Clients use EVALSHA for what they
/// loaded, or fall back to EVAL.
pub const EVAL_SCRIPTS_MAX: usize = 500;
/// Bytes of scripts that SCRIPT LOAD has put into the cache; it is refused above that.
pub const LOADED_BYTES_MAX: usize = 128 << 20;

/// A digest in hexadecimal, in lower case.
pub type Sha = [u8; 40];

/// A script that is known to compile.
#[derive(Debug)]
pub struct Script {
    /// Its digest.
    pub sha: Sha,
    /// Its text as it was given.
    pub body: Box<[u8]>,
    /// What it says of itself.
    pub flags: ScriptFlags,
}

#[derive(Debug, Default)]
struct Scripts {
    /// Each script, and whether SCRIPT LOAD asked for it.
    by_sha: HashMap<Sha, (Arc<Script>, bool)>,
    /// Those of EVAL, the oldest first.
    evaluated: VecDeque<Sha>,
    loaded_bytes: usize,
    bytes: usize,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    scripts: RwLock<Scripts>,
    flushes: AtomicU64,
    evicted: AtomicU64,
}

/// A digest as a client wrote it.
pub fn parse_sha(text: &[u8]) -> Option<Sha> {
    let mut sha: Sha = text.try_into().ok()?;
    sha.make_ascii_lowercase();
    Some(sha)
}

impl Cache {
    /// The script with this digest.
    pub fn get(&self, sha: &Sha) -> Option<Arc<Script>> {
        self.scripts.read().by_sha.get(sha).map(|(script, _)| script.clone())
    }

    /// Adds a script; `loaded` where SCRIPT LOAD asked for it.
    ///
    /// # Errors
    /// Where SCRIPT LOAD has put in as much as there is room for.
    pub fn add(
        &self,
        body: &[u8],
        sha: Sha,
        flags: ScriptFlags,
        loaded: bool,
    ) -> Result<(), Error> {
        let scripts = &mut *self.scripts.write();
        let known = scripts.by_sha.get(&sha).map(|(_, loaded)| *loaded);
        if known == Some(true) || (known == Some(false) && !loaded) {
            return Ok(());
        }
        if loaded {
            if scripts.loaded_bytes + body.len() > LOADED_BYTES_MAX {
                return Err(Error::text("ERR too many bytes of scripts, SCRIPT FLUSH makes room"));
            }
            scripts.loaded_bytes += body.len();
        }
        if known == Some(false) {
            scripts.evaluated.retain(|other| *other != sha);
        } else {
            scripts.bytes += body.len();
        }
        let script = Arc::new(Script { sha, body: body.into(), flags });
        scripts.by_sha.insert(sha, (script, loaded));
        if !loaded {
            scripts.evaluated.push_back(sha);
        }
        while scripts.evaluated.len() > EVAL_SCRIPTS_MAX {
            let oldest = scripts.evaluated.pop_front();
            if let Some((script, _)) = oldest.and_then(|sha| scripts.by_sha.remove(&sha)) {
                scripts.bytes -= script.body.len();
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Forgets all scripts; the interpreters start over with their next one.
    pub fn flush(&self) {
        *self.scripts.write() = Scripts::default();
        self.flushes.fetch_add(1, Ordering::Release);
    }

    /// How often the cache was flushed: an interpreter from before is not used any more.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Number of scripts, their bytes, and how many made room for others.
    pub fn totals(&self) -> (usize, usize, u64) {
        let scripts = self.scripts.read();
        (scripts.by_sha.len(), scripts.bytes, self.evicted.load(Ordering::Relaxed))
    }
}

/// The digest of a script.
pub fn sha_of(body: &[u8]) -> Sha {
    sha1_hex(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_of_eval_make_room_and_loaded_ones_stay() {
        let cache = Cache::default();
        let add = |text: &str, loaded| {
            let sha = sha_of(text.as_bytes());
            cache.add(text.as_bytes(), sha, ScriptFlags::empty(), loaded).unwrap();
            sha
        };
        let loaded = add("return 'loaded'", true);
        let promoted = add("return 'promoted'", false);
        assert_eq!(add("return 'promoted'", true), promoted);
        let first = add("return 'first'", false);
        for n in 0..EVAL_SCRIPTS_MAX {
            add(&format!("return {n}"), false);
        }
        assert!(cache.get(&first).is_none(), "the oldest script of EVAL has made room");
        assert!(cache.get(&loaded).is_some() && cache.get(&promoted).is_some());
        assert_eq!(cache.totals().0, EVAL_SCRIPTS_MAX + 2);
        let bytes = vec![b' '; LOADED_BYTES_MAX];
        assert!(cache.add(&bytes, sha_of(b"x"), ScriptFlags::empty(), true).is_err());
        cache.flush();
        assert_eq!((cache.totals().0, cache.flushes()), (0, 1));
    }
}
