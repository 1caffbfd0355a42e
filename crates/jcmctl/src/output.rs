//! How results are printed: one [`Report`] from a command, in the format that was asked for.
//!
//! JSON and YAML carry the server's own document, so that a script sees the shapes of the API; tables are for people
//! and may change. Everything printed is escaped for terminals, and a reader that hangs up early is no error.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use serde_json::Value;

use crate::cli::Format;
use crate::failure::{Exit, Failure};
use crate::text;

/// What a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For `json` and `yaml`.
    pub document: Value,
    /// For `jsonl`: one line each; the document itself when empty is not meant.
    pub items: Vec<Value>,
    /// For `name`.
    pub names: Vec<String>,
    /// Lines above the table.
    pub heading: Vec<(&'static str, String)>,
    /// For `table` and `wide`.
    pub table: Table,
}

/// Columns for people.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    wide: bool,
}

impl Table {
    /// A table with these columns; a title that starts with `+` is shown by `wide` only.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| Column {
            title: title.trim_start_matches('+'),
            wide: title.starts_with('+'),
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn render(&self, wide: bool) -> String {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|i| wide || !self.columns[*i].wide).collect();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(shown.iter().map(|i| self.columns[*i].title));
        for row in &self.rows {
            table.add_row(shown.iter().map(|i| match row[*i].as_str() {
                "" => "-".to_owned(),
                cell => text::escaped(cell),
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }
}

/// The text of a report, ready for standard output.
pub(crate) fn render(report: &Report, format: Format) -> String {
    let mut out = String::new();
    match format {
        Format::Table | Format::Wide => {
            for (title, value) in &report.heading {
                let title = format!("{title}:");
                writeln!(out, "{title:<12} {}", text::escaped(value))
                    .expect("writing to a string cannot fail");
            }
            if !report.heading.is_empty() && !report.table.is_empty() {
                out.push('\n');
            }
            if !report.table.is_empty() {
                out.push_str(&report.table.render(format == Format::Wide));
                out.push('\n');
            }
        }
        Format::Json => {
            let json = serde_json::to_string_pretty(&report.document).expect("a value is JSON");
            out.push_str(&text::escaped_json(&json));
            out.push('\n');
        }
        Format::Yaml => out.push_str(&yaml(&report.document)),
        Format::Jsonl => {
            for item in &report.items {
                out.push_str(&json_line(item));
            }
        }
        Format::Name => {
            for name in &report.names {
                out.push_str(&text::escaped(name));
                out.push('\n');
            }
        }
    }
    out
}

/// A value on a line of its own.
pub(crate) fn json_line(value: &Value) -> String {
    let json = serde_json::to_string(value).expect("a value is JSON");
    let mut line = text::escaped_json(&json);
    line.push('\n');
    line
}

/// A value as a YAML document.
pub(crate) fn yaml(value: &Value) -> String {
    let plain = serde_saphyr::to_string(value).expect("a value is YAML");
    // JSON is YAML: where an answer holds what a terminal must not see, its escapes are the safe way to write it.
    if text::escaped(&plain.replace('\n', "")) == plain.replace('\n', "") {
        plain
    } else {
        let json = serde_json::to_string_pretty(value).expect("a value is JSON");
        text::escaped_json(&json) + "\n"
    }
}

/// Writes to standard output. A reader that hung up (`| head`) has what it wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Exit::Failure, format!("standard output cannot be written: {error}"))
            .next("the same command with another standard output")),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Report {
        let mut table = Table::new(&["NAME", "NODES", "+ZONE"]);
        table.row(vec!["orders".into(), "3".into(), "z1".into()]);
        table.row(vec!["b\u{1b}[2J".into(), String::new(), String::new()]);
        Report {
            document: json!({"clusters": [{"name": "orders"}, {"name": "b\u{9b}2J"}]}),
            items: vec![json!({"name": "orders"}), json!({"name": "b\u{9b}2J"})],
            names: vec!["orders".into(), "b\u{1b}[2J".into()],
            heading: vec![("Name", "x\ny".into())],
            table,
        }
    }

    #[test]
    fn every_format_says_the_same_and_none_moves_the_cursor() {
        let check =
            |format: Format, expected: &str| assert_eq!(render(&report(), format), expected, "{format:?}");
        check(Format::Table, "Name:        x\\ny\n\nNAME        NODES\norders      3\nb\\u{1b}[2J  -\n");
        check(
            Format::Wide,
            "Name:        x\\ny\n\nNAME        NODES  ZONE\norders      3      z1\nb\\u{1b}[2J  -      -\n",
        );
        check(Format::Jsonl, "{\"name\":\"orders\"}\n{\"name\":\"b\\u009b2J\"}\n");
        check(Format::Name, "orders\nb\\u{1b}[2J\n");
        let json = render(&report(), Format::Json);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), report().document);
    }

    #[test]
    fn yaml_reads_back_as_what_it_was() {
        for value in [
            json!({"name": "orders", "online": true, "properties": {"a": "yes", "b": "1", "c": "null", "d": ""}}),
            json!({"reason": "x\u{9b}31m\u{202e}y", "lines": "a\nb\n"}),
            json!([{"name": "- a: b #c"}, {"n": 0.4, "m": 18_446_744_073_709_551_615_u64}]),
        ] {
            let text = yaml(&value);
            assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
            assert_eq!(text::escaped(&text).replace("\\n", "\n"), text.replace("\\n", "\n"), "{text}");
        }
    }
}
