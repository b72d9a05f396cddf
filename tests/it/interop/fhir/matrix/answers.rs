//! What becomes of one referral at each of its receivers, said by each in its own protocol: its sender is told all of it,
//! and by whom. And what no way in is for: a referral by a callback.

use waymark_core::delivery::Kind;
use waymark_tests::actors::{callback, rri, send};
use waymark_tests::gateway::referral_key;

use super::everybody::message;
use super::told::school_is_told_by_fhir;
use super::*;

waymark_tests::both_engines! {
    what_each_receiver_says_in_its_own_protocol_is_told_to_the_sender,
    a_callback_brings_no_referral_in,
}

/// What a receiver says, and nobody else.
fn words(endpoint: &str) -> String {
    format!("{endpoint} has taken the child on")
}

impl Everybody {
    /// A receiver tells that it accepts, in words of its own.
    async fn accepts(&self, delivery: &v1::Delivery, reference: &str) -> anyhow::Result<()> {
        let (endpoint, wire) = (delivery.endpoint_id.as_str(), delivery.wire_id.as_str());
        let words = words(endpoint);
        let said = json!({"type": "referral.status", "environment": "test", "referral": reference,
            "answers": wire, "state": "accepted", "source_version": 1, "text": words});
        match endpoint {
            "cam01-grpc" | "spec1-mailbox" => {
                let agency = self.gateway.client(&delivery.agency_id).await?;
                let change = v1::StatusChange {
                    state: LegState::Accepted.into(),
                    source_version: 1,
                    text_for_family: words,
                    ..v1::StatusChange::default()
                };
                let request = v1::UpdateStatusRequest {
                    key: Some(referral_key(&delivery.referral_id)),
                    change: Some(change),
                    ..v1::UpdateStatusRequest::default()
                };
                agency.referrals().update_status(request).await?;
            }
            "r1l-mllp" => {
                let answer = rri("ANSWER-1", reference, "A");
                let listener = self.gateway.app()?.mllp.get("r1l");
                let text = format!("{answer}NTE|1|P|{words}\r");
                let answer = send(*listener.context("the listener")?, &text).await?;
                anyhow::ensure!(answer.contains("\rMSA|AA|"), "{answer}");
            }
            "fhr-fhir" => {
                let sent = Bodies::new().of(self.gateway.store()?, wire).await?;
                let sent: Value = serde_json::from_slice(&sent)?;
                let papers = Papers::of(&self.gateway, FAR_SIDE)?;
                let answer = response(&sent["id"], &words).to_string();
                self.by_fhir_of(&papers, answer).await?.taken()?;
            }
            "comm1-mesh" => {
                self.by_mesh(&said.to_string());
            }
            "sens1-files" => self.leaves("ANSWER", "status", said.to_string().as_bytes(), None)?,
            "therapy-webhook" => {
                let answered = self.calls_back("answer-1", &said).await?;
                anyhow::ensure!(answered == 200, "{answered}");
            }
            other => anyhow::bail!("{other} says nothing"),
        }
        Ok(())
    }

    /// Posts to the callback address of the webhook, signed with its secret.
    async fn calls_back(&self, id: &str, body: &Value) -> anyhow::Result<u16> {
        let address = self.gateway.app()?.callback;
        let (address, ca) = (address.context("callbacks are taken")?, self.gateway.ca()?);
        let secret = self.gateway.secret("therapy-callback")?;
        callback(address, &ca, "therapy-webhook", &secret, id, body).await
    }
}

/// A provider's answer that knows our message by the id of its bundle alone, as BaRS answers are.
fn response(answered: &Value, words: &str) -> Value {
    json!({"resourceType": "Bundle", "id": "5a6f6a3e-0d2b-4b52-8c5f-3a1d6a0f7c01", "type": "message",
        "timestamp": "2026-03-02T10:00:00Z", "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "MessageHeader",
            "eventCoding": {"system": "https://fhir.nhs.uk/CodeSystem/message-events-bars", "code": "servicerequest-response"},
            "destination": [{"endpoint": TARGET}],
            "source": {"endpoint": "https://fhir.nhs.uk/Id/dos-service-id|2000099999"},
            "reason": {"coding": [{"system": "https://fhir.nhs.uk/CodeSystem/message-reason-bars", "code": "new"}]},
            "response": {"identifier": answered, "code": "ok"},
            "focus": [{"reference": "urn:uuid:2"}],
            "definition": "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-response-referral"}},
        {"fullUrl": "urn:uuid:2", "resource": {"resourceType": "ServiceRequest", "id": "provider-9", "status": "active",
            "intent": "order", "subject": {"reference": "Patient/9"}, "encounter": {"reference": "urn:uuid:3"},
            "note": [{"text": words}]}},
        {"fullUrl": "urn:uuid:3", "resource": {"resourceType": "Encounter", "status": "planned",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}}}]})
}

async fn what_each_receiver_says_in_its_own_protocol_is_told_to_the_sender(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let server = everybody.server_of_the_school().await?;
    let files = school_is_told_by_fhir(&everybody, server.port());
    everybody.gateway.apply(&files).await?;
    everybody.sends("grpc", 250, None).await?.taken()?;
    let (id, _, post) = everybody.delivered(&[]).await?;
    let team = everybody.gateway.client("SPEC1").await?;
    team.acknowledge(&post).await?;
    let sent = everybody.has(&id, v1::MessageKind::New).await?;
    let school = everybody.gateway.client("EE123456").await?;
    let reference = school.referral(&id).await?.reference;
    for delivery in &sent {
        let by = || format!("{} says", delivery.endpoint_id);
        everybody
            .accepts(delivery, &reference)
            .await
            .with_context(by)?;
    }
    let told = everybody.has(&id, v1::MessageKind::Status).await?;
    let (mut bodies, store) = (Bodies::new(), everybody.gateway.store()?);
    let mut heard = Vec::new();
    for status in &told {
        assert_eq!(status.endpoint_id, "school-fhir");
        heard.push(String::from_utf8(bodies.of(store, &status.wire_id).await?)?);
    }
    for delivery in &sent {
        let words = words(&delivery.endpoint_id);
        let of: Vec<&String> = heard.iter().filter(|text| text.contains(&words)).collect();
        assert_eq!(of.len(), 1, "{words}: {heard:?}");
        let message: Value = serde_json::from_str(of[0])?;
        let speaker = &message["entry"][1]["resource"]["identifier"][0]["value"];
        assert_eq!(speaker, &json!(delivery.agency_id), "{message}");
    }
    let legs = school.referral(&id).await?.legs;
    assert_eq!(legs.len(), ENDPOINTS.len());
    assert!(legs.iter().all(|leg| leg.state() == LegState::Accepted));
    Ok(())
}

async fn a_callback_brings_no_referral_in(engine: Engine) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let referral = message(251, None)?.content;
    let data = json!({"referral": referral});
    for (nth, kind) in (0..).zip([Kind::New, Kind::Amend, Kind::Cancel]) {
        let kind = format!("referral.{kind:?}").to_lowercase();
        let event = json!({"type": kind, "environment": "test", "data": data});
        let answered = everybody.calls_back(&format!("in-{nth}"), &event).await?;
        assert_eq!(answered, 400, "{kind}");
    }
    assert_eq!(everybody.holds().await?, (0, 0));
    Ok(())
}
