//! The running server as INFO sees it.

use crate::acl::Reason;
use crate::alloc;
use crate::config::Settings;
use crate::info::{
    ClientFacts, Identity, InfoSource, LogFacts, MemoryFacts, SaveFacts, ScriptFacts,
};
use crate::proc;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::tier::ColdTier;
use ashlar_engine::engine::{DbStats, Engine};
use ashlar_engine::tier::KeyCounts;
use std::sync::atomic::Ordering;

/// The server at one moment.
pub struct Facts<'a> {
    /// What the workers share.
    pub shared: &'a Shared,
    /// Keys of each database, as far as they are wanted.
    pub databases: Vec<DbStats>,
    /// Tracked keys, and pairs of a tracked key and a reader, as far as they are wanted.
    pub tracked: (usize, usize),
    /// Keys of each tier, as far as they are wanted.
    pub tiers: KeyCounts,
}

impl InfoSource for Facts<'_> {
    fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    fn replication(&self) -> Option<&crate::replication::Replication> {
        Some(&self.shared.replication)
    }

    fn cluster(&self) -> Option<crate::info::ClusterFacts> {
        crate::cluster::facts::facts(self.shared)
    }

    fn engine(&self) -> Option<&Engine> {
        Some(&self.shared.engine)
    }

    fn scripts(&self) -> ScriptFacts {
        let (scripts, script_bytes, evicted) = self.shared.scripts.cache.totals();
        let libraries = self.shared.engine.libraries();
        ScriptFacts {
            lua_bytes: self.shared.scripts.lua_bytes.load(Ordering::Relaxed) as u64,
            scripts: scripts as u64,
            script_bytes: script_bytes as u64,
            evicted,
            libraries: libraries.all().0.len() as u64,
            library_bytes: libraries.bytes() as u64,
        }
    }

    fn port(&self) -> u16 {
        self.shared.port
    }

    fn refusals(&self, reason: Reason) -> u64 {
        self.shared.acl.log.count(reason)
    }

    fn clients(&self) -> ClientFacts {
        let mut facts =
            ClientFacts { connected: self.shared.clients.count() as u64, ..ClientFacts::default() };
        for client in self.shared.clients.all() {
            let watched = client.watched.load(Ordering::Relaxed) as u64;
            facts.blocked += u64::from(client.blocked.load(Ordering::Relaxed));
            facts.pubsub += u64::from(client.is_subscriber());
            facts.watching += u64::from(watched > 0);
            facts.watched_keys += watched;
            let input = client.input_bytes.load(Ordering::Relaxed) as u64;
            let output = client.output_bytes.load(Ordering::Relaxed) as u64;
            facts.input_buffer_max = facts.input_buffer_max.max(input);
            facts.output_buffer_max = facts.output_buffer_max.max(output);
        }
        facts.tracking = self.shared.tracking.clients() as u64;
        facts.tracked_keys = self.tracked.0 as u64;
        facts.tracked_items = self.tracked.1 as u64;
        facts.tracked_prefixes = self.shared.tracking.prefixes() as u64;
        facts.patterns = self.shared.pubsub.patterns() as u64;
        facts
    }

    fn memory(&self) -> MemoryFacts {
        let tables: usize = self.databases.iter().map(|db| db.table_bytes).sum();
        let used = alloc::used_bytes() as u64;
        let clients = self.shared.clients.all();
        let buffers = clients.iter().map(|client| {
            let input = client.input_bytes.load(Ordering::Relaxed);
            (input + client.output_bytes.load(Ordering::Relaxed)) as u64
        });
        let buffers: u64 = buffers.sum();
        let resident = proc::resident_bytes();
        MemoryFacts {
            used,
            peak: used,
            startup: 0,
            overhead: tables as u64 + buffers,
            clients: buffers,
            allocator_active: resident,
            allocator_resident: resident,
            lazyfree_pending: self.shared.trash.len() as u64,
        }
    }

    fn databases(&self) -> Vec<DbStats> {
        self.databases.clone()
    }

    fn changes(&self) -> u64 {
        self.shared.persistence.changes.load(Ordering::Relaxed)
    }

    fn saves(&self) -> SaveFacts {
        let persistence = &self.shared.persistence;
        let last = persistence.last();
        let mut facts = SaveFacts {
            loading: persistence.loading.load(Ordering::Acquire),
            loading_since: persistence.loading_since,
            loading_bytes: persistence.recovering.snapshot.bytes.load(Ordering::Relaxed),
            loading_total_bytes: persistence
                .recovering
                .snapshot
                .total_bytes
                .load(Ordering::Relaxed),
            loaded_keys: persistence.loaded_keys.load(Ordering::Relaxed),
            basing: persistence.basing.load(Ordering::Acquire),
            saving_since: persistence.started_unix.load(Ordering::Acquire),
            rewrites: persistence.rewrites.load(Ordering::Relaxed),
            scheduled: persistence.scheduled.load(Ordering::Relaxed),
            last_unix: last.unix,
            last_seconds: last.seconds,
            last_failed: persistence.failure().is_some(),
            saves: persistence.saves.load(Ordering::Relaxed),
            last: last.saved,
            ..SaveFacts::default()
        };
        if let Some(storage) = persistence.storage() {
            let progress = storage.save_progress();
            facts.keys = progress.keys.load(Ordering::Relaxed);
            facts.keys_total = progress.keys_total.load(Ordering::Relaxed);
            facts.waiting_bytes = progress.waiting_bytes.load(Ordering::Relaxed);
            facts.waiting_bytes_peak = progress.waiting_bytes_peak.load(Ordering::Relaxed);
            facts.snapshot_bytes = storage.snapshot_bytes();
            facts.log_growth = storage.log_growth();
        }
        facts
    }

    fn log(&self) -> Option<LogFacts> {
        let log = &*self.shared.gate()?.log;
        Some(LogFacts {
            stats: log.stats(),
            health: log.health(),
            appended: log.appended(),
            written: log.written(),
            durable: log.durable(),
        })
    }

    fn sites(&self, out: &mut String) -> bool {
        crate::sites::status::write_any(self.shared, out)
    }

    fn cold(&self) -> Option<(&ColdTier, KeyCounts)> {
        self.shared.cold.as_ref().map(|cold| (cold, self.tiers))
    }
}
