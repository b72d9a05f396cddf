use proptest::prelude::*;
use prost::Message as _;
use waymark_core::personal::Personal;
use waymark_core::referral::{
    Channel, ConsentGiver, ConsentScope, ConsentStatus, ContactRole, Flag, Format, LawfulBasis,
    LocalId, NeedType, Priority, Referral, SafeToContact, SettingKind, Sex, Tested,
};
use waymark_proto::v1;

use super::*;
use crate::contract::sample;

fn there_and_back(referral: &Referral) -> Referral {
    let bytes = referral_to_proto(referral).encode_to_vec();
    referral_from_proto(v1::Referral::decode(bytes.as_slice()).unwrap()).unwrap()
}

/// The field paths of the violations that a change to a good message brings.
fn refused(change: impl FnOnce(&mut v1::Referral)) -> Vec<String> {
    let mut message = referral_to_proto(&sample::referral());
    change(&mut message);
    let violations = referral_from_proto(message).unwrap_err();
    violations.into_iter().map(|v| v.field).collect()
}

fn taken(change: impl FnOnce(&mut v1::Referral)) -> Referral {
    let mut message = referral_to_proto(&sample::referral());
    change(&mut message);
    referral_from_proto(message).unwrap()
}

fn contact(message: &mut v1::Referral) -> &mut v1::Contact {
    message.contacts.first_mut().unwrap()
}

fn narrative(referral: &Referral) -> &str {
    referral
        .narrative
        .as_ref()
        .map_or("", |n| n.expose().as_str())
}

#[test]
fn a_whole_referral_comes_back_as_it_was() {
    let referral = sample::referral();
    assert_eq!(there_and_back(&referral), referral);
    assert_eq!(referral.violations(jiff::civil::date(2026, 3, 2)), []);
}

#[test]
fn every_safety_critical_word_is_in_the_message_outside_the_narrative() {
    let mut message = referral_to_proto(&sample::referral());
    message.narrative.clear();
    let json = serde_json::to_string(&message).unwrap();
    for word in sample::SAFETY_WORDS {
        assert!(json.contains(word), "{word}");
    }
    assert!(json.contains("CONTACT_SAFETY_UNSAFE"));
    assert!(json.contains("CONSENT_SCOPE_SHARE_HEALTH"));
}

#[test]
fn every_code_comes_back_as_it_was() {
    let base = sample::referral();
    for sex in Sex::ALL {
        let mut r = base.clone();
        r.child.sex = *sex;
        assert_eq!(there_and_back(&r), r, "{sex}");
    }
    for priority in Priority::ALL {
        let r = Referral {
            priority: *priority,
            ..base.clone()
        };
        assert_eq!(there_and_back(&r), r, "{priority}");
    }
    for kind in NeedType::ALL {
        let mut r = base.clone();
        r.needs.first_mut().unwrap().kind = *kind;
        assert_eq!(there_and_back(&r), r, "{kind}");
    }
    for kind in SettingKind::ALL.iter().filter(|k| **k != SettingKind::None) {
        let mut r = base.clone();
        r.setting.as_mut().unwrap().kind = *kind;
        assert_eq!(there_and_back(&r), r, "{kind}");
    }
    for tested in Tested::ALL {
        let r = Referral {
            hearing_checked: *tested,
            vision_checked: *tested,
            ..base.clone()
        };
        assert_eq!(there_and_back(&r), r, "{tested}");
    }
    for scope in ConsentScope::ALL {
        let mut r = base.clone();
        r.consent.scope = vec![*scope];
        assert_eq!(there_and_back(&r), r, "{scope}");
        assert_eq!(
            consent_scope_from_proto("x", consent_scope_to_proto(*scope).into()),
            Ok(*scope)
        );
    }
    for giver in ConsentGiver::ALL {
        let mut r = base.clone();
        r.consent.role = *giver;
        assert_eq!(there_and_back(&r), r, "{giver}");
        assert_eq!(
            giver_from_proto("x", giver_to_proto(*giver).into()),
            Ok(*giver)
        );
    }
    for format in Format::ALL {
        let mut r = base.clone();
        r.contacts.first_mut().unwrap().format = *format;
        assert_eq!(there_and_back(&r), r, "{format}");
    }
    for channel in Channel::ALL {
        let mut r = base.clone();
        r.contacts.first_mut().unwrap().channel = *channel;
        assert_eq!(there_and_back(&r), r, "{channel}");
    }
    for safe in SafeToContact::ALL {
        let mut r = base.clone();
        r.contacts.first_mut().unwrap().safe_to_contact = *safe;
        assert_eq!(there_and_back(&r), r, "{safe}");
    }
    for status in ConsentStatus::ALL
        .iter()
        .filter(|s| **s != ConsentStatus::NotSought)
    {
        let mut r = base.clone();
        r.consent.status = *status;
        r.lawful_basis = LawfulBasis::LegalObligation;
        assert_eq!(there_and_back(&r), r, "{status}");
    }
}

