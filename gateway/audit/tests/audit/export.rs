//! The writer of exports.

use std::fs;

use waymark_audit::export::{ExportError, TreeWriter};
use waymark_tlog::{CheckpointError, Hash};

use crate::sample::{Log, SIGNED, Sample};

#[test]
fn the_tree_has_the_files_of_tlog_tiles_and_no_others() {
    let sample = Sample::new();
    let files = sample.files();
    let tiles: Vec<_> = files
        .iter()
        .filter(|file| file.starts_with("tile/"))
        .collect();
    assert_eq!(
        tiles,
        [
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/88",
        ]
    );
    assert_eq!(files.len(), 7 + 1 + SIGNED.len() + 1 + 4 + 1, "{files:?}");
}

#[test]
fn two_exports_of_one_log_are_equal_byte_for_byte() {
    let (one, two) = (Sample::new(), Sample::new());
    assert_eq!(one.files(), two.files());
    for file in one.files() {
        assert_eq!(one.read(&file), two.read(&file), "{file}");
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_the_entries_stops_the_export() {
    let log = Log::honest(10);
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = TreeWriter::create(dir.path()).expect("empty");
    let refused = writer.checkpoint(&log.note(0)).expect_err("no key yet");
    assert!(
        matches!(refused, ExportError::Checkpoint(CheckpointError::Note(_))),
        "{refused:?}"
    );
    writer.key(&log.key.verifier()).expect("written");
    for bytes in &log.bytes[..4] {
        writer.append(bytes).expect("short");
    }
    for size in [3, 5] {
        let refused = writer
            .checkpoint(&log.note(size))
            .expect_err("another size");
        assert!(
            matches!(refused, ExportError::CheckpointMismatch { size: 4, .. }),
            "{refused:?}"
        );
    }
    let mut other = Log::honest(10);
    other.bytes.swap(0, 1);
    let refused = writer.checkpoint(&other.note(4)).expect_err("another root");
    assert!(
        matches!(refused, ExportError::CheckpointMismatch { .. }),
        "{refused:?}"
    );
    writer.checkpoint(&log.note(4)).expect("the same");
    writer.append(&log.bytes[4]).expect("short");
    let refused = writer.finish().expect_err("one entry is not covered");
    assert!(matches!(refused, ExportError::NotCovered), "{refused:?}");
    assert!(
        !dir.path().join("checkpoint").exists(),
        "an unfinished tree has no checkpoint"
    );
}

#[test]
fn an_export_goes_to_an_empty_place_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("something"), "").expect("written");
    assert!(matches!(
        TreeWriter::create(dir.path()),
        Err(ExportError::NotEmpty)
    ));
    let fresh = dir.path().join("not/there/yet");
    let log = Log::honest(0);
    assert_eq!(log.export(&fresh, &[]).root, Hash::EMPTY_ROOT);
}

#[test]
fn no_temporary_file_is_left() {
    let hidden = |file: &String| file.split('/').any(|part| part.starts_with('.'));
    assert!(!Sample::new().files().iter().any(hidden));
}
