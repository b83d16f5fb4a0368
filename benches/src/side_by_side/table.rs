//! Tables: for a terminal, and as Markdown.

use std::fmt::Write as _;

/// Rows of cells under a head; the first column is text, the others figures.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a title and the names of its columns.
    pub fn new(title: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Table { title: title.into(), rows: vec![head] }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Whether it has rows besides its head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Aligned with spaces; every row becomes a line, Markdown's own markup with `markdown`.
    pub fn render(&self, markdown: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let (left, between, right) = if markdown { ("| ", " | ", " |") } else { ("", "  ", "") };
        let mut text = match markdown {
            true => format!("### {}\n\n", self.title),
            false => format!("\n{}\n", self.title),
        };
        for (index, row) in self.rows.iter().enumerate() {
            let cells: Vec<_> = widths.iter().zip(row).enumerate().map(pad).collect();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{left}{}{right}", cells.join(between));
            if index == 0 {
                let rules: Vec<_> =
                    widths.iter().enumerate().map(|cell| rule(cell, markdown)).collect();
                let _ = writeln!(text, "{left}{}{right}", rules.join(between));
            }
        }
        text
    }
}

fn pad((column, (&width, cell)): (usize, (&usize, &String))) -> String {
    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
}

fn rule((column, &width): (usize, &usize), markdown: bool) -> String {
    match (markdown, column) {
        (true, 1..) => format!("{}:", "-".repeat(width - 1)),
        _ => "-".repeat(width),
    }
}

/// A ratio: `3.14x`, or a dash where there is none.
pub fn ratio(value: Option<f64>) -> String {
    figure(value, |value| format!("{value:.2}x"))
}

/// A figure in as many digits as it deserves, or a dash.
pub fn number(value: Option<f64>) -> String {
    figure(value, |value| match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    })
}

fn figure(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.filter(|value| value.is_finite()).map_or("-".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("T", &["test", "n"]);
        table.row(vec!["GET".into(), number(Some(12.34))]);
        assert_eq!(table.render(false), "\nT\ntest     n\n----  ----\nGET   12.3\n");
        let markdown = "### T\n\n| test |    n |\n| ---- | ---: |\n| GET  | 12.3 |\n";
        assert_eq!(table.render(true), markdown);
    }
}
