//! The measured referral: a child of its own each time, routed by the sample directory to the hospital.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use serde_json::json;
use waymark_adapters::grpc::convert::referral_to_proto;
use waymark_core::directory::SourceFile;
use waymark_core::identifier::NhsNumber;
use waymark_core::referral::Referral;
use waymark_proto::v1;

use crate::cli::init;
use crate::service::Submit;

/// The identity of the school that sends.
pub(super) const SCHOOL: &str = "waymark:test:agency:EE123456";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The sample directory, with the hospital at this address.
pub(super) fn directory(hospital: SocketAddr) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = init::sample_directory();
    let mut found = false;
    for file in &mut files {
        if file.text.contains("port = 2575") {
            file.text = file
                .text
                .replace("port = 2575", &format!("port = {}", hospital.port()));
            found = true;
        }
    }
    found
        .then_some(files)
        .context("the sample directory names the hospital's port")
}

fn referral(n: u64) -> anyhow::Result<Referral> {
    let nhs = (0..10).find_map(|check| {
        NhsNumber::parse(&format!("{:09}{check}", 900_000_000 + n % 99_999_999)).ok()
    });
    let value = json!({
        "child": {
            "name": { "family": format!("Benchmark-{n}"), "given": "Child" },
            "date_of_birth": "2016-05-04",
            "sex": "unknown",
            "nhs_number": nhs.as_ref().map(NhsNumber::expose),
            "nhs_verification": "verified",
            "local_ids": [{ "system": "bench", "value": n.to_string() }],
            "address": { "lines": ["1 Bench Street"], "postcode": "SS1 1AA" }
        },
        "contacts": [{
            "name": { "family": "Benchmark", "given": "Parent" },
            "role": "parent",
            "parental_responsibility": true,
            "phone": "07700900001"
        }],
        "referrer": { "name": "A SENCO", "role": "SENCO" },
        "setting": { "urn": "123456", "kind": "primary", "year_group": 5, "sen_provision": "K" },
        "needs": [{ "kind": "SEMH", "rank": 1 }],
        "pathway": "adhd-assessment",
        "priority": "routine",
        "reason": { "code": "ADHD", "text": "Attention and impulsivity at home and at school for over a year." },
        "concerns": [
            { "setting": "school", "text": "Cannot stay with a task for more than some minutes, calls out, leaves the seat." },
            { "setting": "home", "text": "Sleeps late, loses things, is upset by changes of plan." }
        ],
        "graduated_response": [{ "what": "Movement breaks, visual timetable, small-group work", "outcome": "Some help" }],
        "consent": { "status": "given", "role": "parent_with_pr", "scope": ["referral", "share_health", "share_education"] },
        "lawful_basis": "public_task_care"
    });
    serde_json::from_value(value).context("the bench's own referral is canonical")
}

/// The next referral, for the use case.
pub(super) fn submit() -> anyhow::Result<Submit> {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(Submit {
        request_id: format!("bench-{n}"),
        referral: referral(n)?,
        traceparent: None,
    })
}

/// The next referral, as a gRPC message.
pub(super) fn request() -> anyhow::Result<Bytes> {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let message = v1::SubmitReferralRequest {
        request_id: format!("bench-{n}"),
        referral: Some(referral_to_proto(&referral(n)?)),
        want_proof: false,
    };
    let mut out = BytesMut::with_capacity(message.encoded_len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut out)?;
    Ok(out.freeze())
}
