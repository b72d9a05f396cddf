//! One byte changed, or one file or entry gone: found, and the right place named.

use waymark_audit::{Report, Verdict, What};
use waymark_tlog::{TilePath, bundle_entries, decode_bundle, encode_bundle};

use crate::sample::{Log, SIGNED, Sample};

/// Files up to this size have every byte flipped; of larger ones a sample is.
const EXHAUSTIVE_BYTES: usize = 1500;
const SAMPLE: usize = 48;

#[test]
fn the_untouched_tree_holds() {
    let sample = Sample::new();
    let report = sample.verify();
    assert_eq!((report.verdict, &report.findings), (Verdict::Ok, &vec![]));
    let checked = report.checked;
    assert_eq!(
        (checked.entries, checked.tiles, checked.streams),
        (600, 4, 40)
    );
    assert_eq!(
        (checked.checkpoints, checked.receipts, checked.openings),
        (7 + 4, 4, 1)
    );
    assert_eq!(report.size, Some(600));
    assert!(
        !report.keys_pinned && report.notes.len() == 1,
        "{:?}",
        report.notes
    );
}

#[test]
fn every_flipped_byte_of_tiles_and_bundles_is_found_and_its_place_named() {
    flip_all(
        &Sample::new(),
        |file| file.starts_with("tile/"),
        |report, file, good, at| {
            let finding = &report.findings[0];
            if !file.starts_with("tile/entries/") {
                assert_eq!(
                    (report.findings.len(), finding.what),
                    (1, What::TileAltered)
                );
                assert_eq!(finding.byte, u64::try_from(at).ok(), "{file}");
                return;
            }
            let (entry, start) = entry_at(file, good, at);
            assert_eq!(
                (finding.what, finding.entry),
                (What::EntryAltered, Some(entry)),
                "{at}"
            );
            // Where a length was flipped, the entry cannot be read: it is named by where it begins.
            let byte = if at < start + 2 { start } else { at };
            assert_eq!(finding.byte, u64::try_from(byte).ok(), "{file} byte {at}");
        },
    );
}

#[test]
fn every_flipped_byte_of_keys_and_checkpoints_is_found_and_its_file_named() {
    flip_all(
        &Sample::new(),
        |file| file.starts_with("keys/") || file.starts_with("checkpoint"),
        |_, _, _, _| {},
    );
}

#[test]
fn every_flipped_byte_of_receipts_and_openings_is_found_and_its_file_named() {
    // A shorter log, since these small files are flipped byte by byte.
    flip_all(
        &Sample::of(Log::honest(300), &SIGNED),
        |file| file.starts_with("receipts/") || file.starts_with("openings/"),
        |_, _, _, _| {},
    );
}

#[test]
fn every_missing_file_that_the_tree_needs_is_named() {
    let sample = Sample::new();
    let needed = |file: &String| file.starts_with("tile/") || file == "checkpoint";
    let files: Vec<_> = sample.files().into_iter().filter(needed).collect();
    assert_eq!(files.len(), 3 + 4 + 1);
    for file in files {
        let good = sample.read(&file);
        sample.remove(&file);
        let report = sample.verify();
        assert_eq!(report.verdict, Verdict::Tampered, "{file}");
        assert_eq!(report.findings[0].what, What::FileMissing, "{file}");
        assert_names_only(&report, &file);
        sample.write(&file, &good);
    }
}

#[test]
fn every_truncated_or_lengthened_file_is_named() {
    let sample = Sample::new();
    for file in sample.files() {
        let good = sample.read(&file);
        let longer = [good.as_slice(), b"\n"].concat();
        for bad in [
            &good[..good.len() - 1],
            &good[..good.len() / 2],
            &[],
            &longer,
        ] {
            sample.write(&file, bad);
            let report = sample.verify();
            assert_eq!(
                report.verdict,
                Verdict::Tampered,
                "{file} of {} bytes",
                bad.len()
            );
            assert_names_only(&report, &file);
        }
        sample.write(&file, &good);
    }
}

#[test]
fn swapped_entries_are_named_with_what_stands_in_their_place() {
    let sample = Sample::new();
    rewrite(&sample, "tile/entries/001", |entries| entries.swap(3, 200));
    let report = sample.verify();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.what, f.entry, &*f.detail))
        .collect();
    assert_eq!(
        found,
        [
            (
                What::EntryAltered,
                Some(259),
                "entry 259 is not the one in the tree: entry 456 stands in its place"
            ),
            (
                What::EntryAltered,
                Some(456),
                "entry 456 is not the one in the tree: entry 259 stands in its place"
            ),
        ]
    );
}

#[test]
fn removed_and_inserted_entries_are_named_from_the_first_on() {
    let sample = Sample::new();
    let good = sample.read("tile/entries/002.p/88");
    rewrite(&sample, "tile/entries/002.p/88", |entries| {
        drop(entries.remove(10));
    });
    let report = sample.verify();
    assert_names_only(&report, "tile/entries/002.p/88");
    assert_eq!(report.findings[0].entry, Some(522));
    sample.write("tile/entries/002.p/88", good);

    rewrite(&sample, "tile/entries/002.p/88", |entries| {
        entries.insert(10, b"more".to_vec());
    });
    let report = sample.verify();
    assert_names_only(&report, "tile/entries/002.p/88");
    let found: Vec<_> = report.findings.iter().map(|f| (f.what, f.entry)).collect();
    assert_eq!(
        found,
        [
            (What::EntryExtra, Some(600)),
            (What::EntryAltered, Some(522))
        ]
    );
}

