//! Scenarios 2 and 6 over HL7 v2 with the status request (I15), and appointments (SIU): a cancel is never sent blindly, an
//! acknowledgement that is lost makes no second record, and a booking reaches the sender.

use waymark_core::port::EventKind;
use waymark_proto::v1;
use waymark_proto::v1::{AttemptOutcome, DeliveryState, LegState, MessageKind};
use waymark_tests::actors::{Hospital, Play, send, siu};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    a_cancel_is_refused_where_the_receiver_says_it_is_too_late_and_both_facts_stand,
    a_cancel_goes_where_the_receiver_still_waits,
    a_cancel_waits_until_its_question_is_answered,
    a_cancel_whose_acknowledgement_is_lost_makes_no_second_record,
    appointments_by_siu_move_the_leg_and_are_told,
    a_receiver_asks_where_a_referral_stands,
    many_messages_need_few_connections,
}

/// A gateway that asks the hospital before it cancels.
async fn asking(engine: Engine, hospital: &Hospital) -> anyhow::Result<Gateway> {
    let area = Area {
        mllp: hospital.port(),
        ..Area::default()
    };
    let gateway = Gateway::start(engine, &area).await?;
    let mut files = area.files();
    let mode = "ack_mode = \"original\"";
    for file in &mut files {
        let asks = format!("{mode}\nask_before_cancel = true\nack_timeout_ms = 300");
        file.text = file.text.replace(mode, &asks);
    }
    gateway.apply(&files).await?;
    Ok(gateway)
}

/// A referral that the hospital has.
async fn taken(school: &Client, child: Child) -> anyhow::Result<v1::Receipt> {
    let key = format!("taken-{}", child.0);
    let receipt = school
        .submit(&key, &child.referral("adhd-assessment"))
        .await?;
    school
        .leg_shows(&receipt.referral_id, DeliveryState::Done)
        .await?;
    Ok(receipt)
}

/// The delivery of a referral's cancel.
async fn cancel_of(admin: &Client, id: &str) -> anyhow::Result<v1::Delivery> {
    let all = admin.deliveries(id).await?;
    let cancel = all.into_iter().find(|d| d.kind() == MessageKind::Cancel);
    anyhow::Context::context(cancel, "a cancel")
}

fn kinds(hospital: &Hospital) -> Vec<String> {
    hospital.frames().into_iter().map(|f| f.kind).collect()
}

async fn a_cancel_is_refused_where_the_receiver_says_it_is_too_late_and_both_facts_stand(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = asking(engine, &hospital).await?;
    let (school, admin) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
    let receipt = taken(&school, Child(80)).await?;
    let id = &receipt.referral_id;
    hospital.stands("R");
    school.cancel("too-late", id).await?;
    let cancel = cancel_of(&admin, id).await?;
    admin
        .delivery_is(&cancel.delivery_id, DeliveryState::Rejected)
        .await?;
    assert_eq!(
        kinds(&hospital),
        ["REF^I12", "REF^I15"],
        "the cancel itself was never written"
    );
    let timeline = gateway.store()?.timeline(id.parse()?, 100).await?;
    let of = |kind| timeline.iter().filter(move |e| e.event.kind == kind);
    assert_eq!(of(EventKind::Cancelled).count(), 1, "that it was cancelled");
    assert_eq!(of(EventKind::Status).count(), 1, "and where it stood");
    assert!(
        timeline.iter().any(|e| e.event.code == "cancel_refused"),
        "with the reason"
    );
    assert!(admin.conservation().await?.balanced);
    Ok(())
}

