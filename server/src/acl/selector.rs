//! A set of permissions: commands, keys, channels. A user has one, and further ones in parentheses;
//! a call is allowed if any of them allows all of it.

use super::access::{Access, accesses, channels, sort_pattern};
use super::parse::RuleError;
use crate::registry::{Registry, Resolved};
use ashlar_engine::command::{Flags, KeyList};
use ashlar_engine::error::Error;
use ashlar_engine::glob;
use std::collections::{BTreeMap, BTreeSet};

/// Most patterns of keys, or of channels, in one selector.
pub const PATTERNS_MAX: usize = 10_000;

/// Why a call is refused, in the order in which Redis prefers to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The command or subcommand.
    Command,
    /// A key.
    Key,
    /// A wrong name or password.
    Auth,
    /// A channel.
    Channel,
}

/// A refusal: why, and the position of the argument that is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// Position of the key or channel.
    pub at: usize,
}

/// Why a call must not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A permission is missing.
    Denied(Denied),
    /// An option of SORT reads keys that no check of arguments sees; the error to reply.
    Sort(Error),
}

impl Refusal {
    /// Of SORT with this option.
    pub fn sort(option: &str) -> Refusal {
        Refusal::Sort(Error::owned(format!(
            "ERR {option} option of SORT denied due to insufficient ACL permissions."
        )))
    }
}

/// A pattern of keys and what may be done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    /// As in KEYS.
    pub pattern: Box<[u8]>,
    /// To be read.
    pub read: bool,
    /// To be written.
    pub write: bool,
}

impl KeyPattern {
    fn allows(&self, access: Access) -> bool {
        (self.read || !access.read) && (self.write || !access.write)
    }

    fn show(&self) -> Vec<u8> {
        let prefix: &[u8] = match (self.read, self.write) {
            // `~*` would be read as all keys, which is kept in another way, and refuses patterns behind it.
            (true, true) if *self.pattern == *b"*" => b"%RW~",
            (true, true) => b"~",
            (true, false) => b"%R~",
            _ => b"%W~",
        };
        [prefix, &self.pattern].concat()
    }
}

/// A set of permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Allowed commands and subcommands, by number in the registry.
    commands: Box<[u64]>,
    /// First arguments with which a command is allowed that is not allowed as such.
    first_args: BTreeMap<usize, BTreeSet<Box<[u8]>>>,
    /// Whether the rules began with `+@all`.
    base_all: bool,
    /// The rules about commands since then, in order: what ACL LIST shows.
    rules: Vec<String>,
    /// `allkeys`
    pub all_keys: bool,
    /// `allchannels`
    pub all_channels: bool,
    keys: Vec<KeyPattern>,
    channels: Vec<Box<[u8]>>,
}

impl Selector {
    /// Nothing is allowed.
    pub fn new(registry: &Registry, all_channels: bool) -> Selector {
        Selector {
            commands: vec![0; registry.len().div_ceil(64)].into(),
            first_args: BTreeMap::new(),
            base_all: false,
            rules: Vec::new(),
            all_keys: false,
            all_channels,
            keys: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Whether everything is allowed, also what does not exist yet.
    pub fn is_unrestricted(&self) -> bool {
        self.base_all && self.rules.is_empty() && self.all_keys && self.all_channels
    }

    /// Whether the command is allowed as such.
    #[inline]
    pub fn has_command(&self, id: usize) -> bool {
        self.commands.get(id / 64).is_some_and(|word| word & 1 << (id % 64) != 0)
    }

    fn set(&mut self, id: usize, allow: bool) {
        self.first_args.remove(&id);
        if let Some(word) = self.commands.get_mut(id / 64) {
            *word = if allow { *word | 1 << (id % 64) } else { *word & !(1 << (id % 64)) };
        }
    }

    /// `+@all` and `-@all`
    pub fn set_all(&mut self, allow: bool) {
        self.commands.fill(if allow { u64::MAX } else { 0 });
        self.first_args.clear();
        self.rules.clear();
        self.base_all = allow;
    }

    /// `+command`, `-command`, also of a subcommand (`config|get`).
    pub fn set_command(
        &mut self,
        registry: &Registry,
        name: &str,
        allow: bool,
    ) -> Result<(), RuleError> {
        let id = registry.find_full(name.as_bytes()).ok_or(RuleError::Unknown)?;
        for id in std::iter::once(id).chain(registry.subcommands(id)) {
            self.set(id, allow);
        }
        self.note(registry.full_name(id).to_owned(), allow);
        Ok(())
    }

    /// `+command|first-argument`
    pub fn add_first_arg(
        &mut self,
        registry: &Registry,
        name: &str,
        arg: &str,
    ) -> Result<(), RuleError> {
        let id = registry.find_full(name.as_bytes()).ok_or(RuleError::Unknown)?;
        if name.contains('|') {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        if arg.is_empty() {
            return Err(RuleError::Syntax);
        }
        let full = format!("{}|{}", registry.full_name(id), arg.to_ascii_lowercase());
        if registry.subcommands(id).next().is_some() {
            return self.set_command(registry, &full, true);
        }
        let args = self.first_args.entry(id).or_default();
        let arg = arg.to_ascii_lowercase().into_bytes().into_boxed_slice();
        args.insert(arg);
        self.note(full, true);
        Ok(())
    }

    /// `+@category` and `-@category`
    pub fn set_category(
        &mut self,
        registry: &Registry,
        category: &str,
        allow: bool,
    ) -> Result<(), RuleError> {
        let category = category.to_ascii_lowercase();
        if !super::CATEGORIES.contains(&category.as_str()) {
            return Err(RuleError::Unknown);
        }
        for id in registry.in_category(&category) {
            self.set(id, allow);
        }
        self.note(format!("@{category}"), allow);
        Ok(())
    }

    /// Remembers a rule for ACL LIST; one that it makes pointless goes.
    fn note(&mut self, rule: String, allow: bool) {
        let sub = format!("{rule}|");
        self.rules.retain(|old| old[1..] != rule && !old[1..].starts_with(&sub));
        self.rules.push(format!("{}{rule}", if allow { '+' } else { '-' }));
    }

    /// `~pattern`, `%R~pattern`, `%W~pattern`
    pub fn add_keys(&mut self, pattern: &[u8], read: bool, write: bool) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::PatternAfterAll);
        }
        if let Some(known) = self.keys.iter_mut().find(|known| *known.pattern == *pattern) {
            (known.read, known.write) = (known.read || read, known.write || write);
            return Ok(());
        }
        if self.keys.len() >= PATTERNS_MAX {
            return Err(RuleError::TooMany);
        }
        self.keys.push(KeyPattern { pattern: pattern.into(), read, write });
        Ok(())
    }

