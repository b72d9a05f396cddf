//! What the gateway asks of an adapter, and what an adapter's inbound side asks of the gateway.

use async_trait::async_trait;

use super::StopNotice;
use crate::delivery::{Evidence, Kind, Outcome, Repeat, Why};
use crate::directory::{Endpoint, Environment};
use crate::error::{ErrorKind, Violation};
use crate::id::{AgencyId, DeliveryId, LegId, Reference, ReferralId, ServiceId, WireId};
use crate::leg::LegState;
use crate::personal::{Payload, Personal};
use crate::referral::{Referral, SenderReference};
use crate::time::Timestamp;

/// What a delivery says, before it is rendered.
#[derive(Clone, Debug)]
pub struct Source {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its wire id.
    pub wire_id: WireId,
    /// The referral.
    pub referral: ReferralId,
    /// Its short reference.
    pub reference: Reference,
    /// The leg it is for; absent for a status to the sender.
    pub leg: Option<LegId>,
    /// The referral's version that it carries; 0 for a status to the sender.
    pub version: u64,
    /// What the delivery says.
    pub kind: Kind,
    /// The agency that sent the referral.
    pub sender: AgencyId,
    /// The agency that must get it.
    pub recipient: AgencyId,
    /// The service it is for; absent for a status to the sender.
    pub service: Option<ServiceId>,
    /// The referral's content as accepted; absent for a status.
    pub content: Option<Referral>,
    /// The status to tell; present for a status alone.
    pub status: Option<StatusNotice>,
    /// Why it is cancelled or withdrawn; present for those two alone.
    pub stop: Option<StopNotice>,
    /// The same in words.
    pub reason: Option<Personal<String>>,
    /// The sender's own reference of the referral.
    pub sender_reference: Option<SenderReference>,
    /// When the first attempt was made: the time that goes on the wire.
    pub at: Timestamp,
    /// Test or live.
    pub environment: Environment,
}

/// What a sender is told of a leg.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StatusNotice {
    /// The agency that the news comes from.
    pub from: AgencyId,
    /// The service, where there is one.
    pub service: Option<ServiceId>,
    /// The leg's state after it.
    pub state: LegState,
    /// A stable code of what happened.
    pub code: String,
    /// Words, if any.
    pub text: Option<Personal<String>>,
    /// When it happened.
    pub at: Timestamp,
}

/// The bytes that every attempt of a delivery sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Media type of the bytes.
    pub media_type: String,
    /// The bytes: for MLLP the whole frame.
    pub bytes: Payload,
}

/// Why a delivery cannot be rendered for its endpoint: it is parked, never sent in part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The protocol or dialect cannot carry something safety-critical.
    #[error("cannot carry: {0}")]
    CannotCarry(Violation),
    /// The endpoint's settings are wrong.
    #[error("endpoint settings: {0}")]
    Settings(Violation),
}

/// One message on its way out: bound at accept, resolved for this attempt.
#[derive(Clone, Debug)]
pub struct Outbound<'a> {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its wire id, the same on every attempt.
    pub wire_id: &'a WireId,
    /// What it says.
    pub kind: Kind,
    /// The agency it was bound to at accept; the adapter refuses any other peer.
    pub recipient: &'a AgencyId,
    /// The bytes.
    pub rendered: &'a Rendered,
    /// The endpoint in today's release.
    pub endpoint: &'a Endpoint,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// W3C trace context to send on.
    pub traceparent: Option<&'a str>,
}

/// The instant by which an attempt must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// How long from now.
    pub within: std::time::Duration,
}

/// What an adapter found when it asked the far side about an attempt of unknown end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciliation {
    /// The far side has it.
    Received(Outcome),
    /// The far side does not: it may be sent again.
    NotReceived,
    /// Still not known.
    StillUnknown(Why),
}

/// What an adapter can prove of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identification {
    /// A certificate.
    Certificate,
    /// A mailbox that only the agency reads.
    Mailbox,
    /// A folder.
    Path,
    /// Nothing but the network: a standing risk.
    Network,
}

/// One stage of a probe.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProbeStage {
    /// `name`, `tcp`, `tls`, `identity` or `application`.
    pub stage: &'static str,
    /// Whether it passed; absent when not tried.
    pub passed: Option<bool>,
    /// Words for the operator.
    pub detail: String,
}

