//! `cjson.decode`: JSON as a Lua value.
//!
//! A zero byte ends the text, as it does for the C code whose behaviour this has.

use super::{Settings, settings};
use crate::scripting::lua::{Raise, Stack};
use ashlar_engine::number::parse_f64_saturating;
use std::ffi::c_int;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    /// Its text is in the input if there was no escape in it, or else in the parser's buffer.
    String {
        plain: Option<(usize, usize)>,
    },
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    fn name(self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::String { .. } => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Error(text) => text,
        }
    }
}

struct Decoder<'a, 's> {
    stack: &'a mut Stack<'s>,
    settings: Settings,
    text: &'s [u8],
    at: usize,
    /// Where the present token starts.
    start: usize,
    depth: u32,
    buffer: Vec<u8>,
}

/// `cjson.decode(text)`
pub fn decode(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() != 1 {
        return Err(stack.arg_error(1, "expected 1 argument"));
    }
    let text = stack.arg_bytes(1)?;
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(stack.error("JSON parser does not support UTF-16 or UTF-32"));
    }
    let settings = settings(stack);
    let mut decoder =
        Decoder { stack, settings, text, at: 0, start: 0, depth: 0, buffer: Vec::new() };
    let token = decoder.token();
    decoder.value(token)?;
    match decoder.token() {
        Token::End => Ok(1),
        other => Err(decoder.refuse("the end", other)),
    }
}

impl Decoder<'_, '_> {
    fn refuse(&mut self, wanted: &str, found: Token) -> Raise {
        let text =
            format!("Expected {wanted} but found {} at character {}", found.name(), self.start + 1);
        self.stack.error(&text)
    }

    /// Pushes the value that starts with `token`.
    fn value(&mut self, token: Token) -> Result<(), Raise> {
        match token {
            Token::String { plain } => self.push_string(plain),
            Token::Number(number) => self.stack.push_number(number),
            Token::Boolean(value) => self.stack.push_bool(value),
            Token::Null => self.stack.push_null(),
            Token::ObjectBegin => return self.object(),
            Token::ArrayBegin => return self.array(),
            other => return Err(self.refuse("value", other)),
        }
        Ok(())
    }

    fn push_string(&mut self, plain: Option<(usize, usize)>) {
        match plain {
            Some((from, to)) => self.stack.push_bytes(&self.text[from..to]),
            None => self.stack.push_bytes(&self.buffer),
        }
    }

    fn descend(&mut self) -> Result<(), Raise> {
        self.depth += 1;
        if self.depth <= self.settings.decode_depth && self.stack.has_room(4) {
            return Ok(());
        }
        let text = format!(
            "Found too many nested data structures ({}) at character {}",
            self.depth, self.at
        );
        Err(self.stack.error(&text))
    }

