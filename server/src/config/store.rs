//! The values of the settings while the server runs.
//!
//! Numbers (also booleans, enums and flags) are atomics that any thread reads without a lock;
//! texts are behind a lock and are read when something is set up, not per command. A loop that
//! keeps copies compares [`Settings::version`] once a round. Changes are serialised: one CONFIG SET
//! either takes effect as a whole, with every subscriber told, or leaves nothing behind.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ashlar_engine::policy::Rule;
use parking_lot::{Mutex, RwLock};

use super::ids::{self, Id};
use super::kind::{Reason, Value};
use super::rewrite;
use super::setting::{Mutability, Setting, Support};
use super::special::{ClassLimit, output_limits};
use super::table::{COUNT, TABLE};

/// Who asks for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client of this machine, or the program that embeds the server.
    Local,
    /// A client of another machine.
    Remote,
}

/// Why CONFIG SET changed nothing; shown as the text that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// No setting has this name.
    Unknown(String),
    /// A value was refused.
    Failed {
        /// The name, as it was given.
        name: String,
        /// Why.
        reason: Reason,
    },
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
            }
            Self::Failed { name, reason } => write!(
                f,
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"
            ),
        }
    }
}

impl std::error::Error for SetError {}

/// What acts on a change: it reads the new values and may refuse them.
type Apply = Box<dyn Fn(&Settings) -> Result<(), Reason> + Send + Sync>;

/// Makes the `user` or `policy` lines that CONFIG REWRITE writes.
type UserLines = Box<dyn Fn(&Settings) -> Vec<Vec<u8>> + Send + Sync>;

struct Subscriber {
    ids: Vec<Id>,
    apply: Apply,
}

/// The running values.
pub struct Settings {
    numbers: Box<[AtomicI64]>,
    texts: RwLock<Vec<Arc<[u8]>>>,
    defaults: Vec<Value>,
    version: AtomicU64,
    /// Held during a change, so that changes follow one another.
    changing: Mutex<()>,
    subscribers: RwLock<Vec<Subscriber>>,
    file: Option<PathBuf>,
    pub(super) user_lines: Vec<Vec<Vec<u8>>>,
    users: OnceLock<UserLines>,
    pub(super) policies: Vec<Rule>,
    policy_lines: OnceLock<UserLines>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("changed", &self.changed()).finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_values(Self::defaults(), None)
    }
}

