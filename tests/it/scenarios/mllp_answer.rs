//! What a hospital says over MLLP with its acknowledgement: each status finds its leg, none is lost unseen, and nobody is
//! told that nothing was sent when it was.

use waymark_proto::v1;
use waymark_proto::v1::{DeliveryState, EvidenceGrade, LegState, MessageKind};
use waymark_tests::actors::{Hospital, Play, Told, rri, send};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    each_of_two_services_of_one_hospital_moves_its_own_leg,
    a_status_of_another_referral_moves_neither_and_asks_for_a_person,
    a_cancel_whose_refusal_cannot_be_read_is_not_done,
    who_answers_in_another_name_has_the_message_and_the_alarm_says_so,
    a_late_refusal_is_told_once_however_often_it_comes,
    a_receiver_that_does_not_tell_repeats_is_not_sent_to_again_after_the_process_ended,
}

/// A second service of the hospital, for the pathway of the first.
const SECOND: &str = r#"
[[service]]
id = "neurology"
name = "Neurology"
agency = "R1L"
pathways = ["two-of-one"]
endpoint = "r1l-mllp"
owner_role = "Neurology office"

[[service]]
id = "genetics"
name = "Genetics"
agency = "R1L"
pathways = ["two-of-one"]
endpoint = "r1l-mllp"
owner_role = "Genetics office"

[[rule]]
id = "two-of-one"
pathway = "two-of-one"
to = ["neurology", "genetics"]
"#;

fn area(hospital: &Hospital) -> Area {
    Area {
        mllp: hospital.port(),
        ..Area::with(SECOND)
    }
}

async fn all_done(school: &Client, id: &str) -> anyhow::Result<Vec<v1::Leg>> {
    wait_until("every leg has arrived", PATIENCE, || async {
        let legs = school.referral(id).await?.legs;
        let done = legs
            .iter()
            .all(|leg| leg.delivery_state() == DeliveryState::Done);
        Ok(done.then_some(legs))
    })
    .await
}

async fn each_of_two_services_of_one_hospital_moves_its_own_leg(
    engine: Engine,
) -> anyhow::Result<()> {
    for statuses in [["A", "A"], ["R", "A"]] {
        let hospital = Hospital::open()?;
        let gateway = Gateway::start(engine, &area(&hospital)).await?;
        let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
        hospital.play(&statuses.map(|code| Play::Tell(Told::Of(code))));
        let receipt = school
            .submit("two-of-one", &Child(90).referral("two-of-one"))
            .await?;
        let legs = all_done(&school, &receipt.referral_id).await?;
        let deliveries = admin.deliveries(&receipt.referral_id).await?;
        assert_eq!(legs.len(), 2);
        // The hospital answered in the order in which they came to it.
        for (frame, code) in hospital.applied().iter().zip(statuses) {
            let of = deliveries.iter().find(|d| d.wire_id == frame.control_id);
            let of = of.expect("its delivery");
            let leg = legs.iter().find(|leg| leg.leg_id == of.leg_id);
            let expected = if code == "A" {
                LegState::Accepted
            } else {
                LegState::Declined
            };
            assert_eq!(leg.map(v1::Leg::state), Some(expected), "{statuses:?}");
        }
        assert_eq!(hospital.commits(), ["CA", "CA"]);
        assert!(admin.alarms("answer_unread").await?.is_empty());
    }
    Ok(())
}

async fn a_status_of_another_referral_moves_neither_and_asks_for_a_person(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &area(&hospital)).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    hospital.play(&[Play::Take, Play::Tell(Told::OfAnother("R"))]);
    let mut ids = Vec::new();
    for n in [91, 92] {
        let referral = Child(n).referral("adhd-assessment");
        let receipt = school.submit(&format!("other-{n}"), &referral).await?;
        school
            .leg_shows(&receipt.referral_id, DeliveryState::Done)
            .await?;
        ids.push(receipt);
    }
    for receipt in &ids {
        let leg = school.leg(&receipt.referral_id).await?;
        assert_eq!(leg.state(), LegState::Submitted);
    }
    assert_eq!(hospital.commits(), ["CE"], "it is told to send it again");
    let alarms = admin.alarms("answer_unread").await?;
    let other = ids.pop().expect("two referrals");
    let second = admin.deliveries(&other.referral_id).await?.remove(0);
    let subjects: Vec<&str> = alarms.iter().map(|a| a.subject.as_str()).collect();
    assert_eq!(subjects, [second.delivery_id.as_str()]);
    assert_eq!(second.evidence(), EvidenceGrade::ApplicationAck);
    let timeline = gateway.store()?.timeline(other.referral_id.parse()?, 100);
    let shown = timeline.await?;
    assert!(
        shown
            .iter()
            .any(|e| e.event.code == "mllp.status_not_taken"),
        "it stands on the timeline"
    );

    // Once the hospital says where it stands, nobody need ask any more.
    let listener = *gateway.app()?.mllp.get("r1l").expect("the listener");
    let answer = send(listener, &rri("LATER1", &other.reference, "A")).await?;
    assert!(answer.contains("MSA|AA|LATER1"), "{answer}");
    assert!(admin.alarms("answer_unread").await?.is_empty());
    Ok(())
}

