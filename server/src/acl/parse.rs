//! The rules of ACL SETUSER, one word each: `on`, `>password`, `~pattern`, `+command`, `(...)`.

use super::selector::Selector;
use super::user::{Rules, SELECTORS_MAX, hash, unhex};
use crate::registry::Registry;

/// What is wrong with a rule; shown with Redis's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// No such command or category.
    Unknown,
    /// It is no rule.
    Syntax,
    /// A pattern of keys after all were allowed.
    PatternAfterAll,
    /// A pattern of channels after all were allowed.
    ChannelAfterAll,
    /// A password to be removed that there is not.
    NoSuchPassword,
    /// It is no hash of a password.
    BadHash,
    /// `+config|get|x`
    FirstArgOfSubcommand,
    /// More patterns, passwords or selectors than a user can have.
    TooMany,
}

impl RuleError {
    /// The text for the client.
    pub fn text(self) -> &'static str {
        match self {
            RuleError::Unknown => "Unknown command or category name in ACL",
            RuleError::Syntax => "Syntax error",
            RuleError::PatternAfterAll => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and \
                 does not have any effect. Try 'resetkeys' to start with an empty list of patterns"
            }
            RuleError::ChannelAfterAll => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and \
                 does not have any effect. Try 'resetchannels' to start with an empty list of \
                 channels"
            }
            RuleError::NoSuchPassword => {
                "The password you are trying to remove from the user does not exist"
            }
            RuleError::BadHash => {
                "The password hash must be exactly 64 characters and contain only lowercase \
                 hexadecimal characters"
            }
            RuleError::FirstArgOfSubcommand => {
                "Allowing first-arg of a subcommand is not supported"
            }
            RuleError::TooMany => "A user can't have more of these",
        }
    }
}

/// What rules are read against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The commands that there are.
    pub registry: &'a Registry,
    /// `acl-pubsub-default`
    pub all_channels: bool,
}

/// Puts the words of a selector that has blanks inside its parentheses together again.
///
/// # Errors
/// The word whose parenthesis is not closed, in a text for the client.
pub fn merge_selectors(words: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (at, word) in words.iter().enumerate() {
        open = match open.take() {
            Some((start, mut text)) => {
                text.push(b' ');
                text.extend_from_slice(word);
                Some((start, text))
            }
            None if word.starts_with(b"(") => Some((at, word.to_vec())),
            None => {
                merged.push(word.to_vec());
                None
            }
        };
        if let Some((_, text)) = open.take_if(|(_, text)| text.ends_with(b")")) {
            merged.push(text);
        }
    }
    match open {
        None => Ok(merged),
        Some((start, _)) => {
            let word = String::from_utf8_lossy(words[start]);
            Err(format!("Unmatched parenthesis in acl selector starting at '{word}'."))
        }
    }
}

/// Applies one rule to a user.
///
/// # Errors
/// If it is none, or does not go with what the user has.
pub fn apply(rules: &mut Rules, rule: &[u8], context: Context<'_>) -> Result<(), RuleError> {
    match rule.to_ascii_lowercase().as_slice() {
        b"on" => rules.on = true,
        b"off" => rules.on = false,
        b"nopass" => {
            rules.no_password = true;
            rules.passwords.clear();
        }
        b"resetpass" => {
            rules.no_password = false;
            rules.passwords.clear();
        }
        b"skip-sanitize-payload" => rules.skip_sanitize = true,
        b"sanitize-payload" => rules.skip_sanitize = false,
        b"reset" => *rules = Rules::new(context.registry, context.all_channels),
        b"clearselectors" => rules.selectors.truncate(1),
        _ => return apply_more(rules, rule, context),
    }
    Ok(())
}

fn apply_more(rules: &mut Rules, rule: &[u8], context: Context<'_>) -> Result<(), RuleError> {
    match rule {
        [b'>', password @ ..] => rules.add_password(hash(password)),
        [b'#', text @ ..] => rules.add_password(unhex(text).ok_or(RuleError::BadHash)?),
        [b'<', password @ ..] => remove_password(rules, hash(password)),
        [b'!', text @ ..] => remove_password(rules, unhex(text).ok_or(RuleError::BadHash)?),
        [b'(', inner @ .., b')'] => {
            if rules.selectors.len() > SELECTORS_MAX {
                return Err(RuleError::TooMany);
            }
            let mut selector = Selector::new(context.registry, context.all_channels);
            for word in inner.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
                apply_to_selector(&mut selector, word, context.registry)
                    .map_err(|_| RuleError::Syntax)?;
            }
            rules.selectors.push(selector);
            Ok(())
        }
        rule => apply_to_selector(rules.root(), rule, context.registry),
    }
}

fn remove_password(rules: &mut Rules, hash: super::user::Hash) -> Result<(), RuleError> {
    let before = rules.passwords.len();
    rules.passwords.retain(|own| *own != hash);
    if rules.passwords.len() == before { Err(RuleError::NoSuchPassword) } else { Ok(()) }
}

fn apply_to_selector(
    selector: &mut Selector,
    rule: &[u8],
    registry: &Registry,
) -> Result<(), RuleError> {
    match rule.to_ascii_lowercase().as_slice() {
        b"allkeys" | b"~*" => selector.reset_keys(true),
        b"resetkeys" => selector.reset_keys(false),
        b"allchannels" | b"&*" => selector.reset_channels(true),
        b"resetchannels" => selector.reset_channels(false),
        b"allcommands" | b"+@all" => selector.set_all(true),
        b"nocommands" | b"-@all" => selector.set_all(false),
        _ => return apply_pattern(selector, rule, registry),
    }
    Ok(())
}

fn apply_pattern(
    selector: &mut Selector,
    rule: &[u8],
    registry: &Registry,
) -> Result<(), RuleError> {
    let word = |text: &[u8]| {
        let text = std::str::from_utf8(text).map_err(|_| RuleError::Unknown)?;
        Ok::<String, RuleError>(text.to_ascii_lowercase())
    };
    match rule {
        [b'~', pattern @ ..] => selector.add_keys(plain(pattern)?, true, true),
        [b'%', rest @ ..] => {
            let at = rest.iter().position(|byte| *byte == b'~').ok_or(RuleError::Syntax)?;
            let (read, write) = match rest[..at].to_ascii_uppercase().as_slice() {
                b"R" => (true, false),
                b"W" => (false, true),
                b"RW" | b"WR" => (true, true),
                _ => return Err(RuleError::Syntax),
            };
            selector.add_keys(plain(&rest[at + 1..])?, read, write)
        }
        [b'&', pattern @ ..] => selector.add_channels(plain(pattern)?),
        [b'+', b'@', category @ ..] => selector.set_category(registry, &word(category)?, true),
        [b'-', b'@', category @ ..] => selector.set_category(registry, &word(category)?, false),
        [b'+', name @ ..] => {
            let name = word(name)?;
            match name.rsplit_once('|') {
                Some((command, arg)) => selector.add_first_arg(registry, command, arg),
                None => selector.set_command(registry, &name, true),
            }
        }
        [b'-', name @ ..] => selector.set_command(registry, &word(name)?, false),
        _ => Err(RuleError::Syntax),
    }
}

/// A pattern that can be written on a line with others.
fn plain(pattern: &[u8]) -> Result<&[u8], RuleError> {
    let bad = pattern.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0);
    if bad { Err(RuleError::Syntax) } else { Ok(pattern) }
}
