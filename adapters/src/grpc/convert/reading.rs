//! What one reading of a message gathers: every violation, and what has no field of its own.

use jiff::civil::Date;
use waymark_core::error::Violation;
use waymark_core::identifier::IdentifierError;
use waymark_core::personal::Personal;

use super::{VIOLATIONS_MAX, date_from_proto};

/// A number that a vocabulary does not know.
pub(super) struct UnknownCode;

/// A vocabulary's answer: a code, not stated, or unknown.
pub(super) type Code<T> = Result<Option<T>, UnknownCode>;

/// What one reading gathers.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) violations: Vec<Violation>,
    /// What was said in a field that the canonical form does not have: path and words.
    pub(super) carried: Vec<String>,
}

impl Reading {
    pub(super) fn wrong(&mut self, field: &str, why: impl Into<String>) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation::new(field, why));
        }
    }

    /// Keeps what has no field of its own, in words.
    pub(super) fn carry(&mut self, field: &str, words: &str) {
        if !words.is_empty() {
            self.carried.push(format!("{field}: {words}"));
        }
    }

    /// A code that may be left out.
    pub(super) fn code<T>(
        &mut self,
        field: &str,
        number: i32,
        read: fn(i32) -> Code<T>,
    ) -> Option<T> {
        read(number).unwrap_or_else(|UnknownCode| {
            self.wrong(field, format!("{number} is not a value this release knows"));
            None
        })
    }

    /// A code that must be stated.
    pub(super) fn required<T>(
        &mut self,
        field: &str,
        number: i32,
        read: fn(i32) -> Code<T>,
    ) -> Option<T> {
        let code = self.code(field, number, read);
        if code.is_none() && number == 0 {
            self.wrong(field, "is required");
        }
        code
    }

    /// A text, trimmed; checked for its length and for control characters.
    pub(super) fn text(&mut self, field: &str, text: &str, chars_max: usize) -> String {
        let text = text.trim();
        if text.chars().count() > chars_max {
            self.wrong(field, format!("at most {chars_max} characters: shorten it"));
        }
        if text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        {
            self.wrong(field, "control characters are not allowed: remove them");
        }
        text.to_owned()
    }

    /// A text that may be left out.
    pub(super) fn optional(
        &mut self,
        field: &str,
        text: &str,
        chars_max: usize,
    ) -> Option<Personal<String>> {
        let text = self.text(field, text, chars_max);
        (!text.is_empty()).then(|| Personal::new(text))
    }

    /// A day that may be left out.
    pub(super) fn date(&mut self, field: &str, text: &str) -> Option<Date> {
        if text.is_empty() {
            return None;
        }
        self.keep(date_from_proto(field, text))
    }

    /// An identifier that may be left out.
    pub(super) fn identifier<T>(
        &mut self,
        field: &str,
        text: &str,
        read: fn(&str) -> Result<T, IdentifierError>,
    ) -> Option<T> {
        if text.trim().is_empty() {
            return None;
        }
        self.keep(read(text).map_err(|e| Violation::new(field, e.to_string())))
    }

    /// At most so many items, of which no more are then read.
    pub(super) fn count(&mut self, field: &str, count: usize, max: usize) {
        if count > max {
            self.wrong(field, format!("at most {max} items"));
        }
    }

    pub(super) fn keep<T>(&mut self, read: Result<T, Violation>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(violation) => {
                self.wrong(&violation.field, violation.why);
                None
            }
        }
    }
}
