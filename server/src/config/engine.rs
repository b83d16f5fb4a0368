//! The engine's settings as they follow from the server's.

use std::sync::Arc;

use ashlar_engine::config::{EngineConfig, Event};
use ashlar_engine::engine::Engine;
use ashlar_engine::keyspace::access::{AccessScheme, FrequencySettings};

use super::Settings;
use super::ids::{self, Id};
use super::table::POLICY_TIER;

/// The settings that the engine reads.
const READ_BY_ENGINE: &[Id] = &[
    ids::HASH_MAX_LISTPACK_ENTRIES,
    ids::HASH_MAX_LISTPACK_VALUE,
    ids::SET_MAX_INTSET_ENTRIES,
    ids::SET_MAX_LISTPACK_ENTRIES,
    ids::SET_MAX_LISTPACK_VALUE,
    ids::ZSET_MAX_LISTPACK_ENTRIES,
    ids::ZSET_MAX_LISTPACK_VALUE,
    ids::LIST_MAX_LISTPACK_SIZE,
    ids::STREAM_NODE_MAX_BYTES,
    ids::STREAM_NODE_MAX_ENTRIES,
    ids::HLL_SPARSE_MAX_BYTES,
    ids::PROTO_MAX_BULK_LEN,
    ids::NOTIFY_KEYSPACE_EVENTS,
    ids::MAXMEMORY_POLICY,
    ids::LFU_LOG_FACTOR,
    ids::LFU_DECAY_TIME,
    ids::TRACKING_TABLE_MAX_KEYS,
    ids::HOT_THRESHOLD,
];

/// The engine's settings, from the server's.
pub fn engine_config(settings: &Settings) -> EngineConfig {
    let size = |id: Id| usize::try_from(settings.number(id)).unwrap_or(0);
    let small = |id: Id| u32::try_from(settings.number(id)).unwrap_or(u32::MAX);
    EngineConfig {
        databases: small(ids::DATABASES),
        hash_max_listpack_entries: size(ids::HASH_MAX_LISTPACK_ENTRIES),
        hash_max_listpack_value: size(ids::HASH_MAX_LISTPACK_VALUE),
        set_max_intset_entries: size(ids::SET_MAX_INTSET_ENTRIES),
        set_max_listpack_entries: size(ids::SET_MAX_LISTPACK_ENTRIES),
        set_max_listpack_value: size(ids::SET_MAX_LISTPACK_VALUE),
        zset_max_listpack_entries: size(ids::ZSET_MAX_LISTPACK_ENTRIES),
        zset_max_listpack_value: size(ids::ZSET_MAX_LISTPACK_VALUE),
        list_max_listpack_size: settings.number(ids::LIST_MAX_LISTPACK_SIZE),
        stream_node_max_bytes: size(ids::STREAM_NODE_MAX_BYTES),
        stream_node_max_entries: size(ids::STREAM_NODE_MAX_ENTRIES),
        hll_sparse_max_bytes: size(ids::HLL_SPARSE_MAX_BYTES),
        proto_max_bulk_len: size(ids::PROTO_MAX_BULK_LEN),
        notify: Event::from_bits_truncate(small(ids::NOTIFY_KEYSPACE_EVENTS)),
        access: match settings.show(ids::MAXMEMORY_POLICY).ends_with(b"lfu") {
            true => AccessScheme::Frequency,
            false => AccessScheme::Recency,
        },
        frequency: FrequencySettings {
            log_factor: small(ids::LFU_LOG_FACTOR),
            decay_minutes: small(ids::LFU_DECAY_TIME),
        },
        tracking_keys_max: size(ids::TRACKING_TABLE_MAX_KEYS),
        hot_threshold: small(ids::HOT_THRESHOLD),
    }
}

/// Keeps the engine's settings equal to the server's from now on.
pub fn connect(settings: &Settings, engine: &Arc<Engine>) {
    let tiered = engine.tier().is_some();
    let policy = settings.subscribe(&[ids::MAXMEMORY_POLICY], move |settings| {
        match settings.number(ids::MAXMEMORY_POLICY) == POLICY_TIER && !tiered {
            true => Err("there is no cold store: set cold-store and start anew".into()),
            false => Ok(()),
        }
    });
    debug_assert!(policy.is_ok(), "with the policy there is a store from the start");
    let engine = Arc::clone(engine);
    let connected = settings.subscribe(READ_BY_ENGINE, move |settings| {
        engine.update_config(|config| *config = engine_config(settings));
        Ok(())
    });
    debug_assert!(connected.is_ok(), "the subscriber refuses nothing");
}

#[cfg(test)]
mod tests {
    use ashlar_engine::engine::EngineOptions;

    use super::super::Caller;
    use super::*;

    #[test]
    fn a_change_reaches_the_engine() {
        let settings = Settings::default();
        let options =
            EngineOptions { config: engine_config(&settings), ..EngineOptions::default() };
        let engine = Arc::new(Engine::with_options(options));
        connect(&settings, &engine);
        assert_eq!(engine.config().access, AccessScheme::Recency);
        let pairs: [(&[u8], &[u8]); 3] = [
            (b"maxmemory-policy", b"allkeys-lfu"),
            (b"notify-keyspace-events", b"Kg"),
            (b"hash-max-ziplist-entries", b"7"),
        ];
        settings.set(&pairs, Caller::Remote).unwrap();
        let config = engine.config();
        assert_eq!(config.access, AccessScheme::Frequency);
        assert_eq!(config.notify, Event::KEYSPACE | Event::GENERIC);
        assert_eq!(config.hash_max_listpack_entries, 7);
    }
}
