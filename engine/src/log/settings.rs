//! The settings of the engine as a record: what calls did depends on them, so a replay has to see each
//! change at its place.
//!
//! They stand in the log as a call of their own name with pairs of name and number. Which member
//! SPOP takes, for example, follows from the order of a set, and that from its representation.

use crate::config::EngineConfig;
use crate::number;

/// The name of the call.
pub const NAME: &[u8] = b"ASHLAR.CONFIG";

/// A setting: its name, how it is read and written.
type Field = (&'static str, fn(&EngineConfig) -> i64, fn(&mut EngineConfig, i64));

fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

macro_rules! sizes {
    ($($field:ident)*) => {
        [$((
            stringify!($field),
            |config: &EngineConfig| i64::try_from(config.$field).unwrap_or(i64::MAX),
            |config: &mut EngineConfig, number: i64| config.$field = size(number),
        ),)*]
    };
}

/// Those that data depends on.
const FIELDS: [Field; 10] = sizes! {
    hash_max_listpack_entries hash_max_listpack_value set_max_intset_entries
    set_max_listpack_entries set_max_listpack_value zset_max_listpack_entries
    zset_max_listpack_value stream_node_max_bytes stream_node_max_entries hll_sparse_max_bytes
};

/// Those that are no sizes.
const OTHERS: [Field; 3] = [
    (
        "list_max_listpack_size",
        |config| config.list_max_listpack_size,
        |config, number| config.list_max_listpack_size = number,
    ),
    (
        "lfu_log_factor",
        |config| i64::from(config.frequency.log_factor),
        |config, number| config.frequency.log_factor = small(number),
    ),
    (
        "lfu_decay_minutes",
        |config| i64::from(config.frequency.decay_minutes),
        |config, number| config.frequency.decay_minutes = small(number),
    ),
];

/// The call that has these settings.
pub(crate) fn call(config: &EngineConfig) -> Vec<Vec<u8>> {
    let pairs = FIELDS.iter().chain(&OTHERS);
    let pairs = pairs.flat_map(|(name, read, _)| {
        [name.as_bytes().to_vec(), read(config).to_string().into_bytes()]
    });
    std::iter::once(NAME.to_vec()).chain(pairs).collect()
}

/// Enters the settings of a call. Names that this version does not have are left out.
pub(crate) fn apply(args: &[&[u8]], config: &mut EngineConfig) {
    for pair in args.get(1..).unwrap_or_default().chunks_exact(2) {
        let field = FIELDS.iter().chain(&OTHERS).find(|(name, ..)| name.as_bytes() == pair[0]);
        if let (Some((_, _, write)), Some(number)) = (field, number::parse_i64(pair[1])) {
            write(config, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back() {
        let mut config = EngineConfig {
            set_max_intset_entries: 7,
            list_max_listpack_size: -3,
            ..EngineConfig::default()
        };
        config.frequency.decay_minutes = 9;
        let call = call(&config);
        let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
        let mut found = EngineConfig::default();
        apply(&args, &mut found);
        assert_eq!(found, config);
        apply(&[NAME, b"unknown", b"3", b"lfu_log_factor"], &mut found);
        assert_eq!(found, config);
    }
}
