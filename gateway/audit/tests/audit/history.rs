//! What was signed before: a rewritten, shortened or forked log, foreign keys, given exhibits.

use std::fs;

use waymark_audit::receipt::verify_receipt;
use waymark_audit::verify::{Exhibit, Options};
use waymark_audit::{FINDINGS_MAX, Verdict, What};
use waymark_tlog::Checkpoint;
use waymark_tlog::note::SigningKey;

use crate::sample::{BODY, Log, ORIGIN, SIGNED, Sample, leaf, stream_id};

#[test]
fn a_rewritten_log_does_not_lead_to_the_signed_roots() {
    // Everything re-derived from entry 280 on, but nobody can sign it.
    let honest = Sample::new();
    let mut log = Log::honest(600);
    log.bytes[280] = log.bytes[281].clone();
    let forged = Sample::of(log, &SIGNED);
    for file in honest
        .files()
        .iter()
        .filter(|file| !file.starts_with("tile/"))
    {
        forged.write(file, honest.read(file));
    }
    let report = forged.verify();
    assert_eq!(report.verdict, Verdict::Tampered);
    let files: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.what, f.file.as_str()))
        .collect();
    assert!(
        files.contains(&(What::HistoryDiffers, "checkpoints/300")),
        "{files:?}"
    );
    assert!(
        files.contains(&(What::HistoryDiffers, "checkpoints/600")),
        "{files:?}"
    );
    assert!(
        !files.iter().any(|(_, file)| *file == "checkpoints/256"),
        "{files:?}"
    );
    let detail = &report
        .findings
        .iter()
        .find(|f| f.file == "checkpoints/300")
        .expect("found")
        .detail;
    assert!(
        detail.ends_with("they agree with what was signed up to entry 256"),
        "{detail}"
    );
}

#[test]
fn a_log_that_signed_two_histories_is_caught_by_a_kept_checkpoint() {
    let honest = Sample::new();
    let mut log = Log::honest(600);
    log.bytes.swap(20, 60);
    log.entries.swap(20, 60);
    // Both trees are signed by the log's own key.
    let old = |size, log: &Log| Exhibit {
        name: format!("kept-{size}"),
        text: log.note(size),
    };
    let options = Options {
        old_checkpoints: vec![old(10, &log), old(21, &log), old(600, &log)],
        ..Options::default()
    };
    let report = honest.verify_with(&options);
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.what, f.file.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (What::HistoryDiffers, "kept-21"),
            (What::HistoryDiffers, "kept-600")
        ]
    );
    assert_eq!(report.verdict, Verdict::Tampered);
}

#[test]
fn a_tree_cut_back_to_an_earlier_checkpoint_is_caught_by_a_kept_one() {
    let log = Log::honest(600);
    let mut shorter = Log::honest(600);
    shorter.bytes.truncate(300);
    let cut = Sample::of(shorter, &[100]);
    assert_eq!(
        cut.verify().verdict,
        Verdict::Ok,
        "nothing in the tree itself can show it"
    );
    let options = Options {
        old_checkpoints: vec![Exhibit {
            name: "kept".into(),
            text: log.note(600),
        }],
        ..Options::default()
    };
    let report = cut.verify_with(&options);
    assert_eq!(report.findings[0].what, What::HistoryDiffers);
    assert_eq!(
        report.findings[0].detail,
        "600 entries were signed, but the tree ends at 300"
    );
    let options = Options {
        receipts: vec![Exhibit {
            name: "receipt".into(),
            text: log.receipt(299, 600).encode(),
        }],
        ..Options::default()
    };
    assert_eq!(
        cut.verify_with(&options).findings[0].what,
        What::HistoryDiffers
    );
}

#[test]
fn a_latest_checkpoint_behind_the_others_is_named() {
    let sample = Sample::new();
    sample.write("checkpoint", sample.read("checkpoints/300"));
    let report = sample.verify();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        (report.findings[0].what, &*report.findings[0].file),
        (What::CheckpointBehind, "checkpoint")
    );
}

#[test]
fn checkpoints_stand_under_their_own_size() {
    let sample = Sample::new();
    let good = sample.read("checkpoints/300");
    for name in ["checkpoints/0300", "checkpoints/301", "checkpoints/x"] {
        sample.write(name, &good);
        let report = sample.verify();
        assert_eq!(
            (report.findings[0].what, &*report.findings[0].file),
            (What::CheckpointRefused, name)
        );
        sample.remove(name);
    }
}

