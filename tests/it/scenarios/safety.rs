//! Scenario 18: what keeps a child safe arrives whichever way a referral takes.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use serde_json::{Value, json};
use waymark_core::referral::{Format, Referral};
use waymark_proto::v1;
use waymark_tests::actors::{Hospital, MentalHealth, Therapy};
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway, PATIENCE, wait_until};

waymark_tests::both_engines! {
    safeguarding_adjustments_and_easy_read_arrive_by_every_adapter,
}

const FLAG: &str = "Known to social care: ask before any home visit";
const ADJUSTMENT: &str = "Needs a quiet room | and time~to answer";
const NOTE: &str = "Ring after 18:00, never at work";

fn careful(child: Child, pathway: &str) -> Value {
    let mut referral = child.referral(pathway);
    referral["safeguardingFlags"] =
        json!([{ "system": "http://snomed.info/sct", "code": "836881000000105", "text": FLAG }]);
    referral["reasonableAdjustments"] = json!([{ "code": "1108111000000107", "text": ADJUSTMENT }]);
    referral["allergies"] = "Penicillin".into();
    referral["contacts"][0]["preferredFormat"] = "CONTACT_FORMAT_EASY_READ".into();
    referral["contacts"][0]["safeToContact"] = "CONTACT_SAFETY_RESTRICTED".into();
    referral["contacts"][0]["contactNote"] = NOTE.into();
    referral
}

async fn safeguarding_adjustments_and_easy_read_arrive_by_every_adapter(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let (mut therapy, mut camhs) = (Therapy::bind().await?, MentalHealth::bind().await?);
    let area = Area {
        mllp: hospital.port(),
        webhook: therapy.port(),
        grpc: camhs.port(),
        ..Area::default()
    };
    let gateway = Gateway::start(engine, &area).await?;
    therapy.serve(
        &gateway.issue("waymark:test:agency:THER1")?,
        &gateway.secret("therapy-webhook")?,
    )?;
    camhs.serve(&gateway.issue("waymark:test:agency:CAM01")?, &gateway.ca()?)?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let mut last = String::new();
    for (n, pathway) in (100..).zip([
        "adhd-assessment",
        "speech-language",
        "mental-health",
        "specialist-teaching",
    ]) {
        last = school
            .submit(pathway, &careful(Child(n), pathway))
            .await?
            .referral_id;
    }

    by_mllp(&hospital).await?;
    by_webhook(&therapy).await?;

    // gRPC push and mailbox: the contract's message.
    let pushed = wait_until("the mental health service has it", PATIENCE, || async {
        Ok(camhs.dispatches()?.pop())
    });
    let fetched = team.fetch_one(&last).await?;
    for dispatch in [pushed.await?, fetched.dispatch] {
        let referral = dispatch.referral.expect("a new referral has its content");
        let flag = referral.safeguarding_flags.first().expect("the flag");
        assert_eq!(
            (flag.code.as_str(), flag.text.as_str()),
            ("836881000000105", FLAG)
        );
        let adjustment = referral
            .reasonable_adjustments
            .first()
            .expect("the adjustment");
        assert_eq!(
            (adjustment.code.as_str(), adjustment.text.as_str()),
            ("1108111000000107", ADJUSTMENT)
        );
        let contact = referral.contacts.first().expect("the contact");
        assert_eq!(contact.preferred_format(), v1::ContactFormat::EasyRead);
        assert_eq!(contact.safe_to_contact(), v1::ContactSafety::Restricted);
        assert_eq!(
            (contact.contact_note.as_str(), referral.allergies.as_str()),
            (NOTE, "Penicillin")
        );
    }
    Ok(())
}

/// A banner that a person reads, and parts that a system reads.
async fn by_mllp(hospital: &Hospital) -> anyhow::Result<()> {
    let frame = wait_until("the hospital has it", PATIENCE, || async {
        Ok(hospital.applied().pop())
    })
    .await?;
    let notes = frame.segments("NTE");
    let note = |kind: &str| {
        let end = format!("|{kind}^");
        notes
            .iter()
            .find(|n| n.contains(&end))
            .copied()
            .unwrap_or_default()
    };
    assert!(note("SG").contains(FLAG) && note("SG").contains("836881000000105"));
    assert!(note("RA").contains("1108111000000107"));
    // The separators within the words are escaped, not lost.
    assert!(
        note("RA").contains(r"Needs a quiet room \F\ and time\R\to answer"),
        "{}",
        note("RA")
    );
    assert!(
        note("CONTACT").contains("NEEDS EASY READ")
            && note("CONTACT").contains("CONTACT ONLY WITH CARE")
    );
    assert!(note("CONTACT").contains(NOTE));
    assert!(note("ALLERGY").contains("Penicillin"));
    assert!(
        notes.first().is_some_and(|first| first.contains("|SG^")),
        "what must be read first comes first"
    );
    Ok(())
}

/// The canonical referral whole.
async fn by_webhook(therapy: &Therapy) -> anyhow::Result<()> {
    let hook = wait_until("the therapy service has it", PATIENCE, || async {
        Ok(therapy.hooks().pop())
    })
    .await?;
    assert_eq!(therapy.unsigned(), 0, "every webhook is signed");
    let canonical: Referral = serde_json::from_value(hook.body["data"]["referral"].clone())?;
    assert_eq!(
        canonical
            .safeguarding
            .first()
            .and_then(|f| f.text.as_ref())
            .map(|t| t.expose().as_str()),
        Some(FLAG)
    );
    let adjusted = canonical
        .reasonable_adjustments
        .first()
        .and_then(|f| f.text.as_ref());
    assert_eq!(adjusted.map(|t| t.expose().as_str()), Some(ADJUSTMENT));
    let contact = canonical.contacts.first().expect("a contact");
    assert_eq!(contact.format, Format::EasyRead);
    assert_eq!(
        contact
            .safe_contact_note
            .as_ref()
            .map(|t| t.expose().as_str()),
        Some(NOTE)
    );
    Ok(())
}
