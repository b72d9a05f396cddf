use proptest::prelude::*;
use waymark_core::referral::Flag;

use super::*;
use crate::contract::sample;

fn referral() -> Referral {
    let mut referral = sample::referral();
    referral.child.nhs_number = waymark_core::identifier::NhsNumber::parse("9434765919").ok();
    referral
}

fn written(referral: &Referral) -> Vec<u8> {
    let mut source = sample::source(Kind::New);
    source.content = Some(referral.clone());
    render(&source).unwrap()
}

fn read(bytes: &[u8]) -> Result<Referral, Faults> {
    rows(bytes)?.first().unwrap().referral()
}

fn sheet(cells: &[(&str, &str)]) -> Vec<u8> {
    let (header, row): (Vec<_>, Vec<_>) = cells.iter().copied().unzip();
    format!("{}\n{}\n", header.join(","), row.join(",")).into_bytes()
}

fn least<'a>() -> Vec<(&'a str, &'a str)> {
    vec![
        ("child.name.family", "Okoro"),
        ("child.name.given", "Ada"),
        ("child.date_of_birth", "2016-05-04"),
        ("referrer.name", "Sam Hill"),
        ("referrer.role", "SENCO"),
        ("pathway", "autism-assessment"),
        ("priority", "routine"),
        ("reason.code", "ASD"),
        ("consent.status", "given"),
        ("consent.role", "parent_with_pr"),
        ("lawful_basis", "public_task_care"),
    ]
}

/// The fault of the least referral with one more cell, or another one.
fn fault_of(column: &str, cell: &str) -> Violation {
    let mut cells = least();
    cells.retain(|(name, _)| *name != column);
    cells.push((column, cell));
    read(&sheet(&cells)).unwrap_err().remove(0)
}

#[test]
fn a_referral_comes_back_as_it_was_written() {
    assert_eq!(read(&written(&referral())).unwrap(), referral());
}

#[test]
fn the_least_referral_is_read() {
    assert_eq!(
        read(&sheet(&least())).unwrap().child.name.family.expose(),
        "Okoro"
    );
}

proptest! {
    #[test]
    fn texts_come_back_but_for_the_spaces_around_them(
        text in "[ =+@a-z\"',;\\n\\t'-]{0,40}", code in "[=+@a-z'][a-z0-9]{0,9}", flags in 0usize..=6,
    ) {
        let mut referral = referral();
        let trimmed = text.trim().to_owned();
        referral.narrative = Some(text.into());
        let flag = Flag { system: "urn:x".to_owned(), code, text: None };
        referral.safeguarding = vec![flag; flags];
        let mut expected = referral.clone();
        expected.narrative = (!trimmed.is_empty()).then(|| trimmed.into());
        prop_assert_eq!(read(&written(&referral)).unwrap(), expected);
    }
}

#[test]
fn safety_critical_content_has_columns_of_its_own() {
    let text = String::from_utf8(written(&referral())).unwrap();
    let header = text.lines().next().unwrap();
    for column in [
        "safeguarding.1.code",
        "reasonable_adjustments.1.code",
        "allergies",
        "consent.scope",
        "contacts.2.safe_to_contact",
        "contacts.1.safe_contact_note",
    ] {
        assert!(header.contains(column), "{column}");
    }
    assert!(text.starts_with('\u{feff}') && header.ends_with("external_ids.1.value"));
}

#[test]
fn what_repeats_more_often_than_there_are_columns_is_refused() {
    let mut referral = referral();
    let flag = referral.safeguarding.first().unwrap().clone();
    referral.safeguarding = vec![flag; 7];
    let mut source = sample::source(Kind::New);
    source.content = Some(referral);
    let refused = render(&source).unwrap_err();
    assert!(matches!(refused, RenderError::CannotCarry(v) if v.field == "referral.safeguarding"));
}

#[test]
fn every_spreadsheets_delimiter_is_read() {
    let commas = String::from_utf8(sheet(&least())).unwrap();
    for (delimiter, end) in [(";", "\r\n"), ("\t", "\n"), (",", "\r\n")] {
        let text = commas.replace(',', delimiter).replace('\n', end);
        assert!(read(text.as_bytes()).is_ok(), "{delimiter:?}");
        assert!(
            read(format!("\u{feff}{text}").as_bytes()).is_ok(),
            "{delimiter:?} with mark"
        );
    }
    assert_eq!(rows(b"a,b\n\xe9,1\n").err().unwrap()[0].field, "file");
}

#[test]
fn a_fault_names_row_and_column_and_what_to_do() {
    for (column, cell, words) in [
        ("child.date_of_birth", "04/05/2016", "year-month-day"),
        ("child.nhs_number", "943476591", "leading zero"),
        ("child.nhs_number", "9.43477E+09", "rounded"),
        (
            "child.nhs_number",
            "9434765918",
            "value that it may not have",
        ),
        ("contacts.1.phone", "7700900123", "leading zero"),
        ("priority", "whenever", "value that it may not have"),
        ("attendance_percent", "71.5", "whole number"),
        ("child.interpreter_required", "perhaps", "yes or no"),
        ("allergy", "nuts", "no column"),
    ] {
        let fault = fault_of(column, cell);
        assert!(
            fault.field.starts_with("row 2, ") && fault.field.ends_with(column),
            "{fault}"
        );
        assert!(fault.why.contains(words), "{fault}");
        assert!(!fault.why.contains(cell), "{fault}");
    }
    let mut cells = least();
    cells.retain(|(column, _)| *column != "lawful_basis");
    assert_eq!(
        read(&sheet(&cells)).unwrap_err()[0].field,
        "row 2, lawful_basis"
    );
}

#[test]
fn a_sheet_that_is_no_table_is_refused() {
    assert!(rows(b"").is_err() && rows(b"a,b\n").is_err());
    assert!(rows(b"a,a\n1,2\n").is_err(), "two columns of one name");
    assert!(rows(b"a,b\n1,2,3\n").is_err(), "more cells than columns");
    assert!(rows(b"a,\n1,2\n").is_err(), "a cell under no name");
    let long = format!("a\n{}", "1\n".repeat(ROWS_MAX + 1));
    assert!(rows(long.as_bytes()).is_err());
}