#[test]
fn a_tree_signed_by_another_key_is_refused_under_a_pinned_one() {
    let mut log = Log::honest(30);
    let pinned = log.key.verifier();
    log.key = SigningKey::from_seed(ORIGIN, [4; 32]).expect("good name");
    let forged = Sample::of(log, &[10]);
    let options = Options {
        keys: vec![pinned.clone()],
        ..Options::default()
    };
    let report = forged.verify_with(&options);
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.what == What::CheckpointRefused)
    );
    let honest = Sample::of(Log::honest(30), &[10]);
    let report = honest.verify_with(&options);
    assert_eq!((report.verdict, report.keys_pinned), (Verdict::Ok, true));
    assert_eq!(report.keys, [pinned.to_string()]);
}

#[test]
fn without_a_key_or_a_tree_nothing_can_be_told() {
    let sample = Sample::of(Log::honest(30), &[10]);
    fs::remove_dir_all(sample.path().join("keys")).expect("removed");
    let report = sample.verify();
    assert_eq!(
        (report.verdict, report.findings[0].what),
        (Verdict::CannotTell, What::KeyMissing)
    );
    let pinned = Options {
        keys: vec![sample.log.key.verifier()],
        ..Options::default()
    };
    assert_eq!(sample.verify_with(&pinned).verdict, Verdict::Ok);

    let nothing = tempfile::tempdir().expect("a directory");
    let report = waymark_audit::verify::verify_tree(nothing.path(), &pinned);
    assert_eq!(
        (report.verdict, report.findings[0].what),
        (Verdict::CannotTell, What::NotATree)
    );
}

#[test]
fn exhibits_that_nobody_known_has_signed_leave_it_open() {
    let sample = Sample::of(Log::honest(30), &[10]);
    let mut stranger = Log::honest(30);
    stranger.key = SigningKey::from_seed(ORIGIN, [4; 32]).expect("good name");
    let options = Options {
        old_checkpoints: vec![Exhibit {
            name: "kept".into(),
            text: stranger.note(10),
        }],
        receipts: vec![Exhibit {
            name: "receipt".into(),
            text: stranger.receipt(3, 10).encode(),
        }],
        ..Options::default()
    };
    let report = sample.verify_with(&options);
    assert_eq!(report.verdict, Verdict::CannotTell);
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|f| (f.what, f.file.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (What::SignerUnknown, "kept"),
            (What::SignerUnknown, "receipt")
        ]
    );
}

#[test]
fn a_receipt_of_another_entry_or_under_another_name_is_refused() {
    let sample = Sample::new();
    let files = sample.files();
    let receipts: Vec<_> = files
        .iter()
        .filter(|file| file.starts_with("receipts/"))
        .collect();
    sample.write(receipts[0], sample.read(receipts[1]));
    let report = sample.verify();
    assert_eq!(
        (report.findings[0].what, &report.findings[0].file),
        (What::ReceiptRefused, receipts[0])
    );

    let mut proof = sample.log.receipt(18, 300);
    proof.extra = Some(b"not the entry".to_vec());
    let exhibit = Exhibit {
        name: "mine".into(),
        text: proof.encode(),
    };
    let options = Options {
        receipts: vec![exhibit.clone()],
        ..Options::default()
    };
    let report = Sample::new().verify_with(&options);
    assert_eq!(
        (report.findings[0].what, &*report.findings[0].file),
        (What::ReceiptRefused, "mine")
    );
    let alone = verify_receipt(
        &exhibit,
        Some(&sample.log.bytes[18]),
        &[sample.log.key.verifier()],
    );
    assert_eq!(alone.verdict, Verdict::Tampered);
}

#[test]
fn a_receipt_alone_verifies_with_its_entry_and_with_no_other() {
    let log = Log::honest(300);
    let keys = [log.key.verifier()];
    let of = |index| Exhibit {
        name: "mine".into(),
        text: log.receipt(index, 300).encode(),
    };
    let good = verify_receipt(&of(18), Some(&log.bytes[18]), &keys);
    assert_eq!(
        (good.verdict, good.index, good.size),
        (Verdict::Ok, Some(18), Some(300))
    );
    assert_eq!(good.leaf, Some(format!("{:x}", leaf(&log.bytes[18]))));
    assert_eq!(
        good.entry.expect("decoded").stream,
        stream_id(18).to_string()
    );
    let other = verify_receipt(&of(18), Some(&log.bytes[19]), &keys);
    assert_eq!(
        (other.verdict, other.findings[0].what),
        (Verdict::Tampered, What::ReceiptRefused)
    );
    let carried = verify_receipt(&of(17), None, &keys);
    assert_eq!(carried.verdict, Verdict::Ok);
    let nothing = verify_receipt(&of(18), None, &keys);
    assert_eq!(
        (nothing.verdict, nothing.findings[0].what),
        (Verdict::CannotTell, What::EntryMissing)
    );
    let stranger = SigningKey::from_seed(ORIGIN, [4; 32])
        .expect("good name")
        .verifier();
    let unknown = verify_receipt(&of(18), Some(&log.bytes[18]), &[stranger]);
    assert_eq!(
        (unknown.verdict, unknown.findings[0].what),
        (Verdict::CannotTell, What::SignerUnknown)
    );
}