#[test]
fn roles_that_the_contract_has_no_word_for_are_named_in_the_note() {
    for (role, word) in [
        (ContactRole::Mother, "mother"),
        (ContactRole::Father, "father"),
        (ContactRole::Professional, "professional"),
    ] {
        let mut r = sample::referral();
        r.contacts.first_mut().unwrap().role = role;
        let message = referral_to_proto(&r);
        let note = &message.contacts.first().unwrap().contact_note;
        assert_eq!(
            note,
            &format!("Role: {word}. mobile only, never the home number")
        );
    }
    let kept = taken(|m| contact(m).role = v1::ContactRole::FosterCarer.into());
    assert_eq!(kept.contacts.first().unwrap().role, ContactRole::Carer);
    assert!(narrative(&kept).contains("contacts[0].role: foster carer"));
}

#[test]
fn a_number_outside_a_vocabulary_is_refused_by_its_path() {
    const NONE: i32 = 99;
    assert_eq!(refused(|m| m.priority = NONE), ["priority"]);
    assert_eq!(refused(|m| m.lawful_basis = NONE), ["lawful_basis"]);
    assert_eq!(refused(|m| m.hearing_checked = NONE), ["hearing_checked"]);
    assert_eq!(refused(|m| m.vision_checked = NONE), ["vision_checked"]);
    assert_eq!(
        refused(|m| m.child.as_mut().unwrap().sex = NONE),
        ["child.sex"]
    );
    assert_eq!(
        refused(|m| m.child.as_mut().unwrap().nhs_number_verification = NONE),
        ["child.nhs_number_verification"]
    );
    assert_eq!(
        refused(|m| m.child.as_mut().unwrap().interpreter_required = NONE),
        ["child.interpreter_required"]
    );
    assert_eq!(refused(|m| contact(m).role = NONE), ["contacts[0].role"]);
    assert_eq!(
        refused(|m| contact(m).safe_to_contact = NONE),
        ["contacts[0].safe_to_contact"]
    );
    assert_eq!(
        refused(|m| contact(m).preferred_format = NONE),
        ["contacts[0].preferred_format"]
    );
    assert_eq!(
        refused(|m| contact(m).preferred_channel = NONE),
        ["contacts[0].preferred_channel"]
    );
    assert_eq!(
        refused(|m| contact(m).parental_responsibility = NONE),
        ["contacts[0].parental_responsibility"]
    );
    assert_eq!(
        refused(|m| m.setting.as_mut().unwrap().kind = NONE),
        ["setting.kind"]
    );
    assert_eq!(
        refused(|m| m.setting.as_mut().unwrap().sen_provision = NONE),
        ["setting.sen_provision"]
    );
    assert_eq!(
        refused(|m| m.needs.last_mut().unwrap().r#type = NONE),
        ["needs[1].type"]
    );
    assert_eq!(
        refused(|m| m.consent.as_mut().unwrap().status = NONE),
        ["consent.status"]
    );
    assert_eq!(
        refused(|m| m.consent.as_mut().unwrap().role = NONE),
        ["consent.role"]
    );
    assert_eq!(
        refused(|m| m.consent.as_mut().unwrap().scopes = vec![1, NONE]),
        ["consent.scopes[1]"]
    );
    assert_eq!(
        refused(|m| m.documents.first_mut().unwrap().kind = NONE),
        ["documents[0].kind"]
    );
}

#[test]
fn what_must_be_stated_is_named_when_it_is_not() {
    let empty = referral_from_proto(v1::Referral::default()).unwrap_err();
    let fields: Vec<&str> = empty.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "child",
            "referrer",
            "pathway",
            "priority",
            "reason",
            "lawful_basis"
        ]
    );
    assert_eq!(
        refused(|m| m.needs.first_mut().unwrap().r#type = 0),
        ["needs[0].type"]
    );
    assert_eq!(
        refused(|m| m.consent.as_mut().unwrap().scopes = vec![0]),
        ["consent.scopes[0]"]
    );
    assert_eq!(
        refused(|m| contact(m).contact_note.clear()),
        ["contacts[0].contact_note"]
    );
    assert_eq!(refused(|m| m.priority_reason.clear()), ["priority_reason"]);
    assert_eq!(
        refused(|m| {
            let flag = m.safeguarding_flags.first_mut().unwrap();
            flag.code.clear();
            flag.text.clear();
        }),
        ["safeguarding_flags[0]"]
    );
}

