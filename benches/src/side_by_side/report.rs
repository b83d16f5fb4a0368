//! Turns what was measured into tables.

use crate::goals::{cpu_ratio, mean, p99_ratio, throughput_ratio};
use crate::results::{
    Caches, Durability, Figure, Latency, LatencyRun, Memory, Results, Run, Throughput, TierFigure,
    middle,
};
use crate::table::{Table, number, ratio};

const KRPS: Figure<Run> = |run| run.rps / 1e3;
const P99: Figure<Run> = |run| run.p99_ms;
const CPU: Figure<Run> = |run| run.cpu_per_million;
const CLIENT: Figure<Run> = |run| run.client_share;

/// Share of the cores above which something else takes part in the measurement.
const BUSY: f64 = 0.1;
/// Share of the cores that a hypervisor may give to others without a word.
const STOLEN: f64 = 0.02;
/// How late the load client may be, in milliseconds.
const LATE_MS: f64 = 1.0;

/// All tables that have something in them, for a terminal or as Markdown.
pub fn render(results: &Results, markdown: bool) -> String {
    let mut text = about(results, markdown);
    let mut tables = throughput(&results.throughput);
    tables.push(means(results));
    tables.push(durability(&results.durability));
    tables.push(caches(&results.caches));
    tables.push(latency(&results.latency));
    tables.push(memory(&results.memory));
    tables.push(tiers("Data ten times as large as memory", "store", &results.tiers));
    tables.push(tiers("Start with data on disk", "server", &results.restart));
    tables.push(tiers("Writes during snapshots", "server", &results.snapshot));
    tables.push(tiers("Primary and replica", "server", &results.replica));
    tables.push(tiers("Keys that several sites write", "server", &results.sites));
    tables.push(tiers("An RDB file that is loaded", "server", &results.import));
    tables.push(tiers("Three nodes that sync every write", "servers", &results.cluster));
    tables.push(goals(results));
    for table in tables.iter().filter(|table| !table.is_empty()) {
        text.push_str(&table.render(markdown));
        if markdown {
            text.push('\n');
        }
    }
    text
}

fn about(results: &Results, markdown: bool) -> String {
    let about = &results.about;
    let mut lines = vec![format!("{}: {} s", about.command, about.seconds.round())];
    lines.push(about.machine.clone());
    lines.extend(about.programs.iter().map(|(name, version)| format!("{name}: {version}")));
    lines.push(format!(
        "The load client and the server under test share {} cores, so a fast server is measured \
         together with its client.",
        about.cores
    ));
    let percent = |share: f64| (share * 100.0).round();
    if about.busy_before > BUSY {
        lines.push(format!(
            "Others took {} % of the cores when this began: don't trust the figures.",
            percent(about.busy_before)
        ));
    }
    if about.stolen > STOLEN {
        lines.push(format!("The hypervisor withheld {} % of the cores.", percent(about.stolen)));
    }
    let late = results.latency.iter().flat_map(|result| result.ashlar.iter().chain(&result.redis));
    let late = late.filter(|run| run.late_p99_ms > LATE_MS).count();
    if late > 0 {
        lines.push(format!(
            "In {late} latency runs the client itself was late by over {LATE_MS} ms (p99): it lacked CPU \
             time, so those figures say little about the server."
        ));
    }
    lines.push("Ratios are ashlar to redis-server: the median over the rounds.".to_owned());
    let mark = if markdown { "- " } else { "" };
    lines.iter().map(|line| format!("{mark}{line}\n")).collect::<String>()
        + if markdown { "\n" } else { "" }
}

/// A table for each point of the grid.
fn throughput(tests: &[Throughput]) -> Vec<Table> {
    let mut tables: Vec<(_, Table)> = Vec::new();
    let head = [
        "test",
        "throughput",
        "p99",
        "CPU/M",
        "krps",
        "redis",
        "p99 ms",
        "redis",
        "CPU s/M",
        "redis",
        "client",
        "redis",
    ];
    for test in tests {
        let point = (test.pipeline, test.clients, test.size);
        if tables.last().is_none_or(|(last, _)| *last != point) {
            let (pipeline, clients, size) = point;
            let title = format!("Pipeline {pipeline}, {clients} clients, {size} B values");
            tables.push((point, Table::new(title, &head)));
        }
        let mut cells = vec![test.test.clone(), ratio(throughput_ratio(test))];
        cells.extend([ratio(p99_ratio(test)), ratio(cpu_ratio(test))]);
        for figure in [KRPS, P99, CPU, CLIENT] {
            cells.push(number(middle(&test.ashlar, figure)));
            cells.push(number(middle(&test.redis, figure)));
        }
        if let Some((_, table)) = tables.last_mut() {
            table.row(cells);
        }
    }
    tables.into_iter().map(|(_, table)| table).collect()
}

