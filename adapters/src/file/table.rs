//! CSV (RFC 4180) as spreadsheets write and read it: a header row, one row for each referral or status. Pure.
//!
//! We write UTF-8 with a byte order mark, commas and CRLF. We read commas, semicolons or tabs, with or without the
//! mark; what a spreadsheet changed beyond repair is refused with what to do in the spreadsheet.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use waymark_core::delivery::Kind;
use waymark_core::error::Violation;
use waymark_core::port::{RenderError, Source, StopNotice};
use waymark_core::referral::Referral;

use super::cell;
use super::columns::{
    Cell, Column, ENDING, GROUPS, MESSAGE, REQUIRED, SINGLE, STATUS_IN, STATUS_OUT, numbered,
};

/// The byte order mark by which a spreadsheet knows UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// The most columns of a file.
pub(super) const COLUMNS_MAX: usize = 512;
/// The most rows of a file of statuses, the header apart.
pub(super) const ROWS_MAX: usize = 500;

/// A row as read: filled cells by column, and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Row {
    number: usize,
    cells: BTreeMap<String, String>,
}

type Faults = Vec<Violation>;

fn fault(field: impl Into<String>, why: impl Into<String>) -> Faults {
    vec![Violation::new(field, why)]
}

/// The character between cells: the one of the three that the header row has most of.
fn delimiter(text: &[u8]) -> u8 {
    let header = text.split(|b| *b == b'\n').next().unwrap_or_default();
    // A header row of names holds none of the three but between its cells.
    let cells = |d: u8| header.split(|b| *b == d).count();
    [b'\t', b';', b',']
        .into_iter()
        .max_by_key(|d| cells(*d))
        .unwrap_or(b',')
}

/// Reads a file into its rows.
pub(super) fn rows(bytes: &[u8]) -> Result<Vec<Row>, Faults> {
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    if std::str::from_utf8(text).is_err() {
        return Err(fault("file", "is not UTF-8: save it as \"CSV UTF-8\""));
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter(text))
        .flexible(true)
        .from_reader(text);
    let header = reader
        .headers()
        .map_err(|_| fault("row 1", "is no header row"))?
        .clone();
    if header.len() > COLUMNS_MAX {
        return Err(fault(
            "row 1",
            format!("has more than {COLUMNS_MAX} columns"),
        ));
    }
    let names: Vec<&str> = header.iter().map(str::trim).collect();
    for (at, name) in names.iter().enumerate() {
        if !name.is_empty() && names.iter().take(at).any(|earlier| earlier == name) {
            return Err(fault(
                format!("column {}", at + 1),
                "has the name of an earlier column",
            ));
        }
    }
    let mut rows = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let number = at + 2;
        let record =
            record.map_err(|_| fault(format!("row {number}"), "is no row of a CSV file"))?;
        if record.len() > names.len() {
            let why = "has more cells than the header: quote cells that hold the delimiter";
            return Err(fault(format!("row {number}"), why));
        }
        let mut cells = BTreeMap::new();
        for (column, (name, cell)) in names.iter().zip(record.iter()).enumerate() {
            let cell = cell::unguarded(cell).trim();
            if cell.is_empty() {
                continue;
            }
            if name.is_empty() {
                let place = format!("row {number}, column {}", column + 1);
                return Err(fault(place, "is filled under a header without a name"));
            }
            cells.insert((*name).to_owned(), cell.to_owned());
        }
        if cells.is_empty() {
            continue;
        }
        if rows.len() >= ROWS_MAX {
            return Err(fault(
                "file",
                format!("has more than {ROWS_MAX} rows: split it"),
            ));
        }
        rows.push(Row { number, cells });
    }
    if rows.is_empty() {
        return Err(fault("file", "has no row below its header"));
    }
    Ok(rows)
}

fn value(cell: &str, kind: Cell) -> Result<Value, cell::CellError> {
    Ok(match kind {
        Cell::Text => Value::from(cell),
        Cell::Whole => {
            let number: i64 = cell.parse().map_err(|_| cell::CellError::Whole)?;
            Value::from(number)
        }
        Cell::YesNo => match cell.to_ascii_lowercase().as_str() {
            "yes" | "true" => Value::from(true),
            "no" | "false" => Value::from(false),
            _ => return Err(cell::CellError::YesNo),
        },
        Cell::Day => Value::from(cell::day(cell)?),
        Cell::List => {
            let parts = cell.split(';').map(str::trim).filter(|p| !p.is_empty());
            parts.map(Value::from).collect()
        }
        Cell::Digits(digits) => Value::from(cell::identifier(cell, digits)?),
        Cell::Phone => Value::from(cell::phone(cell)?),
    })
}

