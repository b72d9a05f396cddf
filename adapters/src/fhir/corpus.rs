//! What becomes of every file of the shared corpus (BaRS 1.4.0 examples of NHS England): the committed table beside
//! this file against the server's own reading.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use waymark_core::port::InboundBody;

use super::answer::refused;
use super::server::corpus_reading;
use super::wire::node::Node;

/// `file | what becomes of it`, in the order of names.
const TABLE: &str = include_str!("corpus.txt");

fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/corpus/bars"
    ))
}

/// What becomes of one document.
fn becomes(name: &str, bytes: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return "refused: Bundle: is JSON, nested at most 128 deep".to_owned();
    };
    let kind = value
        .get("resourceType")
        .and_then(Value::as_str)
        .unwrap_or("no resource");
    match kind {
        "Bundle" => match corpus_reading(&value) {
            Err(fault) => format!("refused: {fault}"),
            Ok(InboundBody::Status(status)) => format!("taken as a status: {}", status.state),
            Ok(InboundBody::Submit(referral)) => {
                format!("taken as a referral for {}", referral.pathway)
            }
            Ok(_) => "taken as a change".to_owned(),
        },
        "OperationOutcome" => {
            let status = status_in(name);
            let Some(status) = status else {
                return "not a message: OperationOutcome".to_owned();
            };
            let now = waymark_core::time::Timestamp::from_ms(0);
            let outcome = refused(status, &http::HeaderMap::new(), bytes, now);
            format!(
                "not a message: as an answer {} it means {}",
                status.as_u16(),
                outcome.word()
            )
        }
        kind => {
            // What has a resource's type is read as far as its id, so that a wrong shape shows.
            let id = Node::new(&value, kind).text("id").map(|_| ());
            format!(
                "not a message: {kind}{}",
                if id.is_err() {
                    ", whose id is no text"
                } else {
                    ""
                }
            )
        }
    }
}

/// The HTTP status that a file's name says.
fn status_in(name: &str) -> Option<http::StatusCode> {
    let digits = name
        .split(['_', '-', '.'])
        .find(|part| part.len() == 3 && part.parse::<u16>().is_ok())?;
    digits
        .parse()
        .ok()
        .filter(|status: &http::StatusCode| !status.is_success())
}

#[test]
fn every_file_of_the_corpus_becomes_what_the_table_says() {
    let Ok(entries) = std::fs::read_dir(folder()) else {
        eprintln!("the shared corpus is absent: none of it was read");
        return;
    };
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut found = String::new();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        writeln!(found, "{name} | {}", becomes(&name, &bytes)).unwrap();
    }
    let differ: Vec<(&str, &str)> = found
        .lines()
        .zip(TABLE.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert_eq!(
        differ,
        Vec::new(),
        "files that become something else than the table says"
    );
    assert_eq!(found.lines().count(), TABLE.lines().count(), "{found}");
}

#[test]
fn the_table_has_a_line_for_each_kind_of_end() {
    for end in [
        "refused: ",
        "not a message: ",
        "means duplicate",
        "means retry",
        "means park",
        "means unknown",
    ] {
        assert!(TABLE.contains(end), "{end}");
    }
}
