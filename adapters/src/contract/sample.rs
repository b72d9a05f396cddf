//! Sample messages: a referral that carries everything safety-critical, with words that no log may show.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::date;
use waymark_core::delivery::{Evidence, Kind, RetryPolicy};
use waymark_core::directory::{AdapterKind, Endpoint, Environment, Validity};
use waymark_core::family::{FamilyMessage, Way};
use waymark_core::id::{AgencyId, DeliveryId, DocumentId, LegId, Reference, ReferralId, WireId};
use waymark_core::identifier::{NhsNumber, Upn, Urn};
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{
    CancelCode, Outbound, Rendered, Source, StatusNotice, StopNotice, Withdrawal,
};
use waymark_core::referral::{
    Address, Channel, Child, Concern, Consent, ConsentGiver, ConsentScope, ConsentStatus, Contact,
    ContactRole, Cycle, DocumentRef, ExternalId, Flag, Format, LawfulBasis, Name, Need, NeedType,
    NhsVerification, Priority, Reason, Referral, Referrer, SafeToContact, SenProvision,
    SenderReference, Setting, SettingKind, Sex, Tested,
};
use waymark_core::time::Timestamp;

use crate::grpc::convert::ADJUSTMENT_SYSTEM;

/// Words of [`referral`] that may stand on the wire alone: in no log, error or `Debug`.
pub const PERSONAL_WORDS: [&str; 8] = [
    "Quillfeather",
    "Marisol",
    "9434765870",
    "B801200005001",
    "Penicillin",
    "Lower Lane",
    "07700900123",
    "grandmother's flat",
];

/// Words of [`referral`] that a receiver must be able to read whatever the protocol, or the adapter refuses.
pub const SAFETY_WORDS: [&str; 5] = [
    "836881000000105",
    "requiresinformationineasyread",
    "Penicillin",
    "never the home number",
    "grandmother's flat",
];

/// Makes the referral.
///
/// # Panics
/// Never: every literal in it is valid.
pub fn referral() -> Referral {
    Referral {
        child: child(),
        contacts: contacts(),
        referrer: Referrer {
            name: "Ada Okoro".into(),
            role: "SENCO".to_owned(),
            phone: None,
            email: Some("senco@school.example".into()),
        },
        setting: Some(Setting {
            urn: Urn::parse("123456").ok(),
            name: Some("Test Primary".to_owned()),
            kind: SettingKind::Primary,
            year_group: Some(4),
            sen_provision: SenProvision::SenSupport,
        }),
        needs: vec![
            Need {
                kind: NeedType::Autism,
                rank: 1,
            },
            Need {
                kind: NeedType::SpeechLanguage,
                rank: 2,
            },
        ],
        pathway: "autism-assessment"
            .parse()
            .expect("a pathway's code is letters and hyphens"),
        requested_service: None,
        priority: Priority::Urgent,
        priority_reason: Some("school refusal for four weeks".into()),
        reason: Reason {
            code: "ASD".to_owned(),
            text: Some("social communication".into()),
        },
        concerns: vec![
            concern("home", "meltdowns after school"),
            concern("school", "cannot join in group work"),
        ],
        graduated_response: vec![Cycle {
            from: Some(date(2025, 9, 8)),
            to: Some(date(2025, 12, 12)),
            what: "small group, twice a week".into(),
            outcome: Some("little change".into()),
        }],
        hearing_checked: Tested::Yes,
        vision_checked: Tested::No,
        attendance_percent: Some(71),
        safeguarding: vec![Flag {
            system: "http://snomed.info/sct".to_owned(),
            code: "836881000000105".to_owned(),
            text: Some("stays at grandmother's flat since January".into()),
        }],
        reasonable_adjustments: vec![Flag {
            system: ADJUSTMENT_SYSTEM.to_owned(),
            code: "requiresinformationineasyread".to_owned(),
            text: None,
        }],
        allergies: Some("Penicillin: anaphylaxis".into()),
        consent: Consent {
            status: ConsentStatus::Given,
            given_by: Some("Marisol Quillfeather".into()),
            role: ConsentGiver::Parent,
            scope: vec![ConsentScope::Referral, ConsentScope::ShareHealth],
            date: Some(date(2026, 2, 27)),
            evidence: Some("signed form".into()),
        },
        lawful_basis: LawfulBasis::PublicTaskCare,
        documents: vec![DocumentRef {
            id: DocumentId::from_bytes([5; 16]),
            sha256: "ab".repeat(32),
            media_type: "application/pdf".to_owned(),
            size_bytes: 2_048,
            title: Some("Questionnaire".into()),
            kind: Some("questionnaire".to_owned()),
        }],
        external_ids: vec![ExternalId {
            system: "https://fhir.nhs.uk/Id/UBRN".to_owned(),
            value: "000049973123".to_owned(),
        }],
        sender_reference: Some(SenderReference {
            value: "226839".to_owned(),
            namespace: "EPIC".to_owned(),
        }),
        narrative: Some("Please ring the school before ten.".into()),
    }
}

fn child() -> Child {
    Child {
        name: Name {
            family: "Quillfeather".into(),
            given: "Tam".into(),
            middle: None,
        },
        date_of_birth: date(2016, 5, 4).into(),
        sex: Sex::Male,
        nhs_number: NhsNumber::parse("9434765870").ok(),
        nhs_verification: NhsVerification::Verified,
        upn: Upn::parse("B801200005001").ok(),
        uln: None,
        local_ids: Vec::new(),
        address: Some(Address {
            lines: vec!["4 Lower Lane".into(), "Southend-on-Sea".into()],
            postcode: Some("SS1 1AA".into()),
        }),
        language: Some("en".to_owned()),
        interpreter_required: false,
    }
}