fn put(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = object
                .entry(head)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

impl Row {
    /// A cell of the columns that say what a row is.
    pub(super) fn message(&self, column: &str) -> Option<&str> {
        self.cells.get(column).map(String::as_str)
    }

    /// Whether it has this column filled.
    pub(super) fn has(&self, column: &str) -> bool {
        self.cells.contains_key(column)
    }

    fn place(&self, column: &str) -> String {
        format!("row {}, {column}", self.number)
    }

    /// Reads columns into an object, noting every fault.
    fn read(&self, columns: &[Column], into: &mut Map<String, Value>, faults: &mut Faults) {
        for (column, kind) in columns {
            let Some(cell) = self.cells.get(*column) else {
                continue;
            };
            match value(cell, *kind) {
                Ok(value) => put(into, column, value),
                Err(why) => faults.push(Violation::new(self.place(column), why.to_string())),
            }
        }
    }

    fn unknown(&self, known: impl Fn(&str) -> bool, faults: &mut Faults) {
        for column in self.cells.keys() {
            if !known(column) && !MESSAGE.contains(&column.as_str()) {
                let why = "is no column that is read here: see docs/partners/file.md";
                faults.push(Violation::new(self.place(column), why));
            }
        }
    }

    /// The referral that it holds.
    pub(super) fn referral(&self) -> Result<Referral, Faults> {
        let mut faults = Vec::new();
        let mut whole = Map::new();
        let mut known: std::collections::BTreeSet<String> = SINGLE
            .iter()
            .map(|(column, _)| (*column).to_owned())
            .collect();
        for column in REQUIRED.iter().filter(|column| !self.has(column)) {
            faults.push(Violation::new(self.place(column), "is required"));
        }
        self.read(SINGLE, &mut whole, &mut faults);
        for (prefix, most, parts) in GROUPS {
            let mut items = Vec::new();
            for number in 1..=*most {
                let mut item = Map::new();
                let mut bare = None;
                for (part, kind) in *parts {
                    let column = numbered(prefix, number, part);
                    if let Some(cell) = self.cells.get(&column) {
                        match value(cell, *kind) {
                            Ok(value) if part.is_empty() => bare = Some(value),
                            Ok(value) => put(&mut item, part, value),
                            Err(why) => {
                                faults.push(Violation::new(self.place(&column), why.to_string()));
                            }
                        }
                    }
                    known.insert(column);
                }
                if let Some(value) = bare {
                    items.push(value);
                } else if !item.is_empty() {
                    items.push(Value::Object(item));
                }
            }
            if !items.is_empty() {
                put(&mut whole, prefix, Value::Array(items));
            }
        }
        self.unknown(|column| known.contains(column), &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        crate::body::typed(Value::Object(whole))
            .map_err(|wrong| Violation::new(self.place(&wrong.field), wrong.why))
            .map_err(|wrong| vec![wrong])
    }

    /// The status that it holds, as the body of a callback.
    pub(super) fn status(&self) -> Result<Value, Faults> {
        self.object(STATUS_IN)
    }

    /// The end that it holds.
    pub(super) fn ending(&self) -> Result<Value, Faults> {
        self.object(ENDING)
    }

    fn object(&self, columns: &[Column]) -> Result<Value, Faults> {
        let mut faults = Vec::new();
        let mut whole = Map::new();
        self.read(columns, &mut whole, &mut faults);
        self.unknown(
            |column| columns.iter().any(|(known, _)| *known == column),
            &mut faults,
        );
        if faults.is_empty() {
            Ok(Value::Object(whole))
        } else {
            Err(faults)
        }
    }

    /// Where it stands, for what is said of it later.
    pub(super) const fn number(&self) -> usize {
        self.number
    }
}

/// Takes a value out of an object by its path.
fn take(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = match path.rsplit_once('.') {
        None => (value, path),
        Some((parent, last)) => {
            let pointer = format!("/{}", parent.replace('.', "/"));
            (value.pointer_mut(&pointer)?, last)
        }
    };
    parent.as_object_mut()?.remove(last)
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_blank),
        Value::Object(fields) => fields.values().all(is_blank),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A value as a cell; `None` for what no cell holds.
fn cell_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) => {
            let codes: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            codes.map(|codes| codes.join("; "))
        }
        Value::Object(_) => None,
    }
}

type Written = Vec<(String, String)>;