    fn object(&mut self) -> Result<(), Raise> {
        self.descend()?;
        self.stack.push_table(0, 0);
        let table = self.stack.top();
        let mut token = self.token();
        while token != Token::ObjectEnd {
            let Token::String { plain } = token else {
                return Err(self.refuse("object key string", token));
            };
            self.push_string(plain);
            token = self.token();
            if token != Token::Colon {
                return Err(self.refuse("colon", token));
            }
            token = self.token();
            self.value(token)?;
            self.stack.set(table);
            token = self.token();
            match token {
                Token::ObjectEnd => break,
                Token::Comma => {
                    token = self.token();
                    if token == Token::ObjectEnd {
                        return Err(self.refuse("object key string", token));
                    }
                }
                other => return Err(self.refuse("comma or object end", other)),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), Raise> {
        self.descend()?;
        self.stack.push_table(0, 0);
        let table = self.stack.top();
        let mut token = self.token();
        if token == Token::ArrayEnd {
            self.depth -= 1;
            return Ok(());
        }
        let mut n = 0;
        loop {
            self.value(token)?;
            n += 1;
            self.stack.set_index(table, n);
            token = self.token();
            match token {
                Token::ArrayEnd => break,
                Token::Comma => token = self.token(),
                other => return Err(self.refuse("comma or array end", other)),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn token(&mut self) -> Token {
        while matches!(self.byte(self.at), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.start = self.at;
        let single = match self.byte(self.at) {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b':' => Token::Colon,
            b',' => Token::Comma,
            b'"' => return self.string(),
            0 => return Token::End,
            _ => return self.word(),
        };
        self.at += 1;
        single
    }

    fn word(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let first = rest[0];
        if first == b'-' || first.is_ascii_digit() {
            if !self.settings.decode_invalid && is_invalid_number(rest) {
                return Token::Error("invalid number");
            }
            return self.number();
        }
        let words: [(&[u8], Token); 3] = [
            (b"true", Token::Boolean(true)),
            (b"false", Token::Boolean(false)),
            (b"null", Token::Null),
        ];
        for (word, token) in words {
            if rest.starts_with(word) {
                self.at += word.len();
                return token;
            }
        }
        if self.settings.decode_invalid && is_invalid_number(rest) {
            return self.number();
        }
        Token::Error("invalid token")
    }

    fn number(&mut self) -> Token {
        match number_prefix(&self.text[self.at..]) {
            Some((value, len)) => {
                self.at += len;
                Token::Number(value)
            }
            None => Token::Error("invalid number"),
        }
    }

    fn fail(&mut self, text: &'static str) -> Token {
        self.start = self.at;
        Token::Error(text)
    }

    fn string(&mut self) -> Token {
        self.at += 1;
        let from = self.at;
        let rest = &self.text[from..];
        let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0));
        if let Some(len) = plain
            && rest[len] == b'"'
        {
            self.at += len + 1;
            return Token::String { plain: Some((from, from + len)) };
        }
        self.buffer.clear();
        loop {
            match self.byte(self.at) {
                b'"' => break,
                0 => return self.fail("unexpected end of string"),
                b'\\' => {
                    let plain = match self.byte(self.at + 1) {
                        b'u' => match self.unicode() {
                            Some(len) => {
                                self.at += len;
                                continue;
                            }
                            None => return self.fail("invalid unicode escape code"),
                        },
                        byte @ (b'"' | b'\\' | b'/') => byte,
                        b'b' => 0x08,
                        b'f' => 0x0C,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        _ => return self.fail("invalid escape code"),
                    };
                    self.buffer.push(plain);
                    self.at += 2;
                }
                byte => {
                    self.buffer.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Token::String { plain: None }
    }

    /// Decodes `\uXXXX`, or two of them for a character beyond 16 bits; returns how long it is.
    fn unicode(&mut self) -> Option<usize> {
        let first = self.hex4(self.at + 2)?;
        let (code, len) = match first {
            0xD800..=0xDBFF => {
                if self.byte(self.at + 6) != b'\\' || self.byte(self.at + 7) != b'u' {
                    return None;
                }
                let second = self.hex4(self.at + 8)?;
                if !(0xDC00..=0xDFFF).contains(&second) {
                    return None;
                }
                (0x10000 + ((first & 0x3FF) << 10 | (second & 0x3FF)), 12)
            }
            code => (code, 6),
        };
        let mut utf8 = [0; 4];
        self.buffer.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut utf8).as_bytes());
        Some(len)
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
    }
}

/// Whether a number is none by JSON's rules, though C takes it: a sign `+`, leading zeros, hexadecimal,
/// infinity, NaN.
fn is_invalid_number(text: &[u8]) -> bool {
    if text.first() == Some(&b'+') {
        return true;
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    match text {
        [b'0', b'x' | b'X' | b'0'..=b'9', ..] => true,
        [first, ..] if *first <= b'9' => false,
        _ => text.get(..3).is_some_and(|word| {
            word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan")
        }),
    }
}

/// The number that a text starts with, as C's `strtod` reads it, and how long it is.
fn number_prefix(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let body = &text[sign..];
    let negative = text.first() == Some(&b'-');
    let signed = |value: f64| if negative { -value } else { value };
    let has_word =
        |word: &[u8]| body.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if has_word(b"infinity") {
        return Some((signed(f64::INFINITY), sign + 8));
    }
    if has_word(b"inf") {
        return Some((signed(f64::INFINITY), sign + 3));
    }
    if has_word(b"nan") {
        return Some((signed(f64::NAN), sign + 3));
    }
    let digits = |from: usize, hex: bool| {
        let is_digit =
            |byte: &u8| if hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
        body.get(from..).unwrap_or_default().iter().take_while(|byte| is_digit(byte)).count()
    };
    let hex = matches!(body, [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit());
    let mut end = if hex { 2 } else { 0 };
    let whole = digits(end, hex);
    end += whole;
    let mut fraction = 0;
    if body.get(end) == Some(&b'.') {
        fraction = digits(end + 1, hex);
        if whole + fraction > 0 {
            end += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return None;
    }
    let marks: [u8; 2] = if hex { *b"pP" } else { *b"eE" };
    if body.get(end).is_some_and(|byte| marks.contains(byte)) {
        let signed = usize::from(matches!(body.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + signed, false);
        if exponent > 0 {
            end += 1 + signed + exponent;
        }
    }
    // The scan went by the bytes that the parser takes; whole numbers need no parser.
    let slice = &body[..end];
    let value = if !hex && fraction == 0 && whole == end && whole <= 15 {
        slice.iter().fold(0.0, |value, digit| value * 10.0 + f64::from(digit - b'0'))
    } else {
        parse_f64_saturating(slice)?
    };
    Some((signed(value), sign + end))
}
