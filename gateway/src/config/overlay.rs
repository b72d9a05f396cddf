//! The environment over the file: `WAYMARK_<SECTION>_<KEY>`, and secrets by name.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use toml::{Table, Value};
use waymark_core::error::Violation;

use super::{Config, ConfigError, Secret};

/// What variables of ours begin with.
const PREFIX: &str = "WAYMARK_";
/// What a secret's variable begins with.
const SECRET_PREFIX: &str = "WAYMARK_SECRET_";
/// The sections of the file.
const SECTIONS: [&str; 12] = [
    "gateway",
    "database",
    "keys",
    "listen",
    "tls",
    "outbound",
    "limits",
    "delivery",
    "log",
    "directory",
    "secrets",
    "telemetry",
];

/// Every variable of ours.
pub(super) fn variables() -> Vec<(String, String)> {
    let mut ours: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    ours.sort();
    ours
}

/// The secrets among variables, by the end of the variable's name.
pub(super) fn secret_variables(variables: Vec<(String, String)>) -> BTreeMap<String, Secret> {
    variables
        .into_iter()
        .filter_map(|(name, value)| {
            Some((
                name.strip_prefix(SECRET_PREFIX)?.to_owned(),
                Secret::new(value),
            ))
        })
        .collect()
}

/// Lays variables over what a file says.
pub(super) fn apply(
    text: &str,
    written: Config,
    variables: &[(String, String)],
) -> Result<Config, ConfigError> {
    let overrides: Vec<(&str, &str, String, &str)> = variables
        .iter()
        .filter(|(name, _)| !name.starts_with(SECRET_PREFIX))
        .filter_map(|(name, value)| {
            let (section, key) = section_and_key(name)?;
            Some((name.as_str(), section, key, value.as_str()))
        })
        .collect();
    if overrides.is_empty() {
        return Ok(written);
    }
    let unread = |error: toml::de::Error| {
        ConfigError::Invalid(vec![Violation::new(
            "waymark.toml",
            error.message().to_owned(),
        )])
    };
    let mut table: Table = toml::from_str(text).map_err(unread)?;
    for (variable, section, key, value) in overrides {
        let inner = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { continue };
        let before = inner.insert(key.clone(), as_value(value));
        let wrong = |message: String| ConfigError::Variable {
            variable: variable.to_owned(),
            message,
        };
        if let Err(error) = Config::deserialize(table.clone()) {
            // A text that looks like a number or truth is still a text where the key asks for one.
            let Some(Value::Table(inner)) = table.get_mut(section) else {
                continue;
            };
            inner.insert(key.clone(), Value::String(value.to_owned()));
            if Config::deserialize(table.clone()).is_err() {
                return Err(wrong(without_value(error.message(), value)));
            }
        }
        drop(before);
    }
    Config::deserialize(table).map_err(unread)
}

fn section_and_key(variable: &str) -> Option<(&'static str, String)> {
    let rest = variable.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let section = SECTIONS
        .into_iter()
        .find(|section| rest.starts_with(&format!("{section}_")))?;
    let key = rest.strip_prefix(section)?.strip_prefix('_')?;
    Some((section, key.to_owned()))
}

fn as_value(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn without_value(message: &str, value: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    if value.is_empty() {
        line.to_owned()
    } else {
        line.replace(value, "…")
    }
}
