//! What the gateway asks of an adapter, and what an adapter's inbound side asks of the gateway.

use std::time::Duration;

use async_trait::async_trait;
use jiff::civil::Date;

use super::{CancelCode, StopNotice, Withdrawal};
use crate::delivery::{Evidence, Kind, Outcome, ParkReason, Repeat, Why};
use crate::directory::{Endpoint, Environment};
use crate::error::{ErrorKind, Violation};
use crate::family::FamilyMessage;
use crate::id::{
    AgencyId, DeliveryId, EndpointId, LegId, Reference, ReferralId, ServiceId, WireId,
};
use crate::leg::LegState;
use crate::personal::{Payload, Personal};
use crate::referral::{DocumentRef, Referral, SenderReference};
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
    /// The leg it is for; absent for a status to the sender and for guidance to the family.
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
    /// What a family is told; present for guidance alone.
    pub family: Option<FamilyMessage>,
    /// Why it is cancelled or withdrawn; present for those two alone.
    pub stop: Option<StopNotice>,
    /// The same in words.
    pub reason: Option<Personal<String>>,
    /// The sender's own reference of the referral.
    pub sender_reference: Option<SenderReference>,
    /// What the receiver calls the referral, as its answer to an earlier delivery of the same leg said.
    pub receiver_reference: Option<String>,
    /// The bytes of the content's documents, in its order; those left out of it go by reference alone, because they
    /// are larger than the adapter carries inline (see [`Adapter::inline_bytes_max`]).
    pub attachments: Vec<Attachment>,
    /// Which message opened the referral, where its sender's protocol asks for that in a status; for a status alone.
    pub conversation: Option<Conversation>,
    /// When the first attempt was made: the time that goes on the wire.
    pub at: Timestamp,
    /// Test or live.
    pub environment: Environment,
}

/// The ids of a message that opened a referral, which every answer to it repeats.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Conversation {
    /// The id of the exchange, e.g. `X-Correlation-Id`.
    pub exchange: String,
    /// The id of the message, e.g. of its Bundle.
    pub message: String,
}

/// A document that goes along with a referral, opened for its first attempt; its digest was checked when it was opened.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What the referral says of it.
    pub document: DocumentRef,
    /// Its bytes.
    pub bytes: Payload,
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
    /// The day by which something happens next, e.g. of the appointment, where the service gave one.
    #[serde(default)]
    pub due: Option<Date>,
    /// When it happened.
    pub at: Timestamp,
}

impl StatusNotice {
    /// The code of a message that needs a person, because it did not arrive.
    pub const UNDELIVERABLE: &'static str = "undeliverable";
    /// The code of a message that its receiver refused.
    pub const REJECTED: &'static str = "rejected";
    /// The code of a cancel that its receiver refused.
    pub const CANCEL_REFUSED: &'static str = "cancel_refused";

    /// Whether it says that a message did not get to its receiver.
    pub fn did_not_arrive(&self) -> bool {
        [Self::UNDELIVERABLE, Self::REJECTED].contains(&self.code.as_str())
    }

    /// What its code says, in words for a person who knows no codes; none where the code is a service's own, which has
    /// words of its own.
    pub fn words(&self) -> Option<&'static str> {
        match self.code.as_str() {
            Self::UNDELIVERABLE => Some(
                "NOT DELIVERED: a message about this referral did not reach the service. A person must act: \
                 this does not mean that the service has accepted anything.",
            ),
            Self::REJECTED => Some(
                "NOT TAKEN: the service's system refused a message about this referral, and it is not sent again. \
                 A person must act: this does not mean that the service has accepted anything.",
            ),
            Self::CANCEL_REFUSED => Some(
                "NOT CANCELLED: the service did not take the cancellation, and nothing has changed there by it. \
                 Speak with the service.",
            ),
            _ => None,
        }
    }
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

impl RenderError {
    /// What an adapter that speaks with agencies says of a message to a family.
    pub fn not_to_agencies() -> Self {
        Self::CannotCarry(Violation::new(
            "kind",
            "guidance is for families: only an endpoint whose adapter is notify writes to them",
        ))
    }
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
    /// Whether an earlier attempt may have written it: one never ended, or ended without an answer that could be read.
    pub may_have_arrived: bool,
    /// W3C trace context to send on.
    pub traceparent: Option<&'a str>,
}

/// The instant by which an attempt must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// How long from now.
    pub within: Duration,
}

/// A delivery that was sent and of which more may be learnt: it awaits evidence, or its leg is still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its wire id.
    pub wire_id: WireId,
    /// What it said.
    pub kind: Kind,
    /// The agency that it was bound to.
    pub recipient: AgencyId,
    /// The referral's short reference.
    pub reference: Reference,
    /// The receiver's own reference, if it gave one.
    pub receiver_reference: Option<String>,
    /// The best evidence so far.
    pub evidence: Evidence,
    /// When it was queued.
    pub queued: Timestamp,
}

