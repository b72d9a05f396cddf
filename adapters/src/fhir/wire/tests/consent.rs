//! What the consent of a foreign sender is read as: never as more than it says.

use waymark_core::referral::{Consent, ConsentScope, ConsentStatus};

use super::*;

/// A message whose consents are foreign, read under an agreement that assumes two scopes.
fn read_with(consents: &[Value]) -> Result<Referral, Fault> {
    let mut bundle = rendered(&sample::source(Kind::New), BARS);
    let entries = bundle["entry"].as_array_mut().unwrap();
    entries.retain(|entry| entry["resource"]["resourceType"] != "Consent");
    for consent in consents {
        let mut resource = consent.clone();
        resource["resourceType"] = json!("Consent");
        entries.push(json!({ "resource": resource }));
    }
    let mut agreed = assumptions();
    agreed.consent_scope = vec![ConsentScope::Referral, ConsentScope::ShareHealth];
    let message = Message::read(&bundle)?;
    match inward::read(&message, &agreed, &CodeMap::default())?.body {
        InboundBody::Submit(referral) => Ok(*referral),
        other => panic!("not a submit: {other:?}"),
    }
}

fn consent_of(consents: &[Value]) -> Consent {
    read_with(consents).unwrap().consent
}

#[test]
fn a_consent_that_denies_is_withheld_and_covers_nothing() {
    let treat =
        json!([{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}]);
    for provision in [
        json!({"type": "deny"}),
        json!({"type": "deny", "purpose": treat}),
        json!({"type": "deny", "provision": [{"type": "permit"}]}),
        json!({"type": "deny", "provision": [{"type": "deny"}]}),
    ] {
        let read = consent_of(&[json!({"status": "active", "provision": provision})]);
        assert_eq!(
            (read.status, read.scope),
            (ConsentStatus::Withheld, Vec::new()),
            "{provision}"
        );
    }
    let own = json!({"status": "active", "provision": {"type": "deny"},
        "extension": [{"url": name::extension("consent-status"), "valueCode": "given"}]});
    assert_eq!(consent_of(&[own]).status, ConsentStatus::Withheld);
}

#[test]
fn a_consent_with_exceptions_or_an_unknown_rule_is_refused_by_its_path() {
    let path = |provision: Value| {
        let fault = read_with(&[json!({"status": "active", "provision": provision})]);
        fault.err().unwrap().path
    };
    let nested = json!({"type": "permit", "provision": [{"type": "permit", "provision": [{"type": "deny"}]}]});
    assert!(path(nested).ends_with("resource.provision.provision[0].provision[0].type"));
    assert!(path(json!({"provision": [{"type": "deny"}]})).ends_with("provision[0].type"));
    assert!(path(json!({"type": "maybe"})).ends_with("resource.provision.type"));
}

#[test]
fn of_several_consents_the_most_restrictive_stands_in_whatever_order_and_the_others_are_said() {
    let given = json!({"status": "active"});
    for (other, status) in [
        (json!({"status": "rejected"}), ConsentStatus::Withheld),
        (json!({"status": "inactive"}), ConsentStatus::Withdrawn),
        (json!({"status": "draft"}), ConsentStatus::NotSought),
        (
            json!({"status": "active", "provision": {"type": "deny"}}),
            ConsentStatus::Withheld,
        ),
    ] {
        for both in [[given.clone(), other.clone()], [other, given.clone()]] {
            let read = read_with(&both).unwrap();
            assert_eq!(read.consent.status, status, "{both:?}");
            let words = read.narrative.unwrap();
            let line = "Consent also sent: given referral, share_health";
            assert!(words.expose().contains(line), "{}", words.expose());
        }
    }
    let own = |code: &str| json!({"status": "active", "provision": {"purpose": [{"system": name::VALUE, "code": code}]}});
    let both = consent_of(&[given, own("share_health")]);
    assert_eq!(
        (both.status, both.scope),
        (ConsentStatus::Given, vec![ConsentScope::ShareHealth]),
        "what both cover"
    );
    assert_eq!(
        consent_of(&[own("referral"), own("share_health")]).scope,
        []
    );
}

#[test]
fn purposes_of_another_list_cover_the_referral_alone_and_are_said_with_every_other_limit() {
    let purpose =
        json!([{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}]);
    let provision = json!({"type": "permit", "purpose": purpose, "period": {"end": "2026-01-01"}, "actor": [{}]});
    let read = read_with(&[json!({"status": "active", "provision": provision})]).unwrap();
    assert_eq!(read.consent.scope, [ConsentScope::Referral]);
    let words = read.narrative.unwrap();
    for line in [
        "Purposes of the consent: TREAT",
        "The consent is limited by period, actor: see the original.",
    ] {
        assert!(words.expose().contains(line), "{line}");
    }
    let bare = consent_of(&[json!({"status": "active"})]);
    assert_eq!(
        bare.scope,
        [ConsentScope::Referral, ConsentScope::ShareHealth]
    );
}
