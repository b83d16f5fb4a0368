//! Cuts an RDB file into its keys, as it arrives.

use super::bytes::{Bytes, Input, Stored};
use super::{Malformed, VERSION_MAX, crc64, kind, module_name};
use std::io::{self, Read};
use std::ops::Range;

/// Bytes that are asked for at a time.
const READ_BYTES: usize = 256 << 10;
/// The first version whose files end with a checksum.
const VERSION_CHECKSUM: u16 = 5;

const SLOT_INFO: u8 = 244;
const FUNCTION_2: u8 = 245;
const FUNCTION_PRE_GA: u8 = 246;
const MODULE_AUX: u8 = 247;
const IDLE: u8 = 248;
const FREQ: u8 = 249;
const AUX: u8 = 250;
const RESIZE_DB: u8 = 251;
const EXPIRE_MS: u8 = 252;
const EXPIRE_SECONDS: u8 = 253;
const SELECT_DB: u8 = 254;
const EOF: u8 = 255;

/// What modules write consists of numbered parts.
const MODULE_END: u64 = 0;
const MODULE_SIGNED: u64 = 1;
const MODULE_UNSIGNED: u64 = 2;
const MODULE_FLOAT: u64 = 3;
const MODULE_DOUBLE: u64 = 4;
const MODULE_STRING: u64 = 5;

/// Why a file could not be read on.
#[derive(Debug)]
pub enum ReadError {
    /// The file or connection failed.
    Io(io::Error),
    /// What it gave is no RDB file.
    Malformed(Malformed),
}

impl From<Malformed> for ReadError {
    fn from(malformed: Malformed) -> Self {
        ReadError::Malformed(malformed)
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(f),
            ReadError::Malformed(what) => write!(f, "not a correct RDB file: {what}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// What an RDB file holds, one after the other.
#[derive(Debug)]
pub enum Record<'a> {
    /// A fact about the file or the server that wrote it.
    Aux(Vec<u8>, Vec<u8>),
    /// From here on keys are of this database.
    Db(u64),
    /// How many keys the database has, and how many of them expire.
    Sizes(u64, u64),
    /// A library of functions.
    Function(Vec<u8>),
    /// Data that belongs to a module and to no key, with the module's name; it is passed over.
    ModuleAux(String),
    /// A key with its value.
    Entry(Entry<'a>),
}

/// A key with its value as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The number of the value's encoding.
    pub kind: u8,
    /// The body of the value.
    pub body: &'a [u8],
    /// When the key expires, Unix milliseconds.
    pub expiry_ms: Option<i64>,
    /// Seconds since the last access.
    pub idle_seconds: Option<u64>,
    /// Logarithmic counter of accesses.
    pub frequency: Option<u8>,
}

impl Entry<'_> {
    /// Whether the key has expired by `now_ms`.
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expiry_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}

/// Reads an RDB file from a stream. Memory holds one key with its value at a time.
pub struct Reader<R> {
    inner: R,
    buf: Vec<u8>,
    /// Start of what is being read; bytes before it are done with.
    mark: usize,
    at: usize,
    filled: usize,
    sum: u64,
    consumed: u64,
    version: u16,
    ended: bool,
    key: Vec<u8>,
}

impl<R: Read> Input for Reader<R> {
    type Error = ReadError;

    #[inline]
    fn byte(&mut self) -> Result<u8, ReadError> {
        self.need(1)?;
        let byte = self.buf[self.at];
        self.at += 1;
        Ok(byte)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the start of a file.
    ///
    /// # Errors
    /// If it is none, or of a version that is not known.
    pub fn new(inner: R) -> Result<Reader<R>, ReadError> {
        let mut reader = Reader {
            inner,
            buf: Vec::new(),
            mark: 0,
            at: 0,
            filled: 0,
            sum: 0,
            consumed: 0,
            version: 0,
            ended: false,
            key: Vec::new(),
        };
        let head: [u8; 9] = reader.array()?;
        let digits = head.strip_prefix(b"REDIS").and_then(|digits| str::from_utf8(digits).ok());
        reader.version = match digits.and_then(|digits| digits.parse::<u16>().ok()) {
            Some(version) if (1..=VERSION_MAX).contains(&version) => version,
            Some(version) => {
                let text = format!("version {version}; known are those up to {VERSION_MAX}");
                return Err(Malformed(text.into()).into());
            }
            None => return Err(Malformed::new("it does not start with REDIS and a version").into()),
        };
        Ok(reader)
    }

    /// The version of the file.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Bytes of the file so far.
    pub fn position(&self) -> u64 {
        self.consumed + (self.at - self.mark) as u64
    }

    /// The stream, and what was read from it that does not belong to the file.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        let rest = self.buf[self.at..self.filled].to_vec();
        (self.inner, rest)
    }