    /// `allkeys`, `resetkeys`
    pub fn reset_keys(&mut self, all: bool) {
        self.keys.clear();
        self.all_keys = all;
    }

    /// `&pattern`
    pub fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::ChannelAfterAll);
        }
        if !self.channels.iter().any(|known| **known == *pattern) {
            if self.channels.len() >= PATTERNS_MAX {
                return Err(RuleError::TooMany);
            }
            self.channels.push(pattern.into());
        }
        Ok(())
    }

    /// `allchannels`, `resetchannels`
    pub fn reset_channels(&mut self, all: bool) {
        self.channels.clear();
        self.all_channels = all;
    }

    fn allows_key(&self, key: &[u8], access: Access) -> bool {
        self.all_keys
            || self
                .keys
                .iter()
                .any(|pattern| pattern.allows(access) && glob::matches(&pattern.pattern, key))
    }

    /// Whether a channel may be used; a pattern only if the same pattern is allowed, letter by
    /// letter.
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.all_channels
            || self.channels.iter().any(|allowed| match is_pattern {
                true => **allowed == *channel,
                false => glob::matches(allowed, channel),
            })
    }

    /// Whether every key may be read.
    fn reads_all_keys(&self) -> bool {
        self.all_keys || self.keys.iter().any(|pattern| pattern.read && &*pattern.pattern == b"*")
    }

    /// Whether this selector allows the call.
    ///
    /// # Errors
    /// What it does not allow.
    pub fn check(&self, resolved: &Resolved, args: &[&[u8]]) -> Result<(), Denied> {
        let command = resolved.command;
        if !self.has_command(resolved.id) && !command.flags.contains(Flags::NO_AUTH) {
            let allowed = self.first_args.get(&resolved.id).zip(args.get(1));
            if !allowed.is_some_and(|(allowed, arg)| {
                allowed.iter().any(|one| one.eq_ignore_ascii_case(arg))
            }) {
                return Err(Denied { reason: Reason::Command, at: 0 });
            }
        }
        if !self.all_keys {
            let mut keys = KeyList::new();
            command.keys.positions(args, &mut keys);
            let denied = keys
                .iter()
                .zip(accesses(command, args, &keys).iter())
                .find(|(at, access)| !self.allows_key(args[**at], *access));
            if let Some((at, _)) = denied {
                return Err(Denied { reason: Reason::Key, at: *at });
            }
        }
        if !self.all_channels {
            let (mut positions, is_pattern) = channels(command.name, args.len());
            if let Some(at) = positions.find(|at| !self.allows_channel(args[*at], is_pattern)) {
                return Err(Denied { reason: Reason::Channel, at });
            }
        }
        Ok(())
    }

    /// The option of SORT that this selector does not allow, if the call has one.
    pub fn forbidden_sort(&self, resolved: &Resolved, args: &[&[u8]]) -> Option<&'static str> {
        let option = sort_pattern(resolved.command.name, args)?;
        (!(self.has_command(resolved.id) && self.reads_all_keys())).then_some(option)
    }

    /// The rules about commands.
    pub fn show_commands(&self) -> String {
        let base = if self.base_all { "+@all" } else { "-@all" };
        let rules = self.rules.iter().map(String::as_str);
        std::iter::once(base).chain(rules).collect::<Vec<_>>().join(" ")
    }

    /// The patterns of keys.
    pub fn show_keys(&self) -> Vec<u8> {
        match self.all_keys {
            true => b"~*".to_vec(),
            false => self.keys.iter().map(KeyPattern::show).collect::<Vec<_>>().join(&b' '),
        }
    }

    /// The patterns of channels.
    pub fn show_channels(&self) -> Vec<u8> {
        match self.all_channels {
            true => b"&*".to_vec(),
            false => {
                let shown = self.channels.iter().map(|channel| [b"&", &**channel].concat());
                shown.collect::<Vec<_>>().join(&b' ')
            }
        }
    }

    /// All rules, in the form in which they can be read again.
    pub fn show(&self) -> Vec<u8> {
        let mut parts = vec![self.show_keys()];
        if !self.all_channels {
            parts.push(b"resetchannels".to_vec());
        }
        parts.extend([self.show_channels(), self.show_commands().into_bytes()]);
        parts.retain(|part| !part.is_empty());
        parts.join(&b' ')
    }
}
