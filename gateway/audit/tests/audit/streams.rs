//! What a log could hide although it signs everything it shows: gaps, repetitions, broken links.

use waymark_audit::verify::{Exhibit, Options};
use waymark_audit::{Verdict, What};
use waymark_core::audit::LogEntry;

use crate::sample::{Log, Sample, entry, leaf, stream_id};

#[test]
fn the_list_of_a_stream_is_complete() {
    let sample = Sample::new();
    let options = Options {
        stream: Some(stream_id(17)),
        ..Options::default()
    };
    let report = sample.verify_with(&options);
    let stream = report.stream.expect("asked for");
    assert!(stream.complete_and_unaltered);
    let indices: Vec<_> = stream.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indices, (0..15).map(|n| 17 + 40 * n).collect::<Vec<_>>());
    assert_eq!(
        stream.entries[3].leaf,
        format!("{:x}", leaf(&sample.log.bytes[137]))
    );
    assert_eq!(stream.entries[3].entry.stream_seq, 3);
}

#[test]
fn a_receipt_leads_to_its_stream() {
    let sample = Sample::new();
    let text = sample.log.receipt(57, 300).encode();
    let receipts = vec![Exhibit {
        name: "mine".into(),
        text,
    }];
    let report = sample.verify_with(&Options {
        receipts,
        ..Options::default()
    });
    assert_eq!(report.verdict, Verdict::Ok);
    let stream = report.stream.expect("by the receipt");
    assert_eq!(
        (stream.stream, stream.complete_and_unaltered),
        (stream_id(17).to_string(), true)
    );
}

#[test]
fn a_stream_with_an_altered_entry_anywhere_is_not_called_complete() {
    let sample = Sample::new();
    let mut bundle = sample.read("tile/entries/000");
    bundle[40] ^= 1;
    sample.write("tile/entries/000", bundle);
    let options = Options {
        stream: Some(stream_id(17)),
        ..Options::default()
    };
    let report = sample.verify_with(&options);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(!report.stream.expect("asked for").complete_and_unaltered);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("could not be checked for gaps"))
    );
}

#[test]
fn an_absent_stream_leaves_it_open() {
    let sample = Sample::of(Log::honest(30), &[]);
    let options = Options {
        stream: Some(stream_id(999)),
        ..Options::default()
    };
    let report = sample.verify_with(&options);
    assert_eq!(
        (report.verdict, report.findings[0].what),
        (Verdict::CannotTell, What::StreamAbsent)
    );
    assert!(!report.stream.expect("asked for").complete_and_unaltered);
}

#[test]
fn an_entry_left_out_before_signing_leaves_a_gap() {
    let mut entries = Log::honest(100).entries;
    entries.remove(57);
    let found = broken(entries);
    assert_eq!(found, [(96, "number 2 follows number 0".to_owned())]);
}

#[test]
fn the_first_entries_of_a_stream_cannot_be_left_out() {
    let mut entries = Log::honest(100).entries;
    entries.remove(17);
    assert_eq!(
        broken(entries),
        [(56, "it begins with number 1, not 0".to_owned())]
    );
}

#[test]
fn an_entry_put_in_place_of_another_breaks_the_link() {
    let mut entries = Log::honest(100).entries;
    entries[57].codes[0].value = "another-rule".into();
    assert_eq!(
        broken(entries),
        [(97, "number 2 does not name the leaf of number 1".to_owned())]
    );
}

#[test]
fn two_entries_with_one_number_are_found() {
    let mut entries = Log::honest(100).entries;
    let first = *leaf(&entries[17].encode()).as_bytes();
    entries.insert(58, entry(1000, 17, Some((0, first))));
    let found = broken(entries);
    assert_eq!(found[0], (58, "number 1 follows number 1".to_owned()));
}

#[test]
fn an_event_that_is_logged_twice_is_found() {
    let mut entries = Log::honest(100).entries;
    entries[50].event = entries[20].event;
    let sample = Sample::of(Log::of(entries), &[]);
    for in_memory in [1_000, 7] {
        let report = sample.verify_with(&Options {
            entries_in_memory_max: in_memory,
            ..Options::default()
        });
        let repeated: Vec<_> = report
            .findings
            .iter()
            .filter(|f| f.what == What::EventRepeated)
            .collect();
        assert_eq!(repeated.len(), 1, "{:?}", report.findings);
        assert_eq!(repeated[0].entry, Some(50));
        assert!(
            repeated[0].detail.ends_with("is already entry 20"),
            "{}",
            repeated[0].detail
        );
    }
}

#[test]
fn a_log_larger_than_memory_is_read_in_parts() {
    let mut entries = Log::honest(600).entries;
    entries.remove(57);
    let sample = Sample::of(Log::of(entries), &[]);
    let of = |entries_in_memory_max| {
        sample.verify_with(&Options {
            entries_in_memory_max,
            ..Options::default()
        })
    };
    let whole = of(600);
    assert_eq!(whole.findings.len(), 1);
    for part in [1, 50, 599] {
        let report = of(part);
        assert_eq!(report.findings, whole.findings, "{part}");
        assert_eq!(report.checked, whole.checked, "{part}");
    }
}

#[test]
fn an_entry_in_another_form_than_the_log_writes_is_found() {
    let mut log = Log::honest(100);
    // Field 1, the version, written with a needless byte: the same to a lenient reader.
    let entry = log.bytes[30].clone();
    log.bytes[30] = [&[entry[0], entry[1] | 0x80, 0x00], &entry[2..]].concat();
    let report = Sample::of(log, &[]).verify();
    assert_eq!(report.findings[0].what, What::EntryMalformed);
    assert_eq!(report.findings[0].entry, Some(30));
    let mut log = Log::honest(100);
    log.bytes[30] = b"no entry at all".to_vec();
    let report = Sample::of(log, &[]).verify();
    assert_eq!(
        (report.findings[0].what, report.findings[0].entry),
        (What::EntryMalformed, Some(30))
    );
}

/// Signs a log of these entries and gives the places and details of its broken streams.
fn broken(entries: Vec<LogEntry>) -> Vec<(u64, String)> {
    let report = Sample::of(Log::of(entries), &[]).verify();
    assert_eq!(report.verdict, Verdict::Tampered);
    let broken = report
        .findings
        .iter()
        .filter(|finding| finding.what == What::StreamBroken);
    broken
        .map(|finding| {
            let detail = finding
                .detail
                .split_once(": ")
                .map(|(_, detail)| detail.to_owned());
            (
                finding.entry.expect("known"),
                detail.expect("names the stream"),
            )
        })
        .collect()
}