#[test]
fn a_wrong_value_is_named_and_never_repeated() {
    let mut message = referral_to_proto(&sample::referral());
    let child = message.child.as_mut().unwrap();
    child.nhs_number = "9434765871".to_owned();
    child.date_of_birth = "04/05/2016".to_owned();
    child.address.as_mut().unwrap().postcode = "NOWHERE 99".to_owned();
    let violations = referral_from_proto(message).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "child.date_of_birth",
            "child.nhs_number",
            "child.address.postcode"
        ]
    );
    let shown = format!("{violations:?}");
    assert!(
        !shown.contains("9434765871") && !shown.contains("04/05") && !shown.contains("NOWHERE")
    );
}

#[test]
fn texts_and_lists_are_taken_at_their_limit_and_refused_above_it() {
    let long = |n: usize| "x".repeat(n);
    assert_eq!(
        narrative(&taken(|m| m.narrative = long(20_000))).len(),
        20_000
    );
    assert_eq!(refused(|m| m.narrative = long(20_001)), ["narrative"]);
    assert_eq!(
        refused(|m| m.allergies = "a\u{7}b".to_owned()),
        ["allergies"]
    );
    let fill = |n| {
        move |m: &mut v1::Referral| {
            let one = m.contacts.last().unwrap().clone();
            m.contacts = vec![one; n];
        }
    };
    assert_eq!(taken(fill(16)).contacts.len(), 16);
    assert_eq!(refused(fill(17)), ["contacts"]);
    let many = referral_from_proto(v1::Referral {
        needs: vec![v1::Need::default(); 10_000],
        ..referral_to_proto(&sample::referral())
    });
    assert_eq!(many.unwrap_err().len(), VIOLATIONS_MAX);
}

#[test]
fn what_the_canonical_form_has_no_field_for_is_kept_in_words() {
    let kept = taken(|m| {
        let c = contact(m);
        c.name.as_mut().unwrap().prefix = "Ms".to_owned();
        c.preferred_language = "pl".to_owned();
        c.interpreter_required = v1::Answer::Yes.into();
        c.parental_responsibility = v1::Answer::No.into();
        c.preferred_channel = v1::ContactChannel::ViaCarer.into();
        c.address = Some(v1::Address {
            lines: vec!["9 Elsewhere".to_owned()],
            postcode: "ss11aa".to_owned(),
        });
        m.child.as_mut().unwrap().nhs_number_verification =
            v1::NhsNumberVerification::TraceConflict.into();
    });
    assert_eq!(
        narrative(&kept),
        "Please ring the school before ten.\n\nThe sender also states:\n\
         child.nhs_number_verification: the number and the details disagree\n\
         contacts[0].name.prefix: Ms\n\
         contacts[0].parental_responsibility: no\n\
         contacts[0].preferred_language: pl\n\
         contacts[0].interpreter_required: yes\n\
         contacts[0].address: 9 Elsewhere, SS1 1AA\n\
         contacts[0].preferred_channel: asks to be contacted through a carer"
    );
}

