use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;
use tempfile::TempDir;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::error::ErrorKind;
use waymark_core::id::{Reference, ReferralId};
use waymark_core::leg::LegState;
use waymark_core::personal::Payload;
use waymark_core::port::{Attachment, Channel, Inbound, InboundBody, IntakeAnswer, IntakeError};
use waymark_core::time::Timestamp;

use super::*;
use crate::contract::folder::{FolderSide, endpoint};
use crate::contract::{self, sample};
use crate::far_side::Pki;

mod bare_csv;
mod crash;
mod keeping;
mod waiting;

const PATIENCE: Deadline = Deadline {
    within: Duration::from_secs(10),
};

/// A clock that is ahead.
struct Ahead(Timestamp);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// A root with the folder of one agency in it.
struct Ground {
    root: TempDir,
    intake: Book,
}

#[derive(Default)]
struct Book {
    taken: Mutex<Vec<Inbound>>,
    refuse: Mutex<Option<ErrorKind>>,
}

#[async_trait]
impl Intake for Book {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(IntakeError {
                kind,
                violations: Vec::new(),
                reason: "TOLD_SO",
            });
        }
        self.taken.lock().unwrap().push(message);
        let referral = ReferralId::from_bytes([1; 16]);
        let reference = Reference::of(referral);
        Ok(IntakeAnswer {
            referral,
            reference,
            repeated: false,
            state: None,
        })
    }
}

impl Ground {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for sub in Sub::ALL {
            fs::create_dir_all(root.path().join("agencies/r1l").join(sub.as_str())).unwrap();
        }
        Self {
            root,
            intake: Book::default(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("agencies/r1l")
    }

    fn adapter(&self) -> FileDrop {
        let mut context = Pki::new().context();
        context.files_root = Some(self.root.path().to_owned());
        FileDrop::new(&context)
    }

    fn leave(&self, sub: &str, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.folder().join(sub).join(name), bytes).unwrap();
    }

    /// Leaves a message with its manifest.
    fn leave_message(
        &self,
        id: &str,
        kind: &str,
        format: &str,
        data: &[u8],
        documents: &[(&str, &[u8])],
    ) {
        let file = |name: &str, role: &str, media_type: &str, bytes: &[u8]| json!({"name": name, "role": role, "size": bytes.len(), "media_type": media_type, "sha256": package::sha256(bytes)});
        let name = format!("{id}.data");
        let mut files = vec![file(&name, "data", "application/octet-stream", data)];
        for (name, bytes) in documents {
            files.push(file(name, "document", "application/pdf", bytes));
            self.leave("inbox", name, bytes);
        }
        self.leave("inbox", &name, data);
        let manifest = json!({"version": 1, "environment": "test", "id": id, "kind": kind,
            "created": "2026-03-02T10:00:00Z", "format": format, "files": files});
        self.leave(
            "inbox",
            &format!("{id}.manifest.json"),
            manifest.to_string(),
        );
    }

    fn names(&self, sub: &str) -> Vec<String> {
        names(&self.folder().join(sub))
    }

    async fn collect(&self, adapter: &FileDrop, extra: &str) -> Collected {
        let endpoint = endpoint(&format!("{SETTINGS}\n{extra}"));
        adapter
            .collect(&endpoint, &[], &self.intake, PATIENCE)
            .await
    }

    fn taken(&self) -> Vec<Inbound> {
        self.intake.taken.lock().unwrap().clone()
    }