/// A probe's answer, in stages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Probe {
    /// The stages in order.
    pub stages: Vec<ProbeStage>,
}

/// One protocol of the far side. Adapters hold no state shared between messages.
#[async_trait]
pub trait Adapter: Send + Sync {
    /// Whether repeats are safe at the far side.
    fn repeat(&self) -> Repeat;
    /// What it can prove of its peer.
    fn identification(&self, endpoint: &Endpoint) -> Identification;
    /// Checks an endpoint's settings without I/O.
    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation>;
    /// Renders the bytes once: pure.
    ///
    /// # Errors
    /// [`RenderError`] when it cannot be carried whole; the delivery is then parked.
    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError>;
    /// Makes one attempt within the deadline.
    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome;
    /// Asks the far side what became of an attempt of unknown end; only for [`Repeat::MustReconcile`].
    async fn reconcile(&self, message: &Outbound<'_>, _deadline: Deadline) -> Reconciliation {
        let text = format!(
            "{} does not answer enquiries",
            message.endpoint.adapter.as_str()
        );
        Reconciliation::StillUnknown(Why::new("reconcile.unsupported", text))
    }
    /// Says in stages whether the far side can be reached, without side effects.
    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe;
}

/// One message that came in by an adapter, already parsed.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The name that the authenticated channel proves (see [`crate::directory::Identity`]).
    pub identity: String,
    /// The sender's own fields that must agree with the bound agency, e.g. `APP|FACILITY` of MSH-3/4.
    pub claimed_sender: Option<String>,
    /// The sender's message key, e.g. `MSH-3|MSH-4|REF^I12|MSG00012`.
    pub message_key: String,
    /// The bytes as they came: kept sealed.
    pub original: Payload,
    /// What tells two messages of the same content from two of different content, their envelopes apart.
    pub fingerprint: Payload,
    /// Media type of the bytes.
    pub media_type: String,
    /// W3C trace context, if the channel carried one.
    pub traceparent: Option<String>,
    /// Test or live, where the message says so.
    pub environment: Option<Environment>,
    /// What it says.
    pub body: InboundBody,
}

/// What an inbound message says.
#[derive(Clone, Debug)]
pub enum InboundBody {
    /// A new referral.
    Submit(Box<Referral>),
    /// New content for a referral.
    Amend(SenderReference, Box<Referral>),
    /// A cancel.
    Cancel(SenderReference, Option<Personal<String>>),
    /// A status of one of our referrals, or of evidence for one of our deliveries.
    Status(InboundStatus),
}

/// A status as a receiver reports it.
#[derive(Clone, Debug)]
pub struct InboundStatus {
    /// Our reference or id, as the receiver echoes it.
    pub referral: String,
    /// The wire id of the delivery that it answers, if it says so.
    pub answers: Option<String>,
    /// The receiver's own reference.
    pub receiver_reference: Option<String>,
    /// The state.
    pub state: LegState,
    /// Monotone version of the source; absent when the wire has none, then the message key stands for it.
    pub source_version: Option<u64>,
    /// Reason code.
    pub reason_code: Option<String>,
    /// Words.
    pub text: Option<Personal<String>>,
    /// When it happened, as the receiver says.
    pub at: Option<Timestamp>,
    /// Evidence grade that this message is for the delivery it answers.
    pub grade: Evidence,
}

/// What became of an inbound message; it is durable before this is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntakeAnswer {
    /// The referral it belongs to.
    pub referral: ReferralId,
    /// Its short reference.
    pub reference: Reference,
    /// Whether the same message came before.
    pub repeated: bool,
}

/// Why an inbound message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.kind.sentence())]
pub struct IntakeError {
    /// The kind.
    pub kind: ErrorKind,
    /// The fields that are wrong, in the domain's own paths.
    pub violations: Vec<Violation>,
    /// A stable reason, e.g. `REFERENCE_IN_USE`.
    pub reason: &'static str,
}

/// The one door for everything that comes in by an adapter.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Takes a message in: answers only once it is durable.
    ///
    /// # Errors
    /// [`IntakeError`] says what is wrong, or that the same message is safe to send again.
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError>;
}
