//! Users and what they may do: ACL.
//!
//! ```text
//! words of SETUSER, `user` lines, aclfile -> parse -> Rules (immutable) -> User -> Identity (session)
//! request: Identity::permits (a bit of the command, all keys) -> else Rules::check -> refusal -> Log
//! ```
//!
//! A user's rules are replaced as a whole; sessions notice by a version number. Passwords are kept
//! as SHA-256 only and compared without telling by the time taken where they differ.

pub mod access;
mod file;
pub mod log;
pub mod parse;
pub mod selector;
pub mod user;

pub use log::Place;
pub use selector::{Denied, Reason, Refusal};
pub use user::{Identity, Rules, User};

use crate::registry::Registry;
use log::Log;
use parking_lot::{Mutex, RwLock};
use parse::{Context, apply, merge_selectors};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most users there can be.
pub const USERS_MAX: usize = 65_536;
/// The user of connections that have not authenticated as another.
pub const DEFAULT: &str = "default";

/// The categories of commands.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// All users by name.
type Users = BTreeMap<String, Arc<User>>;

/// The users and the log of refusals.
#[derive(Debug)]
pub struct Acl {
    users: RwLock<Users>,
    /// Held during a change, so that changes follow one another.
    changing: Mutex<()>,
    /// Whether a connection has to authenticate: a copy of what the default user says.
    needs_password: AtomicBool,
    /// Refusals.
    pub log: Log,
}

impl Acl {
    /// Only the default user, without restrictions.
    pub fn new(registry: &Registry) -> Acl {
        let user = User::new(DEFAULT.into(), Rules::unrestricted(registry));
        Acl {
            users: RwLock::new(BTreeMap::from([(user.name.clone(), Arc::new(user))])),
            changing: Mutex::new(()),
            needs_password: AtomicBool::new(false),
            log: Log::default(),
        }
    }

    /// A user by its name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<User>> {
        self.users.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// The user that new connections have.
    pub fn default_user(&self) -> Arc<User> {
        self.users.read().get(DEFAULT).cloned().expect("the default user can't be removed")
    }

    /// All users, by name.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.users.read().values().cloned().collect()
    }

    /// Whether a connection has to authenticate before it can do anything.
    pub fn needs_password(&self) -> bool {
        self.needs_password.load(Ordering::Acquire)
    }

    fn look_at_default(&self) {
        let rules = self.default_user().rules();
        self.needs_password.store(!(rules.on && rules.no_password), Ordering::Release);
    }

    /// The user, if this is its password and it may authenticate. An unknown name takes as long as
    /// a wrong password.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        match self.find(name) {
            Some(user) => user.rules().accepts(password).then_some(user),
            None => {
                std::hint::black_box(user::hash(password));
                None
            }
        }
    }

    /// ACL SETUSER: all rules are applied, or none. Returns the user.
    ///
    /// # Errors
    /// With Redis's texts.
    pub fn set_user(
        &self,
        context: Context<'_>,
        name: &[u8],
        words: &[&[u8]],
    ) -> Result<Arc<User>, String> {
        let _one_at_a_time = self.changing.lock();
        let valid = !name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0);
        let Some(text) = std::str::from_utf8(name).ok().filter(|_| valid) else {
            return Err("ERR Usernames can't contain spaces or null characters".into());
        };
        let before = self.find(name);
        if before.is_none() && self.users.read().len() >= USERS_MAX {
            return Err("ERR there are too many users".into());
        }
        let mut rules = match &before {
            Some(user) => Rules::clone(&user.rules()),
            None => Rules::new(context.registry, context.all_channels),
        };
        apply_all(&mut rules, words, context)?;
        let user = match before {
            Some(user) => {
                user.set_rules(rules);
                user
            }
            None => {
                let user = Arc::new(User::new(text.to_owned(), rules));
                self.users.write().insert(text.to_owned(), user.clone());
                user
            }
        };
        self.look_at_default();
        Ok(user)
    }

    /// ACL DELUSER of one user; whether there was one.
    pub fn delete(&self, name: &[u8]) -> bool {
        let _one_at_a_time = self.changing.lock();
        let Ok(name) = std::str::from_utf8(name) else { return false };
        name != DEFAULT && self.users.write().remove(name).is_some()
    }

    /// `requirepass`: the password of the default user; empty for none.
    pub fn set_default_password(&self, password: &[u8]) {
        let _one_at_a_time = self.changing.lock();
        let user = self.default_user();
        let mut rules = Rules::clone(&user.rules());
        rules.passwords.clear();
        rules.no_password = password.is_empty();
        if !password.is_empty() {
            rules.passwords.push(user::hash(password));
        }
        user.set_rules(rules);
        self.look_at_default();
    }

    /// The `user` lines of a configuration file, without the word `user`.
    ///
    /// # Errors
    /// Names the user and what is wrong with it.
    pub fn read_config(&self, context: Context<'_>, lines: &[Vec<Vec<u8>>]) -> Result<(), String> {
        let mut seen: Vec<&[u8]> = Vec::new();
        for line in lines {
            let Some((name, words)) = line.split_first() else {
                return Err("user: a name is missing".into());
            };
            let shown = String::from_utf8_lossy(name);
            if seen.contains(&&**name) {
                return Err(format!(
                    "user {shown}: Duplicate user found. A user can only be defined once in \
                     config files"
                ));
            }
            seen.push(name);
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let reset: &[&[u8]] = if name == DEFAULT.as_bytes() { &[b"reset"] } else { &[] };
            self.set_user(context, name, &[reset, &words].concat())
                .map_err(|error| format!("user {shown}: {}", error.trim_start_matches("ERR ")))?;
        }
        Ok(())
    }

    /// Each user as a line that can be read again.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        self.all().iter().map(|user| line(user)).collect()
    }

    /// The lines that a configuration file needs beside `requirepass`.
    pub fn config_lines(&self, default_password: &[u8]) -> Vec<Vec<u8>> {
        let follows = |user: &User| {
            let rules = user.rules();
            let passwords: &[user::Hash] = match default_password {
                [] => &[],
                password => &[user::hash(password)],
            };
            user.name == DEFAULT
                && rules.on
                && rules.is_unrestricted()
                && rules.selectors.len() == 1
                && rules.passwords == passwords
                && rules.no_password == passwords.is_empty()
        };
        self.all().iter().filter(|user| !follows(user)).map(|user| line(user)).collect()
    }
}

fn line(user: &User) -> Vec<u8> {
    [b"user ", user.name.as_bytes(), b" ", &user.rules().show()].concat()
}

fn apply_all(rules: &mut Rules, words: &[&[u8]], context: Context<'_>) -> Result<(), String> {
    for word in merge_selectors(words).map_err(|text| format!("ERR {text}"))? {
        apply(rules, &word, context).map_err(|error| {
            let word = String::from_utf8_lossy(&word);
            format!("ERR Error in ACL SETUSER modifier '{word}': {}", error.text())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