    fn error(&self, name: &str) -> String {
        fs::read_to_string(self.folder().join("failed").join(name)).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const SETTINGS: &str = "transport = \"folder\"\ndirectory = \"agencies/r1l\"";
const NOBODY: &str = "transport = \"folder\"\ndirectory = \"agencies/nobody\"";

#[tokio::test]
async fn the_adapter_keeps_the_contract_whatever_the_payload() {
    const HL7: &str = "payload = \"hl7v2\"\n[hl7v2]\nversion = \"2.5\"\nack_mode = \"original\"\nsending_app = \"WAYMARK\"\nsending_facility = \"GW\"\nreceiving_app = \"SPREAD\"\nreceiving_facility = \"R1L\"";
    for payload in ["", "payload = \"csv\"", HL7] {
        let ground = Ground::new();
        let far = FolderSide::new(
            &ground.folder(),
            &format!("{SETTINGS}\n{payload}"),
            None,
            NOBODY,
        );
        assert_eq!(
            contract::broken(&ground.adapter(), &far).await,
            [],
            "{payload}"
        );
    }
}

async fn deliver(ground: &Ground, source: &Source, extra: &str) -> Outcome {
    let (adapter, endpoint) = (ground.adapter(), endpoint(&format!("{SETTINGS}\n{extra}")));
    let rendered = adapter.render(source, &endpoint).unwrap();
    let message = sample::outbound(source, &rendered, &endpoint, 1);
    adapter.deliver(&message, PATIENCE).await
}

#[tokio::test]
async fn documents_lie_beside_their_message_with_their_digests() {
    let ground = Ground::new();
    let mut source = sample::source(Kind::New);
    let document = source
        .content
        .as_ref()
        .unwrap()
        .documents
        .first()
        .unwrap()
        .clone();
    source.attachments = vec![Attachment {
        document,
        bytes: Payload::new(b"%PDF-1.7".to_vec()),
    }];
    deliver(&ground, &source, "").await;
    let id = source.wire_id.as_str();
    let expected = [
        format!("{id}-d1.pdf"),
        format!("{id}.json"),
        format!("{id}.manifest.json"),
    ];
    assert_eq!(ground.names("outbox"), expected);
    let manifest = fs::read(ground.folder().join("outbox").join(&expected[2])).unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    for file in &manifest.files {
        let bytes = fs::read(ground.folder().join("outbox").join(file.name.as_str())).unwrap();
        assert_eq!(
            (file.size, &file.sha256),
            (bytes.len() as u64, &package::sha256(&bytes))
        );
    }
    assert!(!format!("{manifest:?}").contains("Quillfeather"));
}

#[tokio::test]
async fn a_crash_between_data_and_manifest_is_made_whole_by_the_next_attempt() {
    let ground = Ground::new();
    let source = sample::source(Kind::New);
    deliver(&ground, &source, "").await;
    let manifest = format!("{}.manifest.json", source.wire_id);
    let outbox = ground.folder().join("outbox");
    let first = fs::read(outbox.join(&manifest)).unwrap();
    fs::rename(
        outbox.join(&manifest),
        outbox.join(format!("{manifest}.part")),
    )
    .unwrap();
    let again = deliver(&ground, &source, "").await;
    assert!(
        matches!(
            again,
            Outcome::Delivered {
                grade: Evidence::Sent,
                ..
            }
        ),
        "{again:?}"
    );
    assert_eq!(fs::read(outbox.join(&manifest)).unwrap(), first);
    assert_eq!(ground.names("outbox").len(), 2, "no part is left");
}

#[tokio::test]
async fn another_file_of_the_same_name_is_a_collision_and_stays() {
    let ground = Ground::new();
    let source = sample::source(Kind::New);
    let name = format!("{}.json", source.wire_id);
    ground.leave("outbox", &name, "somebody else's");
    let outcome = deliver(&ground, &source, "").await;
    assert!(
        matches!(
            outcome,
            Outcome::Park {
                reason: ParkReason::IdCollision,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(ground.names("outbox"), [name]);
}

#[cfg(unix)]
#[tokio::test]
async fn no_link_leads_out_of_an_endpoints_folder() {
    use std::os::unix::fs::symlink;
    let ground = Ground::new();
    let outside = tempfile::tempdir().unwrap();
    let outbox = ground.folder().join("outbox");
    fs::remove_dir(&outbox).unwrap();
    symlink(outside.path(), &outbox).unwrap();
    let outcome = deliver(&ground, &sample::source(Kind::New), "").await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert!(names(outside.path()).is_empty());

    fs::write(outside.path().join("x"), "{}").unwrap();
    let name = format!("{}.receipt.json", contract::wire_id());
    symlink(
        outside.path().join("x"),
        ground.folder().join("receipts").join(&name),
    )
    .unwrap();
    fs::remove_file(&outbox).unwrap();
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!(
        (
            collected.taken,
            collected.stopped.map(|w| w.code).as_deref()
        ),
        (0, Some("file.names"))
    );
    assert!(ground.taken().is_empty());
}

#[tokio::test]
async fn a_receipt_is_the_applications_word_and_a_named_person_more() {
    let ground = Ground::new();
    let id = contract::wire_id();
    ground.leave("receipts", &format!("{id}.receipt"), "");
    let named = r#"{"accepted_by":"Dr Ada Okoro","receiver_reference":"R1L/88","at":"2026-03-02T10:00:00Z"}"#;
    ground.leave("receipts", "WM2.receipt.json", named);
    ground.leave("receipts", "WM3.receipt.json", "{\"id\":");
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!(
        (collected.taken, collected.refused, collected.stopped),
        (2, 0, None)
    );
    let grades: Vec<_> = ground
        .taken()
        .iter()
        .map(|m| match &m.body {
            InboundBody::Status(s) => (
                m.channel.clone(),
                s.answers.clone().unwrap(),
                s.grade,
                s.state,
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    let channel = Channel::Peer("file:far-side".to_owned());
    assert!(grades.contains(&(
        channel.clone(),
        id.to_string(),
        Evidence::ApplicationAck,
        LegState::Submitted
    )));
    assert!(grades.contains(&(
        channel,
        "WM2".to_owned(),
        Evidence::HumanAcceptance,
        LegState::Submitted
    )));
    assert_eq!(
        ground.names("receipts"),
        ["WM3.receipt.json"],
        "one half written waits"
    );
    assert_eq!(ground.names("done").len(), 2);
}

#[tokio::test]
async fn a_refused_message_is_undelivered_and_its_files_go_along() {
    let ground = Ground::new();
    ground.leave(
        "rejected",
        "WM1.rejected.json",
        r#"{"code":"NOT_OURS","text":"Tam Quillfeather"}"#,
    );
    ground.leave("rejected", "WM1.json", "{}");
    ground.leave("rejected", "WM12.json", "{}");
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (1, 0));
    let InboundBody::Undelivered(news) = &ground.taken()[0].body else {
        panic!()
    };
    assert_eq!(
        (news.answers.as_str(), news.reason),
        ("WM1", ParkReason::Refused)
    );
    assert!(news.why.text.contains("NOT_OURS") && !news.why.text.contains("Tam"));
    assert_eq!(ground.names("rejected"), ["WM12.json"]);
    assert_eq!(ground.names("done"), ["WM1.json", "WM1.rejected.json"]);
}

fn canonical() -> Vec<u8> {
    let mut referral = sample::referral();
    referral.child.nhs_number = waymark_core::identifier::NhsNumber::parse("9434765919").ok();
    referral.documents.clear();
    referral.to_canonical().unwrap()
}

#[tokio::test]
async fn a_referral_is_taken_once_it_is_whole_and_moved_once_it_is_durable() {
    let ground = Ground::new();
    ground.leave_message(
        "R1",
        "new",
        "canonical",
        &canonical(),
        &[("R1-q.pdf", b"%PDF")],
    );
    ground.leave("inbox", "R2.data", "without a manifest");
    *ground.intake.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let held = ground.collect(&ground.adapter(), "").await;
    assert_eq!(
        held.stopped.map(|w| w.code).as_deref(),
        Some("file.not_now")
    );
    assert_eq!(
        ground.names("inbox").len(),
        4,
        "nothing moves before the intake answered"
    );
    *ground.intake.refuse.lock().unwrap() = None;
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (1, 0));
    let taken = ground.taken();
    let InboundBody::Submit(referral) = &taken[0].body else {
        panic!()
    };
    assert_eq!(referral.to_canonical().unwrap(), canonical());
    assert_eq!(
        (taken[0].message_key.as_str(), taken[0].attachments.len()),
        ("R1", 1)
    );
    assert_eq!(ground.names("inbox"), ["R2.data"]);
    assert_eq!(
        ground.names("done"),
        ["R1-q.pdf", "R1.data", "R1.manifest.json"]
    );
}

#[tokio::test]
async fn an_interrupted_move_is_finished_by_the_next_round() {
    let ground = Ground::new();
    ground.leave_message("R1", "new", "canonical", &canonical(), &[]);
    let folder = ground.folder();
    fs::rename(folder.join("inbox/R1.data"), folder.join("done/R1.data")).unwrap();
    assert_eq!(ground.collect(&ground.adapter(), "").await.taken, 1);
    assert!(ground.names("inbox").is_empty());
    assert_eq!(ground.names("done"), ["R1.data", "R1.manifest.json"]);
}

#[tokio::test]
async fn what_is_not_whole_waits_and_is_then_set_aside_with_the_reason() {
    let ground = Ground::new();
    for (id, breakage) in [
        ("cut", "cut"),
        ("changed", "changed"),
        ("gone", "gone"),
        ("broken", "broken"),
    ] {
        ground.leave_message(id, "new", "canonical", &canonical(), &[]);
        let data = format!("{id}.data");
        match breakage {
            "cut" => ground.leave("inbox", &data, &canonical()[..20]),
            "changed" => {
                let mut other = canonical();
                other[30] ^= 1;
                ground.leave("inbox", &data, other);
            }
            "gone" => fs::remove_file(ground.folder().join("inbox").join(&data)).unwrap(),
            _ => ground.leave("inbox", &format!("{id}.manifest.json"), "{\"version\": 1,"),
        }
    }
    ground.leave("inbox", "late.json.part", "half");
    let before = ground.names("inbox");
    let waiting = ground.collect(&ground.adapter(), "").await;
    assert_eq!((waiting.taken, waiting.refused), (0, 0));
    assert_eq!(ground.names("inbox"), before);
    let collected = ground.collect(&ground.late_adapter(), "").await;
    assert_eq!(collected.taken, 0);
    assert!(ground.taken().is_empty(), "nothing is half applied");
    for (id, field) in [
        ("cut", "size"),
        ("changed", "sha256"),
        ("gone", "name"),
        ("broken", "manifest"),
    ] {
        let error = ground.error(&format!("{id}.error.json"));
        assert!(
            error.contains(field) && error.contains("INCOMPLETE"),
            "{error}"
        );
        assert!(!error.contains("Quillfeather"));
    }
    assert_eq!(
        ground
            .names("inbox")
            .iter()
            .filter(|n| n.ends_with(".manifest.json"))
            .count(),
        0
    );
}

#[tokio::test]
async fn a_referral_that_cannot_be_taken_names_the_field_and_not_its_value() {
    let ground = Ground::new();
    let wrong = String::from_utf8(canonical())
        .unwrap()
        .replace("\"urgent\"", "\"Marisol\"");
    ground.leave_message("R1", "new", "canonical", wrong.as_bytes(), &[]);
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (0, 1));
    let error = ground.error("R1.error.json");
    assert!(
        error.contains("\"priority\"") && !error.contains("Marisol"),
        "{error}"
    );
    assert_eq!(ground.names("failed").len(), 3);
}

#[tokio::test]
async fn every_kind_of_message_is_read_and_a_withdrawal_as_json_alone() {
    let ground = Ground::new();
    ground.leave_message("R1", "amend", "canonical", &canonical(), &[]);
    ground.leave_message(
        "R2",
        "cancel",
        "canonical",
        br#"{"sender_reference":{"value":"226839","namespace":"EPIC"},"reason":"moved away"}"#,
        &[],
    );
    ground.leave_message("R3", "status", "canonical", br#"{"type":"referral.status","environment":"test","referral":"WM-AAAAA-BBBBB-CCCCC","answers":"WM1","state":"accepted"}"#, &[]);
    ground.leave_message("R4", "withdraw", "canonical", br#"{"sender_reference":{"value":"226839","namespace":"EPIC"},"withdrawal":{"scopes":["share_health"],"by":"Marisol","role":"parent_with_pr","date":"2026-03-02"}}"#, &[]);
    ground.leave_message("R5", "withdraw", "canonical", br#"{"sender_reference":{"value":"226839","namespace":"EPIC"},"withdrawal":{"by":"Marisol","role":"parent_with_pr","date":"2026-03-02"}}"#, &[]);
    ground.leave_message("R6", "withdraw", "csv", b"reason\r\nmoved\r\n", &[]);
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.refused), (4, 2));
    let mut kinds: Vec<_> = ground
        .taken()
        .iter()
        .map(|m| match &m.body {
            InboundBody::Amend(r, _) => format!("amend {}", r.value),
            InboundBody::Cancel(r, _, _) => format!("cancel {}", r.value),
            InboundBody::Withdraw(r, w) => format!("withdraw {} {:?}", r.value, w.scopes),
            InboundBody::Status(s) => format!("status {}", s.state.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    kinds.sort();
    let withdraw = "withdraw 226839 {ShareHealth}";
    let expected = ["amend 226839", "cancel 226839", "status accepted", withdraw];
    assert_eq!(kinds, expected);
    // What is withdrawn must be said: nothing said would be everything.
    assert!(
        ground
            .error("R5.error.json")
            .contains("missing field `scopes`")
    );
    assert!(ground.error("R6.error.json").contains("has no columns"));
}

#[tokio::test]
async fn a_missing_identity_stops_the_round_and_moves_nothing() {
    let ground = Ground::new();
    ground.leave_message("R1", "new", "canonical", &canonical(), &[]);
    *ground.intake.refuse.lock().unwrap() = Some(ErrorKind::Unauthenticated);
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!(
        collected.stopped.map(|w| w.code).as_deref(),
        Some("file.identity")
    );
    assert_eq!(ground.names("inbox").len(), 2);
}

#[tokio::test]
async fn a_full_round_looks_at_no_more_than_its_limit() {
    let ground = Ground::new();
    for n in 0..=inbox::ROUND_MESSAGES_MAX {
        ground.leave("receipts", &format!("WM{n}.receipt"), "");
    }
    let first = ground.collect(&ground.adapter(), "").await;
    assert_eq!(first.taken as usize, inbox::ROUND_MESSAGES_MAX);
    assert!(first.more, "the rest is asked for at once");
}
