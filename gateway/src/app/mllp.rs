//! MLLP listeners: each is bound to an agency by a name or by its client's certificate (ruling 9).

use std::net::SocketAddr;
use std::sync::Arc;

use waymark_adapters::hl7v2::config::Assumptions;
use waymark_adapters::hl7v2::inbound::{self, ListenerOptions};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::port::Intake;
use waymark_core::time::Clock;

use crate::config::MllpListener;
use crate::lifecycle::{FailureEffect, Lifecycle};
use crate::service::Service;
use crate::tls::{Protocol, ServerTls};

pub(super) async fn serve(
    lifecycle: &Lifecycle,
    listen: &MllpListener,
    tls: &ServerTls,
    service: &Service,
    intake: Arc<dyn Intake>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<SocketAddr> {
    let assumptions = Assumptions {
        pathway: listen.assume.pathway.clone(),
        pathways: listen.assume.pathways.clone(),
        lawful_basis: listen.assume.lawful_basis,
        consent_scope: listen.assume.consent_scope.clone(),
    };
    let mut options = ListenerOptions::new(listen.name.clone(), service.environment(), assumptions);
    let directory = service.clone();
    options.codes = Arc::new(move |identity| {
        let in_force = directory.in_force();
        let known = in_force.directory.identities.get(identity);
        known.map(|known| known.codes.clone()).unwrap_or_default()
    });
    if listen.tls {
        let tls = tls.clone();
        options.tls = Some(Arc::new(move || tls.config(Protocol::Plain)));
    } else {
        standing_risk(service, listen).await?;
    }
    let listener = inbound::MllpListener::bind(listen.address, options, intake, clock).await?;
    let bound = listener.local_addr()?;
    let stop = lifecycle.stopping();
    lifecycle.spawn(
        format!("mllp {}", listen.name),
        FailureEffect::EndProcess,
        async move {
            listener.run(stop).await;
            Ok::<(), std::convert::Infallible>(())
        },
    );
    Ok(bound)
}

/// Plain MLLP proves nothing of who speaks: it stands as a risk for as long as the listener does.
async fn standing_risk(service: &Service, listen: &MllpListener) -> anyhow::Result<()> {
    let in_force = service.in_force();
    let Some(triage) = in_force.directory.triage() else {
        return Ok(());
    };
    let alarm = NewAlarm {
        kind: AlarmKind::NetworkIdentity,
        subject: format!("mllp:{}", listen.name),
        owner: triage.agency.clone(),
        role: triage.owner_role.clone(),
        text: format!(
            "listener {} is plain MLLP: anybody on its network may speak as its agency",
            listen.name
        ),
    };
    service.store().raise_alarm(&alarm, service.now()).await?;
    Ok(())
}