    /// What comes next; `None` at the end of the file, whose checksum is right then.
    ///
    /// # Errors
    /// If the stream fails or what it gives is no RDB file.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let (mut expiry_ms, mut idle_seconds, mut frequency) = (None, None, None);
        while !self.ended {
            self.release();
            match self.byte()? {
                EXPIRE_MS => expiry_ms = Some(i64::from_le_bytes(self.array()?)),
                EXPIRE_SECONDS => {
                    expiry_ms = Some(i64::from(i32::from_le_bytes(self.array()?)) * 1000);
                }
                IDLE => idle_seconds = Some(self.number()?),
                FREQ => frequency = Some(self.byte()?),
                AUX => return Ok(Some(Record::Aux(self.string()?, self.string()?))),
                SELECT_DB => return Ok(Some(Record::Db(self.number()?))),
                RESIZE_DB => return Ok(Some(Record::Sizes(self.number()?, self.number()?))),
                SLOT_INFO => {
                    for _ in 0..3 {
                        self.number()?;
                    }
                }
                FUNCTION_2 => return Ok(Some(Record::Function(self.string()?))),
                FUNCTION_PRE_GA => {
                    return Err(Malformed::new("functions of a release candidate of 7.0").into());
                }
                MODULE_AUX => return Ok(Some(Record::ModuleAux(self.module_aux()?))),
                EOF => {
                    self.release();
                    self.check_sum()?;
                    self.ended = true;
                }
                kind => {
                    let (key, body) = self.entry(kind)?;
                    let record = &self.buf[self.mark..self.at];
                    let key = key.map_or(&self.key[..], |key| &record[key]);
                    let body = &record[body];
                    let entry = Entry { key, kind, body, expiry_ms, idle_seconds, frequency };
                    return Ok(Some(Record::Entry(entry)));
                }
            }
        }
        Ok(None)
    }

    /// Reads a key and passes over its value. Returns where they are from the mark on; the key is in
    /// its own buffer where it is not stored as it is.
    fn entry(&mut self, kind: u8) -> Result<(Option<Range<usize>>, Range<usize>), ReadError> {
        let before = self.at - self.mark;
        let key = match self.stored()? {
            Stored::Plain(len) => {
                let start = self.at - self.mark;
                self.skip(len)?;
                Some(start..start + len)
            }
            Stored::Int(_) | Stored::Lzf(..) => {
                // Once more, as a whole.
                self.at = self.mark + before;
                self.key = self.string()?;
                None
            }
        };
        let start = self.at - self.mark;
        self.skip_value(kind)?;
        Ok((key, start..self.at - self.mark))
    }

    /// Makes `count` further bytes available.
    #[inline]
    fn need(&mut self, count: usize) -> Result<(), ReadError> {
        if self.filled - self.at >= count { Ok(()) } else { self.fill(count) }
    }

