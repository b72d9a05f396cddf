//! Holds the contract to its promises: documented to the last field, canonical JSON, and a `Debug` that tells nothing.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use serde_json::json;
use waymark_proto::v1;

/// The services of the contract and the methods of each.
const SERVICES: &[(&str, &[&str])] = &[
    (
        "AdminService",
        &[
            "ApplyDirectory",
            "GetConservation",
            "GetDelivery",
            "ListAlarms",
            "ListDeliveries",
            "ListReleases",
            "ParkLane",
            "PreviewResend",
            "ProbeEndpoint",
            "Redirect",
            "Resend",
            "ResumeLane",
        ],
    ),
    ("AgencyService", &["Deliver"]),
    (
        "AuditService",
        &[
            "GetCheckpoint",
            "GetConsistencyProof",
            "GetEntry",
            "GetInclusionProof",
            "GetReceipt",
            "ListCheckpoints",
            "ListEntries",
        ],
    ),
    (
        "DirectoryService",
        &["GetAgency", "GetRelease", "ListServices"],
    ),
    ("MailboxService", &["Acknowledge", "Receive", "Reject"]),
    (
        "ReferralService",
        &[
            "AmendReferral",
            "CancelReferral",
            "DownloadDocument",
            "ExplainRoute",
            "GetReferral",
            "ListReferrals",
            "SubmitReferral",
            "SubmitReferrals",
            "UpdateStatus",
            "UploadDocument",
            "WatchReferrals",
            "WithdrawConsent",
        ],
    ),
];

// Field numbers of descriptor.proto: a source location's path alternates these with indexes.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SERVICE: i32 = 6;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_ONEOF: i32 = 8;
const ENUM_VALUE: i32 = 2;
const SERVICE_METHOD: i32 = 2;

fn contract_files() -> Vec<FileDescriptorProto> {
    let set =
        FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("the descriptor set decodes");
    set.file
        .into_iter()
        .filter(|file| file.package() == "waymark.v1")
        .collect()
}

