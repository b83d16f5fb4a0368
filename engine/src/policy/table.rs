//! The rules in the order in which they are asked, and their bytes.
//!
//! ```text
//! version varint, number of rules varint, each: pattern length varint, pattern, class u8, tier u8, ttl varint
//! ```

use super::rule::{Class, Rule, TTL_SECONDS_MAX, TierChoice};
use crate::value::varint;

/// Most rules. They are asked one by one.
pub const RULES_MAX: usize = 256;
/// Most bytes of a pattern.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Rules, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rules: Vec<Rule>,
    version: u64,
}

impl Table {
    /// The rules, the one that is asked first in front.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The rule that counts for a key.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(key))
    }

    /// The rule of that pattern.
    pub fn rule(&self, pattern: &[u8]) -> Option<&Rule> {
        self.rules.iter().find(|rule| &*rule.pattern == pattern)
    }

    /// Adds a rule, or puts it in the place of that of the same pattern. Says whether there was room.
    #[must_use]
    pub fn set(&mut self, rule: Rule) -> bool {
        let others = self.rules.iter().filter(|other| other.pattern != rule.pattern).count();
        if others >= RULES_MAX {
            return false;
        }
        self.rules.retain(|other| other.pattern != rule.pattern);
        let at = self.rules.partition_point(|other| other.precedence(&rule).is_lt());
        self.rules.insert(at, rule);
        self.version += 1;
        true
    }

    /// Removes the rule of that pattern; says whether there was one.
    pub fn remove(&mut self, pattern: &[u8]) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| &*rule.pattern != pattern);
        let removed = self.rules.len() != before;
        self.version += u64::from(removed);
        removed
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::push(out, self.version);
        varint::push(out, self.rules.len() as u64);
        for rule in &self.rules {
            varint::push(out, rule.pattern.len() as u64);
            out.extend_from_slice(&rule.pattern);
            out.extend([rule.class as u8, rule.tier as u8]);
            varint::push(out, rule.ttl_seconds);
        }
    }

    /// Reads the bytes; `None` if they are no table.
    pub fn decode(bytes: &[u8]) -> Option<Table> {
        let (version, at) = varint::read(bytes, 0)?;
        let (count, mut at) = varint::read(bytes, at)?;
        let mut table = Table::default();
        for _ in 0..count {
            let (len, start) = varint::read(bytes, at)?;
            let len =
                usize::try_from(len).ok().filter(|len| (1..=PATTERN_BYTES_MAX).contains(len))?;
            let end = start.checked_add(len)?;
            let pattern = bytes.get(start..end)?.into();
            let class = Class::from_number(*bytes.get(end)?)?;
            let tier = TierChoice::from_number(*bytes.get(end + 1)?)?;
            let (ttl_seconds, next) = varint::read(bytes, end + 2)?;
            if ttl_seconds > TTL_SECONDS_MAX {
                return None;
            }
            at = next;
            table.set(Rule { pattern, class, ttl_seconds, tier }).then_some(())?;
        }
        table.version = version;
        (at == bytes.len()).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Table {
        let mut table = Table::default();
        for line in lines {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert!(table.set(Rule::parse(&words).unwrap()));
        }
        table
    }

    #[test]
    fn the_rule_with_the_longest_beginning_counts_in_whatever_order_they_came() {
        let lines =
            ["* async", "user:* local", "user:*:cart global", "user:1* strong", "user:12 local"];
        let mut reversed = lines;
        reversed.reverse();
        for table in [table(&lines), table(&reversed)] {
            let class = |key: &str| table.find(key.as_bytes()).map(|rule| rule.class.name());
            assert_eq!(class("other"), Some("async"));
            assert_eq!(class("user:7"), Some("local"));
            assert_eq!(class("user:7:cart"), Some("global"));
            assert_eq!(class("user:1:cart"), Some("strong"), "the longer beginning is asked first");
            assert_eq!(class("user:12"), Some("local"));
            assert_eq!(class("user:123"), Some("strong"));
        }
        assert_eq!(table(&["a?c local"]).find(b"abd"), None);
    }

    #[test]
    fn tables_come_back_from_their_bytes() {
        let mut some =
            table(&["session:* local ttl 1800 tier hot", "log:* async TIER cold", "a global"]);
        assert!(some.remove(b"a") && !some.remove(b"a"));
        assert_eq!(some.version(), 4);
        let mut bytes = Vec::new();
        some.encode(&mut bytes);
        assert_eq!(Table::decode(&bytes), Some(some));
        for cut in 0..bytes.len() {
            assert_eq!(Table::decode(&bytes[..cut]), None, "{cut} bytes");
        }
        for byte in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut other = bytes.clone();
                other[byte] = value;
                let _ = Table::decode(&other);
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for line in [
            "a",
            "a b",
            "a local ttl",
            "a local ttl -1",
            "a local ttl x",
            "a local tier warm",
            "a local foo 1",
            " local",
            "a local ttl 99999999999",
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert!(Rule::parse(&words).is_err(), "{line}");
        }
        let mut full = Table::default();
        for n in 0..RULES_MAX {
            assert!(full.set(Rule::parse(&[format!("p{n}").as_bytes(), b"local"]).unwrap()));
        }
        assert!(!full.set(Rule::parse(&[b"one more", b"local"]).unwrap()));
        assert!(full.set(Rule::parse(&[b"p0", b"async"]).unwrap()), "a rule can be replaced");
    }
}