async fn a_cancel_whose_refusal_cannot_be_read_is_not_done(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &area(&hospital)).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    hospital.play(&[Play::Take, Play::Tell(Told::OfNone("R"))]);
    let receipt = school
        .submit("unreadable", &Child(93).referral("adhd-assessment"))
        .await?;
    let id = receipt.referral_id.as_str();
    school.leg_shows(id, DeliveryState::Done).await?;
    school.cancel("unreadable-cancel", id).await?;
    let cancel = admin.deliveries(id).await?;
    let cancel = cancel.iter().find(|d| d.kind() == MessageKind::Cancel);
    let cancel = cancel.expect("a cancel").delivery_id.clone();
    admin.delivery_is(&cancel, DeliveryState::Parked).await?;
    assert_eq!(hospital.commits(), ["CE"]);
    let alarms = admin.alarms("parked").await?;
    assert!(alarms.iter().any(|a| a.subject == cancel), "{alarms:?}");
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

async fn who_answers_in_another_name_has_the_message_and_the_alarm_says_so(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &area(&hospital)).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    hospital.play(&[Play::Impostor]);
    let receipt = school
        .submit("impostor", &Child(94).referral("adhd-assessment"))
        .await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
        .await?;
    let (parked, _) = admin.delivery(&delivery.delivery_id).await?;
    assert_eq!(parked.evidence(), EvidenceGrade::Sent, "it was written");
    for (kind, subject) in [
        ("wrong_recipient", "r1l-mllp"),
        ("parked", parked.delivery_id.as_str()),
    ] {
        let alarms = admin.alarms(kind).await?;
        let alarm = alarms.iter().find(|a| a.subject == subject);
        let text = &alarm.expect("an alarm").message;
        assert!(text.contains("treat it as a disclosure"), "{text}");
        assert!(!text.contains("nothing was sent"), "{text}");
    }
    Ok(())
}

async fn a_receiver_that_does_not_tell_repeats_is_not_sent_to_again_after_the_process_ended(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let mut gateway = Gateway::start(engine, &area(&hospital)).await?;
    let mut files = area(&hospital).files();
    let mode = "ack_mode = \"original\"";
    for file in &mut files {
        let never = format!("{mode}\nresend = \"never\"");
        file.text = file.text.replace(mode, &never);
    }
    gateway.apply(&files).await?;
    let school = gateway.client("EE123456").await?;
    hospital.play(&[Play::Silent]);
    let receipt = school
        .submit("never-again", &Child(95).referral("adhd-assessment"))
        .await?;
    wait_until("it was written", PATIENCE, || async {
        Ok((hospital.frames().len() == 1).then_some(()))
    })
    .await?;
    gateway.crash();
    gateway.restart().await?;
    let admin = gateway.client("admin-LA882").await?;
    let delivery = admin.deliveries(&receipt.referral_id).await?.remove(0);
    admin
        .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
        .await?;
    let (parked, attempts) = admin.delivery(&delivery.delivery_id).await?;
    assert_eq!(parked.evidence(), EvidenceGrade::Sent);
    let last = attempts.last().map(|a| a.reason_code.as_str());
    assert_eq!(last, Some("mllp.no_repeat"));
    assert_eq!(hospital.frames().len(), 1, "it got the message once");
    Ok(())
}

async fn a_late_refusal_is_told_once_however_often_it_comes(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let area = Area {
        pushing: "retry = { first = \"30m\", cap = \"30m\" }\nattempt_timeout = \"5s\"\ndeadline = \"2h\"\n"
            .to_owned(),
        ..area(&hospital)
    };
    let gateway = Gateway::start(engine, &area).await?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    hospital.play(&[Play::Later]);
    let receipt = school
        .submit("late", &Child(96).referral("adhd-assessment"))
        .await?;
    let id = receipt.referral_id.as_str();
    let delivery = wait_until("it was put off", PATIENCE, || async {
        let delivery = admin.deliveries(id).await?.remove(0);
        let (_, attempts) = admin.delivery(&delivery.delivery_id).await?;
        let put_off = attempts.iter().any(|a| a.reason_code == "mllp.ar.207");
        Ok(put_off.then_some(delivery))
    })
    .await?;
    let listener = *gateway.app()?.mllp.get("r1l").expect("the listener");
    let mut seen = Vec::new();
    // Its answer is lost and it comes again; then the hospital says the same in another message.
    for control_id in ["LATE1", "LATE1", "LATE2"] {
        let header = rri(control_id, &receipt.reference, "P");
        let header = header.split('\r').next().unwrap_or_default();
        let refusal = format!("{header}\rMSA|AE|{}\r", delivery.wire_id);
        let answer = send(listener, &refusal).await?;
        assert!(answer.contains(&format!("MSA|AA|{control_id}")), "{answer}");
        admin
            .delivery_is(&delivery.delivery_id, DeliveryState::Parked)
            .await?;
        let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
        let told = timeline.iter().filter(|e| e.event.code == "hl7.ae");
        let queued = admin.deliveries(id).await?.len();
        seen.push((told.count(), timeline.len(), queued));
    }
    let first = seen.first().copied().unwrap_or_default();
    assert_eq!(first.0, 1);
    assert_eq!(seen, [first; 3], "nothing is told or queued again");
    let alarms = admin.alarms("parked").await?;
    assert!(alarms.iter().any(|a| a.subject == delivery.delivery_id));
    assert!(admin.conservation().await?.balanced);
    Ok(())
}
