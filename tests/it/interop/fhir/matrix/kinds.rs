//! What becomes of a referral later, every way in by every way out: an amendment, and then its end.

use std::collections::BTreeSet;

use waymark_core::delivery::Kind;
use waymark_core::port::StopNotice;
use waymark_core::referral::ConsentScope;
use waymark_tests::actors::mesh::{Stage, THEIRS};
use waymark_tests::gateway::{Child, referral_key};

use super::everybody::{MORE_WORDS, bundle, er7, later};
use super::*;

/// All that a family consents to.
const SCOPES: [ConsentScope; 3] = [
    ConsentScope::Referral,
    ConsentScope::ShareHealth,
    ConsentScope::ShareEducation,
];

/// Why it ends, as each way says it; a code alone by gRPC.
fn why_it_ends(way: &str) -> &'static str {
    match way {
        "grpc" => "",
        "hl7v2" | "fhir" => "the quillfeather family asked",
        _ => "the family has moved",
    }
}

/// All that a wire says, as far as words go.
fn whole(endpoint: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let text = match endpoint {
        "cam01-grpc" | "spec1-mailbox" => serde_json::to_string(&v1::Dispatch::decode(bytes)?)?,
        _ => String::from_utf8(bytes.to_vec())?,
    };
    Ok(text.to_lowercase())
}

waymark_tests::both_engines! {
    an_amendment_and_an_end_arrive_whichever_way_in_and_out,
    a_withdrawal_of_consent_arrives_whichever_way_in_and_out,
}

impl Everybody {
    /// Says something more of a referral that came by a way.
    async fn adds(&self, way: &str, n: u8, kind: Kind, id: &str) -> anyhow::Result<()> {
        let source = later(n, kind)?;
        let own = &source.sender_reference;
        let ends = json!({"sender_reference": own, "reason": "the family has moved"});
        match (way, kind) {
            ("grpc", Kind::Amend) => {
                let school = self.gateway.client("EE123456").await?;
                let mut referral = Child(u32::from(n)).referral(EVERYWHERE);
                referral["narrative"] = MORE_WORDS.into();
                school.amend(&format!("more-{n}"), id, &referral).await?;
                Ok(())
            }
            ("grpc", _) => {
                let school = self.gateway.client("EE123456").await?;
                school.cancel(&format!("end-{n}"), id).await?;
                Ok(())
            }
            ("hl7v2", _) => self.by_hl7v2(&er7(&source)?).await?.taken(),
            ("fhir", _) => self.by_fhir(bundle(&source)?.to_string()).await?.taken(),
            ("mesh", Kind::Amend) => {
                let event = json!({"type": "referral.amended", "environment": "test",
                    "data": {"referral": source.content}});
                self.by_mesh(&event.to_string());
                Ok(())
            }
            ("mesh", _) => {
                let event =
                    json!({"type": "referral.cancelled", "environment": "test", "data": ends});
                self.by_mesh(&event.to_string());
                Ok(())
            }
            (_, Kind::Amend) => {
                let data = serde_json::to_vec(&source.content)?;
                self.leaves(&format!("M{n}"), "amend", &data, None)
            }
            _ => self.leaves(
                &format!("E{n}"),
                "cancel",
                ends.to_string().as_bytes(),
                None,
            ),
        }
    }

    /// The family of a referral that came by a way withdraws its consent to all sharing.
    async fn withdraws(&self, way: &str, n: u8, id: &str) -> anyhow::Result<()> {
        let mut source = later(n, Kind::Withdraw)?;
        if let Some(StopNotice::Withdrawn(withdrawal)) = &mut source.stop {
            withdrawal.scopes = BTreeSet::from(SCOPES);
        }
        let said = json!({"sender_reference": source.sender_reference, "withdrawal": {
            "scopes": ["referral", "share_health", "share_education"], "by": "Wren Quillfeather",
            "role": "parent_with_pr", "date": "2026-03-02"}});
        match way {
            "grpc" => {
                let school = self.gateway.client("EE123456").await?;
                let scopes = [
                    v1::ConsentScope::Referral,
                    v1::ConsentScope::ShareHealth,
                    v1::ConsentScope::ShareEducation,
                ];
                let withdrawal = v1::ConsentWithdrawal {
                    scopes: scopes.map(Into::into).to_vec(),
                    withdrawn_by: "Wren Quillfeather".to_owned(),
                    role: v1::ConsentGiverRole::ParentWithPr.into(),
                    date: "2026-03-02".to_owned(),
                    evidence: "by telephone".to_owned(),
                };
                let request = v1::WithdrawConsentRequest {
                    request_id: format!("withdraw-{n}"),
                    key: Some(referral_key(id)),
                    withdrawal: Some(withdrawal),
                    want_proof: false,
                };
                school.referrals().withdraw_consent(request).await?;
                Ok(())
            }
            "hl7v2" => self.by_hl7v2(&er7(&source)?).await?.taken(),
            "fhir" => self.by_fhir(bundle(&source)?.to_string()).await?.taken(),
            "mesh" => {
                let event = json!({"type": "referral.consent_withdrawn", "environment": "test",
                    "data": said});
                self.by_mesh(&event.to_string());
                Ok(())
            }
            _ => self.leaves(
                &format!("W{n}"),
                "withdraw",
                said.to_string().as_bytes(),
                None,
            ),
        }
    }

