use ashlar_engine::engine::command_table;

use super::*;
use crate::config::Caller;
use crate::stats::Outcome;

struct Source {
    identity: Identity,
    settings: Settings,
    stats: Stats,
}

impl Source {
    fn new() -> Self {
        Self {
            identity: Identity::new([7; 40]),
            settings: Settings::default(),
            stats: Stats::new(1, command_table()),
        }
    }
}

impl InfoSource for Source {
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn stats(&self) -> &Stats {
        &self.stats
    }
    fn port(&self) -> u16 {
        6379
    }
    fn clients(&self) -> ClientFacts {
        ClientFacts { connected: 3, ..ClientFacts::default() }
    }
    fn memory(&self) -> MemoryFacts {
        MemoryFacts { used: 2048, peak: 4096, overhead: 1024, ..MemoryFacts::default() }
    }
    fn databases(&self) -> Vec<DbStats> {
        vec![
            DbStats { keys: 2, expires: 1, table_bytes: 0 },
            DbStats::default(),
            DbStats { keys: 5, ..DbStats::default() },
        ]
    }
    fn changes(&self) -> u64 {
        11
    }
}

fn titles(names: &[&str]) -> Vec<String> {
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let text = text(&Source::new(), &names);
    text.lines().filter_map(|line| line.strip_prefix("# ").map(str::to_owned)).collect()
}

#[test]
fn sections_are_chosen_by_name() {
    let default = titles(&[]);
    assert_eq!(default.len(), 13);
    assert_eq!(titles(&["default"]), default);
    assert!(!default.iter().any(|title| title == "Commandstats"));
    assert_eq!(titles(&["EVERYTHING"]).len(), 15);
    assert!(!titles(&["all"]).iter().any(|title| title == "Modules"));
    assert_eq!(titles(&["keyspace", "server", "nothing"]), ["Server", "Keyspace"]);
    assert!(titles(&["nothing"]).is_empty());
    assert_eq!(titles(&["default", "latencystats"]).len(), 14);
}

#[test]
fn the_fields_that_clients_read_are_there() {
    let source = Source::new();
    let text = text(&source, &[]);
    for line in [
        "redis_version:7.4.2",
        "redis_mode:standalone",
        "tcp_port:6379",
        "connected_clients:3",
        "used_memory:2048",
        "used_memory_human:2.00K",
        "used_memory_peak_perc:50.00%",
        "maxmemory_policy:noeviction",
        "loading:0",
        "rdb_changes_since_last_save:11",
        "instantaneous_ops_per_sec:0",
        "role:master",
        "connected_slaves:0",
        "cluster_enabled:0",
        "db0:keys=2,expires=1,avg_ttl=0,subexpiry=0",
        "db2:keys=5,expires=0,avg_ttl=0,subexpiry=0",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}");
    }
    assert!(text.contains(&format!("run_id:{}\r\n", "07".repeat(20))));
    assert!(!text.contains("db1:"));
    assert!(
        text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.contains(':'))
    );
    assert!(text.contains("\r\n\r\n# Clients\r\n"));
}

#[test]
fn commands_and_errors_are_listed() {
    let source = Source::new();
    let (id, _) = command_table().find(b"get").unwrap();
    let worker = source.stats.worker(0);
    worker.command(source.stats.slot(id), 3_000, Outcome::Done, true);
    worker.command(source.stats.slot(id), 2_500, Outcome::Failed, true);
    worker.error("WRONGTYPE x");
    let pairs: [(&[u8], &[u8]); 1] = [(b"latency-tracking-info-percentiles", b"50 99.9")];
    source.settings.set(&pairs, Caller::Local).unwrap();
    let text = text(&source, &[b"commandstats", b"errorstats", b"latencystats"]);
    let expected = "# Commandstats\r\ncmdstat_get:calls=2,usec=5,usec_per_call=2.75,\
                    rejected_calls=0,failed_calls=1\r\n\r\n# Errorstats\r\n\
                    errorstat_WRONGTYPE:count=1\r\n\r\n# Latencystats\r\n\
                    latency_percentiles_usec_get:p50=";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains(",p99.9="), "{text}");
}
