//! Scenario 7 and its kin: a family is told what happens next, by the next way once one failed, or a person is.
#![expect(
    clippy::indexing_slicing,
    reason = "JSON and lists of a test are read by name and place, and what is not there fails the test"
)]

use serde_json::{Value, json};
use waymark_core::audit::EntryKind;
use waymark_core::delivery::Kind;
use waymark_core::port::EventKind;
use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, EvidenceGrade, LegState, MessageKind};
use waymark_tests::actors::{Answer, Callbacks, Message, Notify};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    a_bounced_email_is_followed_by_a_text_that_arrives,
    where_receipts_are_lost_asking_finds_what_became_of_a_message,
    receipts_that_come_twice_late_or_forged_change_nothing,
    a_text_to_another_country_waits_for_no_news_and_claims_none,
    whoever_is_not_safe_to_contact_gets_nothing_and_the_owner_is_alarmed,
    an_objection_stands_in_the_log_alone,
    a_message_of_unknown_end_is_asked_after_and_not_sent_twice,
    a_contact_that_became_unsafe_while_a_message_waited_gets_none,
    when_every_way_failed_a_person_is_asked,
    a_submit_tells_the_family_too,
    what_one_message_waits_for_holds_no_later_one_back,
}

const EMAIL: &str = "f33517ff-2a88-4f6e-b855-c550268ce08a";
const SMS: &str = "e5d3b4a1-7a4b-4c8e-9d0e-2f6c1b0a9d8c";
const LETTER: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e8f7a6b5c4d";
const TOKEN: &str = "a token of thirty two characters";
const ADDRESS: &str = "marisol@family.example";
const MOBILE: &str = "07700900123";

/// The endpoint and a template of each way for states, with a space between them.
fn tables(notify: &Notify, poll_seconds: u32, state: &str) -> String {
    let states = state.replace(' ', "\", \"");
    let template = |way: &str, remote: &str, fields: &str| {
        format!(
            "[[template]]\nid = \"next-{way}\"\nversion = 1\nendpoint = \"families\"\nremote = \"{remote}\"\n\
             way = \"{way}\"\nstates = [\"{states}\"]\nfields = [{fields}]\n"
        )
    };
    let endpoint = format!(
        "[[endpoint]]\nid = \"families\"\nagency = \"LA882\"\nadapter = \"notify\"\nreleases_at = \"transport_ack\"\n\
         retry = {{ first = \"20ms\", cap = \"60ms\" }}\nattempt_timeout = \"2s\"\ndeadline = \"1h\"\n\
         [endpoint.settings]\nurl = \"{}\"\nplain = true\napi_key = \"secret:notify-key\"\n\
         callback_tokens = [\"secret:notify-token\"]\npoll_seconds = {poll_seconds}\n",
        notify.url()
    );
    endpoint
        + &template("email", EMAIL, "\"service\", \"reference\", \"contact\"")
        + &template("sms", SMS, "\"service\"")
        + &template("letter", LETTER, "\"reference\"")
}

/// A gateway whose families are told of a state, and its people.
struct Scene {
    notify: Notify,
    gateway: Gateway,
    school: Client,
    team: Client,
    admin: Client,
}

impl Scene {
    async fn new(engine: Engine, poll_seconds: u32, state: &str) -> anyhow::Result<Self> {
        let notify = Notify::start(std::sync::Arc::new(waymark::clock::SystemClock)).await?;
        notify.template(EMAIL, "email", &["service", "reference", "contact"]);
        notify.template(SMS, "sms", &["service"]);
        notify.template(LETTER, "letter", &["reference"]);
        let area = Area::with(tables(&notify, poll_seconds, state));
        let gateway = Gateway::start(engine, &area).await?;
        let secrets = gateway.deployment.dir.join("secrets");
        std::fs::write(secrets.join("notify-key"), Notify::key())?;
        std::fs::write(secrets.join("notify-token"), TOKEN)?;
        let [school, team, admin] = gateway
            .clients(["EE123456", "SPEC1", "admin-LA882"])
            .await?;
        Ok(Self {
            notify,
            gateway,
            school,
            team,
            admin,
        })
    }

    /// Submits a referral that a team accepts; answers its id.
    async fn accepted(&self, n: u32, referral: &Value) -> anyhow::Result<String> {
        let receipt = self.school.submit(&format!("family-{n}"), referral).await?;
        let id = receipt.referral_id;
        self.team.status(&id, 1, LegState::Accepted).await?;
        Ok(id)
    }

