use waymark_core::id::DocumentId;
use waymark_core::personal::Payload;
use waymark_core::port::Attachment;

use super::*;
use crate::context::EgressPolicy;
use crate::contract::folder::endpoint;
use crate::contract::sample;
use crate::file::package::{Package, unpack};

const FOLDER: &str = "transport = \"folder\"\ndirectory = \"a\"";
const HL7: &str = "payload = \"hl7v2\"\n[assume]\npathway = \"autism-assessment\"\n[hl7v2]\nversion = \"2.5\"\n\
    ack_mode = \"original\"\nsending_app = \"WAYMARK\"\nsending_facility = \"GW\"\nreceiving_app = \"EPR\"\n\
    receiving_facility = \"R1L\"";

fn source(kind: Kind) -> Source {
    let mut source = sample::source(kind);
    let Some(content) = source.content.as_mut() else {
        return source;
    };
    content.child.nhs_number = waymark_core::identifier::NhsNumber::parse("9434765919").ok();
    let mut document = content.documents.first().unwrap().clone();
    document.id = DocumentId::from_bytes([6; 16]);
    document.size_bytes = 4;
    source.attachments = vec![Attachment {
        document,
        bytes: Payload::new(b"%PDF".to_vec()),
    }];
    source
}

fn packed(kind: Kind, settings: &str) -> (Package, Settings) {
    let endpoint = endpoint(&format!("{FOLDER}\n{settings}"));
    let settings = Settings::read(&endpoint, EgressPolicy::AsFlagged).unwrap();
    let rendered = render(&source(kind), &endpoint, &settings, Environment::Test).unwrap();
    (unpack(rendered.bytes.expose()).unwrap(), settings)
}

fn again(package: &Package, settings: &Settings) -> Vec<Said> {
    let data = package.files.first().unwrap();
    read(&package.manifest, data, settings, &CodeMap::default()).unwrap()
}

#[test]
fn the_manifest_is_as_it_is_documented() {
    let (package, _) = packed(Kind::New, "");
    let shown: Value = serde_json::from_slice(&package.manifest_bytes).unwrap();
    insta::assert_json_snapshot!(shown);
    assert_eq!(package.files.get(1).map(Vec::as_slice), Some(&b"%PDF"[..]));
}

#[test]
fn the_sheet_of_a_status_and_of_an_end_are_as_they_are_documented() {
    for kind in [Kind::Status, Kind::Cancel] {
        let (package, _) = packed(kind, "payload = \"csv\"");
        let text = String::from_utf8(package.files.first().unwrap().clone()).unwrap();
        insta::assert_snapshot!(format!("sheet_of_{kind}"), text.replace("\r\n", "\n"));
    }
}

#[test]
fn what_hl7_v2_carries_comes_back_with_its_sender_and_safety() {
    let (package, settings) = packed(Kind::New, HL7);
    let said = again(&package, &settings).remove(0);
    assert_eq!(said.claimed_sender.as_deref(), Some("WAYMARK|GW"));
    assert_eq!(said.environment, Some(Environment::Test));
    let InboundBody::Submit(referral) = said.body else {
        panic!("a new referral")
    };
    let sent = source(Kind::New).content.unwrap();
    assert_eq!(referral.safeguarding, sent.safeguarding);
    assert_eq!(referral.reasonable_adjustments, sent.reasonable_adjustments);
    assert_eq!(referral.allergies, sent.allergies);
    assert_eq!(referral.consent.scope, sent.consent.scope);
    assert!(
        said.documents.is_empty(),
        "they lie beside the message, not in it"
    );
    let mut package = package;
    let named = &sample::referral().documents[0].sha256;
    package.manifest.files[1].sha256.clone_from(named);
    let narrative = |said: &Said| match &said.body {
        InboundBody::Submit(it) => it.narrative.as_ref().map(|text| text.expose().clone()),
        other => panic!("{other:?}"),
    };
    let said = again(&package, &settings).remove(0);
    assert_eq!(
        narrative(&said),
        sent.narrative.map(|text| text.expose().clone()),
        "what lies beside is not said to lie elsewhere"
    );
    let mut alone = package;
    alone.manifest.files.truncate(1);
    let said = narrative(&again(&alone, &settings).remove(0)).unwrap();
    assert!(said.contains("not enclosed: "), "{said}");
    assert!(said.contains("(SHA-256 "), "{said}");
}

#[test]
fn csv_brings_back_the_whole_referral() {
    let (package, settings) = packed(Kind::Amend, "payload = \"csv\"");
    let InboundBody::Amend(reference, referral) = again(&package, &settings).remove(0).body else {
        panic!("an amendment")
    };
    let sent = source(Kind::Amend).content.unwrap();
    assert_eq!(Some(reference), sent.sender_reference);
    assert_eq!(*referral, sent);
}

#[test]
fn a_manifest_and_its_message_must_say_the_same() {
    let (mut package, settings) = packed(Kind::New, HL7);
    package.manifest.kind = Kind::Cancel;
    let data = package.files.first().unwrap();
    let faults = read(&package.manifest, data, &settings, &CodeMap::default())
        .err()
        .unwrap();
    assert_eq!(faults.first().map(|f| f.field.as_str()), Some("kind"));
}

#[test]
fn hl7_v2_settings_are_checked_and_have_no_connection() {
    for (settings, path) in [
        (
            HL7.replace("version = \"2.5\"", "version = \"9\""),
            "settings.hl7v2",
        ),
        (format!("{HL7}\nhost = \"x\""), "settings.hl7v2.host"),
        ("payload = \"hl7v2\"".to_owned(), "settings.hl7v2"),
    ] {
        let endpoint = endpoint(&format!("{FOLDER}\n{settings}"));
        let faults = Settings::read(&endpoint, EgressPolicy::AsFlagged).unwrap_err();
        let named = faults.iter().any(|f| f.field.starts_with(path));
        assert!(named, "{path}: {faults:?}");
    }
}
