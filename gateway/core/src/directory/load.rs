//! Reads the directory's files: every fault is found and named with its file and line, not the first alone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::check::Finding;
use super::{Directory, Place};

mod raw;
mod resolve;
mod secret;
mod value;

use raw::Raw;
pub use secret::{SECRET_NAME_LENGTH_MAX, secret_names};

/// Files of one directory.
pub const FILES_MAX: usize = 256;
/// Bytes of one file.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Tables of all kinds in one directory.
pub const ENTRIES_MAX: usize = 20_000;
/// Rules of one directory.
pub const RULES_MAX: usize = 2_000;

/// One file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path, relative to the folder, with `/` between its parts.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// A file and where its lines end.
struct Source<'a> {
    file: &'a SourceFile,
    line_ends: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(file: &'a SourceFile) -> Self {
        let ends = file
            .text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n');
        Self {
            file,
            line_ends: ends.map(|(offset, _)| offset).collect(),
        }
    }

    fn place(&self, offset: usize) -> Place {
        Place {
            file: self.file.path.clone(),
            line: 1 + self.line_ends.partition_point(|end| *end < offset),
        }
    }
}

impl Directory {
    /// Parses and resolves the files of a directory; the order in which they are given does not matter.
    ///
    /// # Errors
    /// Every fault found: what does not parse, what is not known, what is declared twice, what refers to nothing.
    pub fn load(files: &[SourceFile]) -> Result<Self, Vec<Finding>> {
        let mut sorted: Vec<&SourceFile> = files.iter().collect();
        sorted.sort();
        let mut findings = limits(&sorted);
        let sources: Vec<Source<'_>> = match findings.as_slice() {
            [] => sorted.into_iter().map(Source::new).collect(),
            _ => Vec::new(),
        };
        let mut reader = Reader::default();
        for source in &sources {
            reader.file(source);
        }
        findings.append(&mut reader.findings);
        resolve::resolve(reader.raw, &reader.declared, findings)
    }
}

/// Packs files into one text that is the same for the same files in any order: what a release keeps.
///
/// # Errors
/// Never for text that fits memory; the serialiser's signature asks for it.
pub fn bundle(files: &[SourceFile]) -> serde_json::Result<String> {
    let mut sorted: Vec<&SourceFile> = files.iter().collect();
    sorted.sort();
    serde_json::to_string(&sorted)
}

/// Unpacks what [`bundle`] packed.
///
/// # Errors
/// Where the text is not a bundle.
pub fn unbundle(text: &str) -> serde_json::Result<Vec<SourceFile>> {
    serde_json::from_str(text)
}

/// A table as read, with the file that holds it.
struct At<'a, T> {
    source: &'a Source<'a>,
    offset: usize,
    value: T,
}

impl<T> At<'_, T> {
    fn place(&self) -> Place {
        self.source.place(self.offset)
    }

    fn place_of<U>(&self, field: &Spanned<U>) -> Place {
        self.source.place(field.span().start)
    }
}

/// What tables exist, by table name and id: a table that does not parse is reported once, where it stands, and
/// not again wherever it is referred to.
type Declared = BTreeSet<(&'static str, String)>;

#[derive(Default)]
struct Reader<'a> {
    raw: Raw<'a>,
    declared: Declared,
    findings: Vec<Finding>,
    entries: usize,
}

impl<'a> Reader<'a> {
    fn file(&mut self, source: &'a Source<'a>) {
        let (document, errors) = DeTable::parse_recoverable(&source.file.text);
        if !errors.is_empty() {
            self.findings
                .extend(errors.iter().map(|e| syntax(source, e)));
            return;
        }
        for (key, value) in document.into_inner() {
            let name = key.get_ref().to_string();
            let place = source.place(key.span().start);
            match value.get_ref() {
                DeValue::Array(_) | DeValue::Table(_) => self.tables(&name, value, source, &place),
                _ => self.findings.push(Finding::error(
                    "unknown-key",
                    place,
                    format!("`{name}` stands outside any table"),
                    "put it into a table such as [area] or [[service]]",
                )),
            }
        }
    }

    fn tables(
        &mut self,
        name: &str,
        value: Spanned<DeValue<'a>>,
        source: &'a Source<'a>,
        place: &Place,
    ) {
        let span = value.span();
        let single = matches!(value.get_ref(), DeValue::Table(_));
        let items: Vec<Spanned<DeValue<'a>>> = match value.into_inner() {
            DeValue::Array(items) => items.into_iter().collect(),
            table => vec![Spanned::new(span, table)],
        };
        let Some(kind) = raw::KINDS.iter().find(|k| **k == name) else {
            self.findings.push(Finding::error(
                "unknown-table",
                place.clone(),
                format!("`{name}` is not a table of a directory"),
                format!("use one of {}", raw::KINDS.join(", ")),
            ));
            return;
        };
        if single != (*kind == "area") {
            let wanted = if single {
                format!("[[{kind}]]")
            } else {
                "[area], once".to_owned()
            };
            self.findings.push(Finding::error(
                "wrong-brackets",
                place.clone(),
                format!("`{kind}` is not written so"),
                format!("write {wanted}"),
            ));
            return;
        }
        for item in items {
            self.entries += 1;
            if self.entries == ENTRIES_MAX + 1 {
                self.findings.push(Finding::error(
                    "too-many-entries",
                    source.place(item.span().start),
                    format!("more than {ENTRIES_MAX} tables"),
                    "serve a smaller area from this directory",
                ));
            }
            if self.entries <= ENTRIES_MAX {
                self.item(kind, item, source);
            }
        }
    }

    fn item(&mut self, kind: &'static str, item: Spanned<DeValue<'a>>, source: &'a Source<'a>) {
        if let DeValue::Table(table) = item.get_ref()
            && let Some(id) = table
                .get(raw::id_field(kind))
                .and_then(|v| v.get_ref().as_str())
        {
            self.declared.insert((kind, id.to_owned()));
        }
        let offset = item.span().start;
        if let Err(error) = self
            .raw
            .push(kind, ValueDeserializer::from(item), source, offset)
        {
            let place = source.place(error.span().map_or(offset, |s| s.start));
            self.findings.push(Finding::error(
                "invalid-table",
                place,
                format!("[[{kind}]]: {}", one_line(error.message())),
                "correct or remove it",
            ));
        }
    }
}

fn limits(files: &[&SourceFile]) -> Vec<Finding> {
    let first_line = |file: &SourceFile| Place {
        file: file.path.clone(),
        line: 1,
    };
    let mut findings = Vec::new();
    if files.len() > FILES_MAX {
        findings.push(Finding::error(
            "too-many-files",
            Place::default(),
            format!("{} files, at most {FILES_MAX} are read", files.len()),
            "merge some of them",
        ));
    }
    for file in files.iter().filter(|f| f.text.len() > FILE_BYTES_MAX) {
        findings.push(Finding::error(
            "file-too-large",
            first_line(file),
            format!(
                "{} bytes, at most {FILE_BYTES_MAX} are read",
                file.text.len()
            ),
            "split it",
        ));
    }
    for pair in files.windows(2) {
        if let [a, b] = pair
            && a.path == b.path
        {
            findings.push(Finding::error(
                "duplicate-file",
                first_line(b),
                "the same path was given twice".to_owned(),
                "give each file once",
            ));
        }
    }
    findings
}

fn syntax(source: &Source<'_>, error: &toml::de::Error) -> Finding {
    let place = source.place(error.span().map_or(0, |s| s.start));
    Finding::error(
        "syntax",
        place,
        one_line(error.message()),
        "write it as TOML",
    )
}

fn one_line(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
