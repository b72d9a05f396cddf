//! Post that an agency fetches itself: rendered as for gRPC, never pushed.
//!
//! Its deliveries wait for MailboxService, which leases, acknowledges and rejects them; loss as for gRPC.

use async_trait::async_trait;
use serde::Deserialize;
use waymark_core::delivery::{Outcome, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Deadline, Identification, Outbound, Probe, RenderError, Rendered, Source,
};

use crate::connect::Stage;
use crate::grpc::receipt::ReceiptKey;
use crate::grpc::wire;
use crate::settings;

/// The mailbox adapter.
#[derive(Debug)]
pub struct Mailbox {
    environment: Environment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    receipt_keys: Vec<ReceiptKey>,
}

/// The keys that the agency of a mailbox signs its receipts with; none when it signs none.
pub fn receipt_keys(endpoint: &Endpoint) -> Vec<ReceiptKey> {
    settings::read::<Settings>(endpoint)
        .map(|s| s.receipt_keys)
        .unwrap_or_default()
}

impl Mailbox {
    pub(crate) const fn new(environment: Environment) -> Self {
        Self { environment }
    }
}

#[async_trait]
impl Adapter for Mailbox {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::Idempotent
    }

    fn identification(&self, _endpoint: &Endpoint) -> Identification {
        Identification::Mailbox
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        settings::read::<Settings>(endpoint)
            .err()
            .unwrap_or_default()
    }

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        wire::render(source, endpoint, self.environment)
    }

    async fn deliver(&self, _message: &Outbound<'_>, _deadline: Deadline) -> Outcome {
        // Nothing was sent, and nothing is wrong with the message: it stays for its agency to fetch.
        let why = Why::new(
            "mailbox.not_pushed",
            "post in a mailbox waits to be fetched",
        );
        Outcome::Retry { after: None, why }
    }

    async fn probe(&self, _endpoint: &Endpoint, _deadline: Deadline) -> Probe {
        let nothing = |stage: Stage| stage.told(None, "the agency fetches its post itself");
        Probe {
            stages: Stage::ALL.map(nothing).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use waymark_core::delivery::Kind;
    use waymark_core::directory::AdapterKind;

    use super::*;
    use crate::contract::{self, sample};
    use crate::far_side;

    fn mailbox(settings: &str) -> Endpoint {
        far_side::endpoint(AdapterKind::Mailbox, settings)
    }

    #[test]
    fn the_adapter_keeps_the_contract_of_rendering() {
        let adapter = Mailbox::new(Environment::Test);
        assert_eq!(contract::rendering(&adapter, &mailbox("")), []);
    }

    #[test]
    fn post_is_the_same_bytes_as_a_push() {
        let adapter = Mailbox::new(Environment::Test);
        let (source, endpoint) = (sample::source(Kind::New), mailbox(""));
        let pushed = wire::render(&source, &endpoint, Environment::Test).unwrap();
        assert_eq!(adapter.render(&source, &endpoint).unwrap(), pushed);
    }

    #[tokio::test]
    async fn post_is_never_pushed() {
        let adapter = Mailbox::new(Environment::Test);
        let (source, endpoint) = (sample::source(Kind::New), mailbox(""));
        let rendered = adapter.render(&source, &endpoint).unwrap();
        let message = sample::outbound(&source, &rendered, &endpoint, 1);
        let deadline = Deadline {
            within: Duration::from_secs(1),
        };
        let outcome = adapter.deliver(&message, deadline).await;
        assert!(matches!(outcome, Outcome::Retry { after: None, .. }));
        let probe = adapter.probe(&endpoint, deadline).await;
        assert!(probe.stages.len() == 5 && probe.stages.iter().all(|s| s.passed.is_none()));
    }

    #[test]
    fn settings_are_receipt_keys_and_nothing_else() {
        let adapter = Mailbox::new(Environment::Test);
        let key = "receipt_keys = [{ id = \"k\", ed25519 = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\" }]";
        assert_eq!(adapter.validate(&mailbox(key)), []);
        assert_eq!(receipt_keys(&mailbox(key)).len(), 1);
        let faults = adapter.validate(&mailbox("url = \"https://x.example\""));
        assert_eq!(
            faults.first().map(|f| f.field.as_str()),
            Some("settings.url")
        );
    }
}
