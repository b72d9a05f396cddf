//! What becomes of a referral later, every way in by every way out: an amendment, and then its end.

use waymark_core::delivery::Kind;
use waymark_tests::actors::mesh::{Stage, THEIRS};
use waymark_tests::gateway::Child;

use super::everybody::{MORE_WORDS, bundle, er7, later};
use super::*;

waymark_tests::both_engines! {
    an_amendment_and_an_end_arrive_whichever_way_in_and_out,
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
    async fn has(&self, id: &str, kind: v1::MessageKind) -> anyhow::Result<Vec<v1::Delivery>> {
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
        everybody
            .has(&id, v1::MessageKind::Cancel)
            .await
            .with_context(by)?;
        known.push(id);
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}