/// What an adapter asks after when it collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsksAfter {
    /// Nothing that was sent.
    Nothing,
    /// Deliveries that await evidence.
    Evidence,
    /// Those, and new referrals whose leg is open: their far side says how they stand only when it is asked.
    Cases,
}

/// What one round of collecting came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Messages that the intake took, repeats included.
    pub taken: u32,
    /// Messages that it refused; each was answered or set aside in the protocol's own way.
    pub refused: u32,
    /// Whether more waits at the far side: collect again at once.
    pub more: bool,
    /// Why the round ended early, if it did.
    pub stopped: Option<Why>,
}

/// What an adapter found when it asked the far side about an attempt of unknown end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciliation {
    /// It is settled: the far side has it, or only a person can find out.
    Settled(Outcome),
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
    /// Whether repeats are safe at the far side of this endpoint.
    fn repeat(&self, endpoint: &Endpoint) -> Repeat;
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
    /// Bytes of one message's documents that may go inline, all together; the rest go by reference.
    fn inline_bytes_max(&self, _endpoint: &Endpoint) -> u64 {
        0
    }
    /// How often the far side of this endpoint is asked for what waits there for us; `None` for a protocol that brings
    /// its answers itself.
    fn collect_every(&self, _endpoint: &Endpoint) -> Option<Duration> {
        None
    }
    /// What of that which was sent it asks after when it collects.
    fn asks_after(&self) -> AsksAfter {
        AsksAfter::Nothing
    }
    /// Collects what waits at the far side (a MESH inbox, a folder, a Task to be asked for): hands each message to the
    /// intake, and acknowledges it to the far side only once the intake answered. `sent` is a page of what was sent to
    /// this endpoint and may have news, as [`Adapter::asks_after`] says; rounds go through all of it in turn.
    async fn collect(
        &self,
        _endpoint: &Endpoint,
        _sent: &[Sent],
        _intake: &dyn Intake,
        _deadline: Deadline,
    ) -> Collected {
        Collected::default()
    }
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

/// Who speaks on an inbound channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Somebody by a name that the channel proved: a SAN URI, `mllp:<listener>`, `webhook:<endpoint>`, `mesh:<mailbox>`,
    /// `file:<endpoint>` (see [`crate::directory::Identity`]).
    Peer(String),
    /// The gateway's own adapter at an endpoint of its own, where it collected the news itself: what it says counts
    /// for deliveries to that endpoint alone.
    Endpoint(EndpointId),
}

/// One message that came in by an adapter, already parsed.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Who speaks, as the authenticated channel proves it; nothing in a message does (ruling 9).
    pub channel: Channel,
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
    /// Its ids that answers to it must repeat, where its protocol asks for that.
    pub conversation: Option<Conversation>,
    /// Documents that came inline; the intake keeps them and adds them to the referral's own, by digest.
    pub attachments: Vec<InboundDocument>,
    /// What it says.
    pub body: InboundBody,
}

/// A document as it came inline with a message.
#[derive(Clone, Debug)]
pub struct InboundDocument {
    /// Media type.
    pub media_type: String,
    /// SHA-256 as the sender has it, lower-case hex, where the protocol carries one.
    pub sha256: Option<String>,
    /// Title.
    pub title: Option<Personal<String>>,
    /// Kind, e.g. `questionnaire`.
    pub kind: Option<String>,
    /// Its bytes.
    pub bytes: Payload,
}

/// What an inbound message says.
#[derive(Clone, Debug)]
pub enum InboundBody {
    /// A new referral.
    Submit(Box<Referral>),
    /// New content for a referral.
    Amend(SenderReference, Box<Referral>),
    /// A cancel: why by its code, and in words.
    Cancel(SenderReference, CancelCode, Option<Personal<String>>),
    /// A withdrawal of consent, whole or in part.
    Withdraw(SenderReference, Withdrawal),
    /// A status of one of our referrals, or of evidence for one of our deliveries.
    Status(InboundStatus),
    /// The channel says that one of our deliveries did not arrive after all, or its receiver could not take it in.
    Undelivered(Undelivered),
    /// Asks where a referral stands (HL7 v2 I15, a GET of a ServiceRequest); changes nothing. The reference is the
    /// asker's own, or ours, or our referral id.
    Enquiry(SenderReference),
}

/// A delivery that did not arrive after all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The wire id of the delivery.
    pub answers: String,
    /// Why the delivery is parked for a person.
    pub reason: ParkReason,
    /// What the channel said.
    pub why: Why,
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
    /// The day by which something happens next, e.g. of the appointment.
    pub due: Option<Date>,
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
    /// The referral's own state now; absent where the message says nothing of a referral.
    pub state: Option<LegState>,
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
