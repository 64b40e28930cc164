//! What a command prints: for people, or for scripts.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::cli::say;

/// What came of a command.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing to be said.
    Nothing,
    /// One resource.
    One(Value),
    /// A list of resources.
    Many(Vec<Value>),
}

impl Answer {
    /// Prints it.
    pub(super) fn print(self, json: bool) -> anyhow::Result<()> {
        match self {
            Self::Nothing => {}
            Self::One(value) if json => say(&serde_json::to_string_pretty(&value)?),
            Self::Many(items) if json => say(&serde_json::to_string_pretty(&items)?),
            Self::One(value) => say(&lines(&value)),
            Self::Many(items) => say(&table(&items)),
        }
        Ok(())
    }
}

impl From<Option<Value>> for Answer {
    fn from(value: Option<Value>) -> Self {
        match value {
            None => Self::Nothing,
            Some(Value::Array(items)) => Self::Many(items),
            Some(value) => Self::One(value),
        }
    }
}

/// A resource as `key: value` lines.
fn lines(value: &Value) -> String {
    let Value::Object(fields) = value else { return plain(value) };
    let mut keys: Vec<&String> = fields.keys().collect();
    keys.sort_by_key(|key| place(key));
    let line = |key: &&String| format!("{key}: {}", fields.get(key.as_str()).map_or_else(String::new, plain));
    keys.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What a resource is called by comes first.
fn place(key: &str) -> usize {
    const FIRST: [&str; 8] = ["name", "address", "host", "uid", "day", "id", "label", "tenant"];
    FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len())
}

/// A list as a table. What is itself made of parts, and what no row has, has no place in one: `show` has it.
fn table(items: &[Value]) -> String {
    let Some(Value::Object(first)) = items.first() else { return "none".to_owned() };
    let belongs = |key: &&String| {
        let has = |test: fn(&Value) -> bool| items.iter().filter_map(|item| item.get(key.as_str())).any(test);
        !has(Value::is_object) && has(|value| !value.is_null())
    };
    let mut columns: Vec<&String> = first.keys().filter(belongs).collect();
    columns.sort_by_key(|key| place(key));
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    for item in items {
        table.add_row(
            columns.iter().map(|column| item.get(column.as_str()).map_or_else(|| "-".to_owned(), plain)),
        );
    }
    table.trim_fmt()
}

fn plain(value: &Value) -> String {
    match value {
        // What others chose must not move the cursor of whoever reads it.
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_tables_and_resources_are_lines() {
        let items = [
            json!({ "age": 1, "name": "one", "none": null, "quota": null, "policy": {} }),
            json!({ "age": 2, "name": "three\u{1b}[2J", "none": null, "quota": 5, "policy": { "pop3": true } }),
        ];
        let text = table(&items);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [vec!["NAME", "AGE", "QUOTA"], vec!["one", "1", "-"], vec!["three\u{fffd}[2J", "2", "5"]]
        );
        assert_eq!(lines(&json!({ "b": null, "name": "one", "c": {} })), "name: one\nb: -\nc: {}");
        assert_eq!(table(&[]), "none");
    }
}
