//! One rule of the table.

use crate::glob;
use crate::number;
use std::cmp::{Ordering, Reverse};

/// The longest time to live that a rule gives, seconds: a hundred years.
pub const TTL_SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// What holds for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// It stays in its site; replicas there follow at once, behind the reply.
    #[default]
    Local = 0,
    /// The same, shipped in large batches that may come later.
    Async = 1,
    /// All sites have it, each takes writes, and they merge.
    Global = 2,
    /// A majority has each write before it is answered.
    Strong = 3,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 4] = [Class::Local, Class::Async, Class::Global, Class::Strong];

    /// Its name in commands and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Local => "local",
            Class::Async => "async",
            Class::Global => "global",
            Class::Strong => "strong",
        }
    }

    /// The class of that name, in any case.
    pub fn from_name(name: &[u8]) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name().as_bytes().eq_ignore_ascii_case(name))
    }

    pub(super) fn from_number(number: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| *class as u8 == number)
    }
}

/// Where the values of a rule's keys are to be, where there is a cold tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TierChoice {
    /// Wherever their use puts them.
    #[default]
    Auto = 0,
    /// In memory, whatever else has to leave it.
    Hot = 1,
    /// On disk, before others have to leave memory.
    Cold = 2,
}

impl TierChoice {
    const ALL: [TierChoice; 3] = [TierChoice::Auto, TierChoice::Hot, TierChoice::Cold];

    /// Its name in commands and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            TierChoice::Auto => "auto",
            TierChoice::Hot => "hot",
            TierChoice::Cold => "cold",
        }
    }

    pub(super) fn from_name(name: &[u8]) -> Option<TierChoice> {
        TierChoice::ALL.into_iter().find(|tier| tier.name().as_bytes().eq_ignore_ascii_case(name))
    }

    pub(super) fn from_number(number: u8) -> Option<TierChoice> {
        TierChoice::ALL.into_iter().find(|tier| *tier as u8 == number)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A glob, as KEYS takes it.
    pub pattern: Box<[u8]>,
    /// What holds for the keys that match.
    pub class: Class,
    /// Seconds after which a key goes that a write leaves without an expiry; 0 for never.
    pub ttl_seconds: u64,
    /// Where their values are to be.
    pub tier: TierChoice,
}

impl Rule {
    /// Reads `pattern class [TTL seconds] [TIER auto|hot|cold]`.
    ///
    /// # Errors
    /// What is wrong with it, without a prefix.
    pub fn parse(words: &[&[u8]]) -> Result<Rule, &'static str> {
        let [pattern, class, options @ ..] = words else {
            return Err("a policy is a pattern and a class");
        };
        if pattern.is_empty() || pattern.len() > super::PATTERN_BYTES_MAX {
            return Err("the pattern of a policy is empty or too long");
        }
        let class = Class::from_name(class)
            .ok_or("the class of a policy is one of local, async, global, strong")?;
        let mut rule =
            Rule { pattern: (*pattern).into(), class, ttl_seconds: 0, tier: TierChoice::Auto };
        if options.len() % 2 != 0 {
            return Err("an option of a policy has no value");
        }
        for option in options.chunks_exact(2) {
            if option[0].eq_ignore_ascii_case(b"ttl") {
                let seconds = number::parse_i64(option[1]).and_then(|ttl| u64::try_from(ttl).ok());
                rule.ttl_seconds = seconds
                    .filter(|seconds| *seconds <= TTL_SECONDS_MAX)
                    .ok_or("the ttl of a policy is a number of seconds")?;
            } else if option[0].eq_ignore_ascii_case(b"tier") {
                rule.tier = TierChoice::from_name(option[1])
                    .ok_or("the tier of a policy is one of auto, hot, cold")?;
            } else {
                return Err("a policy has the options ttl and tier");
            }
        }
        Ok(rule)
    }

    /// Whether `key` is one of its keys.
    #[inline]
    pub fn matches(&self, key: &[u8]) -> bool {
        let (beginning, whole) = glob::literal_prefix(&self.pattern);
        if whole {
            return beginning == key;
        }
        key.starts_with(beginning) && glob::matches(&self.pattern, key)
    }

    /// Whether this rule is asked before `other`.
    pub(super) fn precedence(&self, other: &Rule) -> Ordering {
        let rank = |rule: &Rule| {
            (Reverse(glob::literal_prefix(&rule.pattern).0.len()), Reverse(rule.pattern.len()))
        };
        rank(self).cmp(&rank(other)).then_with(|| self.pattern.cmp(&other.pattern))
    }
}