impl Settings {
    /// The defaults, completed by what depends on the machine.
    pub(super) fn defaults() -> Vec<Value> {
        let none = Value::Text(Vec::new());
        let mut values: Vec<Value> = TABLE
            .iter()
            .map(|setting| {
                // A default always reads (a test of the table says so) but for a working
                // directory that was removed, which stays as it is written.
                let read = setting.kind.read(&[setting.default.as_bytes()], &none, false);
                read.unwrap_or_else(|_| Value::Text(setting.default.into()))
            })
            .collect();
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as i64);
        values[ids::IO_THREADS.index()] = Value::Number((cores / 2).clamp(1, 128));
        values
    }

    pub(super) fn from_values(values: Vec<Value>, file: Option<PathBuf>) -> Self {
        let number = |value: &Value| match value {
            Value::Number(number) => AtomicI64::new(*number),
            Value::Text(_) => AtomicI64::new(0),
        };
        let text = |value: &Value| match value {
            Value::Number(_) => Arc::from(&b""[..]),
            Value::Text(text) => Arc::from(text.as_slice()),
        };
        Self {
            numbers: values.iter().map(number).collect(),
            texts: RwLock::new(values.iter().map(text).collect()),
            defaults: Self::defaults(),
            version: AtomicU64::new(0),
            changing: Mutex::new(()),
            subscribers: RwLock::new(Vec::new()),
            file,
            user_lines: Vec::new(),
            users: OnceLock::new(),
            policies: Vec::new(),
            policy_lines: OnceLock::new(),
        }
    }

    /// The value of a numeric setting: a number, byte count, enum number, bits, or 0 and 1.
    pub fn number(&self, id: Id) -> i64 {
        self.numbers[id.index()].load(Ordering::Relaxed)
    }

    /// The value of a count or byte count, which is never negative.
    pub fn count(&self, id: Id) -> u64 {
        u64::try_from(self.number(id)).unwrap_or(0)
    }

    /// Whether a boolean setting is `yes`.
    pub fn flag(&self, id: Id) -> bool {
        self.number(id) != 0
    }

    /// The value of a setting that is not numeric.
    pub fn text(&self, id: Id) -> Arc<[u8]> {
        self.texts.read()[id.index()].clone()
    }

    /// The value of any setting as CONFIG GET shows it, as text.
    pub fn string(&self, id: Id) -> String {
        String::from_utf8_lossy(&self.show(id)).into_owned()
    }

    /// The address that connections to other servers are made from, if one is set.
    pub fn source(&self) -> Option<IpAddr> {
        std::str::from_utf8(&self.text(ids::BIND_SOURCE_ADDR)).ok()?.parse().ok()
    }

    /// The limits of the client classes normal, replica and pubsub.
    pub fn output_limits(&self) -> [ClassLimit; 3] {
        output_limits(&self.text(ids::CLIENT_OUTPUT_BUFFER_LIMIT))
    }

    /// Grows with every change, so that a loop knows when its copies are old.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The `user` lines of the configuration, as the words after `user`.
    pub fn user_lines(&self) -> &[Vec<Vec<u8>>] {
        &self.user_lines
    }

    /// Says what the `user` lines of the file are once CONFIG REWRITE writes it; the first word wins.
    pub fn write_users<F>(&self, lines: F)
    where
        F: Fn(&Self) -> Vec<Vec<u8>> + Send + Sync + 'static,
    {
        drop(self.users.set(Box::new(lines)));
    }

    /// The `user` lines as they are now; `None` where those of the file stay.
    pub(super) fn current_users(&self) -> Option<Vec<Vec<u8>>> {
        self.users.get().map(|lines| lines(self))
    }

    /// The `policy` lines of the configuration.
    pub fn policies(&self) -> &[Rule] {
        &self.policies
    }

    /// The same as [`Settings::write_users`] for `policy` lines.
    pub fn write_policies<F>(&self, lines: F)
    where
        F: Fn(&Self) -> Vec<Vec<u8>> + Send + Sync + 'static,
    {
        drop(self.policy_lines.set(Box::new(lines)));
    }

    /// The `policy` lines as they are now; `None` where those of the file stay.
    pub(super) fn current_policies(&self) -> Option<Vec<Vec<u8>>> {
        self.policy_lines.get().map(|lines| lines(self))
    }

    /// The configuration file, if the server was started with one.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// A setting's value in the form of CONFIG GET.
    pub fn show(&self, id: Id) -> Vec<u8> {
        id.setting().kind.show(&self.value(id))
    }

    pub(super) fn value(&self, id: Id) -> Value {
        // A kind either is numeric or not, and so is its default.
        match self.defaults[id.index()] {
            Value::Number(_) => Value::Number(self.number(id)),
            Value::Text(_) => Value::Text(self.text(id).to_vec()),
        }
    }

    pub(super) fn is_default(&self, id: Id) -> bool {
        self.value(id) == self.defaults[id.index()]
    }

    /// The settings that differ from their defaults, with secrets hidden.
    pub fn changed(&self) -> Vec<(&'static str, String)> {
        let ids = (0..COUNT).map(Id::at).filter(|id| !self.is_default(*id));
        ids.map(|id| {
            let Setting { name, secret, .. } = id.setting();
            let shown = String::from_utf8_lossy(&self.show(id)).into_owned();
            (*name, if *secret { "(redacted)".into() } else { shown })
        })
        .collect()
    }

    /// CONFIG GET: names and values that match any of the patterns, each name once. A name without
    /// a wildcard is shown as it was given.
    pub fn get(&self, patterns: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut add = |name: &[u8], id: Id| {
            if !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                found.push((name.to_vec(), self.show(id)));
            }
        };
        for pattern in patterns {
            if !pattern.iter().any(|byte| b"*?[".contains(byte)) {
                if let Some(id) = Id::find(pattern) {
                    add(pattern, id);
                }
                continue;
            }
            let pattern = pattern.to_ascii_lowercase();
            for id in (0..COUNT).map(Id::at) {
                for name in id.setting().names() {
                    if super::matches(&pattern, name.as_bytes()) {
                        add(name.as_bytes(), id);
                    }
                }
            }
        }
        found
    }

    /// CONFIG SET: changes all of the settings, or none if one is refused.
    ///
    /// # Errors
    /// What was refused; its text is the reply for the client.
    pub fn set(&self, pairs: &[(&[u8], &[u8])], caller: Caller) -> Result<(), SetError> {
        let _one_at_a_time = self.changing.lock();
        let ids = self.may_change(pairs, caller)?;
        let old: Vec<Value> = ids.iter().map(|id| self.value(*id)).collect();
        let mut new = Vec::with_capacity(ids.len());
        for ((id, (name, value)), old) in ids.iter().zip(pairs).zip(&old) {
            new.push(self.read(*id, value, old).map_err(|reason| failed(name, reason))?);
        }
        let changed: Vec<Id> = ids
            .iter()
            .zip(old.iter().zip(&new))
            .filter(|(_, (old, new))| old != new)
            .map(|(id, _)| *id)
            .collect();
        self.write(&ids, &new);
        self.tell(&changed).map_err(|(id, reason)| {
            self.write(&ids, &old);
            // The old values were in force before, so nobody refuses them; should one do so
            // nevertheless there is nothing better to go back to.
            let _ = self.tell(&changed);
            let given = ids.iter().position(|own| *own == id).and_then(|at| pairs.get(at));
            failed(given.map_or(id.setting().name.as_bytes(), |(name, _)| name), reason)
        })
    }

    /// The settings that the names mean, if all of them may change now.
    fn may_change(&self, pairs: &[(&[u8], &[u8])], caller: Caller) -> Result<Vec<Id>, SetError> {
        let mut ids: Vec<Id> = Vec::with_capacity(pairs.len());
        for (name, _) in pairs {
            let Some(id) = Id::find(name) else {
                return Err(SetError::Unknown(printable(name)));
            };
            match id.setting().mutability {
                Mutability::RunTime => {}
                Mutability::Start => return Err(failed(name, "can't set immutable config".into())),
                Mutability::Protected => {
                    let allowed = match self.number(ids::ENABLE_PROTECTED_CONFIGS) {
                        0 => false,
                        1 => true,
                        _ => caller == Caller::Local,
                    };
                    if !allowed {
                        return Err(failed(name, "can't set protected config".into()));
                    }
                }
            }
            if ids.contains(&id) {
                return Err(failed(name, "duplicate parameter".into()));
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn read(&self, id: Id, value: &[u8], current: &Value) -> Result<Value, Reason> {
        let setting = id.setting();
        let value = setting.kind.read(&[value], current, false)?;
        match setting.support {
            Support::OnlyDefault(why) if value != self.defaults[id.index()] => Err(why.into()),
            _ => Ok(value),
        }
    }

    fn write(&self, ids: &[Id], values: &[Value]) {
        let mut texts = self.texts.write();
        for (id, value) in ids.iter().zip(values) {
            match value {
                Value::Number(number) => {
                    self.numbers[id.index()].store(*number, Ordering::Relaxed);
                }
                Value::Text(text) => texts[id.index()] = Arc::from(text.as_slice()),
            }
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    fn tell(&self, changed: &[Id]) -> Result<(), (Id, Reason)> {
        for subscriber in self.subscribers.read().iter() {
            let Some(id) = changed.iter().find(|id| subscriber.ids.contains(id)) else { continue };
            (subscriber.apply)(self).map_err(|reason| (*id, reason))?;
        }
        Ok(())
    }

    /// Calls `apply` now, and again after each change of one of the settings, on the thread that
    /// changes it; an error takes the change back. `apply` must not change settings itself.
    ///
    /// # Errors
    /// What `apply` says to the values as they are.
    pub fn subscribe<F>(&self, ids: &[Id], apply: F) -> Result<(), Reason>
    where
        F: Fn(&Self) -> Result<(), Reason> + Send + Sync + 'static,
    {
        let _no_change_between = self.changing.lock();
        apply(self)?;
        self.subscribers.write().push(Subscriber { ids: ids.to_vec(), apply: Box::new(apply) });
        Ok(())
    }

    /// Changes a setting from inside the server, for instance `maxclients` when the system allows
    /// fewer open files. Subscribers are not told.
    pub fn adjust(&self, id: Id, number: i64) {
        let _one_at_a_time = self.changing.lock();
        self.write(&[id], &[Value::Number(number)]);
    }

    /// CONFIG REWRITE: writes the running values into the configuration file. Comments, order and
    /// unchanged lines stay; the file is replaced as a whole or not at all.
    ///
    /// # Errors
    /// The text of the reply, if there is no file or it can't be written.
    pub fn rewrite(&self) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Err("ERR The server is running without a config file".into());
        };
        let _one_at_a_time = self.changing.lock();
        rewrite::rewrite(self, file).map_err(|error| {
            format!("ERR Rewriting config file: {}", super::special::os_text(&error))
        })
    }
}

fn failed(name: &[u8], reason: Reason) -> SetError {
    SetError::Failed { name: printable(name), reason }
}

/// A client's bytes in an error text.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