async fn a_cancel_goes_where_the_receiver_still_waits(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = asking(engine, &hospital).await?;
    let (school, admin) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
    let receipt = taken(&school, Child(81)).await?;
    hospital.stands("P");
    school.cancel("in-time", &receipt.referral_id).await?;
    let cancel = cancel_of(&admin, &receipt.referral_id).await?;
    admin
        .delivery_is(&cancel.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(kinds(&hospital), ["REF^I12", "REF^I15", "REF^I14"]);
    Ok(())
}

async fn a_cancel_waits_until_its_question_is_answered(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = asking(engine, &hospital).await?;
    let (school, admin) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
    let receipt = taken(&school, Child(82)).await?;
    school.cancel("unheard", &receipt.referral_id).await?;
    let asked = || kinds(&hospital).iter().filter(|k| *k == "REF^I15").count();
    wait_until("it was asked more than once", PATIENCE, || async {
        Ok((asked() >= 2).then_some(()))
    })
    .await?;
    assert!(!kinds(&hospital).contains(&"REF^I14".to_owned()));
    let cancel = cancel_of(&admin, &receipt.referral_id).await?;
    let (_, attempts) = admin.delivery(&cancel.delivery_id).await?;
    let first = attempts.first().map(v1::Attempt::outcome);
    assert_eq!(first, Some(AttemptOutcome::Retry), "nothing of it was sent");
    hospital.stands("A");
    admin
        .delivery_is(&cancel.delivery_id, DeliveryState::Done)
        .await?;
    assert_eq!(hospital.applied().len(), 2, "the referral and one cancel");
    Ok(())
}

async fn a_cancel_whose_acknowledgement_is_lost_makes_no_second_record(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = asking(engine, &hospital).await?;
    let (school, admin) = (
        gateway.client("EE123456").await?,
        gateway.client("admin-LA882").await?,
    );
    hospital.stands("P");
    hospital.play(&[Play::ApplyAndDrop, Play::Take, Play::ApplyAndDrop]);
    let receipt = taken(&school, Child(83)).await?;
    school.cancel("lost", &receipt.referral_id).await?;
    let cancel = cancel_of(&admin, &receipt.referral_id).await?;
    admin
        .delivery_is(&cancel.delivery_id, DeliveryState::Done)
        .await?;
    let applied: Vec<String> = hospital.applied().into_iter().map(|f| f.kind).collect();
    assert_eq!(applied, ["REF^I12", "REF^I14"], "one record of each");
    let sent: Vec<_> = hospital
        .frames()
        .into_iter()
        .filter(|f| f.kind == "REF^I14")
        .collect();
    assert!(sent.len() >= 2, "it was sent again");
    assert!(
        sent.iter().all(|f| Some(f) == sent.first()),
        "the same bytes"
    );
    Ok(())
}

async fn appointments_by_siu_move_the_leg_and_are_told(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(
        engine,
        &Area {
            mllp: hospital.port(),
            ..Area::default()
        },
    )
    .await?;
    let school = gateway.client("EE123456").await?;
    let listener = gateway.app()?.mllp.get("r1l").copied();
    let listener = listener.expect("the listener of mllp:r1l");
    let receipt = taken(&school, Child(84)).await?;
    // Moved by S13, and by S12 once more: the day moves each time, and the state stays.
    let days = [
        "20260504", "20260506", "20260507", "20260507", "20260511", "20260511",
    ];
    for ((event, state), day) in [
        ("S12", LegState::Booked),
        ("S13", LegState::Booked),
        ("S12", LegState::Booked),
        ("S26", LegState::WasNotBrought),
        ("S12", LegState::Booked),
        ("S15", LegState::AppointmentCancelled),
    ]
    .into_iter()
    .zip(days)
    {
        let id = format!("{event}{day}");
        let answer = send(listener, &siu(&id, event, &receipt.reference, day)).await?;
        assert!(answer.contains(&format!("|ACK^{event}^ACK|")), "{answer}");
        assert!(answer.contains(&format!("MSA|AA|{id}")), "{answer}");
        let leg = school.leg(&receipt.referral_id).await?;
        assert_eq!(leg.state(), state);
        if state == LegState::Booked {
            assert_eq!(leg.next_action_due.replace('-', ""), day);
        }
    }
    let nobody = siu("NOBODY", "S12", "WM-AAAAA-AAAAA-AAAAA", "20260504");
    let answer = send(listener, &nobody).await?;
    assert!(answer.contains("MSA|AE|NOBODY"), "{answer}");
    Ok(())
}

async fn a_receiver_asks_where_a_referral_stands(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(
        engine,
        &Area {
            mllp: hospital.port(),
            ..Area::default()
        },
    )
    .await?;
    let (school, provider) = (
        gateway.client("EE123456").await?,
        gateway.client("R1L").await?,
    );
    let listener = gateway.app()?.mllp.get("r1l").copied();
    let listener = listener.expect("the listener of mllp:r1l");
    let receipt = taken(&school, Child(85)).await?;
    let ask = |id: &str, reference: &str| {
        let asked = hospital.frames().remove(0).text;
        let asked = asked.replacen(
            "|WAYMARK|SOUTHMERE|EPR|R1L|",
            "|EPR|R1L|WAYMARK|SOUTHMERE|",
            1,
        );
        let asked = asked.replacen("REF^I12^REF_I12", "REF^I15^REF_I12", 1);
        let own = hospital.frames().remove(0).control_id;
        asked
            .replacen(&own, id, 1)
            .replace(&receipt.reference, reference)
    };
    let answer = send(listener, &ask("ASK1", &receipt.reference)).await?;
    assert!(answer.contains("|RRI^I15^RRI_I12|"), "{answer}");
    assert!(answer.contains("\rRF1|P^"), "pending: {answer}");
    provider
        .status(&receipt.referral_id, 1, LegState::Declined)
        .await?;
    let answer = send(listener, &ask("ASK2", &receipt.reference)).await?;
    assert!(answer.contains("\rRF1|R^"), "rejected: {answer}");
    let answer = send(listener, &ask("ASK3", "WM-AAAAA-AAAAA-AAAAA")).await?;
    assert!(answer.contains("MSA|AE|ASK3"), "{answer}");
    Ok(())
}

async fn many_messages_need_few_connections(engine: Engine) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(
        engine,
        &Area {
            mllp: hospital.port(),
            ..Area::default()
        },
    )
    .await?;
    let school = gateway.client("EE123456").await?;
    for n in 700..730 {
        school
            .submit(&format!("reuse-{n}"), &Child(n).referral("adhd-assessment"))
            .await?;
    }
    wait_until("everything has arrived", PATIENCE, || async {
        Ok((hospital.applied().len() == 30).then_some(()))
    })
    .await?;
    let connections = hospital.connections();
    assert!(
        connections <= 4,
        "{connections} connections for an endpoint that may have four at a time"
    );
    Ok(())
}
