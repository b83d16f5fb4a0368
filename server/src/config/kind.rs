//! The forms a setting's value can have: how each is read, checked and shown.

use std::borrow::Cow;

use ashlar_engine::config::Event;

use super::units::{parse_bytes, shortest};

/// Why a value was refused, in Redis's words where clients may read them.
pub type Reason = Cow<'static, str>;

/// Reads a value made of words. `current` is the value so far and `again` says that the same
/// source has already given this setting, for settings whose lines add up (`save`).
pub type ReadWords = fn(words: &[&[u8]], current: &[u8], again: bool) -> Result<Vec<u8>, Reason>;

/// The form of a setting's values.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A whole number in a range, both ends included.
    Int {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
    },
    /// A number that is above its greatest value is brought down to it, as Redis does for `hz`.
    Clamped {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
    },
    /// File permissions, in octal.
    Octal,
    /// Bytes, with an optional unit.
    Memory {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
    },
    /// Bytes, or a percentage of `maxmemory` (kept as a negative number).
    MemoryOrPercent,
    /// One of a few names.
    Enum(&'static [(&'static str, i64)]),
    /// Any of a few names; the numbers are bits, a zero stands alone.
    EnumFlags(&'static [(&'static str, i64)]),
    /// The letters of `notify-keyspace-events`.
    KeyspaceEvents,
    /// Any single word.
    Text,
    /// One word with a rule of its own.
    Word {
        /// Reads, checks and completes.
        read: fn(word: &[u8]) -> Result<Vec<u8>, Reason>,
        /// What the documentation shows as the form.
        form: &'static str,
    },
    /// One or more words with a rule of their own, kept in the form that CONFIG GET shows.
    Words {
        /// Reads and checks.
        read: ReadWords,
        /// What the documentation shows as the form.
        form: &'static str,
    },
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Booleans (0 or 1), numbers, byte counts, enums, flags.
    Number(i64),
    /// Everything else, as CONFIG GET shows it.
    Text(Vec<u8>),
}

impl Kind {
    /// Reads the words of a line. `current` is the value so far; `again` says that it comes from
    /// an earlier line of the same source. A list may also come as one word with spaces, which is
    /// how CONFIG SET gives it.
    ///
    /// # Errors
    /// The reason, without the setting's name.
    pub fn read(&self, words: &[&[u8]], current: &Value, again: bool) -> Result<Value, Reason> {
        let parts: Vec<&[u8]> = match words {
            [joined] if self.takes_words() => joined.split(|byte| *byte == b' ').collect(),
            _ => words.to_vec(),
        };
        match (self, parts.as_slice()) {
            (Self::Words { read, .. }, parts) => {
                let current: &[u8] = match current {
                    Value::Text(text) => text,
                    Value::Number(_) => b"",
                };
                read(parts, current, again).map(Value::Text)
            }
            (Self::EnumFlags(names), [_, ..]) => read_flags(&parts, names).map(Value::Number),
            (Self::Text, [word]) => Ok(Value::Text(word.to_vec())),
            (Self::Word { read, .. }, [word]) => read(word).map(Value::Text),
            (_, [word]) => self.read_number(word).map(Value::Number),
            _ => Err("wrong number of arguments".into()),
        }
    }

    /// Whether a line may carry more than one word.
    const fn takes_words(&self) -> bool {
        matches!(self, Self::Words { .. } | Self::EnumFlags(_))
    }