    /// The messages to the family, oldest first.
    async fn told(&self, id: &str) -> anyhow::Result<Vec<v1::Delivery>> {
        let mut all = self.admin.deliveries(id).await?;
        all.retain(|d| d.kind() == MessageKind::Guidance);
        Ok(all)
    }

    /// The n-th message to the family, once it is in a state.
    async fn nth(&self, id: &str, n: usize, state: DeliveryState) -> anyhow::Result<v1::Delivery> {
        let what = format!("message {n} to the family is {state:?}");
        wait_until(&what, PATIENCE, || async {
            let told = self.told(id).await?;
            Ok(told.get(n).filter(|d| d.state() == state).cloned())
        })
        .await
    }

    /// The n-th message that the provider took.
    async fn taken(&self, n: usize) -> anyhow::Result<Message> {
        wait_until(
            &format!("message {n} at the provider"),
            PATIENCE,
            || async { Ok(self.notify.messages().get(n).cloned()) },
        )
        .await
    }

    fn callbacks(&self, token: &str) -> anyhow::Result<Callbacks> {
        let address = self.gateway.app()?.callback.expect("callbacks are taken");
        Ok(Callbacks {
            url: format!("https://{address}/callbacks/families"),
            token: token.to_owned(),
            ca: self.gateway.ca()?,
        })
    }

    /// A receipt of a message, as the provider sends it: its status becomes so, and it is told.
    async fn receipt(&self, reference: &str, status: &str) -> anyhow::Result<u16> {
        self.notify.becomes(reference, status);
        let to = self.callbacks(TOKEN)?;
        // While an attempt is under way the provider is asked to come again, as it does.
        wait_until("the receipt is heard", PATIENCE, || async {
            let status = self.notify.calls_back(&to, reference, status).await?;
            Ok((status != 503).then_some(status))
        })
        .await
    }

    /// Nothing is lost, and nothing that names the family is in the log.
    async fn stays_whole(&self, child: Child) -> anyhow::Result<()> {
        let check = self.admin.conservation().await?;
        assert!(check.balanced, "{check:?}");
        self.gateway.sequenced().await?;
        let secrets = child.secrets();
        for entry in self.gateway.entries().await? {
            let shown = String::from_utf8_lossy(&entry).into_owned();
            let mut named = secrets.iter().map(String::as_str).chain([ADDRESS, MOBILE]);
            assert_eq!(named.find(|word| shown.contains(word)), None, "{shown}");
        }
        Ok(())
    }
}

/// A referral whose family may be told, by email, by text and by letter.
fn referral(child: Child) -> Value {
    let mut referral = child.referral("specialist-teaching");
    referral["contacts"][0]["email"] = json!(ADDRESS);
    referral["contacts"][0]["phone"] = json!("07700 900123");
    let scopes = referral["consent"]["scopes"].as_array_mut();
    scopes
        .expect("a list")
        .push(json!("CONSENT_SCOPE_FAMILY_MESSAGES"));
    referral
}

async fn a_bounced_email_is_followed_by_a_text_that_arrives(engine: Engine) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 3_600, "accepted").await?, Child(700));
    let id = scene.accepted(700, &referral(child)).await?;
    let email = scene.taken(0).await?;
    assert_eq!(
        (email.way.as_str(), &email.body["email_address"]),
        ("email", &json!(ADDRESS))
    );
    assert_eq!(
        email.body["personalisation"]["service"],
        "Specialist teaching"
    );
    let first = scene.nth(&id, 0, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(email.reference, first.wire_id, "nothing but the wire id");
    assert_eq!(
        first.evidence(),
        EvidenceGrade::Sent,
        "taken is not arrived"
    );

    assert_eq!(
        scene.receipt(&first.wire_id, "permanent-failure").await?,
        200
    );
    let first = scene.nth(&id, 0, DeliveryState::Superseded).await?;
    let second = scene.nth(&id, 1, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(second.replaces_delivery_id, first.delivery_id);
    assert_ne!(second.wire_id, first.wire_id);
    let sms = scene.taken(1).await?;
    assert_eq!(
        (sms.way.as_str(), &sms.body["phone_number"]),
        ("sms", &json!(MOBILE))
    );
    assert_eq!(scene.receipt(&second.wire_id, "delivered").await?, 200);
    let second = scene.nth(&id, 1, DeliveryState::Done).await?;
    assert_eq!(second.evidence(), EvidenceGrade::TransportAck);
    assert_eq!(
        scene.told(&id).await?.len(),
        2,
        "nobody is told a third time"
    );
    assert_eq!(scene.notify.messages().len(), 2);
    assert!(scene.admin.alarms("parked").await?.is_empty());

    let view = scene.gateway.store()?.referral(id.parse()?).await?;
    let entries = scene
        .gateway
        .stream(view.expect("the referral").stream.as_bytes())
        .await?;
    let said = |name: &str, value: &str| {
        entries
            .iter()
            .any(|e| e.codes.iter().any(|c| c.name == name && c.value == value))
    };
    assert!(said("why", "notify.permanent_failure") && said("evidence", "transport_ack"));
    let opened = entries.iter().filter(|e| e.kind == EntryKind::AdminRead);
    assert!(
        opened.count() >= 2,
        "each look at the contacts is in the log"
    );
    scene.stays_whole(child).await
}

async fn where_receipts_are_lost_asking_finds_what_became_of_a_message(
    engine: Engine,
) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 1, "accepted").await?, Child(701));
    let id = scene.accepted(701, &referral(child)).await?;
    let first = scene.nth(&id, 0, DeliveryState::AwaitingEvidence).await?;
    scene.notify.becomes(&first.wire_id, "temporary-failure");
    scene.nth(&id, 0, DeliveryState::Superseded).await?;
    let second = scene.nth(&id, 1, DeliveryState::AwaitingEvidence).await?;
    scene.notify.becomes(&second.wire_id, "delivered");
    let second = scene.nth(&id, 1, DeliveryState::Done).await?;
    assert_eq!(second.evidence(), EvidenceGrade::TransportAck);
    assert_eq!(scene.notify.messages().len(), 2);
    scene.stays_whole(child).await
}

