//! `cjson.encode`: a Lua value as JSON.

use super::{Invalid, Settings, settings};
use crate::scripting::base::STRING_BYTES_MAX;
use crate::scripting::gformat::format_g;
use crate::scripting::lua::{Kind, Raise, Stack};
use std::ffi::c_int;

struct Encoder<'a, 's> {
    stack: &'a mut Stack<'s>,
    settings: Settings,
    out: Vec<u8>,
}

/// `cjson.encode(value)`
pub fn encode(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() != 1 {
        return Err(stack.arg_error(1, "expected 1 argument"));
    }
    let settings = settings(stack);
    let mut encoder = Encoder { stack, settings, out: Vec::new() };
    encoder.value(0)?;
    let out = encoder.out;
    stack.push_bytes(&out);
    Ok(1)
}

impl Encoder<'_, '_> {
    /// Writes the value on top of the stack and leaves it there.
    fn value(&mut self, depth: u32) -> Result<(), Raise> {
        if self.out.len() > STRING_BYTES_MAX {
            return Err(self.stack.error("Cannot serialise, the result is too large"));
        }
        match self.stack.kind(-1) {
            Kind::String => {
                let text = self.stack.bytes(-1).unwrap_or_default();
                self.string(text);
            }
            Kind::Number => self.number()?,
            Kind::Boolean => {
                let text: &[u8] = if self.stack.is_true(-1) { b"true" } else { b"false" };
                self.out.extend_from_slice(text);
            }
            Kind::Table => self.table(depth + 1)?,
            Kind::Nil => self.out.extend_from_slice(b"null"),
            Kind::LightUserdata if self.stack.is_null(-1) => self.out.extend_from_slice(b"null"),
            _ => return Err(self.refuse("type not supported")),
        }
        Ok(())
    }

    /// The error for the value on top of the stack.
    fn refuse(&mut self, why: &str) -> Raise {
        let kind = self.stack.kind(-1).name();
        self.stack.error(&format!("Cannot serialise {kind}: {why}"))
    }

    fn table(&mut self, depth: u32) -> Result<(), Raise> {
        if depth > self.settings.encode_depth || !self.stack.has_room(4) {
            return Err(self
                .stack
                .error(&format!("Cannot serialise, excessive nesting ({depth})")));
        }
        match self.array_len()? {
            0 => self.object(depth),
            len => self.array(len, depth),
        }
    }

    /// The length of the table on top as an array; 0 where it is to be an object.
    fn array_len(&mut self) -> Result<c_int, Raise> {
        let table = self.stack.top();
        let (mut max, mut count) = (0.0_f64, 0.0_f64);
        self.stack.push_nil();
        while self.stack.next(table) {
            let key = match self.stack.kind(-2) {
                Kind::Number => self.stack.number(-2).unwrap_or(0.0),
                _ => 0.0,
            };
            if key < 1.0 || key.fract() != 0.0 || key > f64::from(c_int::MAX) {
                self.stack.set_top(table);
                return Ok(0);
            }
            max = max.max(key);
            count += 1.0;
            self.stack.pop(1);
        }
        let Settings { sparse_ratio, sparse_safe, sparse_convert, .. } = self.settings;
        let is_sparse = sparse_ratio > 0
            && max > count * f64::from(sparse_ratio)
            && max > f64::from(sparse_safe);
        if is_sparse {
            if !sparse_convert {
                return Err(self.refuse("excessively sparse array"));
            }
            return Ok(0);
        }
        Ok(max as c_int)
    }

    fn array(&mut self, len: c_int, depth: u32) -> Result<(), Raise> {
        let table = self.stack.top();
        self.out.push(b'[');
        for n in 1..=len {
            if n > 1 {
                self.out.push(b',');
            }
            self.stack.get_index(table, n);
            self.value(depth)?;
            self.stack.pop(1);
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: u32) -> Result<(), Raise> {
        let table = self.stack.top();
        self.out.push(b'{');
        let mut is_first = true;
        self.stack.push_nil();
        while self.stack.next(table) {
            if !std::mem::replace(&mut is_first, false) {
                self.out.push(b',');
            }
            match self.stack.kind(-2) {
                Kind::String => {
                    let key = self.stack.bytes(-2).unwrap_or_default();
                    self.string(key);
                }
                Kind::Number => {
                    let number = self.stack.number(-2).unwrap_or(0.0);
                    let text = format_g(number, self.settings.precision as usize);
                    self.out.push(b'"');
                    self.out.extend_from_slice(text.as_bytes());
                    self.out.push(b'"');
                }
                _ => {
                    self.stack.pop(1);
                    return Err(self.refuse("table key must be a number or string"));
                }
            }
            self.out.push(b':');
            self.value(depth)?;
            self.stack.pop(1);
        }
        self.out.push(b'}');
        Ok(())
    }

    fn number(&mut self) -> Result<(), Raise> {
        let number = self.stack.number(-1).unwrap_or(0.0);
        if !number.is_finite() {
            match self.settings.encode_invalid {
                Invalid::Refused => return Err(self.refuse("must not be NaN or Inf")),
                Invalid::Null => {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
                Invalid::Kept => {}
            }
        }
        let text = format_g(number, self.settings.precision as usize);
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        let mut plain = 0;
        for (at, &byte) in text.iter().enumerate() {
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                0x08 => b"\\b",
                b'\t' => b"\\t",
                b'\n' => b"\\n",
                0x0C => b"\\f",
                b'\r' => b"\\r",
                0..=0x1F | 0x7F => {
                    self.out.extend_from_slice(&text[plain..at]);
                    self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                    plain = at + 1;
                    continue;
                }
                _ => continue,
            };
            self.out.extend_from_slice(&text[plain..at]);
            self.out.extend_from_slice(escape);
            plain = at + 1;
        }
        self.out.extend_from_slice(&text[plain..]);
        self.out.push(b'"');
    }
}
