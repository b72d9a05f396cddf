//! Cells of a CSV file, and what spreadsheets do to them (RFC 4180). Pure.
//!
//! A cell that a spreadsheet would run as a formula is written with an apostrophe before it, and read without.

/// What a formula begins with.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];
/// What keeps a spreadsheet from running it.
const GUARD: char = '\'';

fn runs(text: &str) -> bool {
    let mut chars = text.chars();
    match chars.next() {
        Some(GUARD) => chars
            .next()
            .is_some_and(|c| c == GUARD || FORMULA.contains(&c)),
        Some(first) => FORMULA.contains(&first),
        None => false,
    }
}

/// The cell as it is written.
pub(super) fn guarded(text: &str) -> String {
    if runs(text) {
        format!("{GUARD}{text}")
    } else {
        text.to_owned()
    }
}

/// The cell as it was before it was written.
pub(super) fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix(GUARD) {
        Some(rest) if rest.starts_with(GUARD) || rest.starts_with(FORMULA) => rest,
        _ => cell,
    }
}

/// Why a cell cannot be read, and what to do in the spreadsheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CellError {
    #[error(
        "is no date: write 2026-03-02 (year-month-day), since 02/03/2026 could be February or March"
    )]
    Date,
    #[error("is no whole number")]
    Whole,
    #[error("is yes or no")]
    YesNo,
    #[error(
        "has 9 digits: a spreadsheet dropped its leading zero; format the column as text and type it again"
    )]
    LostZero,
    #[error(
        "was turned into a rounded number by a spreadsheet; format the column as text and type it again"
    )]
    Rounded,
    #[error(
        "was turned into a telephone number without its leading zero; format the column as text and type it again"
    )]
    LostPhoneZero,
}

/// A date as `YYYY-MM-DD`, the only form that is read the same everywhere.
pub(super) fn day(cell: &str) -> Result<String, CellError> {
    let shape = cell.len() == 10 && cell.bytes().filter(|b| *b == b'-').count() == 2;
    let day: Result<jiff::civil::Date, _> = cell.parse();
    match day {
        Ok(day) if shape => Ok(day.to_string()),
        Ok(_) | Err(_) => Err(CellError::Date),
    }
}

/// Whether a spreadsheet turned a long number into one like `9.43477E+09`.
fn is_rounded(cell: &str) -> bool {
    let upper = cell.to_ascii_uppercase();
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    upper
        .split_once("E+")
        .is_some_and(|(mantissa, exponent)| number(mantissa) && number(exponent))
}

/// An NHS number, or one of the other identifiers of digits.
pub(super) fn identifier(cell: &str, digits: usize) -> Result<String, CellError> {
    if is_rounded(cell) {
        return Err(CellError::Rounded);
    }
    let bare: String = cell
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .collect();
    if bare.len() + 1 == digits && bare.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CellError::LostZero);
    }
    Ok(cell.to_owned())
}

/// A telephone number: one of ten digits that begins with 1, 2, 3 or 7 lost its zero.
pub(super) fn phone(cell: &str) -> Result<String, CellError> {
    if is_rounded(cell) {
        return Err(CellError::Rounded);
    }
    let bare: String = cell.chars().filter(|c| !c.is_whitespace()).collect();
    let digits = bare.bytes().all(|b| b.is_ascii_digit());
    if digits && bare.len() == 10 && bare.starts_with(['1', '2', '3', '7']) {
        return Err(CellError::LostPhoneZero);
    }
    Ok(cell.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_guarded_cell_is_no_formula_and_reads_as_before(text in "['=+@a\\-\\t\\r]{0,6}") {
            let cell = guarded(&text);
            prop_assert!(!cell.starts_with(FORMULA));
            prop_assert_eq!(unguarded(&cell), text.as_str());
        }
    }

    #[test]
    fn a_name_with_an_apostrophe_stays_as_it_is() {
        assert_eq!(
            (guarded("'t Hooft").as_str(), unguarded("'t Hooft")),
            ("'t Hooft", "'t Hooft")
        );
        assert_eq!(guarded("+44 7700 900123"), "'+44 7700 900123");
    }

    #[test]
    fn dates_are_read_in_one_form_alone() {
        assert_eq!(day("2016-05-04").as_deref(), Ok("2016-05-04"));
        for other in [
            "04/05/2016",
            "4 May 2016",
            "2016-5-4",
            "20160504",
            "2016-13-01",
            "2016-05-04T00:00",
        ] {
            assert_eq!(day(other), Err(CellError::Date), "{other}");
        }
    }

    #[test]
    fn what_a_spreadsheet_did_to_numbers_is_seen() {
        assert_eq!(identifier("943476591", 10), Err(CellError::LostZero));
        assert_eq!(identifier("9.43477E+09", 10), Err(CellError::Rounded));
        assert_eq!(
            identifier("943 476 5919", 10).as_deref(),
            Ok("943 476 5919")
        );
        assert_eq!(phone("7700900123"), Err(CellError::LostPhoneZero));
        assert_eq!(phone("7.7009E+09"), Err(CellError::Rounded));
        assert_eq!(phone("01702 215000").as_deref(), Ok("01702 215000"));
    }
}