#[test]
fn what_the_contract_has_no_field_for_is_kept_in_words() {
    let mut r = sample::referral();
    r.narrative = None;
    r.concerns.push(waymark_core::referral::Concern {
        setting: "nursery".to_owned(),
        text: "slept all day".into(),
        onset: None,
        impact: Some("no play".into()),
    });
    r.consent.status = ConsentStatus::NotSought;
    r.lawful_basis = LawfulBasis::Safeguarding;
    let message = referral_to_proto(&r);
    assert!(message.consent.is_none());
    assert_eq!(
        message.narrative,
        "The referral also states:\n\
         concern (nursery): slept all day; impact: no play\n\
         consent: not sought\n\
         consent scope: referral, share_health\n\
         consent given by: Marisol Quillfeather\n\
         consent evidence: signed form\n\
         lawful basis: safeguarding of children, UK GDPR articles 6(1)(e) and 9(2)(g)"
    );
    let back = referral_from_proto(message).unwrap();
    assert_eq!(back.lawful_basis, LawfulBasis::Safeguarding);
    assert_eq!(back.consent.status, ConsentStatus::NotSought);
}

#[test]
fn a_public_task_is_safeguarding_only_without_consent_and_with_a_flag() {
    let basis = |consent: bool, flag: bool| {
        taken(|m| {
            if !consent {
                m.consent = None;
            }
            if !flag {
                m.safeguarding_flags.clear();
            }
        })
        .lawful_basis
    };
    assert_eq!(basis(true, true), LawfulBasis::PublicTaskCare);
    assert_eq!(basis(false, false), LawfulBasis::PublicTaskCare);
    assert_eq!(basis(false, true), LawfulBasis::Safeguarding);
    for unusable in [
        v1::LawfulBasis::Consent,
        v1::LawfulBasis::LegitimateInterests,
    ] {
        assert_eq!(
            refused(|m| m.lawful_basis = unusable.into()),
            ["lawful_basis"]
        );
    }
}

#[test]
fn local_ids_uncoded_words_and_foreign_systems_come_back_as_they_were() {
    let mut r = sample::referral();
    r.child.local_ids = vec![LocalId {
        system: "R1L-PAS".to_owned(),
        value: Personal::from("X12345"),
    }];
    r.reason.code = "http://snomed.info/sct|35919005".to_owned();
    r.reasonable_adjustments.push(Flag {
        system: "http://snomed.info/sct".to_owned(),
        code: "1108111000000107".to_owned(),
        text: None,
    });
    r.safeguarding.push(Flag {
        system: String::new(),
        code: UNCODED.to_owned(),
        text: Some("words alone".into()),
    });
    let message = referral_to_proto(&r);
    assert_eq!(
        message.reason.as_ref().unwrap().system,
        "http://snomed.info/sct"
    );
    assert_eq!(message.safeguarding_flags.last().unwrap().code, "");
    assert_eq!(there_and_back(&r), r);
}

#[test]
fn an_attendance_is_rounded_and_kept_within_its_bounds() {
    assert_eq!(
        taken(|m| m.attendance_percent = Some(92.6)).attendance_percent,
        Some(93)
    );
    assert_eq!(
        taken(|m| m.attendance_percent = Some(100.0)).attendance_percent,
        Some(100)
    );
    assert_eq!(
        taken(|m| m.attendance_percent = None).attendance_percent,
        None
    );
    for wrong in [-0.2, 100.2, 250.0, f64::NAN, f64::INFINITY] {
        assert_eq!(
            refused(|m| m.attendance_percent = Some(wrong)),
            ["attendance_percent"],
            "{wrong}"
        );
    }
}