fn contacts() -> Vec<Contact> {
    let contact = |given: &str, role, safe_to_contact| Contact {
        name: Name {
            family: "Quillfeather".into(),
            given: given.into(),
            middle: None,
        },
        role,
        parental_responsibility: true,
        phone: Some("07700900123".into()),
        email: None,
        safe_to_contact,
        safe_contact_note: None::<Personal<String>>,
        format: Format::Standard,
        channel: Channel::Unspecified,
    };
    vec![
        Contact {
            safe_contact_note: Some("mobile only, never the home number".into()),
            format: Format::EasyRead,
            channel: Channel::Sms,
            ..contact("Marisol", ContactRole::Parent, SafeToContact::WithCare)
        },
        contact("Ellis", ContactRole::Parent, SafeToContact::No),
    ]
}

fn concern(setting: &str, text: &str) -> Concern {
    Concern {
        setting: setting.to_owned(),
        text: text.into(),
        onset: Some("since age 4".into()),
        impact: None,
    }
}

/// An endpoint of agency `R1L`, without settings.
///
/// # Panics
/// Never: every literal in it is valid.
pub fn endpoint() -> Endpoint {
    Endpoint {
        id: "far-side"
            .parse()
            .expect("an endpoint id is letters and hyphens"),
        agency: recipient(),
        adapter: AdapterKind::Grpc,
        settings: toml::Table::new(),
        releases_at: Evidence::ApplicationAck,
        deadline: Duration::from_mins(1),
        evidence_within: Duration::from_mins(1),
        attempt_timeout: Duration::from_secs(10),
        concurrency: 4,
        retry: RetryPolicy::default(),
        codes: waymark_core::directory::CodeMap::default(),
        validity: Validity::default(),
    }
}

/// The agency that the sample messages are bound to.
///
/// # Panics
/// Never: the literal in it is valid.
pub fn recipient() -> AgencyId {
    "R1L".parse().expect("an agency id is letters and digits")
}

/// Why a sample is cancelled or withdrawn.
fn stop(kind: Kind) -> Option<StopNotice> {
    match kind {
        Kind::Cancel => Some(StopNotice::Cancelled {
            code: CancelCode::FamilyRequest,
            text: Some("the Quillfeather family asked".into()),
        }),
        Kind::Withdraw => Some(StopNotice::Withdrawn(Withdrawal {
            scopes: std::collections::BTreeSet::from([ConsentScope::ShareHealth]),
            by: "Wren Quillfeather".into(),
            role: ConsentGiver::Parent,
            date: date(2026, 3, 2),
            evidence: Some("the Quillfeather family asked".into()),
        })),
        Kind::New | Kind::Amend | Kind::Status | Kind::Guidance => None,
    }
}

/// A message of a kind for [`recipient`], ready to be rendered.
///
/// # Panics
/// Never: every literal in it is valid.
pub fn source(kind: Kind) -> Source {
    let delivery = DeliveryId::from_bytes([7; 16]);
    let referral_id = ReferralId::from_bytes([9; 16]);
    let at = Timestamp::from_ms(1_772_445_600_000);
    let sender: AgencyId = "EE123456"
        .parse()
        .expect("an agency id is letters and digits");
    let of_leg = !matches!(kind, Kind::Status | Kind::Guidance);
    let content = of_leg.then(referral);
    let stop = stop(kind);
    Source {
        delivery,
        wire_id: WireId::of(delivery),
        referral: referral_id,
        reference: Reference::of(referral_id),
        leg: of_leg.then(|| LegId::from_bytes([8; 16])),
        version: if of_leg { 3 } else { 0 },
        kind,
        sender: sender.clone(),
        recipient: recipient(),
        service: None,
        sender_reference: content.as_ref().and_then(|r| r.sender_reference.clone()),
        content,
        status: (kind == Kind::Status).then(|| StatusNotice {
            from: sender,
            service: None,
            state: LegState::Declined,
            code: "RRNA".to_owned(),
            text: Some("Tam is better helped by another service".into()),
            due: None,
            at,
        }),
        reason: stop.as_ref().and_then(StopNotice::words),
        stop,
        family: (kind == Kind::Guidance).then(family),
        receiver_reference: matches!(kind, Kind::Amend | Kind::Cancel | Kind::Withdraw)
            .then(|| "A-1".to_owned()),
        attachments: Vec::new(),
        conversation: None,
        at,
        environment: Environment::Test,
    }
}

/// What a family is told, by email.
///
/// # Panics
/// Never: every literal in it is valid.
pub fn family() -> FamilyMessage {
    FamilyMessage {
        template: "accepted-email"
            .parse()
            .expect("a template's id is letters and hyphens"),
        version: 2,
        remote: "f33517ff-2a88-4f6e-b855-c550268ce08a".to_owned(),
        way: Way::Email,
        to: vec!["marisol.quillfeather@family.example".into()],
        fields: BTreeMap::from([
            ("contact", "Marisol Quillfeather".into()),
            ("service", "Community paediatrics".into()),
        ]),
    }
}

/// The rendered bytes on their way out, attempt `attempt`.
pub fn outbound<'a>(
    source: &'a Source,
    rendered: &'a Rendered,
    endpoint: &'a Endpoint,
    attempt: u32,
) -> Outbound<'a> {
    Outbound {
        delivery: source.delivery,
        wire_id: &source.wire_id,
        kind: source.kind,
        recipient: &source.recipient,
        rendered,
        endpoint,
        attempt,
        may_have_arrived: attempt > 1,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    }
}
