//! The provider that writes to families, and how it reports what became of each message: by callback.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use rustls::ServerConfig;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use waymark_adapters::stand_in::notify::{Callbacks, Message, Notify};
use waymark_core::delivery::Kind;
use waymark_core::directory::Directory;
use waymark_core::family::Field;

use super::answer;
use super::ledger::{Arrival, Ledger, Taken};
use crate::cli::https::Reserved;
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// Whose provider it is: the agency of the directory's endpoint.
pub(super) const AGENCY: &str = super::COUNCIL;
/// The endpoint.
pub(super) const ENDPOINT: &str = "families";

/// The pause between two looks at what was taken.
const LOOK: Duration = Duration::from_millis(200);

struct Desk {
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    provider: Arc<Notify>,
    callbacks: Arc<Callbacks>,
}

/// Opens at a reserved address with the templates of a directory; `callbacks` is where reports go. Answers its ledger.
pub(super) fn open(
    reserved: Reserved,
    server: Arc<ServerConfig>,
    directory: &Directory,
    callbacks: Callbacks,
    lifecycle: &Lifecycle,
) -> Arc<Ledger> {
    let provider = Arc::new(Notify::new(Arc::new(SystemClock)));
    for template in &directory.templates {
        let fields: Vec<&str> = template
            .fields
            .iter()
            .map(|field| Field::as_str(*field))
            .collect();
        provider.template(&template.remote, template.way.as_str(), &fields);
    }
    reserved.serve("demo family messages", server, provider.routes(), lifecycle);
    let ledger = Arc::new(Ledger::new(AGENCY));
    let desk = Desk {
        ledger: Arc::clone(&ledger),
        lifecycle: lifecycle.clone(),
        provider,
        callbacks: Arc::new(callbacks),
    };
    let stop = lifecycle.stopping();
    lifecycle.spawn(
        "demo reports on family messages",
        FailureEffect::EndProcess,
        desk.run(stop),
    );
    ledger
}

impl Desk {
    async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut seen = 0;
        while !stop.is_cancelled() {
            let messages = self.provider.messages();
            for message in messages.iter().skip(seen) {
                self.take(message);
            }
            seen = messages.len();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }

    fn take(&self, message: &Message) {
        let said = |field: Field| {
            let pointer = format!("/personalisation/{}", field.as_str());
            let value = message.body.pointer(&pointer).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let arrival = Arrival {
            wire_id: message.reference.clone(),
            kind: Kind::Guidance,
            reference: said(Field::Reference),
            service: said(Field::Service),
            content: None,
        };
        // A provider sends each message that it takes: one that comes twice has gone to the family twice.
        if self.ledger.take(arrival, &message.bytes) == Taken::Again {
            self.ledger
                .fault(format!("{} went to the family twice", message.reference));
            return;
        }
        self.provider.becomes(&message.reference, "delivered");
        let (provider, callbacks) = (Arc::clone(&self.provider), Arc::clone(&self.callbacks));
        let reference = message.reference.clone();
        let what = format!("the report on {reference}");
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let (provider, callbacks) = (Arc::clone(&provider), Arc::clone(&callbacks));
            let reference = reference.clone();
            async move {
                let status = provider
                    .calls_back(&callbacks, &reference, "delivered")
                    .await?;
                ensure!(
                    (200..300).contains(&status),
                    "the gateway answered {status}"
                );
                Ok(())
            }
        });
    }
}
