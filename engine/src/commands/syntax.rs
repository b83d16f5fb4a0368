//! The notation in which the command table writes a command's arguments, and its parser.
//!
//! One line a command says how it is called; `COMMAND DOCS` answers from it and the random tests
//! generate calls from it, so that the two cannot disagree with each other.
//!
//! ```text
//! key value [NX|XX] [GET] [EX seconds:integer|KEEPTTL]      word    an argument: name or name:type
//! numkeys:integer key... [WEIGHTS weight:double...]         WORD    a literal token
//! key (field value)...                                      [..]    optional, (..) a group
//!                                                           a|b     alternatives inside either
//!                                                           x...    one or more of x
//! ```
//! A token that opens a group becomes the group's `token`, as Redis describes its own arguments:
//! `[EX seconds:integer]` is one optional integer named `seconds` with the token `EX`.

use std::fmt;

/// How deep groups may nest; a table entry needs three.
const DEPTH_MAX: usize = 16;

/// What an argument holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// The name of a key.
    Key,
    /// Any bytes.
    String,
    /// A signed decimal integer.
    Integer,
    /// A floating-point number.
    Double,
    /// A glob pattern.
    Pattern,
    /// A point in time, in seconds or milliseconds since 1970.
    UnixTime,
    /// Nothing but the argument's `token`.
    Token,
    /// Exactly one of these.
    OneOf(Vec<Arg>),
    /// All of these, in order.
    Block(Vec<Arg>),
}

impl ArgKind {
    /// The name that `COMMAND DOCS` uses for this type.
    pub fn name(&self) -> &'static str {
        match self {
            ArgKind::Key => "key",
            ArgKind::String => "string",
            ArgKind::Integer => "integer",
            ArgKind::Double => "double",
            ArgKind::Pattern => "pattern",
            ArgKind::UnixTime => "unix-time",
            ArgKind::Token => "pure-token",
            ArgKind::OneOf(_) => "oneof",
            ArgKind::Block(_) => "block",
        }
    }

    fn from_name(name: &str) -> Option<ArgKind> {
        Some(match name {
            "key" => ArgKind::Key,
            "string" => ArgKind::String,
            "integer" => ArgKind::Integer,
            "double" => ArgKind::Double,
            "pattern" => ArgKind::Pattern,
            "unix-time" => ArgKind::UnixTime,
            _ => return None,
        })
    }
}

/// One argument of a command, or a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Lower-case name; groups take the name of what they hold.
    pub name: String,
    /// What it holds.
    pub kind: ArgKind,
    /// The literal word that comes before it.
    pub token: Option<String>,
    /// May be left out.
    pub optional: bool,
    /// May come more than once.
    pub multiple: bool,
    /// The token comes again with each repetition.
    pub multiple_token: bool,
}

impl Arg {
    fn new(name: String, kind: ArgKind) -> Arg {
        Arg { name, kind, token: None, optional: false, multiple: false, multiple_token: false }
    }
}

/// Why a syntax line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset in the line.
    pub at: usize,
    /// What was wrong there.
    pub what: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for SyntaxError {}

/// Reads a whole line of the notation.
pub fn parse(line: &str) -> Result<Vec<Arg>, SyntaxError> {
    let mut parser = Parser { line, at: 0 };
    let args = parser.sequence(0)?;
    match parser.peek() {
        None => Ok(args),
        Some(b'|') => Err(parser.error("alternatives need a group around them")),
        Some(_) => Err(parser.error("a group is closed that was not opened")),
    }
}

struct Parser<'a> {
    line: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn error(&self, what: &'static str) -> SyntaxError {
        SyntaxError { at: self.at, what }
    }

    fn rest(&self) -> &str {
        self.line.get(self.at..).unwrap_or("")
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(' ').len();
        self.rest().bytes().next()
    }

    /// Items up to the end of the line, a `|` or the end of the group.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Arg>, SyntaxError> {
        let mut args = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'|' | b']' | b')') => return Ok(args),
                Some(b'[') => args.push(self.group(depth, b']')?),
                Some(b'(') => args.push(self.group(depth, b')')?),
                Some(_) => args.push(self.word()?),
            }
        }
    }

    fn group(&mut self, depth: usize, close: u8) -> Result<Arg, SyntaxError> {
        if depth >= DEPTH_MAX {
            return Err(self.error("groups nest too deep"));
        }
        self.at += 1;
        let mut choices = Vec::new();
        loop {
            let sequence = self.sequence(depth + 1)?;
            if sequence.is_empty() {
                return Err(self.error("an empty group or alternative"));
            }
            choices.push(fold(sequence));
            match self.peek() {
                Some(b'|') => self.at += 1,
                Some(byte) if byte == close => break,
                _ => return Err(self.error("a group is not closed")),
            }
        }
        self.at += 1;
        let mut arg = match choices.len() {
            1 => choices.swap_remove(0),
            _ => {
                let names: Vec<&str> = choices.iter().map(|choice| choice.name.as_str()).collect();
                Arg::new(names.join("-or-"), ArgKind::OneOf(choices))
            }
        };
        arg.optional |= close == b']';
        if self.dots() {
            // `[WEIGHTS weight...]...` has no meaning in any command.
            if arg.multiple {
                return Err(self.error("a repetition of a repetition"));
            }
            arg.multiple = true;
            arg.multiple_token = arg.token.is_some();
        }
        Ok(arg)
    }

    fn dots(&mut self) -> bool {
        let dots = self.rest().starts_with("...");
        self.at += if dots { 3 } else { 0 };
        dots
    }

    fn word(&mut self) -> Result<Arg, SyntaxError> {
        let rest = self.rest();
        let len = rest.find([' ', '|', '[', ']', '(', ')']).unwrap_or(rest.len());
        let len = rest.get(..len).and_then(|word| word.find("...")).unwrap_or(len);
        let word = rest.get(..len).unwrap_or("").to_owned();
        if word.is_empty() {
            return Err(self.error("a repetition of nothing"));
        }
        let mut arg = match word.bytes().any(|byte| byte.is_ascii_lowercase()) {
            false => {
                let mut arg = Arg::new(word.to_ascii_lowercase(), ArgKind::Token);
                arg.token = Some(word.clone());
                arg
            }
            true => self.value(&word)?,
        };
        self.at += word.len();
        arg.multiple = self.dots();
        Ok(arg)
    }

    fn value(&self, word: &str) -> Result<Arg, SyntaxError> {
        let (name, kind) = match word.split_once(':') {
            Some((name, kind)) => {
                let kind = ArgKind::from_name(kind).ok_or(self.error("an unknown type"))?;
                (name, kind)
            }
            None => match word {
                "key" | "newkey" | "source" | "destination" => (word, ArgKind::Key),
                _ => (word, ArgKind::String),
            },
        };
        Ok(Arg::new(name.to_owned(), kind))
    }
}

