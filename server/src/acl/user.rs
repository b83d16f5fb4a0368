//! A user: how it authenticates and what it may do.

use super::parse::RuleError;
use super::selector::{Denied, Reason, Selector};
use crate::registry::{Registry, Resolved};
use ashlar_engine::known_bugs::{self, Bug};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Most passwords of a user: each is compared at each attempt.
pub const PASSWORDS_MAX: usize = 1_000;
/// Most selectors of a user.
pub const SELECTORS_MAX: usize = 1_000;

/// A password as it is kept: only its hash.
pub type Hash = [u8; 32];

/// What is kept of a password.
pub fn hash(password: &[u8]) -> Hash {
    Sha256::digest(password).into()
}

/// A hash as 64 digits.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash from 64 lower-case digits.
pub fn unhex(text: &[u8]) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// What is known of a user at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether it may authenticate.
    pub on: bool,
    /// Whether any password will do.
    pub no_password: bool,
    /// `skip-sanitize-payload`: shown, without an effect; payloads are always checked.
    pub skip_sanitize: bool,
    /// Hashes of its passwords.
    pub passwords: Vec<Hash>,
    /// Its permissions; the first set is that of the rules outside of parentheses.
    pub selectors: Vec<Selector>,
}

impl Rules {
    /// Of a user that was just made: off, and without any permission.
    pub fn new(registry: &Registry, all_channels: bool) -> Rules {
        Rules {
            on: false,
            no_password: false,
            skip_sanitize: false,
            passwords: Vec::new(),
            selectors: vec![Selector::new(registry, all_channels)],
        }
    }

    /// Of the default user, as long as nobody changes it.
    pub fn unrestricted(registry: &Registry) -> Rules {
        let mut rules = Rules { on: true, no_password: true, ..Rules::new(registry, true) };
        rules.root().set_all(true);
        rules.root().reset_keys(true);
        rules
    }

    /// The permissions outside of parentheses.
    pub fn root(&mut self) -> &mut Selector {
        &mut self.selectors[0]
    }

    /// Adds a password, once.
    pub fn add_password(&mut self, hash: Hash) -> Result<(), RuleError> {
        self.no_password = false;
        if !self.passwords.contains(&hash) {
            if self.passwords.len() >= PASSWORDS_MAX {
                return Err(RuleError::TooMany);
            }
            self.passwords.push(hash);
        }
        Ok(())
    }

    /// Whether the password is one of the user's. Takes the same time wherever the first difference
    /// is and whichever password it is.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let given = hash(password);
        let same = self.passwords.iter().fold(false, |found, own| {
            let difference = own.iter().zip(&given).fold(0, |sum, (a, b)| sum | (a ^ b));
            found | (std::hint::black_box(difference) == 0)
        });
        self.on & (self.no_password | same)
    }

    /// Whether nothing is forbidden.
    pub fn is_unrestricted(&self) -> bool {
        self.selectors[0].is_unrestricted()
    }

    /// Whether a call is allowed.
    ///
    /// # Errors
    /// What is not allowed, of the selector that came closest.
    pub fn check(&self, resolved: &Resolved, args: &[&[u8]]) -> Result<(), Denied> {
        let mut closest = Denied { reason: Reason::Command, at: 0 };
        for selector in &self.selectors {
            match selector.check(resolved, args) {
                Ok(()) => return Ok(()),
                Err(denied) => {
                    if (denied.reason, denied.at) > (closest.reason, closest.at) {
                        closest = denied;
                    }
                }
            }
        }
        Err(closest)
    }

    /// The option of SORT that is not allowed, if the call has one: it reads keys that no check of
    /// arguments sees.
    pub fn forbidden_sort(&self, resolved: &Resolved, args: &[&[u8]]) -> Option<&'static str> {
        let mut forbidden = None;
        if known_bugs::is_back(Bug::SortIgnoresAcl) {
            return None;
        }
        for selector in &self.selectors {
            forbidden = selector.forbidden_sort(resolved, args);
            forbidden?;
        }
        forbidden
    }

    /// Whether a channel or pattern may be listened to.
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().any(|selector| selector.allows_channel(channel, is_pattern))
    }

    /// Flags, as ACL GETUSER shows them.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.on { "on" } else { "off" }];
        if self.no_password {
            flags.push("nopass");
        }
        if self.skip_sanitize {
            flags.push("skip-sanitize-payload");
        }
        flags
    }

    /// All of it, in the form in which it can be read again.
    pub fn show(&self) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> =
            self.flags().iter().map(|flag| flag.as_bytes().to_vec()).collect();
        parts.extend(self.passwords.iter().map(|hash| format!("#{}", hex(hash)).into_bytes()));
        for (nth, selector) in self.selectors.iter().enumerate() {
            let shown = selector.show();
            parts.push(if nth == 0 { shown } else { [b"(", &shown[..], b")"].concat() });
        }
        parts.join(&b' ')
    }
}

/// A user, as sessions hold it: a change of its rules concerns them from their next command on.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub name: String,
    rules: RwLock<Arc<Rules>>,
    version: AtomicU64,
    unrestricted: AtomicBool,
}

impl User {
    /// A user with these rules.
    pub fn new(name: String, rules: Rules) -> User {
        let unrestricted = AtomicBool::new(rules.is_unrestricted());
        User { name, rules: RwLock::new(Arc::new(rules)), version: AtomicU64::new(0), unrestricted }
    }

    /// Its rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    /// Changes its rules.
    pub fn set_rules(&self, rules: Rules) {
        let mut current = self.rules.write();
        self.unrestricted.store(rules.is_unrestricted(), Ordering::Release);
        *current = Arc::new(rules);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Whether nothing is forbidden: what every command asks first.
    #[inline]
    pub fn is_unrestricted(&self) -> bool {
        self.unrestricted.load(Ordering::Relaxed)
    }

    /// Grows with every change.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// A session's hold on its user, with a copy of the rules that is renewed when they change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub user: Arc<User>,
    rules: Arc<Rules>,
    version: u64,
}

impl Identity {
    /// Of a session that has authenticated as this user.
    pub fn new(user: Arc<User>) -> Identity {
        let (version, rules) = (user.version(), user.rules());
        Identity { user, rules, version }
    }

    /// Whether the call of a data command may go on without a look at its keys.
    #[inline]
    pub fn permits(&self, id: usize) -> bool {
        self.user.is_unrestricted()
            || self.version == self.user.version()
                && self.rules.selectors[0].all_keys
                && self.rules.selectors[0].has_command(id)
    }

    /// The rules of this moment.
    pub fn rules(&mut self) -> &Arc<Rules> {
        let version = self.user.version();
        if version != self.version {
            (self.version, self.rules) = (version, self.user.rules());
        }
        &self.rules
    }
}