#[test]
fn an_entry_more_than_was_signed_is_named() {
    let sample = Sample::new();
    for file in ["tile/entries/002.p/88", "tile/entries/000"] {
        let good = sample.read(file);
        let extra = encode_bundle(&[sample.log.bytes[0].clone()]).expect("short");
        sample.write(file, [good.as_slice(), &extra].concat());
        let report = sample.verify();
        assert_names_only(&report, file);
        assert_eq!(report.findings[0].what, What::EntryExtra);
        assert_eq!(report.findings[0].byte, u64::try_from(good.len()).ok());
        sample.write(file, &good);
    }
    for file in [
        "tile/0/003",
        "tile/entries/003.p/1",
        "tile/2/000.p/1",
        "tile/0/junk",
    ] {
        sample.write(file, [0; 32]);
        let report = sample.verify();
        assert_names_only(&report, file);
        assert_eq!(report.findings[0].what, What::FileUnexpected);
        sample.remove(file);
    }
}

#[test]
fn directories_without_end_are_not_followed() {
    let sample = Sample::of(Log::honest(30), &[]);
    sample.write(&format!("tile/0/{}000", "x001/".repeat(12)), [0; 32]);
    let report = sample.verify();
    assert_names_only(&report, &format!("tile/0/{}", ["x001"; 8].join("/")));
}

#[test]
fn a_tile_and_an_entry_altered_alike_are_found() {
    let sample = Sample::new();
    // The attacker changes an entry and mends the hash of its leaf, but cannot mend the root.
    let mut entries = decode_bundle(&sample.read("tile/entries/000")).expect("good");
    entries[7] = sample.log.bytes[8].clone();
    sample.write("tile/entries/000", encode_bundle(&entries).expect("short"));
    let mut tile = sample.read("tile/0/000");
    tile[7 * 32..8 * 32].copy_from_slice(crate::sample::leaf(&entries[7]).as_bytes());
    sample.write("tile/0/000", tile);
    let report = sample.verify();
    assert_eq!(report.verdict, Verdict::Tampered);
    assert_eq!(report.findings[0].what, What::Undecided);
    assert_eq!(report.findings[0].file, "tile/0/000");
}

#[test]
fn narrower_files_of_earlier_checkpoints_must_be_beginnings_of_the_present_ones() {
    let sample = Sample::new();
    let tile = sample.read("tile/0/001")[..44 * 32].to_vec();
    let bundle = sample.read("tile/entries/001");
    let end = bundle_entries(&bundle)
        .nth(44)
        .expect("there")
        .expect("good")
        .0;
    sample.write("tile/0/001.p/44", &tile);
    sample.write("tile/entries/001.p/44", &bundle[..end]);
    assert_eq!(sample.verify().verdict, Verdict::Ok);
    for (file, good) in [
        ("tile/0/001.p/44", tile),
        ("tile/entries/001.p/44", bundle[..end].to_vec()),
    ] {
        for at in [0, 100, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            sample.write(file, bad);
            let report = sample.verify();
            assert_names_only(&report, file);
            assert_eq!(report.findings[0].byte, u64::try_from(at).ok());
        }
        sample.write(file, &good[..good.len() - 1]);
        assert_names_only(&sample.verify(), file);
        sample.write(file, good);
    }
}

/// Flips a bit of each byte of the chosen files in turn, and lets `look` see what is found.
fn flip_all(
    sample: &Sample,
    chosen: impl Fn(&str) -> bool,
    look: impl Fn(&Report, &str, &[u8], usize),
) {
    let files: Vec<_> = sample
        .files()
        .into_iter()
        .filter(|file| chosen(file))
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let good = sample.read(&file);
        for at in places(good.len()) {
            let mut bad = good.clone();
            bad.iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (at % 8));
            sample.write(&file, &bad);
            let report = sample.verify();
            assert_eq!(report.verdict, Verdict::Tampered, "{file} byte {at}");
            assert_names_only(&report, &file);
            look(&report, &file, &good, at);
        }
        sample.write(&file, &good);
    }
    assert_eq!(sample.verify().verdict, Verdict::Ok, "all put back");
}

fn assert_names_only(report: &Report, file: &str) {
    assert!(!report.findings.is_empty(), "{file}: nothing found");
    for finding in &report.findings {
        assert_eq!(finding.file, file, "{:?}", report.findings);
    }
}

fn places(length: usize) -> Vec<usize> {
    if length <= EXHAUSTIVE_BYTES {
        (0..length).collect()
    } else {
        // A step that shares no factor with 32, so that all parts of hashes and entries are met.
        (0..SAMPLE)
            .map(|n| n * ((length / SAMPLE) | 1) % length)
            .chain([length - 1])
            .collect()
    }
}

/// Index of the entry that a byte of a bundle belongs to, and where that begins.
fn entry_at(file: &str, bundle: &[u8], at: usize) -> (u64, usize) {
    let index = match TilePath::parse(file) {
        Ok(TilePath::Entries { index, .. }) => Some(index),
        _ => None,
    };
    let index = index.expect("the path of a bundle");
    let starts = bundle_entries(bundle).map(|entry| entry.expect("good").0);
    let (place, start) = starts
        .take_while(|start| *start <= at)
        .enumerate()
        .last()
        .expect("one");
    (index * 256 + u64::try_from(place).expect("small"), start)
}

fn rewrite(sample: &Sample, file: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut entries = decode_bundle(&sample.read(file)).expect("good");
    change(&mut entries);
    sample.write(file, encode_bundle(&entries).expect("short"));
}