/// One argument from the sequence of a group: its leading token, if any, becomes that argument's.
fn fold(mut sequence: Vec<Arg>) -> Arg {
    if sequence.len() == 1 {
        return sequence.swap_remove(0);
    }
    let opens = sequence.first().is_some_and(|arg| arg.kind == ArgKind::Token && !arg.multiple);
    let token = if opens { sequence.remove(0).token } else { None };
    let single =
        sequence.len() == 1 && sequence.iter().all(|arg| arg.token.is_none() && !arg.optional);
    let mut arg = match single {
        true => sequence.swap_remove(0),
        false => {
            let name = match (&token, sequence.first()) {
                (Some(token), _) => token.to_ascii_lowercase(),
                (None, Some(first)) => first.name.clone(),
                (None, None) => String::new(),
            };
            Arg::new(name, ArgKind::Block(sequence))
        }
    };
    arg.token = token;
    arg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(args: &[Arg]) -> String {
        args.iter().map(show_one).collect::<Vec<_>>().join(" ")
    }

    fn show_one(arg: &Arg) -> String {
        let body = match &arg.kind {
            ArgKind::Token => String::new(),
            ArgKind::OneOf(choices) => {
                format!("one({})", choices.iter().map(show_one).collect::<Vec<_>>().join("|"))
            }
            ArgKind::Block(args) => format!("all({})", show(args)),
            kind => format!("{}:{}", arg.name, kind.name()),
        };
        let token = arg.token.as_ref().map(|token| format!("{token}=")).unwrap_or_default();
        let optional = if arg.optional { "?" } else { "" };
        let multiple = match (arg.multiple, arg.multiple_token) {
            (true, true) => "++",
            (true, false) => "+",
            _ => "",
        };
        format!("{token}{body}{optional}{multiple}")
    }

    #[test]
    fn reads_the_notation() {
        for (line, tree) in [
            ("", ""),
            ("key", "key:key"),
            ("source destination", "source:key destination:key"),
            ("key value [NX|XX] [GET]", "key:key value:string one(NX=|XX=)? GET=?"),
            (
                "key [EX seconds:integer|PXAT at:unix-time|KEEPTTL]",
                "key:key one(EX=seconds:integer|PXAT=at:unix-time|KEEPTTL=)?",
            ),
            ("key (field value)...", "key:key all(field:string value:string)+"),
            (
                "numkeys:integer key... [WEIGHTS weight:double...] [AGGREGATE (SUM|MIN|MAX)]",
                "numkeys:integer key:key+ WEIGHTS=weight:double?+ AGGREGATE=one(SUM=|MIN=|MAX=)?",
            ),
            (
                "key [BY pattern:pattern] [GET pattern:pattern]...",
                "key:key BY=pattern:pattern? GET=pattern:pattern?++",
            ),
            ("[LIMIT offset:integer count:integer]", "LIMIT=all(offset:integer count:integer)?"),
            ("STREAMS key... id...", "STREAMS= key:key+ id:string+"),
            (
                "[MAXLEN|MINID [=|~] threshold]",
                "one(MAXLEN=|MINID=all(one(==|~=)? threshold:string))?",
            ),
            ("(MAXLEN|MINID) [=|~] threshold", "one(MAXLEN=|MINID=) one(==|~=)? threshold:string"),
            ("[A b [C d]]", "A=all(b:string C=d:string?)?"),
            ("[A [b]]", "A=all(b:string?)?"),
        ] {
            assert_eq!(parse(line).map(|args| show(&args)).as_deref(), Ok(tree), "{line}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for line in ["[", "]", "(a", "a|b", "()", "[a|]", "a:nonsense", "...", "(a...)...", "[a)"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse(&"(".repeat(1_000)).is_err());
    }
}
