//! Scenario 17: a message that breaks its adapter is set aside, and only that message.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use waymark::app::Duty;
use waymark_core::delivery::{Outcome, Repeat};
use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Deadline, Identification, Outbound, Probe, RenderError, Rendered, Source,
};
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Drive, Gateway, PATIENCE, Wrap, wait_until};

waymark_tests::both_engines! {
    a_message_that_breaks_its_adapter_is_set_aside_and_others_flow,
    a_message_that_cannot_be_rendered_is_set_aside_at_once,
}

/// How long a lease of a broken attempt lasts.
const LEASE: Duration = Duration::from_millis(300);
/// Attempts that may break before the message is called poison.
const BROKEN_MAX: u32 = 3;

/// Where the adapter has its defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    Delivering,
    Rendering,
}

/// The real adapter with a defect that one family's name brings out, until it is mended.
struct Defective {
    real: Arc<dyn Adapter>,
    defect: Defect,
    name: String,
    mended: Arc<AtomicBool>,
}

impl Defective {
    fn breaks(&self, on: Defect, bytes: &[u8]) {
        let meets = self.defect == on && !self.mended.load(Ordering::SeqCst);
        assert!(
            !(meets && String::from_utf8_lossy(bytes).contains(&self.name)),
            "the adapter's defect"
        );
    }
}

#[async_trait]
impl Adapter for Defective {
    fn repeat(&self, endpoint: &Endpoint) -> Repeat {
        self.real.repeat(endpoint)
    }
    fn identification(&self, endpoint: &Endpoint) -> Identification {
        self.real.identification(endpoint)
    }
    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        self.real.validate(endpoint)
    }
    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let rendered = self.real.render(source, endpoint)?;
        self.breaks(Defect::Rendering, rendered.bytes.expose());
        Ok(rendered)
    }
    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        self.breaks(Defect::Delivering, message.rendered.bytes.expose());
        self.real.deliver(message, deadline).await
    }
    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        self.real.probe(endpoint, deadline).await
    }
}

fn wrap(defect: Defect, child: Child, mended: &Arc<AtomicBool>) -> Wrap {
    let (name, mended) = (child.family(), Arc::clone(mended));
    Arc::new(move |kind, real| match kind {
        AdapterKind::Hl7v2 => Arc::new(Defective {
            real,
            defect,
            name: name.clone(),
            mended: Arc::clone(&mended),
        }),
        _ => real,
    })
}

async fn start(engine: Engine, hospital: &Hospital) -> anyhow::Result<Gateway> {
    let pushing = format!(
        "retry = {{ first = \"20ms\", cap = \"60ms\", panics_max = {BROKEN_MAX} }}\nattempt_timeout = \"5s\"\n"
    );
    let area = Area {
        mllp: hospital.port(),
        pushing,
        ..Area::default()
    };
    Gateway::start_as(engine, &area, Duty::Faces).await
}

