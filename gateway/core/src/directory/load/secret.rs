//! Secrets in settings: only their names may stand in a directory (ruling 21).

use std::collections::BTreeMap;

use crate::directory::{Directory, Place};

/// Characters of a secret's name.
pub const SECRET_NAME_LENGTH_MAX: usize = 64;

/// What a setting that names a secret begins with.
const PREFIX: &str = "secret:";

/// How keys end whose values are secrets.
const ENDINGS: [&str; 5] = ["secret", "password", "passphrase", "key", "token"];

/// The names of every secret that endpoints need, each with the first endpoint that names it.
pub fn secret_names(directory: &Directory) -> BTreeMap<String, Place> {
    let mut names = BTreeMap::new();
    for endpoint in directory.endpoints.values() {
        let place = directory.place("endpoint", endpoint.id.as_str());
        let mut found = Vec::new();
        for (key, value) in &endpoint.settings {
            walk(key, value, &mut |key, text| {
                if let Some(name) = named(text).or_else(|| is_name_key(key).then_some(text)) {
                    found.push(name.to_owned());
                }
            });
        }
        for name in found {
            names.entry(name).or_insert_with(|| place.clone());
        }
    }
    names
}

/// What is wrong with an endpoint's settings as far as secrets go: key and reason, never the value.
pub(super) fn faults(settings: &toml::Table) -> Vec<(String, &'static str)> {
    let mut faults = Vec::new();
    for (key, value) in settings {
        walk(key, value, &mut |key, text| {
            let named_secret = named(text).or_else(|| is_name_key(key).then_some(text));
            if let Some(name) = named_secret {
                if !is_name(name) {
                    faults.push((key.to_owned(), "names a secret badly"));
                }
            } else if holds_secret(key) {
                faults.push((key.to_owned(), "holds a secret itself"));
            } else if has_user_info(text) {
                faults.push((key.to_owned(), "holds a user name or password in a URL"));
            }
        });
    }
    faults
}

fn named(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)
}

fn is_name_key(key: &str) -> bool {
    key.to_ascii_lowercase().ends_with("_secret_name")
}

fn is_name(name: &str) -> bool {
    (1..=SECRET_NAME_LENGTH_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn holds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| key.ends_with(ending))
}

fn has_user_info(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        rest.split(['/', '?', '#'])
            .next()
            .is_some_and(|authority| authority.contains('@'))
    })
}

/// Visits every value below a key, as text; arrays and inner tables too.
fn walk(key: &str, value: &toml::Value, visit: &mut impl FnMut(&str, &str)) {
    match value {
        toml::Value::String(text) => visit(key, text),
        toml::Value::Array(items) => items.iter().for_each(|item| walk(key, item, visit)),
        toml::Value::Table(table) => table
            .iter()
            .for_each(|(inner, item)| walk(inner, item, visit)),
        // A secret may be written as a number as well.
        number => visit(key, &number.to_string()),
    }
}