async fn a_text_to_another_country_waits_for_no_news_and_claims_none(
    engine: Engine,
) -> anyhow::Result<()> {
    for (n, polled) in [(710, true), (711, false)] {
        let poll_seconds = if polled { 1 } else { 3_600 };
        let (scene, child) = (
            Scene::new(engine, poll_seconds, "accepted").await?,
            Child(n),
        );
        let id = scene.accepted(n, &referral(child)).await?;
        let first = scene.nth(&id, 0, DeliveryState::AwaitingEvidence).await?;
        let failed = scene.receipt(&first.wire_id, "permanent-failure").await?;
        assert_eq!(failed, 200);
        let sms = scene.nth(&id, 1, DeliveryState::AwaitingEvidence).await?;
        if polled {
            scene.notify.becomes(&sms.wire_id, "sent");
        } else {
            assert_eq!(scene.receipt(&sms.wire_id, "sent").await?, 200);
        }
        let sms = scene.nth(&id, 1, DeliveryState::Done).await?;
        assert_eq!(sms.evidence(), EvidenceGrade::Sent, "no arrival is claimed");
        assert_eq!(scene.told(&id).await?.len(), 2, "nobody is told once more");
        scene.stays_whole(child).await?;
    }
    Ok(())
}

async fn receipts_that_come_twice_late_or_forged_change_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 3_600, "accepted").await?, Child(702));
    let id = scene.accepted(702, &referral(child)).await?;
    let first = scene.nth(&id, 0, DeliveryState::AwaitingEvidence).await?;
    let forged = scene.callbacks("another token of some length")?;
    let wire = first.wire_id.as_str();
    assert_eq!(
        scene.notify.calls_back(&forged, wire, "delivered").await?,
        401
    );
    assert_eq!(scene.receipt(wire, "sending").await?, 204, "no news");
    assert_eq!(scene.receipt(wire, "technical-failure").await?, 200);
    let second = scene.nth(&id, 1, DeliveryState::AwaitingEvidence).await?;
    // The same news again, and the news that it arrived after all.
    assert_eq!(scene.receipt(wire, "technical-failure").await?, 200);
    assert_eq!(scene.receipt(wire, "delivered").await?, 200);
    assert_eq!(scene.receipt(wire, "sending").await?, 204);
    assert_eq!(scene.receipt(&second.wire_id, "delivered").await?, 200);
    assert_eq!(scene.receipt(&second.wire_id, "delivered").await?, 200);
    let told = scene.told(&id).await?;
    let states: Vec<DeliveryState> = told.iter().map(v1::Delivery::state).collect();
    assert_eq!(states, [DeliveryState::Superseded, DeliveryState::Done]);
    assert_eq!(
        told[0].evidence(),
        EvidenceGrade::TransportAck,
        "late evidence is kept all the same"
    );
    assert_eq!(scene.notify.messages().len(), 2);
    // The carrier's word against itself is for a person.
    assert_eq!(
        scene.receipt(&second.wire_id, "permanent-failure").await?,
        200
    );
    let alarms = scene.admin.alarms("parked").await?;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(scene.told(&id).await?.len(), 2);
    scene.stays_whole(child).await
}