async fn a_message_that_breaks_its_adapter_is_set_aside_and_others_flow(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = start(engine, &hospital).await?;
    let (poison, well) = (Child(170), Child(171));
    let mended = Arc::new(AtomicBool::new(false));
    let drive = Drive::start(&gateway, LEASE, wrap(Defect::Delivering, poison, &mended))?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let broken = school
        .submit("poison", &poison.referral("adhd-assessment"))
        .await?;
    let first = admin.deliveries(&broken.referral_id).await?.remove(0);
    wait_until("it has broken the adapter", PATIENCE, || async {
        let (delivery, _) = admin.delivery(&first.delivery_id).await?;
        Ok((delivery.attempts >= 1).then_some(()))
    })
    .await?;
    // Its own lane waits; others do not.
    let mut update = poison.referral("adhd-assessment");
    update["narrative"] = "more of the same".into();
    school
        .amend("poison-more", &broken.referral_id, &update)
        .await?;
    let other = school
        .submit("well", &well.referral("adhd-assessment"))
        .await?;
    school
        .leg_shows(&other.referral_id, DeliveryState::Done)
        .await?;

    let parked = admin
        .delivery_is(&first.delivery_id, DeliveryState::Parked)
        .await?;
    assert_eq!(
        parked.attempts, BROKEN_MAX,
        "set aside after {BROKEN_MAX} tries"
    );
    let park = parked.park.expect("it says why");
    assert_eq!(park.reason_code, "poison");
    assert!(park.owner.is_some() && !park.reason.is_empty());
    assert!(
        admin
            .alarms("parked")
            .await?
            .iter()
            .any(|a| a.subject == first.delivery_id)
    );
    let all = admin.deliveries(&broken.referral_id).await?;
    let states: Vec<_> = all.iter().map(|d| (d.kind(), d.state())).collect();
    let waits = (v1::MessageKind::Amend, DeliveryState::Parked);
    assert_eq!(
        states.last(),
        Some(&waits),
        "what comes behind it in the same referral waits with it"
    );
    let seen: Vec<String> = hospital
        .applied()
        .into_iter()
        .map(|f| f.reference)
        .collect();
    assert_eq!(
        seen,
        std::slice::from_ref(&other.reference),
        "nothing of it was sent"
    );
    assert!(
        admin.conservation().await?.balanced,
        "it is set aside, not lost"
    );

    // The operator mends the adapter and lets it go on: the same id.
    mended.store(true, Ordering::SeqCst);
    for delivery in &all {
        let request = v1::ResumeLaneRequest {
            target: Some(v1::resume_lane_request::Target::DeliveryId(
                delivery.delivery_id.clone(),
            )),
            reason: "the adapter is mended".to_owned(),
        };
        // Resuming the first may take the one behind it along.
        if admin.delivery(&delivery.delivery_id).await?.0.state() == DeliveryState::Parked {
            admin.admin().resume_lane(request).await?;
        }
    }
    wait_until("both have arrived", PATIENCE, || async {
        Ok((hospital.applied_of(&broken.reference).len() == 2).then_some(()))
    })
    .await?;
    let ids: Vec<String> = hospital
        .applied_of(&broken.reference)
        .into_iter()
        .map(|f| f.control_id)
        .collect();
    let wires: Vec<String> = all.into_iter().map(|d| d.wire_id).collect();
    assert_eq!(ids, wires, "under the same ids, in order");
    drive.stop().await;
    Ok(())
}

async fn a_message_that_cannot_be_rendered_is_set_aside_at_once(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = start(engine, &hospital).await?;
    let poison = Child(172);
    let mended = Arc::new(AtomicBool::new(false));
    let drive = Drive::start(&gateway, LEASE, wrap(Defect::Rendering, poison, &mended))?;
    let [school, admin] = gateway.clients(["EE123456", "admin-LA882"]).await?;
    let broken = school
        .submit("unrendered", &poison.referral("adhd-assessment"))
        .await?;
    let first = admin.deliveries(&broken.referral_id).await?.remove(0);
    let parked = admin
        .delivery_is(&first.delivery_id, DeliveryState::Parked)
        .await?;
    assert_eq!(parked.attempts, 0, "no attempt was opened");
    assert_eq!(
        parked.park.map(|p| p.reason_code).as_deref(),
        Some("poison")
    );
    mended.store(true, Ordering::SeqCst);
    let request = v1::ResumeLaneRequest {
        target: Some(v1::resume_lane_request::Target::DeliveryId(
            first.delivery_id.clone(),
        )),
        reason: "mended".to_owned(),
    };
    admin.admin().resume_lane(request).await?;
    admin
        .delivery_is(&first.delivery_id, DeliveryState::Done)
        .await?;
    let ids: Vec<String> = hospital
        .applied()
        .into_iter()
        .map(|f| f.control_id)
        .collect();
    assert_eq!(ids, [first.wire_id]);
    drive.stop().await;
    Ok(())
}
