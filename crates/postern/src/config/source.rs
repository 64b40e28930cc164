//! From text and environment to values.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::ConfigError;

const PREFIX: &str = "POSTERN__";

/// Lays `POSTERN__SECTION__KEY` variables over the file's table. A value is read as TOML where it is TOML
/// (`["a", "b"]`, `true`, `30`), else as text.
pub(super) fn overlay(
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_ascii_lowercase();
        let Some((section, key)) = path.split_once("__").filter(|(s, k)| !s.is_empty() && !k.is_empty())
        else {
            return Err(ConfigError::new(name, "must have the form POSTERN__SECTION__KEY"));
        };
        let section_value = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section_table) = section_value else {
            return Err(ConfigError::new(section, "must be a section"));
        };
        section_table.insert(key.to_owned(), read_value(value));
    }
    Ok(())
}

fn read_value(text: String) -> Value {
    // Only what cannot be meant as text: a password `1e5` must stay as it is, so numbers are left to the
    // types that want them.
    let looks_structured = text.starts_with('[') || text == "true" || text == "false";
    let as_integer = text.parse::<i64>().ok().filter(|n| n.to_string() == text).map(Value::Integer);
    let structured = looks_structured
        .then(|| toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value"))
        .flatten();
    structured.or(as_integer).unwrap_or(Value::String(text))
}

/// What is wrong with a text that is no TOML, and on which line: never the line itself, which may hold a
/// secret.
pub(super) fn syntax_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|octet| **octet == b'\n').count() + 1;
    ConfigError::new("(file)", format!("line {line}: {}", error.message()))
}

/// Turns the table into types; an error names the path of the key it is about.
pub(super) fn deserialize<T: DeserializeOwned>(table: Table) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner().message().to_owned();
        // An unknown key is reported at its section: name the key itself.
        let unknown = problem.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let path = match unknown {
            Some(key) if path.is_empty() || path == "." => key.to_owned(),
            Some(key) if path != key && !path.ends_with(&format!(".{key}")) => format!("{path}.{key}"),
            _ => path,
        };
        ConfigError::new(path, problem)
    })
}
