use jiff::civil::date;

use super::super::samples::plan;
use super::super::school;
use super::*;

const REFERENCE: &str = "WM-AAAAA-BBBBB-CCCCC";

fn directory() -> Directory {
    let file = |path: &str, text: &str| waymark_core::directory::SourceFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    Directory::load(&[
        file(
            "agencies.toml",
            include_str!("../../../../../deploy/directory/agencies.toml"),
        ),
        file(
            "area.toml",
            include_str!("../../../../../deploy/directory/area.toml"),
        ),
        file(
            "rules.toml",
            include_str!("../../../../../deploy/directory/rules.toml"),
        ),
        file(
            "services.toml",
            include_str!("../../../../../deploy/directory/services.toml"),
        ),
    ])
    .unwrap()
}

fn submitted() -> Submitted {
    let planned = plan(1, date(2026, 3, 2)).unwrap().remove(0);
    let receipt = v1::Receipt {
        reference: REFERENCE.to_owned(),
        ..v1::Receipt::default()
    };
    Submitted {
        planned,
        receipt,
        is_cancelled: false,
    }
}

/// What arrives, and how it is delivered, when everything goes as it must.
fn world(expected: &[Expected]) -> (Vec<Ledger>, Vec<v1::Delivery>) {
    let ledgers: Vec<Ledger> = [school::AGENCY, hospital::AGENCY, therapy::AGENCY]
        .map(Ledger::new)
        .into();
    let mut deliveries = Vec::new();
    for (one, n) in expected.iter().zip(0..) {
        let wire_id = format!("WM{n}");
        let ledger = ledgers.iter().find(|l| l.agency() == one.agency).unwrap();
        ledger.take(arrival(one, &wire_id), wire_id.as_bytes());
        deliveries.push(v1::Delivery {
            delivery_id: format!("d{n}"),
            wire_id,
            agency_id: one.agency.clone(),
            kind: kind_to_proto(one.kind).into(),
            state: v1::DeliveryState::Done.into(),
            evidence: evidence_to_proto(one.evidence).into(),
            ..v1::Delivery::default()
        });
    }
    (ledgers, deliveries)
}

fn arrival(one: &Expected, wire_id: &str) -> Arrival {
    Arrival {
        wire_id: wire_id.to_owned(),
        kind: one.kind,
        reference: one.reference.clone(),
        service: one.service.clone(),
        content: one.content.clone(),
    }
}

fn found(expected: &[Expected], ledgers: &[Ledger], deliveries: &[v1::Delivery]) -> Vec<String> {
    faults(expected, &ledgers.iter().collect::<Vec<_>>(), deliveries)
}

#[test]
fn a_toddler_is_expected_at_both_services_and_the_school_is_told_by_both() {
    let expected = expected(&[submitted()], &directory()).unwrap();
    let kinds: Vec<_> = expected
        .iter()
        .map(|e| (e.agency.as_str(), e.kind, e.evidence))
        .collect();
    assert_eq!(
        kinds,
        [
            ("R1L", Kind::New, Evidence::ApplicationAck),
            ("EE123456", Kind::Status, Evidence::ApplicationAck),
            ("THER1", Kind::New, Evidence::HumanAcceptance),
            ("EE123456", Kind::Status, Evidence::ApplicationAck),
        ]
    );
    let (ledgers, deliveries) = world(&expected);
    assert_eq!(
        found(&expected, &ledgers, &deliveries),
        Vec::<String>::new()
    );
}

#[test]
fn twice_nowhere_and_elsewhere_are_faults() {
    let expected = expected(&[submitted()], &directory()).unwrap();
    let (ledgers, deliveries) = world(&expected);
    ledgers[1].take(arrival(&expected[0], "WM9"), b"9");
    assert!(found(&expected, &ledgers, &deliveries)[0].contains("arrived 2 times"));
    let (ledgers, deliveries) = world(&expected);
    let fewer = &expected[1..];
    let told = found(fewer, &ledgers, &deliveries);
    assert!(
        told[0].contains("where it was not expected") && told[1].contains("delivery d0"),
        "{told:?}"
    );
    let (_, deliveries) = world(&expected);
    let empty = world(&[]).0;
    assert!(found(&expected, &empty, &deliveries)[0].contains("arrived 0 times"));
}

#[test]
fn weaker_evidence_other_content_and_an_open_delivery_are_faults() {
    let expected = expected(&[submitted()], &directory()).unwrap();
    let (ledgers, mut deliveries) = world(&expected);
    deliveries[2].evidence = v1::EvidenceGrade::TransportAck.into();
    assert!(
        found(&expected, &ledgers, &deliveries)[0]
            .contains("transport_ack and not human_acceptance")
    );
    let (ledgers, mut deliveries) = world(&expected);
    deliveries[0].state = v1::DeliveryState::AwaitingEvidence.into();
    assert!(
        found(&expected, &ledgers, &deliveries)[0].contains("its delivery is awaiting_evidence")
    );
    let (ledgers, deliveries) = world(&expected);
    let mut other = expected.clone();
    other[0].content.as_mut().unwrap().safeguarding = vec![waymark_core::referral::Flag {
        system: String::new(),
        code: "lost".to_owned(),
        text: None,
    }];
    assert!(
        found(&other, &ledgers, &deliveries)[0].contains("its content is not what the school sent")
    );
}

#[test]
fn a_cancel_before_its_referral_is_out_of_order() {
    let one = expected(&[submitted()], &directory()).unwrap().remove(0);
    let ledger = Ledger::new(hospital::AGENCY);
    let cancel = Expected {
        kind: Kind::Cancel,
        ..one.clone()
    };
    ledger.take(arrival(&cancel, "WM2"), b"2");
    ledger.take(arrival(&one, "WM1"), b"1");
    assert_eq!(out_of_order(&[&ledger]).len(), 1);
    let ledger = Ledger::new(hospital::AGENCY);
    ledger.take(arrival(&one, "WM1"), b"1");
    ledger.take(arrival(&cancel, "WM2"), b"2");
    assert_eq!(out_of_order(&[&ledger]), Vec::<String>::new());
}

#[test]
fn a_summary_is_ok_only_without_faults_and_with_a_verified_log() {
    let log = LogSummary {
        size: 9,
        verified: true,
    };
    let summary = Summary {
        referrals: 2,
        log,
        ..Summary::default()
    };
    let text = serde_json::to_string(&summary.clone().decide()).unwrap();
    assert_eq!(
        text,
        r#"{"ok":true,"referrals":2,"deliveries":{},"evidence":{},"adapters":{},"log":{"size":9,"verified":true}}"#
    );
    let unverified = Summary {
        log: LogSummary {
            size: 9,
            verified: false,
        },
        ..summary.clone()
    };
    assert!(!unverified.decide().ok);
    let faulty = Summary {
        faults: vec!["lost".to_owned()],
        ..summary
    };
    assert!(!faulty.decide().ok);
}