fn means(results: &Results) -> Table {
    let title = "Geometric means of redis-benchmark's default tests";
    let mut table = Table::new(title, &["pipeline", "throughput", "p99", "CPU/M"]);
    let mut pipelines: Vec<_> = results.throughput.iter().map(|test| test.pipeline).collect();
    pipelines.dedup();
    for pipeline in pipelines {
        let ratios = [throughput_ratio, p99_ratio, cpu_ratio];
        let ratios = ratios.map(|figure| mean(results, pipeline, figure));
        // Without any of the twenty there is no mean.
        if ratios[0].is_some() {
            let cells = ratios.into_iter().map(ratio);
            table.row(std::iter::once(pipeline.to_string()).chain(cells).collect());
        }
    }
    table
}

fn durability(results: &[Durability]) -> Table {
    let head =
        ["appendfsync", "pipeline", "clients", "throughput", "krps", "redis", "p99 ms", "redis"];
    let mut table = Table::new("SET with a log", &head);
    for Durability { policy, throughput } in results {
        let mut cells = vec![policy.clone()];
        cells.extend([throughput.pipeline, throughput.clients].map(|count| count.to_string()));
        cells.push(ratio(throughput_ratio(throughput)));
        for figure in [KRPS, P99] {
            cells.push(number(middle(&throughput.ashlar, figure)));
            cells.push(number(middle(&throughput.redis, figure)));
        }
        table.row(cells);
    }
    table
}

fn caches(results: &[Caches]) -> Table {
    let title = "GET and SET with one load client for all";
    let head = ["test", "clients", "server", "krps", "p50 ms", "p99 ms", "CPU s/M"];
    let mut table = Table::new(title, &head);
    for result in results {
        for (server, runs) in &result.servers {
            let test = format!("{} P{} {} B", result.test, result.pipeline, result.size);
            let figures: [Figure<Run>; 4] = [KRPS, |run| run.p50_ms, P99, CPU];
            let figures = figures.map(|figure| number(middle(runs, figure)));
            let cells = [test, result.clients.to_string(), server.clone()];
            table.row(cells.into_iter().chain(figures).collect());
        }
    }
    table
}

fn latency(results: &[Latency]) -> Table {
    let title = "Latency at equal load, in ms";
    let head = [
        "test",
        "requests/s",
        "p50",
        "redis",
        "p99",
        "redis",
        "p99.9",
        "redis",
        "p99 ratio",
        "late p99",
    ];
    let mut table = Table::new(title, &head);
    for result in results {
        let mut cells = vec![format!("{} P{}", result.test, result.pipeline)];
        cells.push(format!("{:.0}", result.rate));
        let figures: [Figure<LatencyRun>; 3] = [|r| r.p50_ms, |r| r.p99_ms, |r| r.p999_ms];
        for figure in figures {
            cells.push(number(middle(&result.ashlar, figure)));
            cells.push(number(middle(&result.redis, figure)));
        }
        cells.push(ratio(result.ratio(|run| run.p99_ms)));
        let late = [&result.ashlar, &result.redis].map(|runs| middle(runs, |run| run.late_p99_ms));
        cells.push(number(late.into_iter().flatten().reduce(f64::max)));
        table.row(cells);
    }
    table
}

fn memory(results: &[Memory]) -> Table {
    let head = ["shape", "keys", "RSS", "redis", "ratio", "used_memory", "redis", "ratio"];
    let mut table = Table::new("Bytes a key", &head);
    for result in results {
        let (rss, used) = result.ratios();
        let mut cells = vec![result.shape.clone(), result.keys.to_string()];
        let (ashlar, redis) = (result.ashlar, result.redis);
        cells.extend([ashlar.rss_per_key, redis.rss_per_key].map(|bytes| number(Some(bytes))));
        cells.push(ratio(Some(rss)));
        cells.extend([ashlar.used_per_key, redis.used_per_key].map(|bytes| number(Some(bytes))));
        cells.push(ratio(Some(used)));
        table.row(cells);
    }
    table
}

fn tiers(title: &str, of: &str, results: &[TierFigure]) -> Table {
    let mut table = Table::new(title, &[of, "figure", "value"]);
    for TierFigure { what, figure, value } in results {
        let value = if *value >= 1_000.0 { number(Some(*value)) } else { format!("{value:.2}") };
        table.row(vec![what.clone(), figure.clone(), value]);
    }
    table
}

fn goals(results: &Results) -> Table {
    let mut table = Table::new("Goals", &["what", "goal", "measured", ""]);
    for goal in &results.goals {
        let sign = if goal.at_least { ">=" } else { "<=" };
        let measured = format!("{:.2}x", goal.measured);
        let verdict = if goal.met() { "met" } else { "missed" };
        let cells = [goal.what.clone(), format!("{sign} {}x", goal.goal), measured];
        table.row(cells.into_iter().chain([verdict.to_owned()]).collect());
    }
    table
}
