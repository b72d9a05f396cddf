//! What was taken, and what was set aside, lies there as long as was agreed, and is then removed.

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const WEEK: Duration = Duration::from_hours(7 * 24);
const JUST_BEFORE: Duration = Duration::from_hours(7 * 24 - 1);

#[tokio::test]
async fn what_was_taken_or_set_aside_is_removed_after_its_time_and_nothing_else_is() {
    let ground = Ground::new();
    let document: (&str, &[u8]) = ("R1-q.pdf", b"%PDF");
    ground.leave_message("R1", "new", "canonical", &canonical(), &[document]);
    ground.leave_message("R2", "new", "canonical", b"{}", &[]);
    // The time of its content is no time of its being taken.
    let long_ago = std::time::SystemTime::UNIX_EPOCH + WEEK;
    let written = fs::File::options()
        .write(true)
        .open(ground.folder().join("inbox/R1.data"));
    written.unwrap().set_modified(long_ago).unwrap();
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (1, 1));
    for sub in ["outbox", "receipts", "rejected"] {
        ground.leave(sub, "WM9.json.part", "half");
    }
    let held = |ground: &Ground| (ground.names("done").len(), ground.names("failed").len());
    ground.collect(&ground.after(JUST_BEFORE), "").await;
    assert_eq!(
        held(&ground),
        (3, 3),
        "data, document or note, and manifest"
    );
    ground
        .collect(&ground.after(WEEK + HOUR), "keep_days = 8")
        .await;
    assert_eq!(held(&ground), (3, 3));
    let collected = ground.collect(&ground.after(WEEK + HOUR), "").await;
    assert_eq!(held(&ground), (0, 0));
    assert_eq!((collected.taken, collected.stopped), (0, None));
    for sub in ["outbox", "receipts", "rejected"] {
        assert_eq!(ground.names(sub), ["WM9.json.part"], "{sub}");
    }
}

#[tokio::test]
async fn one_round_removes_no_more_than_its_limit_and_the_next_goes_on() {
    let ground = Ground::new();
    let more = inbox::ROUND_CLEARED_MAX + 20;
    for n in 0..more {
        ground.leave("done", &format!("old-{n}.json"), "{}");
    }
    ground.collect(&ground.after(WEEK + HOUR), "").await;
    assert_eq!(ground.names("done").len(), 20);
    ground.collect(&ground.after(WEEK + HOUR), "").await;
    assert!(ground.names("done").is_empty());
}

#[test]
fn the_time_to_keep_is_a_day_at_least_and_ninety_at_most() {
    let ground = Ground::new();
    let faults = |days: u32| {
        let settings = format!("{SETTINGS}\nkeep_days = {days}");
        ground.adapter().validate(&endpoint(&settings))
    };
    assert_eq!((faults(1), faults(90)), (Vec::new(), Vec::new()));
    for days in [0, 91] {
        let fields: Vec<String> = faults(days).into_iter().map(|f| f.field).collect();
        assert_eq!(fields, ["settings.keep_days"], "{days}");
    }
}

#[tokio::test]
async fn a_status_with_a_document_is_set_aside_and_neither_is_applied_nor_lost() {
    let ground = Ground::new();
    let status = br#"{"type":"referral.status","environment":"test","referral":"WM-AAAAA-BBBBB-CCCCC","state":"accepted"}"#;
    let document: (&str, &[u8]) = ("S1-letter.pdf", b"%PDF");
    ground.leave_message("S1", "status", "canonical", status, &[document]);
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (0, 1));
    assert_eq!(ground.taken().len(), 0);
    assert!(ground.names("done").is_empty());
    let error = ground.error("S1.error.json");
    assert!(error.contains("manifest.files"), "{error}");
    assert!(
        error.contains("a status carries none: leave it out"),
        "{error}"
    );
}