#[test]
fn year_groups_and_settings_without_a_kind_come_back_as_they_were() {
    for (year, text) in [(-2, "N1"), (-1, "N2"), (0, "R"), (1, "1"), (14, "14")] {
        let mut r = sample::referral();
        r.setting.as_mut().unwrap().year_group = Some(year);
        assert_eq!(referral_to_proto(&r).setting.unwrap().year_group, text);
        assert_eq!(there_and_back(&r), r);
    }
    for wrong in ["0", "15", "N3", "Reception"] {
        let change =
            |m: &mut v1::Referral| m.setting.as_mut().unwrap().year_group = wrong.to_owned();
        assert_eq!(refused(change), ["setting.year_group"], "{wrong}");
    }
    assert!(
        taken(|m| m.setting = Some(v1::Setting::default()))
            .setting
            .is_none()
    );
    let mut r = sample::referral();
    r.setting.as_mut().unwrap().kind = SettingKind::None;
    assert_eq!(
        referral_to_proto(&r).setting.unwrap().kind,
        0,
        "a child of a named school is on a roll"
    );
}

#[test]
fn a_sender_reference_is_value_and_namespace() {
    for (text, value, namespace) in [("226839^EPIC", "226839", "EPIC"), ("A-1", "A-1", "")] {
        let reference = sender_reference_from_proto(text).unwrap();
        assert_eq!(
            (reference.value.as_str(), reference.namespace.as_str()),
            (value, namespace)
        );
        assert_eq!(sender_reference_to_proto(&reference), text);
    }
    assert_eq!(sender_reference_from_proto("  "), None);
}

#[test]
fn instants_outside_the_calendar_are_refused() {
    let at =
        |seconds, nanos| timestamp_from_proto("at", &pbjson_types::Timestamp { seconds, nanos });
    assert_eq!(at(1, 999_999_999), Ok(Timestamp::from_ms(1_999)));
    assert!(at(0, 1_000_000_000).is_err());
    assert!(at(0, -1).is_err());
    assert!(at(i64::MAX, 0).is_err());
    assert!(at(253_402_300_800, 0).is_err());
}

#[test]
fn a_debug_of_either_side_shows_nothing_personal() {
    let shown = format!(
        "{:?}{:?}",
        sample::referral(),
        referral_to_proto(&sample::referral())
    );
    for word in sample::PERSONAL_WORDS {
        assert!(!shown.contains(word), "{word}");
    }
}

proptest! {
    #[test]
    fn an_instant_comes_back_to_the_millisecond(ms in -62_135_596_800_000i64..253_402_300_799_999) {
        let at = Timestamp::from_ms(ms);
        prop_assert_eq!(timestamp_from_proto("at", &timestamp_to_proto(at)), Ok(at));
    }

    #[test]
    fn random_bytes_are_refused_with_reasons(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = v1::Referral::decode(bytes.as_slice()) {
            prop_assert!(referral_from_proto(message).is_err_and(|v| !v.is_empty()));
        }
    }

    #[test]
    fn what_is_read_is_read_the_same_again(
        narrative in "[a-z \n]{0,40}", prefix in "[A-Z][a-z]{0,4}", percent in 0.0f64..=100.0, role in 1i32..=9,
    ) {
        let mut message = referral_to_proto(&sample::referral());
        message.narrative = narrative;
        message.attendance_percent = Some(percent);
        contact(&mut message).role = role;
        contact(&mut message).name.as_mut().unwrap().prefix = prefix;
        let first = referral_from_proto(message.clone()).unwrap();
        prop_assert_eq!(referral_from_proto(message).unwrap(), first);
    }
}