async fn whoever_is_not_safe_to_contact_gets_nothing_and_the_owner_is_alarmed(
    engine: Engine,
) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 1, "accepted").await?, Child(703));
    let mut unsafe_family = referral(child);
    unsafe_family["contacts"][0]["safeToContact"] = json!("CONTACT_SAFETY_UNSAFE");
    let id = scene.accepted(703, &unsafe_family).await?;
    let parked = scene.nth(&id, 0, DeliveryState::Parked).await?;
    assert_eq!(
        parked.park.map(|p| p.reason_code).as_deref(),
        Some("no_contact")
    );
    let alarms = scene.admin.alarms("parked").await?;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let owner = alarms[0].owner.as_ref().expect("an owner");
    assert_eq!(
        (owner.agency_id.as_str(), owner.role.as_str()),
        ("SPEC1", "Team lead"),
        "the service that must tell them in another way"
    );
    let words = &alarms[0].message;
    assert!(
        !words.contains(ADDRESS) && !words.contains(&child.parent()),
        "{words}"
    );

    // Once somebody is known who may be contacted, it goes by itself when it is resumed.
    scene
        .school
        .amend("family-703-b", &id, &referral(child))
        .await?;
    let resume = v1::ResendRequest {
        delivery_id: parked.delivery_id.clone(),
        reason: "a safe contact is recorded".to_owned(),
        expected_version: parked.version,
    };
    scene.admin.admin().resend(resume).await?;
    assert_eq!(scene.taken(0).await?.body["email_address"], ADDRESS);
    scene.stays_whole(child).await
}

async fn an_objection_stands_in_the_log_alone(engine: Engine) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 1, "accepted").await?, Child(704));
    let mut objects = child.referral("specialist-teaching");
    objects["contacts"][0]["email"] = json!(ADDRESS);
    objects["consent"]["role"] = json!("CONSENT_GIVER_ROLE_YOUNG_PERSON");
    let id = scene.accepted(704, &objects).await?;
    scene.nth(&id, 0, DeliveryState::Cancelled).await?;
    assert!(scene.notify.messages().is_empty());
    assert!(scene.admin.alarms("parked").await?.is_empty());
    let timeline = scene.gateway.store()?.timeline(id.parse()?, 100).await?;
    let codes: Vec<&str> = timeline
        .iter()
        .filter(|e| e.event.kind == EventKind::Delivery)
        .map(|e| e.event.code.as_str())
        .collect();
    assert!(codes.contains(&"withheld"), "{codes:?}");
    assert!(
        !codes.iter().any(|code| code.contains("objection")),
        "{codes:?}"
    );
    let view = scene.gateway.store()?.referral(id.parse()?).await?;
    let stream = view.expect("the referral").stream;
    let entries = scene.gateway.stream(stream.as_bytes()).await?;
    let recorded = entries
        .iter()
        .any(|e| e.codes.iter().any(|c| c.value == "family.objection"));
    assert!(recorded, "the reason is recorded");
    scene.stays_whole(child).await
}

async fn a_message_of_unknown_end_is_asked_after_and_not_sent_twice(
    engine: Engine,
) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 3_600, "accepted").await?, Child(705));
    scene.notify.play(&[
        Answer::RateLimit(None),
        Answer::DayLimit,
        Answer::BrokeAfter,
    ]);
    let id = scene.accepted(705, &referral(child)).await?;
    let sent = scene.nth(&id, 0, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(scene.notify.messages().len(), 1, "taken once");
    assert!(scene.notify.asked() >= 1, "and asked after");
    let (_, attempts) = scene.admin.delivery(&sent.delivery_id).await?;
    let outcomes: Vec<v1::AttemptOutcome> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [
            v1::AttemptOutcome::Retry,
            v1::AttemptOutcome::Retry,
            v1::AttemptOutcome::Unknown,
            v1::AttemptOutcome::Delivered
        ]
    );
    scene.stays_whole(child).await
}

async fn a_contact_that_became_unsafe_while_a_message_waited_gets_none(
    engine: Engine,
) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 3_600, "accepted").await?, Child(706));
    scene.notify.always(Some(Answer::RateLimit(None)));
    let id = scene.accepted(706, &referral(child)).await?;
    scene.nth(&id, 0, DeliveryState::RetryWait).await?;
    let mut unsafe_now = referral(child);
    unsafe_now["contacts"][0]["safeToContact"] = json!("CONTACT_SAFETY_UNSAFE");
    scene.school.amend("family-706-b", &id, &unsafe_now).await?;
    scene.nth(&id, 0, DeliveryState::Superseded).await?;
    scene.notify.always(None);
    let parked = scene.nth(&id, 1, DeliveryState::Parked).await?;
    assert_eq!(
        parked.park.map(|p| p.reason_code).as_deref(),
        Some("no_contact")
    );
    assert!(scene.notify.messages().is_empty(), "nobody was written to");
    assert_eq!(scene.admin.alarms("parked").await?.len(), 1);
    scene.stays_whole(child).await
}

