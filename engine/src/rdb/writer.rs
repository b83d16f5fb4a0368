//! Writes an RDB file, key after key.

use super::encode::{push_number, push_plain};
use super::{VERSION, crc64};
use std::io::{self, Write};

const FUNCTION_2: u8 = 245;
const IDLE: u8 = 248;
const FREQ: u8 = 249;
const AUX: u8 = 250;
const RESIZE_DB: u8 = 251;
const EXPIRE_MS: u8 = 252;
const SELECT_DB: u8 = 254;
const EOF: u8 = 255;
/// Bytes after which they are written out.
const WRITE_BYTES: usize = 256 << 10;

/// How much a key was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Use {
    /// It does not matter.
    #[default]
    Unknown,
    /// Seconds since the last access.
    IdleSeconds(u64),
    /// Logarithmic counter of accesses.
    Frequency(u8),
}

/// Writes an RDB file to a stream.
///
/// Its version is that of Redis 7.0, also where it holds hashes with fields that expire: Redis 7.4
/// reads these there as well, and an older one names what it can't read.
pub struct Writer<W: Write> {
    inner: W,
    buf: Vec<u8>,
    sum: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a file.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn new(inner: W) -> io::Result<Writer<W>> {
        let mut writer = Writer { inner, buf: Vec::new(), sum: 0 };
        writer.buf.extend_from_slice(format!("REDIS{VERSION:04}").as_bytes());
        Ok(writer)
    }

    /// Adds a fact about the file.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn aux(&mut self, name: &str, value: &str) -> io::Result<()> {
        self.buf.push(AUX);
        push_plain(&mut self.buf, name.as_bytes());
        push_plain(&mut self.buf, value.as_bytes());
        self.pass_on()
    }

    /// Adds a library of functions.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn function(&mut self, code: &[u8]) -> io::Result<()> {
        self.buf.push(FUNCTION_2);
        push_plain(&mut self.buf, code);
        self.pass_on()
    }

    /// Says which database the next keys are of, about how many they are and how many expire.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn select(&mut self, db: u32, keys: usize, expiring: usize) -> io::Result<()> {
        self.buf.push(SELECT_DB);
        push_number(&mut self.buf, db.into());
        self.buf.push(RESIZE_DB);
        push_number(&mut self.buf, keys as u64);
        push_number(&mut self.buf, expiring as u64);
        self.pass_on()
    }

    /// Adds a key; `value` is what [`super::encode()`] gives.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn entry(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry_ms: Option<i64>,
        used: Use,
    ) -> io::Result<()> {
        let Some((kind, body)) = value.split_first() else { return Ok(()) };
        if let Some(expiry_ms) = expiry_ms {
            self.buf.push(EXPIRE_MS);
            self.buf.extend_from_slice(&expiry_ms.to_le_bytes());
        }
        match used {
            Use::Unknown => {}
            Use::IdleSeconds(seconds) => {
                self.buf.push(IDLE);
                push_number(&mut self.buf, seconds);
            }
            Use::Frequency(counter) => self.buf.extend_from_slice(&[FREQ, counter]),
        }
        self.buf.push(*kind);
        push_plain(&mut self.buf, key);
        self.buf.extend_from_slice(body);
        self.pass_on()
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.buf.len() < WRITE_BYTES { Ok(()) } else { self.write_out() }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.sum = crc64::update(self.sum, &self.buf);
        self.inner.write_all(&self.buf)?;
        self.buf.clear();
        self.buf.shrink_to(2 * WRITE_BYTES);
        Ok(())
    }

    /// Ends the file and returns the stream.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.buf.push(EOF);
        self.write_out()?;
        self.inner.write_all(&self.sum.to_le_bytes())?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}
