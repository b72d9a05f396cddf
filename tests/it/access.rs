//! Every RPC against every kind of caller. The list of RPCs comes from the contract itself: one without a row fails.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};
use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, Post, RawCodec, referral_key};

mod request;

/// The kinds of caller, in the order of a row's letters.
const CALLERS: [(&str, &str); 8] = [
    ("the sender", "EE123456"),
    ("the receiver", "SPEC1"),
    ("a stranger", "THER1"),
    ("an administrator", "admin-LA882"),
    ("an auditor", "auditor-LA882"),
    ("a reader of bodies", "reader-LA882"),
    ("a monitor", "monitor-LA882"),
    ("an unknown certificate", ""),
];

/// What each caller is answered: `o` allowed, `d` denied, `n` not found, `u` unauthenticated, `-` not offered.
const TABLE: &[(&str, &str)] = &[
    ("ReferralService/SubmitReferral", "oooddddu"),
    ("ReferralService/SubmitReferrals", "oooddddu"),
    ("ReferralService/GetReferral", "oonooddu"),
    ("ReferralService/ListReferrals", "oooooddu"),
    ("ReferralService/AmendReferral", "odnddddu"),
    ("ReferralService/CancelReferral", "odnddddu"),
    ("ReferralService/WithdrawConsent", "odnddddu"),
    ("ReferralService/UpdateStatus", "donddddu"),
    ("ReferralService/WatchReferrals", "oooddddu"),
    ("ReferralService/ExplainRoute", "oooooddu"),
    ("ReferralService/UploadDocument", "oooddddu"),
    ("ReferralService/DownloadDocument", "oonddodu"),
    ("MailboxService/Receive", "oooddddu"),
    ("MailboxService/Acknowledge", "nonddddu"),
    ("MailboxService/Reject", "nonddddu"),
    ("DirectoryService/ListServices", "oooooddu"),
    ("DirectoryService/GetAgency", "oooooddu"),
    ("DirectoryService/GetRelease", "oooooddu"),
    ("AuditService/GetReceipt", "oondoddu"),
    ("AuditService/GetCheckpoint", "oooooddu"),
    ("AuditService/ListCheckpoints", "oooooddu"),
    ("AuditService/ListEntries", "ddddoddu"),
    ("AuditService/GetEntry", "ddddoddu"),
    ("AuditService/GetInclusionProof", "oooooddu"),
    ("AuditService/GetConsistencyProof", "oooooddu"),
    ("AdminService/ListDeliveries", "dddooddu"),
    ("AdminService/GetDelivery", "dddooddu"),
    ("AdminService/PreviewResend", "dddodddu"),
    ("AdminService/Resend", "dddodddu"),
    ("AdminService/Redirect", "dddodddu"),
    ("AdminService/ParkLane", "dddodddu"),
    ("AdminService/ResumeLane", "dddodddu"),
    ("AdminService/ApplyDirectory", "dddodddu"),
    ("AdminService/ListReleases", "oooooddu"),
    ("AdminService/ListAlarms", "dddooddu"),
    ("AdminService/GetConservation", "dddooddu"),
    ("AdminService/ProbeEndpoint", "dddodddu"),
    // What an agency implements to be pushed to; the gateway calls it and does not offer it.
    ("AgencyService/Deliver", "-------u"),
];

/// How long a stream may stay silent before it counts as open.
const SILENCE: Duration = Duration::from_millis(500);

