//! What has to be done without being asked: expiry, eviction settings, memory peaks.

use crate::config::{Settings, ids};
use crate::host::settle;
use crate::shared::Shared;
use ashlar_engine::config::EngineConfig;
use ashlar_engine::executor::Executor;
use ashlar_engine::keyspace::EvictionPolicy;
use ashlar_engine::keyspace::access::AccessScheme;
use std::sync::atomic::Ordering;

/// Keys that one tick of active expiry deletes at most: about a millisecond of work.
const EXPIRED_KEYS_MAX: usize = 2_000;

/// Work that recurs.
#[derive(Debug, Default)]
pub struct Upkeep {}

impl Upkeep {
    /// Ten times a second, on the first worker.
    pub fn tick(&mut self, shared: &Shared, exec: &mut Executor<'_>, now_ms: i64) {
        let stamp = shared.stamp(now_ms);
        if shared.active_expire.load(Ordering::Relaxed) {
            let effort = shared.settings.count(ids::ACTIVE_EXPIRE_EFFORT);
            exec.expire_cycle(&stamp, usize::try_from(effort).unwrap_or(1), EXPIRED_KEYS_MAX);
        }
        settle(shared, exec, &stamp);
    }
}

/// The policy of `maxmemory-policy`.
pub fn eviction_policy(settings: &Settings) -> EvictionPolicy {
    let name = settings.string(ids::MAXMEMORY_POLICY);
    EvictionPolicy::from_name(&name).unwrap_or(EvictionPolicy::NoEviction)
}

/// The engine's part of the settings.
pub fn engine_config(settings: &Settings) -> EngineConfig {
    let size = |id| usize::try_from(settings.number(id)).unwrap_or(0);
    let number = |id| u32::try_from(settings.number(id)).unwrap_or(0);
    let notify = settings.string(ids::NOTIFY_KEYSPACE_EVENTS);
    let frequency = matches!(
        eviction_policy(settings),
        EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu
    );
    EngineConfig {
        databases: number(ids::DATABASES),
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
        notify: ashlar_engine::config::Event::parse(&notify).unwrap_or_default(),
        access: if frequency { AccessScheme::Frequency } else { AccessScheme::Recency },
        frequency: ashlar_engine::keyspace::access::FrequencySettings {
            log_factor: number(ids::LFU_LOG_FACTOR),
            decay_minutes: number(ids::LFU_DECAY_TIME),
        },
    }
}