/// A referral as cells. Text with spaces around it cannot be told from text without, nor blank from absent.
fn cells_of(referral: &Referral) -> Result<Written, RenderError> {
    let cannot = |field: &str, why: String| {
        RenderError::CannotCarry(Violation::new(format!("referral.{field}"), why))
    };
    let mut whole =
        serde_json::to_value(referral).map_err(|_| cannot("", "cannot be written".to_owned()))?;
    let mut cells = Vec::new();
    for (column, _) in SINGLE {
        let value = take(&mut whole, column).unwrap_or(Value::Null);
        let cell = cell_of(&value).ok_or_else(|| cannot(column, "has no column".to_owned()))?;
        cells.push(((*column).to_owned(), cell));
    }
    for (prefix, most, parts) in GROUPS {
        let Some(Value::Array(items)) = take(&mut whole, prefix) else {
            continue;
        };
        if items.len() > *most {
            return Err(cannot(
                prefix,
                format!("has more than the {most} that CSV has columns for"),
            ));
        }
        for (at, mut item) in items.into_iter().enumerate() {
            for (part, _) in *parts {
                let value = if part.is_empty() {
                    std::mem::take(&mut item)
                } else {
                    take(&mut item, part).unwrap_or(Value::Null)
                };
                let column = numbered(prefix, at + 1, part);
                let cell = cell_of(&value);
                let cell = cell.ok_or_else(|| cannot(&column, "has no column".to_owned()))?;
                cells.push((column, cell));
            }
            if !is_blank(&item) {
                return Err(cannot(
                    prefix,
                    "has a part that CSV has no column for".to_owned(),
                ));
            }
        }
    }
    if !is_blank(&whole) {
        return Err(cannot(
            "",
            "has a part that CSV has no column for".to_owned(),
        ));
    }
    Ok(cells)
}

fn message_cells(source: &Source) -> Written {
    let values = [
        source.wire_id.as_str().to_owned(),
        source.kind.as_str().to_owned(),
        source.environment.as_str().to_owned(),
        source.reference.as_str().to_owned(),
        source.sender.as_str().to_owned(),
        source.recipient.as_str().to_owned(),
        source
            .service
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        source.at.to_string(),
    ];
    MESSAGE
        .iter()
        .map(|c| (*c).to_owned())
        .zip(values)
        .collect()
}

fn status_cells(source: &Source) -> Written {
    let Some(status) = &source.status else {
        return Vec::new();
    };
    let values = [
        status.from.to_string(),
        status
            .service
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        status.state.as_str().to_owned(),
        status.code.clone(),
        status
            .text
            .as_ref()
            .map(|t| t.expose().clone())
            .unwrap_or_default(),
        status.due.map(|day| day.to_string()).unwrap_or_default(),
        status.at.to_string(),
    ];
    STATUS_OUT
        .iter()
        .map(|c| (*c).to_owned())
        .zip(values)
        .collect()
}

fn ending_cells(source: &Source) -> Written {
    let reference = source.sender_reference.as_ref();
    let values = [
        reference.map(|r| r.value.clone()).unwrap_or_default(),
        reference.map(|r| r.namespace.clone()).unwrap_or_default(),
        source
            .reason
            .as_ref()
            .map(|r| r.expose().clone())
            .unwrap_or_default(),
        match &source.stop {
            Some(StopNotice::Cancelled { code, .. }) => code.as_str().to_owned(),
            Some(StopNotice::Withdrawn(_)) | None => String::new(),
        },
    ];
    ENDING
        .iter()
        .map(|(c, _)| (*c).to_owned())
        .zip(values)
        .collect()
}

/// Writes a message as a header row and one row.
pub(super) fn render(source: &Source) -> Result<Vec<u8>, RenderError> {
    let mut cells = message_cells(source);
    cells.extend(match (source.kind, &source.content) {
        (Kind::New | Kind::Amend, Some(content)) => cells_of(content)?,
        (Kind::New | Kind::Amend, None) => {
            return Err(RenderError::CannotCarry(Violation::new(
                "content",
                "is missing",
            )));
        }
        (Kind::Status, _) => status_cells(source),
        (Kind::Cancel | Kind::Withdraw, _) => ending_cells(source),
        (Kind::Guidance, _) => return Err(RenderError::not_to_agencies()),
    });
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(BOM.to_vec());
    let header = writer.write_record(cells.iter().map(|(column, _)| column));
    let row = writer.write_record(cells.iter().map(|(_, cell)| cell::guarded(cell)));
    header
        .and(row)
        .ok()
        .and_then(|()| writer.into_inner().ok())
        .ok_or_else(|| {
            RenderError::CannotCarry(Violation::new("content", "cannot be written as CSV"))
        })
}

#[cfg(test)]
mod tests;