/// Every method of the contract, as `Service/Method`.
fn methods() -> anyhow::Result<Vec<String>> {
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET)?;
    let ours = set.file.iter().filter(|f| f.package() == "waymark.v1");
    let services = ours.flat_map(|f| &f.service);
    let names = services.flat_map(|s| {
        s.method
            .iter()
            .map(|m| format!("{}/{}", s.name(), m.name()))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

#[test]
fn every_method_of_the_contract_stands_in_the_table() {
    let mut rows: Vec<String> = TABLE
        .iter()
        .map(|(method, _)| (*method).to_owned())
        .collect();
    rows.sort();
    assert_eq!(
        rows,
        methods().unwrap(),
        "a method without a row, or a row without a method"
    );
    assert!(TABLE.iter().all(|(_, row)| row.len() == CALLERS.len()));
}

/// What the calls of a row are about: a referral from the sender to the receiver, with a document.
struct Case {
    referral: String,
    event: String,
    document: v1::DocumentRef,
    delivery: v1::Delivery,
    lent: Option<Post>,
    content: serde_json::Value,
}

struct World {
    sender: Client,
    receiver: Client,
    admin: Client,
    area: Area,
    made: u32,
}

fn upload(request_id: String) -> Vec<Vec<u8>> {
    use v1::upload_document_request::Part;
    let content = b"a report".to_vec();
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content)
        .as_ref()
        .to_vec();
    let metadata = v1::DocumentMetadata {
        request_id,
        media_type: "application/pdf".to_owned(),
        sha256,
        size_bytes: 8,
        file_name: "report.pdf".to_owned(),
        title: "Report".to_owned(),
        kind: v1::DocumentKind::Report.into(),
    };
    let part = |part| v1::UploadDocumentRequest { part: Some(part) }.encode_to_vec();
    vec![part(Part::Metadata(metadata)), part(Part::Chunk(content))]
}

/// Makes one call over a connection; answers its first message, or how it was refused.
async fn call(
    client: &Client,
    method: &str,
    messages: Vec<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready()
        .await
        .map_err(|e| Status::unknown(e.to_string()))?;
    let path = format!("/waymark.v1.{method}")
        .parse()
        .map_err(|_| Status::internal("not a path"))?;
    let response = grpc
        .streaming(Request::new(tokio_stream::iter(messages)), path, RawCodec)
        .await?;
    let mut stream = response.into_inner();
    match tokio::time::timeout(SILENCE, stream.next()).await {
        Ok(Some(first)) => first.map(Some),
        Ok(None) | Err(_) => Ok(None),
    }
}

impl World {
    async fn case(&mut self, method: &str) -> anyhow::Result<Case> {
        self.made += 1;
        let parts = upload(format!("upload-{}", self.made));
        let uploaded = call(&self.sender, "ReferralService/UploadDocument", parts).await?;
        let uploaded =
            v1::UploadDocumentResponse::decode(uploaded.context("an answer")?.as_slice())?;
        let document = uploaded.document.context("a document")?;
        let mut content = Child(500 + self.made).referral("specialist-teaching");
        content["documents"] = serde_json::json!([document]);
        let receipt = self
            .sender
            .submit(&format!("case-{}", self.made), &content)
            .await?;
        let mut delivery = self.admin.deliveries(&receipt.referral_id).await?.remove(0);
        // Whoever was sent nothing is a stranger once consent is withdrawn; here it was sent something.
        let lends = matches!(
            method,
            "MailboxService/Acknowledge"
                | "MailboxService/Reject"
                | "ReferralService/WithdrawConsent"
        );
        let lent = if lends {
            Some(self.receiver.fetch_one(&receipt.referral_id).await?)
        } else {
            None
        };
        if matches!(method, "AdminService/Resend" | "AdminService/ResumeLane") {
            let target = Some(v1::park_lane_request::Target::DeliveryId(
                delivery.delivery_id.clone(),
            ));
            let park = v1::ParkLaneRequest {
                target,
                reason: "for the test".to_owned(),
            };
            self.admin.admin().park_lane(park).await?;
            delivery = self.admin.delivery(&delivery.delivery_id).await?.0;
        }
        Ok(Case {
            referral: receipt.referral_id,
            event: receipt.event_id,
            document,
            delivery,
            lent,
            content,
        })
    }
}

/// The letter of an answer. An item of a stream carries its own refusal.
fn letter(method: &str, answer: Result<Option<Vec<u8>>, Status>) -> char {
    let code = match answer {
        Err(status) => status.code(),
        Ok(Some(first)) if method == "ReferralService/SubmitReferrals" => {
            match v1::SubmitReferralsResponse::decode(first.as_slice())
                .ok()
                .and_then(|r| r.result)
            {
                Some(v1::submit_referrals_response::Result::Error(status)) => {
                    Code::from_i32(status.code)
                }
                _ => Code::Ok,
            }
        }
        Ok(_) => Code::Ok,
    };
    match code {
        Code::Ok => 'o',
        Code::PermissionDenied => 'd',
        Code::NotFound => 'n',
        Code::Unauthenticated => 'u',
        Code::Unimplemented => '-',
        _ => '?',
    }
}

async fn every_call_of_every_caller_is_answered_as_the_table_says(
    engine: Engine,
) -> anyhow::Result<()> {
    let area = Area::default();
    let gateway = Gateway::start(engine, &area).await?;
    let mut clients = BTreeMap::new();
    for (kind, name) in CALLERS {
        let client = if name.is_empty() {
            let issued = gateway.issue("waymark:test:agency:NOBODY")?;
            gateway
                .client_with(issued.cert_pem.as_bytes(), issued.key_pem.as_bytes())
                .await?
        } else {
            gateway.client(name).await?
        };
        clients.insert(kind, client);
    }
    let mut world = World {
        sender: gateway.client("EE123456").await?,
        receiver: gateway.client("SPEC1").await?,
        admin: gateway.client("admin-LA882").await?,
        area,
        made: 0,
    };
    let mut wrong = Vec::new();
    for (method, row) in TABLE {
        // At most one caller of a row changes anything, so that one case serves them all.
        let case = world.case(method).await?;
        gateway.sequenced().await?;
        for ((kind, _), expected) in CALLERS.iter().zip(row.chars()) {
            let request = world.request(method, &case)?;
            let answer = call(clients.get(kind).context("a client")?, method, request).await;
            let shown = format!("{answer:?}");
            let got = letter(method, answer);
            if got != expected {
                wrong.push(format!(
                    "{method} by {kind}: {got} where {expected} stands: {shown:.300}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

async fn content_is_for_the_parties_and_for_readers_and_each_read_is_logged(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let school = gateway.client("EE123456").await?;
    let receipt = school
        .submit("read", &Child(400).referral("specialist-teaching"))
        .await?;
    let ask = |purpose: v1::AccessPurpose| v1::GetReferralRequest {
        key: Some(referral_key(&receipt.referral_id)),
        include_content: true,
        purpose: purpose.into(),
    };
    let mut reads = 0;
    for (name, allowed) in [
        ("EE123456", true),
        ("SPEC1", true),
        ("THER1", false),
        ("admin-LA882", false),
        ("auditor-LA882", false),
        ("monitor-LA882", false),
    ] {
        let client = gateway.client(name).await?;
        let answer = client
            .referrals()
            .get_referral(ask(v1::AccessPurpose::DirectCare))
            .await;
        let shown = answer.as_ref().is_ok_and(|a| {
            a.get_ref()
                .referral
                .as_ref()
                .is_some_and(|r| r.content.is_some())
        });
        assert_eq!(shown, allowed, "{name}: {answer:?}");
        reads += usize::from(allowed);
    }
    let without = school
        .referrals()
        .get_referral(ask(v1::AccessPurpose::Unspecified))
        .await;
    assert_eq!(
        without.map_err(|s| s.code()).err(),
        Some(Code::InvalidArgument),
        "a read needs a purpose"
    );
    let logged = gateway.stream(&receipt.stream_id).await?;
    let logged = logged
        .iter()
        .filter(|e| e.kind == waymark_core::audit::EntryKind::AdminRead)
        .count();
    assert_eq!(
        logged, reads,
        "every read of a body is in the log, and no other"
    );
    Ok(())
}

async fn a_certificate_of_the_other_environment_or_authority_does_not_connect(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let live = gateway.issue("waymark:live:agency:EE123456")?;
    refused(&gateway, live.cert_pem.as_bytes(), live.key_pem.as_bytes()).await?;
    let other = Gateway::make(Engine::Sqlite, &Area::default(), waymark::app::Duty::Serve).await?;
    let forged = other.issue("waymark:test:agency:EE123456")?;
    refused(
        &gateway,
        forged.cert_pem.as_bytes(),
        forged.key_pem.as_bytes(),
    )
    .await?;
    // A good one does.
    gateway
        .client("EE123456")
        .await?
        .submit("good", &Child(401).referral("specialist-teaching"))
        .await?;
    Ok(())
}

/// With TLS 1.3 the client may learn of the refusal with its first call alone.
async fn refused(gateway: &Gateway, cert: &[u8], key: &[u8]) -> anyhow::Result<()> {
    if let Ok(client) = gateway.client_with(cert, key).await {
        let referral = Child(402).referral("specialist-teaching");
        let answer = client.try_submit("bad", &referral).await;
        // However the connection's end looks from here, it is no answer of the face, which always says why.
        let status = answer.expect_err("no call is taken");
        assert!(status.details().is_empty(), "{status:?}");
    }
    let store = gateway.store()?;
    assert_eq!(store.counters().await?.referrals, 0);
    Ok(())
}

async fn a_revoked_identity_ends_with_the_next_call(engine: Engine) -> anyhow::Result<()> {
    let area = Area::default();
    let gateway = Gateway::start(engine, &area).await?;
    let stranger = gateway.client("THER1").await?;
    stranger
        .directory()
        .list_services(v1::ListServicesRequest::default())
        .await?;
    let mut files = area.files();
    for file in &mut files {
        let named = "name = \"waymark:test:agency:THER1\"\nagency = \"THER1\"";
        file.text = file
            .text
            .replace(named, &format!("{named}\nvalid_to = 2026-01-01"));
    }
    gateway.apply(&files).await?;
    let refused = stranger
        .directory()
        .list_services(v1::ListServicesRequest::default())
        .await;
    assert_eq!(
        refused.map_err(|s| s.code()).err(),
        Some(Code::Unauthenticated),
        "on the open connection, at once"
    );
    Ok(())
}

waymark_tests::both_engines! {
    every_call_of_every_caller_is_answered_as_the_table_says,
    content_is_for_the_parties_and_for_readers_and_each_read_is_logged,
    a_certificate_of_the_other_environment_or_authority_does_not_connect,
    a_revoked_identity_ends_with_the_next_call,
}