#[test]
fn descriptor_set_holds_every_service_and_method() {
    let mut found = BTreeMap::new();
    for file in contract_files() {
        for service in &file.service {
            let methods: BTreeSet<_> = service
                .method
                .iter()
                .map(|method| method.name().to_owned())
                .collect();
            found.insert(service.name().to_owned(), methods);
        }
    }
    let wanted: BTreeMap<_, BTreeSet<_>> = SERVICES
        .iter()
        .map(|(name, methods)| {
            (
                (*name).to_owned(),
                methods.iter().map(|&method| method.to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn streams_run_in_the_direction_documented() {
    let mut streams = BTreeMap::new();
    for file in contract_files() {
        for method in file.service.iter().flat_map(|service| &service.method) {
            if method.client_streaming() || method.server_streaming() {
                streams.insert(
                    method.name().to_owned(),
                    (method.client_streaming(), method.server_streaming()),
                );
            }
        }
    }
    let wanted = [
        ("DownloadDocument", (false, true)),
        ("Receive", (false, true)),
        ("SubmitReferrals", (true, true)),
        ("UploadDocument", (true, false)),
        ("WatchReferrals", (false, true)),
    ];
    assert_eq!(
        streams,
        wanted
            .map(|(name, directions)| (name.to_owned(), directions))
            .into()
    );
}

#[test]
fn every_message_field_enum_value_service_and_method_is_documented() {
    let mut documented = 0;
    let mut missing = Vec::new();
    for file in contract_files() {
        for (path, name) in documentable(&file) {
            if has_comment(&file, &path) {
                documented += 1;
            } else {
                missing.push(format!("{}: {name}", file.name()));
            }
        }
    }
    assert!(missing.is_empty(), "undocumented:\n{}", missing.join("\n"));
    assert!(
        documented > 500,
        "only {documented} found: the walk misses something"
    );
}

#[test]
fn removing_one_comment_is_noticed() {
    let mut file = contract_files().remove(0);
    let (path, _) = documentable(&file)
        .into_iter()
        .nth(1)
        .expect("a second element");
    assert!(has_comment(&file, &path));
    let info = file.source_code_info.as_mut().expect("source info");
    for location in info
        .location
        .iter_mut()
        .filter(|location| location.path == path)
    {
        location.leading_comments = Some("  \n".to_owned());
    }
    assert!(!has_comment(&file, &path));
}

/// Lists everything in a file that must carry a comment, as (path, name).
fn documentable(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    let mut all = Vec::new();
    for (m, message) in (0..).zip(&file.message_type) {
        let name = message.name();
        all.push((vec![FILE_MESSAGE, m], name.to_owned()));
        for (f, field) in (0..).zip(&message.field) {
            let path = vec![FILE_MESSAGE, m, MESSAGE_FIELD, f];
            all.push((path, format!("{name}.{}", field.name())));
        }
        // A proto3 `optional` makes a oneof of its own, which no source line declares.
        let declared = message
            .oneof_decl
            .iter()
            .filter(|of| !of.name().starts_with('_'));
        for (o, oneof) in (0..).zip(declared) {
            let path = vec![FILE_MESSAGE, m, MESSAGE_ONEOF, o];
            all.push((path, format!("{name}.{}", oneof.name())));
        }
    }
    for (e, enumeration) in (0..).zip(&file.enum_type) {
        all.push((vec![FILE_ENUM, e], enumeration.name().to_owned()));
        for (v, value) in (0..).zip(&enumeration.value) {
            all.push((vec![FILE_ENUM, e, ENUM_VALUE, v], value.name().to_owned()));
        }
    }
    for (s, service) in (0..).zip(&file.service) {
        all.push((vec![FILE_SERVICE, s], service.name().to_owned()));
        for (m, method) in (0..).zip(&service.method) {
            let path = vec![FILE_SERVICE, s, SERVICE_METHOD, m];
            all.push((path, format!("{}.{}", service.name(), method.name())));
        }
    }
    all
}

fn has_comment(file: &FileDescriptorProto, path: &[i32]) -> bool {
    file.source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .any(|location| location.path == path && !location.leading_comments().trim().is_empty())
}

fn sample_referral() -> v1::Referral {
    v1::Referral {
        child: Some(v1::Child {
            name: Some(v1::PersonName {
                family: "Testfamily".to_owned(),
                given: "Testgiven".to_owned(),
                ..v1::PersonName::default()
            }),
            date_of_birth: "2016-05-04".to_owned(),
            sex: v1::Sex::Male.into(),
            nhs_number: "9434765919".to_owned(),
            nhs_number_verification: v1::NhsNumberVerification::PresentAndVerified.into(),
            ..v1::Child::default()
        }),
        needs: vec![v1::Need {
            r#type: v1::NeedType::Asd.into(),
            rank: 1,
        }],
        pathway: "autism-assessment".to_owned(),
        priority: v1::Priority::Routine.into(),
        attendance_percent: Some(91.5),
        consent: Some(v1::Consent {
            scopes: vec![
                v1::ConsentScope::Referral.into(),
                v1::ConsentScope::ShareHealth.into(),
            ],
            status: v1::ConsentStatus::Given.into(),
            ..v1::Consent::default()
        }),
        documents: vec![v1::DocumentRef {
            sha256: vec![0xff; 3],
            size_bytes: 26_214_400,
            ..v1::DocumentRef::default()
        }],
        ..v1::Referral::default()
    }
}

#[test]
fn json_is_canonical_proto3_json() {
    let json = serde_json::to_value(sample_referral()).expect("encodes");
    let wanted = json!({
        "child": {
            "name": {"family": "Testfamily", "given": "Testgiven"},
            "dateOfBirth": "2016-05-04",
            "sex": "SEX_MALE",
            "nhsNumber": "9434765919",
            "nhsNumberVerification": "NHS_NUMBER_VERIFICATION_PRESENT_AND_VERIFIED",
        },
        "needs": [{"type": "NEED_TYPE_ASD", "rank": 1}],
        "pathway": "autism-assessment",
        "priority": "PRIORITY_ROUTINE",
        "attendancePercent": 91.5,
        "consent": {
            "scopes": ["CONSENT_SCOPE_REFERRAL", "CONSENT_SCOPE_SHARE_HEALTH"],
            "status": "CONSENT_STATUS_GIVEN",
        },
        "documents": [{"sha256": "////", "sizeBytes": "26214400"}],
    });
    assert_eq!(json, wanted);
}

#[test]
fn json_comes_back_as_the_same_message() {
    let referral = sample_referral();
    let json = serde_json::to_string(&referral).expect("encodes");
    let back: v1::Referral = serde_json::from_str(&json).expect("decodes");
    assert!(
        back == referral,
        "the message changed on its way through {json}"
    );
}

#[test]
fn json_carries_instants_and_oneofs() {
    let event = v1::SubmitReferralsResponse {
        item_id: "a".to_owned(),
        result: Some(v1::submit_referrals_response::Result::Receipt(
            v1::Receipt {
                accepted_at: Some(pbjson_types::Timestamp {
                    seconds: 0,
                    nanos: 5_000_000,
                }),
                ..v1::Receipt::default()
            },
        )),
    };
    let json = serde_json::to_value(&event).expect("encodes");
    assert_eq!(
        json,
        json!({"itemId": "a", "receipt": {"acceptedAt": "1970-01-01T00:00:00.005+00:00"}})
    );
    let back: v1::SubmitReferralsResponse = serde_json::from_value(json).expect("decodes");
    assert!(back == event);
}

#[test]
fn json_with_an_unknown_field_is_refused() {
    let refused = serde_json::from_str::<v1::Child>(r#"{"nhsNumbr": "9434765919"}"#);
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("nhsNumbr"), "{error}");
}

#[test]
fn debug_shows_no_content() {
    let request = v1::SubmitReferralRequest {
        request_id: "r-1".to_owned(),
        referral: Some(sample_referral()),
        want_proof: false,
    };
    assert_eq!(format!("{request:?}"), "SubmitReferralRequest { .. }");
    assert_eq!(
        format!("{:?}", sample_referral().child),
        "Some(Child { .. })"
    );
    let subject = v1::explain_route_request::Subject::Referral(sample_referral());
    assert_eq!(format!("{subject:?}"), "Subject { .. }");
}

#[test]
fn item_status_decodes_as_google_rpc_status() {
    // google.rpc.Status: 1 code (varint), 2 message (bytes), 3 details (repeated Any).
    let status = v1::Status {
        code: 6,
        message: "taken".to_owned(),
        details: Vec::new(),
    };
    assert_eq!(status.encode_to_vec(), b"\x08\x06\x12\x05taken");
}