    /// Each far side does what lets its next message come: collects, acknowledges, leaves a receipt.
    async fn goes_on(&self) -> anyhow::Result<()> {
        for held in self.hub.held() {
            if held.to == THEIRS && held.stage != Stage::Acknowledged {
                self.hub.collect(&held.id);
            }
        }
        let team = self.gateway.client("SPEC1").await?;
        for post in team.fetch().await? {
            team.acknowledge(&post).await?;
        }
        for file in std::fs::read_dir(self.folder("outbox"))?.flatten() {
            let name = file.file_name().into_string().unwrap_or_default();
            if let Some(id) = name.strip_suffix(".manifest.json") {
                let receipt = self.folder("receipts").join(format!("{id}.receipt"));
                std::fs::write(receipt, "")?;
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// The deliveries of one kind of a referral, once each far side has its own.
    pub(super) async fn has(
        &self,
        id: &str,
        kind: v1::MessageKind,
    ) -> anyhow::Result<Vec<v1::Delivery>> {
        wait_until(
            &format!("each far side has its {kind:?}"),
            PATIENCE,
            || async {
                self.goes_on().await?;
                let all = self.admin.deliveries(id).await?;
                let of: Vec<_> = all.into_iter().filter(|d| d.kind() == kind).collect();
                let done = |d: &v1::Delivery| d.state() == DeliveryState::Done;
                Ok((of.len() == ENDPOINTS.len() && of.iter().all(done)).then_some(of))
            },
        )
        .await
    }
}

async fn an_amendment_and_an_end_arrive_whichever_way_in_and_out(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let (mut known, mut bodies) = (Vec::new(), Bodies::new());
    let store = everybody.gateway.store()?;
    for (n, way) in (30..).zip(WAYS) {
        everybody.sends(way, n, None).await?.taken()?;
        let by = || format!("by {way}");
        let (id, _, post) = everybody.delivered(&known).await.with_context(by)?;
        everybody
            .gateway
            .client("SPEC1")
            .await?
            .acknowledge(&post)
            .await?;
        everybody
            .has(&id, v1::MessageKind::New)
            .await
            .with_context(by)?;
        everybody
            .adds(way, n, Kind::Amend, &id)
            .await
            .with_context(by)?;
        let amended = everybody
            .has(&id, v1::MessageKind::Amend)
            .await
            .with_context(by)?;
        for delivery in &amended {
            let bytes = bodies.of(store, &delivery.wire_id).await?;
            let text = said(&delivery.endpoint_id, &bytes)?;
            assert!(
                text.contains(MORE_WORDS),
                "{} to {}",
                by(),
                delivery.endpoint_id
            );
        }
        everybody
            .adds(way, n, Kind::Cancel, &id)
            .await
            .with_context(by)?;
        let ended = everybody
            .has(&id, v1::MessageKind::Cancel)
            .await
            .with_context(by)?;
        let admin = &everybody.admin;
        let reference = admin.referral(&id).await?.reference.to_lowercase();
        for delivery in &ended {
            let bytes = bodies.of(store, &delivery.wire_id).await?;
            let text = whole(&delivery.endpoint_id, &bytes)?;
            for word in [reference.as_str(), why_it_ends(way)] {
                let to = &delivery.endpoint_id;
                assert!(text.contains(word), "{word:?} {} to {to}: {text}", by());
            }
        }
        known.push(id);
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}

async fn a_withdrawal_of_consent_arrives_whichever_way_in_and_out(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let (mut known, mut bodies) = (Vec::new(), Bodies::new());
    let store = everybody.gateway.store()?;
    for (n, way) in (60..).zip(WAYS) {
        everybody.sends(way, n, None).await?.taken()?;
        let by = || format!("by {way}");
        let (id, _, post) = everybody.delivered(&known).await.with_context(by)?;
        let team = everybody.gateway.client("SPEC1").await?;
        team.acknowledge(&post).await?;
        let new = v1::MessageKind::New;
        everybody.has(&id, new).await.with_context(by)?;
        everybody.withdraws(way, n, &id).await.with_context(by)?;
        // BaRS has no message for it: what comes is an end, with its words.
        let kind = match way {
            "fhir" => v1::MessageKind::Cancel,
            _ => v1::MessageKind::Withdrawal,
        };
        for delivery in everybody.has(&id, kind).await.with_context(by)? {
            let bytes = bodies.of(store, &delivery.wire_id).await?;
            let text = whole(&delivery.endpoint_id, &bytes)?;
            let to = &delivery.endpoint_id;
            assert!(text.contains("withdr"), "{} to {to}: {text}", by());
        }
        known.push(id);
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}