    #[cold]
    fn fill(&mut self, count: usize) -> Result<(), ReadError> {
        if self.mark > 0 {
            self.buf.copy_within(self.mark..self.filled, 0);
            self.filled -= self.mark;
            self.at -= self.mark;
            self.mark = 0;
        }
        while self.filled - self.at < count {
            // Room grows with what has come, whatever is claimed to come.
            if self.buf.len() - self.filled < READ_BYTES {
                self.buf.resize(self.filled + self.filled / 2 + READ_BYTES, 0);
            }
            match self.inner.read(&mut self.buf[self.filled..]) {
                Ok(0) => return Err(Malformed::new("it ends too early").into()),
                Ok(got) => self.filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        Ok(())
    }

    /// Lets go of what was read.
    fn release(&mut self) {
        self.sum = crc64::update(self.sum, &self.buf[self.mark..self.at]);
        self.consumed += (self.at - self.mark) as u64;
        self.mark = self.at;
        // A large value does not keep its memory for ever.
        if self.buf.len() > 64 * READ_BYTES && self.filled - self.at < READ_BYTES {
            self.buf.copy_within(self.mark..self.filled, 0);
            (self.filled, self.mark, self.at) = (self.filled - self.mark, 0, 0);
            self.buf.truncate(2 * READ_BYTES);
            self.buf.shrink_to_fit();
        }
    }

    fn check_sum(&mut self) -> Result<(), ReadError> {
        let expected = self.sum;
        if self.version >= VERSION_CHECKSUM {
            let sum = u64::from_le_bytes(self.array()?);
            // Zero is of a server that calculates none.
            if sum != 0 && sum != expected {
                return Err(Malformed::new("the checksum is wrong").into());
            }
        }
        Ok(())
    }

    fn skip(&mut self, count: usize) -> Result<(), ReadError> {
        self.need(count)?;
        self.at += count;
        Ok(())
    }

    fn skip_string(&mut self) -> Result<(), ReadError> {
        match self.stored()? {
            Stored::Plain(len) | Stored::Int(len) | Stored::Lzf(len, _) => self.skip(len),
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, ReadError> {
        let start = self.at - self.mark;
        self.skip_string()?;
        let bytes = &self.buf[self.mark + start..self.at];
        Ok(Bytes::new(bytes).string()?.into_owned())
    }

    /// Passes over the body of a value.
    fn skip_value(&mut self, kind: u8) -> Result<(), ReadError> {
        match kind {
            kind::STRING
            | kind::HASH_ZIPMAP..=kind::HASH_ZIPLIST
            | kind::HASH_LISTPACK
            | kind::ZSET_LISTPACK
            | kind::SET_LISTPACK
            | kind::HASH_LISTPACK_EX_PRE_GA => self.skip_string(),
            kind::HASH_LISTPACK_EX => {
                self.skip(8)?;
                self.skip_string()
            }
            kind::MODULE_PRE_GA | kind::MODULE_2 => {
                let name = module_name(self.number()?);
                Err(Malformed(format!("a value of the module type '{name}'").into()).into())
            }
            kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => self.skip_stream(kind),
            kind::LIST
            | kind::SET
            | kind::ZSET
            | kind::HASH
            | kind::ZSET_2
            | kind::LIST_QUICKLIST
            | kind::LIST_QUICKLIST_2
            | kind::HASH_METADATA_PRE_GA
            | kind::HASH_METADATA => {
                if kind == kind::HASH_METADATA {
                    self.skip(8)?;
                }
                for _ in 0..self.number()? {
                    self.skip_element(kind)?;
                }
                Ok(())
            }
            unknown => {
                Err(Malformed(format!("a value of the unknown type {unknown}").into()).into())
            }
        }
    }

    fn skip_element(&mut self, kind: u8) -> Result<(), ReadError> {
        if matches!(kind, kind::LIST_QUICKLIST_2 | kind::HASH_METADATA | kind::HASH_METADATA_PRE_GA)
        {
            self.number()?;
        }
        self.skip_string()?;
        match kind {
            kind::HASH | kind::HASH_METADATA | kind::HASH_METADATA_PRE_GA => self.skip_string(),
            kind::ZSET_2 => self.skip(8),
            kind::ZSET => match self.byte()? {
                253..=255 => Ok(()),
                len => self.skip(len.into()),
            },
            _ => Ok(()),
        }
    }

    fn skip_numbers(&mut self, count: usize) -> Result<(), ReadError> {
        (0..count).try_for_each(|_| self.number().map(drop))
    }

    fn skip_stream(&mut self, kind: u8) -> Result<(), ReadError> {
        for _ in 0..self.number()? {
            self.skip_string()?;
            self.skip_string()?;
        }
        self.skip_numbers(if kind == kind::STREAM { 3 } else { 8 })?;
        for _ in 0..self.number()? {
            self.skip_string()?;
            self.skip_numbers(if kind == kind::STREAM { 2 } else { 3 })?;
            for _ in 0..self.number()? {
                self.skip(16 + 8)?;
                self.number()?;
            }
            for _ in 0..self.number()? {
                self.skip_string()?;
                self.skip(if kind == kind::STREAM_3 { 16 } else { 8 })?;
                for _ in 0..self.number()? {
                    self.skip(16)?;
                }
            }
        }
        Ok(())
    }

    /// Passes over data of a module; returns its name.
    fn module_aux(&mut self) -> Result<String, ReadError> {
        let name = module_name(self.number()?);
        loop {
            // What is let go here is of no use to anyone.
            self.release();
            match self.number()? {
                MODULE_END => return Ok(name),
                MODULE_SIGNED | MODULE_UNSIGNED => drop(self.number()?),
                MODULE_FLOAT => self.skip(4)?,
                MODULE_DOUBLE => self.skip(8)?,
                MODULE_STRING => self.skip_string()?,
                _ => return Err(Malformed::new("data of a module is damaged").into()),
            }
        }
    }
}
