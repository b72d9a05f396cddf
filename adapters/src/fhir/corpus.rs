//! What every answer of the shared corpus (BaRS 1.4.0 examples of NHS England) means to us who sent: the committed table
//! beside this file. What becomes of every file as a message is held where a gateway runs, in `tests/it`.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::answer::refused;

/// `file | what it means`, in the order of names.
const TABLE: &str = include_str!("corpus.txt");

fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/corpus/bars"
    ))
}

/// What an answer with the status that its file's name says means; none for what is no such answer.
fn means(name: &str, bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    if value.get("resourceType")? != "OperationOutcome" {
        return None;
    }
    let digits = name
        .split(['_', '-', '.'])
        .find(|part| part.len() == 3 && part.parse::<u16>().is_ok())?;
    let status: http::StatusCode = digits.parse().ok()?;
    if status.is_success() {
        return None;
    }
    let now = waymark_core::time::Timestamp::from_ms(0);
    let outcome = refused(status, &http::HeaderMap::new(), bytes, now);
    Some(format!("{digits} means {}", outcome.word()))
}

#[test]
fn every_answer_of_the_corpus_means_what_the_table_says() {
    let Ok(entries) = std::fs::read_dir(folder()) else {
        eprintln!("the shared corpus is absent: none of it was read");
        return;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut found = String::new();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(meaning) = means(&name, &std::fs::read(&path).unwrap()) {
            writeln!(found, "{name} | {meaning}").unwrap();
        }
    }
    assert_eq!(found, TABLE);
}

#[test]
fn the_table_has_a_line_for_each_meaning() {
    for meaning in ["duplicate", "retry", "park", "unknown", "soft_reject"] {
        assert!(TABLE.contains(&format!("means {meaning}\n")), "{meaning}");
    }
}
