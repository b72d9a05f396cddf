//! The characters that part a message into fields and their parts.

use super::fault::{ErrorCode, FieldFault};

/// The characters that part a message, from MSH-1 and MSH-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Separators {
    /// Between fields, usually `|`.
    pub field: char,
    /// Between components, usually `^`.
    pub component: char,
    /// Between repetitions, usually `~`.
    pub repetition: char,
    /// Around escape sequences, usually `\`.
    pub escape: char,
    /// Between subcomponents, usually `&`.
    pub subcomponent: char,
    /// At the end of a truncated value, `#` since version 2.7.
    pub truncation: Option<char>,
}

impl Separators {
    /// The separators that the standard recommends and that we write.
    pub const STANDARD: Self = Self {
        field: '|',
        component: '^',
        repetition: '~',
        escape: '\\',
        subcomponent: '&',
        truncation: None,
    };

    /// Reads the separators from a header's first bytes.
    ///
    /// # Errors
    /// A fault at MSH-1 or MSH-2.
    pub(super) fn read(msh: &[u8]) -> Result<Self, FieldFault> {
        let bad = |field, rule| FieldFault::field("MSH", field, rule, ErrorCode::DataType);
        let field = *msh.get(3).ok_or(FieldFault::missing_field("MSH", 1))?;
        if !field.is_ascii_punctuation() {
            return Err(bad(1, "is not a separator character"));
        }
        let rest = msh.get(4..).unwrap_or_default();
        let encoding = rest.split(|byte| *byte == field).next().unwrap_or_default();
        let (&[component, repetition, escape, subcomponent], truncation) =
            match encoding.split_first_chunk::<4>() {
                Some((four, [])) => (four, None),
                Some((four, [fifth])) => (four, Some(*fifth)),
                None if encoding.is_empty() => return Err(FieldFault::missing_field("MSH", 2)),
                _ => return Err(bad(2, "has neither four nor five separator characters")),
            };
        let mut all = vec![field, component, repetition, escape, subcomponent];
        all.extend(truncation);
        if !all.iter().all(u8::is_ascii_punctuation) {
            return Err(bad(2, "holds something other than separator characters"));
        }
        all.sort_unstable();
        all.dedup();
        if all.len() != 5 + usize::from(truncation.is_some()) {
            return Err(bad(2, "uses one character for two separators"));
        }
        Ok(Self {
            field: char::from(field),
            component: char::from(component),
            repetition: char::from(repetition),
            escape: char::from(escape),
            subcomponent: char::from(subcomponent),
            truncation: truncation.map(char::from),
        })
    }
}
