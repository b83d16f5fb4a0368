//! Settings of the engine, under the names that Redis gives them.

use crate::keyspace::access::{AccessScheme, FrequencySettings};
use bitflags::bitflags;

bitflags! {
    /// Classes of keyspace notifications (`notify-keyspace-events`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Event: u32 {
        /// `K`: publish to `__keyspace@N__:key`.
        const KEYSPACE = 1;
        /// `E`: publish to `__keyevent@N__:event`.
        const KEYEVENT = 1 << 1;
        /// `g`: commands of no type (DEL, EXPIRE, RENAME, ...).
        const GENERIC = 1 << 2;
        /// `$`
        const STRING = 1 << 3;
        /// `l`
        const LIST = 1 << 4;
        /// `s`
        const SET = 1 << 5;
        /// `h`
        const HASH = 1 << 6;
        /// `z`
        const ZSET = 1 << 7;
        /// `x`
        const EXPIRED = 1 << 8;
        /// `e`
        const EVICTED = 1 << 9;
        /// `t`
        const STREAM = 1 << 10;
        /// `m`: a read of a key that does not exist.
        const KEY_MISS = 1 << 11;
        /// `d`
        const MODULE = 1 << 12;
        /// `n`: a key was created.
        const NEW = 1 << 13;
        /// `A`: `g$lshzxetd`.
        const ALL = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9
            | 1 << 10 | 1 << 12;
    }
}

/// The letters in the order in which CONFIG GET shows them.
const EVENT_LETTERS: [(u8, Event); 14] = [
    (b'g', Event::GENERIC),
    (b'$', Event::STRING),
    (b'l', Event::LIST),
    (b's', Event::SET),
    (b'h', Event::HASH),
    (b'z', Event::ZSET),
    (b'x', Event::EXPIRED),
    (b'e', Event::EVICTED),
    (b't', Event::STREAM),
    (b'd', Event::MODULE),
    (b'K', Event::KEYSPACE),
    (b'E', Event::KEYEVENT),
    (b'm', Event::KEY_MISS),
    (b'n', Event::NEW),
];

impl Event {
    /// Reads the form of `notify-keyspace-events`, for example `KEA`.
    pub fn parse(text: &str) -> Option<Event> {
        text.bytes().try_fold(Event::empty(), |events, letter| {
            let event = match letter {
                b'A' => Event::ALL,
                _ => EVENT_LETTERS.iter().find(|(known, _)| *known == letter)?.1,
            };
            Some(events | event)
        })
    }

    /// The form that CONFIG GET shows.
    pub fn format(self) -> String {
        let mut text = String::new();
        let all = self.contains(Event::ALL);
        if all {
            text.push('A');
        }
        for (letter, event) in EVENT_LETTERS {
            if self.contains(event) && !(all && Event::ALL.contains(event)) {
                text.push(letter as char);
            }
        }
        text
    }
}

/// Limits and thresholds that commands read. Each has Redis's default.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// `databases`
    pub databases: u32,
    /// `hash-max-listpack-entries`
    pub hash_max_listpack_entries: usize,
    /// `hash-max-listpack-value`
    pub hash_max_listpack_value: usize,
    /// `set-max-intset-entries`
    pub set_max_intset_entries: usize,
    /// `set-max-listpack-entries`
    pub set_max_listpack_entries: usize,
    /// `set-max-listpack-value`
    pub set_max_listpack_value: usize,
    /// `zset-max-listpack-entries`
    pub zset_max_listpack_entries: usize,
    /// `zset-max-listpack-value`
    pub zset_max_listpack_value: usize,
    /// `list-max-listpack-size`: entries a chunk, or -1 to -5 for 4 to 64 KiB.
    pub list_max_listpack_size: i64,
    /// `stream-node-max-bytes`
    pub stream_node_max_bytes: usize,
    /// `stream-node-max-entries`
    pub stream_node_max_entries: usize,
    /// `hll-sparse-max-bytes`
    pub hll_sparse_max_bytes: usize,
    /// `proto-max-bulk-len`: no string grows beyond it.
    pub proto_max_bulk_len: usize,
    /// `notify-keyspace-events`
    pub notify: Event,
    /// What the access data of keys means; follows from `maxmemory-policy`.
    pub access: AccessScheme,
    /// `lfu-log-factor` and `lfu-decay-time`
    pub frequency: FrequencySettings,
    /// `tracking-table-max-keys`: keys that are remembered with their readers; 0 is no bound.
    pub tracking_keys_max: usize,
    /// `hot-threshold`: accesses after which a key that was read from disk stays in memory for good.
    pub hot_threshold: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            databases: 16,
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            list_max_listpack_size: -2,
            stream_node_max_bytes: 4096,
            stream_node_max_entries: 100,
            hll_sparse_max_bytes: 3000,
            proto_max_bulk_len: 512 << 20,
            notify: Event::empty(),
            access: AccessScheme::default(),
            frequency: FrequencySettings::default(),
            tracking_keys_max: 1_000_000,
            hot_threshold: 100,
        }
    }
}