    fn read_number(&self, word: &[u8]) -> Result<i64, Reason> {
        match self {
            Self::Bool if word.eq_ignore_ascii_case(b"yes") => Ok(1),
            Self::Bool if word.eq_ignore_ascii_case(b"no") => Ok(0),
            Self::Bool => Err("argument must be 'yes' or 'no'".into()),
            Self::Int { min, max } => in_range(parse_int(word)?, *min, *max),
            Self::Clamped { min, max } => in_range(parse_int(word)?.min(*max), *min, *max),
            Self::Octal => {
                let mode = std::str::from_utf8(word).ok();
                let mode = mode.and_then(|text| i64::from_str_radix(text, 8).ok());
                in_range(mode.ok_or("argument couldn't be parsed into an integer")?, 0, 0o777)
            }
            Self::Memory { min, max } => {
                in_range(parse_bytes(word).ok_or("argument must be a memory value")?, *min, *max)
            }
            Self::MemoryOrPercent => read_memory_or_percent(word),
            Self::Enum(names) => find_name(names, word),
            Self::KeyspaceEvents => std::str::from_utf8(word)
                .ok()
                .and_then(Event::parse)
                .map(|events| i64::from(events.bits()))
                .ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into()),
            Self::EnumFlags(_) | Self::Text | Self::Word { .. } | Self::Words { .. } => {
                Err("wrong number of arguments".into())
            }
        }
    }

    /// The value as CONFIG GET shows it.
    pub fn show(&self, value: &Value) -> Vec<u8> {
        let number = match value {
            Value::Text(text) => return text.clone(),
            Value::Number(number) => *number,
        };
        match self {
            Self::Bool => if number == 0 { "no" } else { "yes" }.into(),
            Self::Octal => format!("{number:o}").into_bytes(),
            Self::MemoryOrPercent if number < 0 => {
                format!("{}%", number.unsigned_abs()).into_bytes()
            }
            Self::Enum(names) => {
                names.iter().find(|(_, own)| *own == number).map_or("", |(name, _)| name).into()
            }
            Self::EnumFlags(names) => show_flags(names, number).into_bytes(),
            Self::KeyspaceEvents => Event::from_bits_truncate(number as u32).format().into_bytes(),
            _ => number.to_string().into_bytes(),
        }
    }

    /// The value as a configuration file has it: byte counts with a unit, text quoted.
    pub(super) fn show_in_file(&self, value: &Value) -> Vec<u8> {
        match (self, value) {
            (Self::Memory { .. } | Self::MemoryOrPercent, Value::Number(bytes)) if *bytes >= 0 => {
                shortest(*bytes).into_bytes()
            }
            (Self::Text | Self::Word { .. } | Self::KeyspaceEvents, _) => {
                super::line::quote(&self.show(value))
            }
            _ => {
                let text = self.show(value);
                if text.is_empty() { b"\"\"".to_vec() } else { text }
            }
        }
    }

    /// The form of the value in one phrase, for the documentation.
    pub fn form(&self) -> String {
        match self {
            Self::Bool => "`yes` or `no`".into(),
            Self::Int { min, max } | Self::Clamped { min, max } => match (*min, *max) {
                (min, max) if max >= i64::from(i32::MAX) => format!("number from {min}"),
                (min, max) => format!("number, {min} to {max}"),
            },
            Self::Octal => "octal permissions".into(),
            Self::Memory { min: 0, .. } => "bytes".into(),
            Self::Memory { min, .. } => format!("bytes, from {}", shortest(*min)),
            Self::MemoryOrPercent => "bytes or a percentage of `maxmemory`".into(),
            Self::Enum(names) => join(names),
            Self::EnumFlags(names) => format!("any of {}", join(names)),
            Self::KeyspaceEvents => "letters of `AKEg$lshzxetmdn`".into(),
            Self::Text => "text".into(),
            Self::Word { form, .. } | Self::Words { form, .. } => format!("`{form}`"),
        }
    }
}

/// Reads a whole number in its only spelling: no sign `+`, no leading zeros or spaces.
pub(super) fn parse_int(word: &[u8]) -> Result<i64, Reason> {
    let text = std::str::from_utf8(word).unwrap_or("");
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Ok(number),
        _ => Err("argument couldn't be parsed into an integer".into()),
    }
}

fn in_range(number: i64, min: i64, max: i64) -> Result<i64, Reason> {
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    Err(format!("argument must be between {min} and {max} inclusive").into())
}

fn read_memory_or_percent(word: &[u8]) -> Result<i64, Reason> {
    let Some(percent) = word.strip_suffix(b"%") else {
        return parse_bytes(word).ok_or("argument must be a memory or percent value".into());
    };
    match parse_int(percent) {
        Ok(percent) if percent > 100 => {
            Err("percentage argument must be less or equal to 100".into())
        }
        Ok(percent) if percent >= 0 => Ok(-percent),
        _ => Err("argument must be a memory or percent value".into()),
    }
}

fn find_name(names: &[(&'static str, i64)], word: &[u8]) -> Result<i64, Reason> {
    let found = names.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word));
    found.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("argument(s) must be one of the following: {}", names.join(", ")).into()
    })
}

fn read_flags(words: &[&[u8]], names: &[(&'static str, i64)]) -> Result<i64, Reason> {
    let mut flags = 0;
    for word in words {
        flags |= find_name(names, word)?;
    }
    Ok(flags)
}

fn show_flags(names: &[(&'static str, i64)], flags: i64) -> String {
    let set: Vec<&str> =
        names.iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| *name).collect();
    if set.is_empty() {
        return names.iter().find(|(_, bit)| *bit == 0).map_or("", |(name, _)| name).into();
    }
    set.join(" ")
}

fn join(names: &[(&'static str, i64)]) -> String {
    let names: Vec<String> = names.iter().map(|(name, _)| format!("`{name}`")).collect();
    names.join(", ")
}