async fn when_every_way_failed_a_person_is_asked(engine: Engine) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 3_600, "accepted").await?, Child(707));
    scene.notify.play(&[Answer::Refused("ValidationError")]);
    let id = scene.accepted(707, &referral(child)).await?;
    scene.nth(&id, 0, DeliveryState::Superseded).await?;
    let second = scene.nth(&id, 1, DeliveryState::AwaitingEvidence).await?;
    scene.receipt(&second.wire_id, "permanent-failure").await?;
    let third = scene.nth(&id, 2, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(scene.taken(1).await?.way, "letter");
    scene.receipt(&third.wire_id, "technical-failure").await?;
    scene.nth(&id, 3, DeliveryState::Parked).await?;
    let alarms = scene.admin.alarms("parked").await?;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let owner = alarms[0].owner.as_ref().expect("an owner");
    assert_eq!(owner.agency_id, "SPEC1");
    scene.stays_whole(child).await
}

async fn a_submit_tells_the_family_too(engine: Engine) -> anyhow::Result<()> {
    let (scene, child) = (Scene::new(engine, 1, "submitted").await?, Child(708));
    let receipt = scene.school.submit("family-708", &referral(child)).await?;
    let sent = scene
        .nth(&receipt.referral_id, 0, DeliveryState::AwaitingEvidence)
        .await?;
    let email = scene.taken(0).await?;
    assert_eq!(email.reference, sent.wire_id);
    assert_eq!(
        email.body["personalisation"]["reference"],
        receipt.reference
    );
    let again = scene.school.submit("family-708", &referral(child)).await?;
    assert_eq!(again.referral_id, receipt.referral_id);
    assert_eq!(
        scene.told(&receipt.referral_id).await?.len(),
        1,
        "told once"
    );
    let view = scene
        .gateway
        .store()?
        .referral(receipt.referral_id.parse()?)
        .await?;
    let heads = view.expect("the referral").deliveries;
    let kinds: Vec<Kind> = heads.iter().map(|head| head.kind).collect();
    assert!(kinds.contains(&Kind::New) && kinds.contains(&Kind::Guidance));
    scene.stays_whole(child).await
}

async fn what_one_message_waits_for_holds_no_later_one_back(engine: Engine) -> anyhow::Result<()> {
    let scene = Scene::new(engine, 3_600, "accepted waiting submitted").await?;
    let child = Child(709);
    let mut unsafe_family = referral(child);
    unsafe_family["contacts"][0]["safeToContact"] = json!("CONTACT_SAFETY_UNSAFE");
    let id = scene.accepted(709, &unsafe_family).await?;
    // What is told of the submit waits for a person too, or the acceptance came first and is told in its place.
    let settled = [DeliveryState::Parked, DeliveryState::Cancelled];
    wait_until("the first message is settled", PATIENCE, || async {
        let told = scene.told(&id).await?;
        let first = told.first().filter(|d| settled.contains(&d.state()));
        Ok(first.map(|_| ()))
    })
    .await?;
    scene.nth(&id, 1, DeliveryState::Parked).await?;
    let amended = referral(child);
    scene.school.amend("family-709-b", &id, &amended).await?;
    scene.team.status(&id, 2, LegState::Waiting).await?;
    let third = scene.nth(&id, 2, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(scene.taken(0).await?.reference, third.wire_id);
    scene.receipt(&third.wire_id, "delivered").await?;

    // The leg goes to another service, and the family is told whom they deal with now.
    let all = scene.admin.deliveries(&id).await?;
    let sent = all.iter().find(|d| d.kind() == MessageKind::New);
    let sent = sent.expect("the referral was sent");
    let redirect = v1::RedirectRequest {
        delivery_id: sent.delivery_id.clone(),
        expected_version: sent.version,
        reason: "the wrong door".to_owned(),
        target: Some(v1::redirect_request::Target::ServiceId(
            "social-care".to_owned(),
        )),
    };
    scene.admin.admin().redirect(redirect).await?;
    let fourth = scene.nth(&id, 3, DeliveryState::AwaitingEvidence).await?;
    assert_eq!(fourth.service_id, "social-care");
    let told = scene.taken(1).await?;
    assert_eq!(
        told.body["personalisation"]["service"],
        "Social care advice"
    );
    scene.stays_whole(child).await
}
