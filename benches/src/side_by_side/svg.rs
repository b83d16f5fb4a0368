//! Charts as SVG, written by hand: ratios as horizontal bars, with the figures behind them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::goals::{cpu_ratio, throughput_ratio};
use crate::results::{Results, Run, Throughput, middle};
use crate::table::number;

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 230.0;
const NOTE_WIDTH: f64 = 200.0;
const ROW_HEIGHT: f64 = 22.0;
const TOP: f64 = 64.0;

/// A chart of ratios.
struct Chart {
    title: String,
    subtitle: String,
    /// More is better.
    up: bool,
    rows: Vec<Row>,
}

struct Row {
    label: String,
    ratio: f64,
    note: String,
}

/// Writes every chart that there are figures for into `dir`.
pub fn draw(results: &Results, dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    for (name, chart) in charts(results) {
        let file = dir.join(format!("{name}.svg"));
        fs::write(&file, chart.render()).map_err(|error| format!("{}: {error}", file.display()))?;
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}

fn charts(results: &Results) -> Vec<(String, Chart)> {
    let tests = &results.throughput;
    let points: BTreeSet<_> = tests.iter().map(|t| (t.pipeline, t.clients, t.size)).collect();
    let mut charts = Vec::new();
    for point @ (pipeline, clients, size) in points {
        let here = || tests.iter().filter(move |t| (t.pipeline, t.clients, t.size) == point);
        let where_ = format!("pipeline {pipeline}, {clients} clients, {size} B values");
        let name = |what| format!("{what}-p{pipeline}-c{clients}-d{size}");
        let rows = here().filter_map(|test| row(test, throughput_ratio, "krps", |r| r.rps / 1e3));
        let title = format!("Throughput, {where_}");
        charts.push((name("throughput"), Chart::new(title, true, rows.collect())));
        let rows = here().filter_map(|test| row(test, cpu_ratio, "s/M", |r| r.cpu_per_million));
        let title = format!("Server CPU a command, {where_}");
        charts.push((name("cpu"), Chart::new(title, false, rows.collect())));
    }
    if !results.latency.is_empty() {
        let rows = results.latency.iter().filter_map(|test| {
            let label = format!("{} P{} at {:.0}/s", test.test, test.pipeline, test.rate);
            let of = |runs| number(middle(runs, |run: &crate::results::LatencyRun| run.p99_ms));
            let note = format!("{} / {} ms", of(&test.ashlar), of(&test.redis));
            Some(Row { label, ratio: test.ratio(|run| run.p99_ms)?, note })
        });
        let title = "p99 latency at equal load".to_owned();
        charts.push(("latency".to_owned(), Chart::new(title, false, rows.collect())));
    }
    if !results.memory.is_empty() {
        let rows = results.memory.iter().map(|memory| {
            let of = |bytes| number(Some(bytes));
            let (ours, theirs) = (of(memory.ashlar.rss_per_key), of(memory.redis.rss_per_key));
            let note = format!("{ours} / {theirs} B");
            Row { label: memory.shape.clone(), ratio: memory.ratios().0, note }
        });
        let title = "Resident bytes a key".to_owned();
        charts.push(("memory".to_owned(), Chart::new(title, false, rows.collect())));
    }
    charts.extend(next_to_memcached(results));
    charts
}

/// What GET and SET take of each server's processor, ashlar's to memcached's.
fn next_to_memcached(results: &Results) -> Option<(String, Chart)> {
    let rows = results.caches.iter().filter_map(|test| {
        let of = |name: &str| {
            let (_, runs) = test.servers.iter().find(|(server, _)| server == name)?;
            middle(runs, |run: &Run| run.cpu_per_million)
        };
        let (ours, theirs) = (of("ashlar")?, of("memcached")?);
        let label =
            format!("{} P{}, {} clients, {} B", test.test, test.pipeline, test.clients, test.size);
        let note = format!("{} / {} s/M", number(Some(ours)), number(Some(theirs)));
        Some(Row { label, ratio: ours / theirs, note })
    });
    let rows: Vec<Row> = rows.collect();
    let mut chart = Chart::new("Server CPU a command, next to memcached".to_owned(), false, rows);
    chart.subtitle = chart.subtitle.replace("redis-server", "memcached");
    (!chart.rows.is_empty()).then(|| ("memcached".to_owned(), chart))
}

fn row(
    test: &Throughput,
    ratio: fn(&Throughput) -> Option<f64>,
    unit: &str,
    figure: fn(&Run) -> f64,
) -> Option<Row> {
    let of = |runs| number(middle(runs, figure));
    let note = format!("{} / {} {unit}", of(&test.ashlar), of(&test.redis));
    Some(Row { label: test.test.clone(), ratio: ratio(test)?, note })
}

impl Chart {
    fn new(title: String, up: bool, rows: Vec<Row>) -> Self {
        let better = if up { "longer is better" } else { "shorter is better" };
        let subtitle = format!("ashlar to redis-server; {better}; right: both figures");
        Chart { title, subtitle, up, rows }
    }

    fn render(&self) -> String {
        let height = TOP + ROW_HEIGHT * self.rows.len() as f64 + 16.0;
        let room = WIDTH - LABEL_WIDTH - NOTE_WIDTH;
        let ratios = self.rows.iter().map(|row| row.ratio).filter(|ratio| ratio.is_finite());
        let scale = room / ratios.fold(1.0, f64::max) / 1.12;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        // Writing to a String does not fail.
        let _ = writeln!(svg, "{}", text(12.0, 24.0, "#1f2328", "start", &self.title, 16));
        let _ = writeln!(svg, "{}", text(12.0, 44.0, "#656d76", "start", &self.subtitle, 12));
        for (index, row) in self.rows.iter().enumerate() {
            let y = TOP + ROW_HEIGHT * index as f64;
            let _ = write!(svg, "{}", self.bar(row, y, scale));
        }
        let one = LABEL_WIDTH + scale;
        let _ = writeln!(
            svg,
            "<line x1=\"{one:.1}\" y1=\"{:.1}\" x2=\"{one:.1}\" y2=\"{:.1}\" stroke=\"#1f2328\" \
             stroke-dasharray=\"3 3\"/>\n</svg>",
            TOP - 6.0,
            height - 12.0
        );
        svg
    }

    fn bar(&self, row: &Row, y: f64, scale: f64) -> String {
        let ratio = if row.ratio.is_finite() { row.ratio } else { 0.0 };
        let better = if self.up { ratio >= 1.0 } else { ratio <= 1.0 };
        let (fill, length) = (if better { "#2f7d6d" } else { "#b5533c" }, ratio * scale);
        let middle = y + ROW_HEIGHT * 0.68;
        let end = LABEL_WIDTH + length + 6.0;
        let lines = [
            text(LABEL_WIDTH - 8.0, middle, "#1f2328", "end", &row.label, 13),
            format!(
                "<rect x=\"{LABEL_WIDTH}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" \
                 fill=\"{fill}\"/>",
                y + 3.0,
                ROW_HEIGHT - 6.0
            ),
            text(end, middle, "#1f2328", "start", &format!("{ratio:.2}x"), 12),
            text(WIDTH - 12.0, middle, "#656d76", "end", &row.note, 12),
        ];
        lines.join("\n") + "\n"
    }
}

fn text(x: f64, y: f64, fill: &str, anchor: &str, text: &str, size: u32) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{fill}\" text-anchor=\"{anchor}\" \
         font-size=\"{size}\">{text}</text>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_a_row_and_escapes_its_text() {
        let row = |label: &str, ratio| Row { label: label.into(), ratio, note: "1 / 2".into() };
        let rows = vec![row("a<b", 2.0), row("c&d", 0.5)];
        let svg = Chart::new("T".into(), true, rows).render();
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("a&lt;b") && svg.contains("c&amp;d") && svg.ends_with("</svg>\n"));
    }
}
