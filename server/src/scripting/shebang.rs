//! The first line of a script or library: `#!lua flags=no-writes,allow-oom`.

use ashlar_engine::error::Error;
use bitflags::bitflags;

bitflags! {
    /// What a script or function says of itself.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ScriptFlags: u8 {
        /// It writes nothing.
        const NO_WRITES = 1;
        /// It may run when memory is above `maxmemory`.
        const ALLOW_OOM = 1 << 1;
        /// It may run on a replica that has lost its primary.
        const ALLOW_STALE = 1 << 2;
        /// It must not run in a cluster.
        const NO_CLUSTER = 1 << 3;
        /// Its keys may be of several slots.
        const ALLOW_CROSS_SLOT_KEYS = 1 << 4;
        /// It has a first line that says so; without one the rules are those of before Redis 7.
        const DECLARED = 1 << 7;
    }
}

impl ScriptFlags {
    /// The flags of a function: it always says what it is.
    pub fn declared(self) -> ScriptFlags {
        self | ScriptFlags::DECLARED
    }
}

/// The flags by name.
pub const FLAG_NAMES: [(&str, ScriptFlags); 5] = [
    ("no-writes", ScriptFlags::NO_WRITES),
    ("allow-oom", ScriptFlags::ALLOW_OOM),
    ("allow-stale", ScriptFlags::ALLOW_STALE),
    ("no-cluster", ScriptFlags::NO_CLUSTER),
    ("allow-cross-slot-keys", ScriptFlags::ALLOW_CROSS_SLOT_KEYS),
];

/// The flag of that name.
pub fn flag(name: &[u8]) -> Option<ScriptFlags> {
    FLAG_NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, flag)| *flag)
}

/// A script's flags, and the text to compile: the first line is left empty, so that lines keep
/// their numbers.
///
/// # Errors
/// Redis's texts for a first line that says what there is not.
pub fn parse_script(body: &[u8]) -> Result<(ScriptFlags, &[u8]), Error> {
    if !body.starts_with(b"#!") {
        return Ok((ScriptFlags::empty(), body));
    }
    let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
        return Err(Error::text("ERR Invalid script shebang"));
    };
    let (line, rest) = body.split_at(end);
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let engine = words.next().unwrap_or_default();
    if engine != b"#!lua" {
        let engine = String::from_utf8_lossy(engine);
        return Err(Error::owned(format!("ERR Unexpected engine in script shebang: {engine}")));
    }
    let mut flags = ScriptFlags::DECLARED;
    for word in words {
        let Some(list) = word.strip_prefix(b"flags=") else {
            let word = String::from_utf8_lossy(word);
            return Err(Error::owned(format!("ERR Unknown lua shebang option: {word}")));
        };
        for name in list.split(|byte| *byte == b',').filter(|name| !name.is_empty()) {
            flags |= flag(name).ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                Error::owned(format!("ERR Unexpected flag in script shebang: {name}"))
            })?;
        }
    }
    Ok((flags, rest))
}
