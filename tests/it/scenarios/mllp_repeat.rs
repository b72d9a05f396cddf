//! The same message of a hospital again, under its MSH-10 and with a time of its own: it is the same message.

use waymark_core::port::EventKind;
use waymark_tests::actors::send;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Gateway};

waymark_tests::both_engines! {
    a_repeat_with_a_new_time_is_the_same_message_of_every_kind,
}

/// The hospital's own message under an id, written at a time.
fn message(event: &str, id: &str, at: &str, words: &str) -> String {
    [
        format!("MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|{at}||REF^{event}^REF_I12|{id}|T|2.5"),
        "RF1|P|R||||NP-1^EPR".to_owned(),
        "PRD|RP|Okoro^Ada|||||R1L^ODS".to_owned(),
        "PID|1||N-77^^^EPR^PI||Heron^Child||20160504|M".to_owned(),
        "NK1|1|Heron^Mary|MTH^Mother^HL70063||01632960021^PRN^PH".to_owned(),
        format!("NTE|1|L|{words}"),
        String::new(),
    ]
    .join("\r")
}

async fn a_repeat_with_a_new_time_is_the_same_message_of_every_kind(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let listener = *gateway.app()?.mllp.get("r1l").expect("the listener");
    for (event, id) in [("I12", "N1"), ("I13", "N2"), ("I14", "N3")] {
        for at in ["20260302100000", "20260302100001"] {
            let answer = send(listener, &message(event, id, at, "as it was")).await?;
            assert!(
                answer.contains(&format!("MSA|AA|{id}")),
                "{event}: {answer}"
            );
        }
        let other = message(event, id, "20260302100002", "something else");
        let answer = send(listener, &other).await?;
        assert!(
            answer.contains(&format!("MSA|AE|{id}")),
            "{event}: {answer}"
        );
        assert!(answer.contains("|205^"), "{event}: {answer}");
    }
    let store = gateway.store()?;
    let key = waymark_core::port::ReferralKey::Sender(
        "R1L".parse()?,
        waymark_core::referral::SenderReference {
            value: "NP-1".to_owned(),
            namespace: "EPR".to_owned(),
        },
    );
    let referral = store.resolve(&key).await?.expect("the referral");
    let timeline = store.timeline(referral, 100).await?;
    let count = |kind| timeline.iter().filter(|e| e.event.kind == kind).count();
    assert_eq!(count(EventKind::Amended), 1);
    assert_eq!(count(EventKind::Cancelled), 1);
    Ok(())
}