#[test]
fn an_opening_of_other_bytes_or_of_no_entry_is_refused() {
    let sample = Sample::new();
    let file = sample
        .files()
        .into_iter()
        .find(|file| file.starts_with("openings/"))
        .expect("one");
    assert_eq!(sample.read(&file).get(32..), Some(BODY));
    let absent = file.replacen("e0e0", "e1e1", 1);
    sample.write(&absent, sample.read(&file));
    let report = sample.verify();
    assert_eq!(
        (report.findings[0].what, &report.findings[0].file),
        (What::OpeningRefused, &absent)
    );
    sample.remove(&absent);
    sample.write(&file.replacen(".1", ".2", 1), sample.read(&file));
    assert_eq!(
        sample.verify().findings[0].what,
        What::OpeningRefused,
        "another tag"
    );
}

#[test]
fn files_outside_the_tree_are_noted_and_not_judged() {
    let sample = Sample::of(Log::honest(30), &[10]);
    sample.write("README", "about");
    let report = sample.verify();
    assert_eq!(report.verdict, Verdict::Ok);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.starts_with("README is not part"))
    );
}

#[test]
fn logs_of_every_awkward_size_hold() {
    for size in [0, 1, 2, 255, 256, 257, 511, 512, 513] {
        let sample = Sample::of(Log::honest(size), &[1, 256]);
        let report = sample.verify();
        assert_eq!(
            (report.verdict, report.size),
            (Verdict::Ok, Some(size)),
            "{:?}",
            report.findings
        );
        assert_eq!(report.checked.entries, size);
    }
}

#[test]
fn a_checkpoint_of_another_log_is_not_taken_for_this_one() {
    let sample = Sample::of(Log::honest(30), &[10]);
    let other = SigningKey::from_seed("other.test/delivery/2026", [5; 32]).expect("good name");
    let empty = Checkpoint::new(other.name(), 0, waymark_tlog::Hash::EMPTY_ROOT).expect("good");
    let note = empty.sign(&other).expect("own key");
    let keys = vec![sample.log.key.verifier(), other.verifier()];
    let options = Options {
        keys: keys.clone(),
        old_checkpoints: vec![Exhibit {
            name: "kept".into(),
            text: note.clone(),
        }],
        ..Options::default()
    };
    let report = sample.verify_with(&options);
    assert_eq!(
        (report.verdict, report.findings[0].what),
        (Verdict::CannotTell, What::SignerUnknown)
    );
    sample.write("checkpoints/0", note);
    let report = sample.verify_with(&Options {
        keys,
        ..Options::default()
    });
    assert_eq!(
        (report.findings[0].what, &*report.findings[0].file),
        (What::CheckpointRefused, "checkpoints/0")
    );
}

#[test]
fn a_checkpoint_over_more_files_than_any_disk_holds_ends_soon() {
    let sample = Sample::of(Log::honest(30), &[10]);
    let root = waymark_tlog::leaf_hash(b"no such tree");
    let vast = Checkpoint::new(ORIGIN, 1 << 60, root).expect("good");
    sample.write("checkpoint", vast.sign(&sample.log.key).expect("own key"));
    let report = sample.verify();
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.what == What::FileMissing)
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("the rest was not looked at"))
    );
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let mut log = Log::honest(u64::try_from(FINDINGS_MAX).expect("small") + 1);
    log.bytes
        .iter_mut()
        .for_each(|bytes| *bytes = b"no entry".to_vec());
    log.entries.clear();
    let report = Sample::of(log, &[]).verify();
    assert_eq!(
        (report.findings.len(), report.findings_omitted),
        (FINDINGS_MAX, 1)
    );
    let mut log = Log::honest(u64::try_from(FINDINGS_MAX).expect("small"));
    log.bytes
        .iter_mut()
        .for_each(|bytes| *bytes = b"no entry".to_vec());
    log.entries.clear();
    let report = Sample::of(log, &[]).verify();
    assert_eq!(
        (report.findings.len(), report.findings_omitted),
        (FINDINGS_MAX, 0)
    );
}
