//! What is leased, attempted, released, logged and checked.

use super::{
    AgencyId, AlarmKind, BodyId, DeliveryId, DeliveryState, EndpointId, EventId, Evidence, Kind,
    LaneId, LegId, NewAlarm, ParkReason, Payload, Reference, ReferralId, ServiceId, StreamId,
    Timestamp, Why, WireId, WorkerId,
};
use super::{LegChange, MessageKey, NewBody, NewDelivery, NewEvent, Opening};
use crate::audit::EntryDraft;
use crate::delivery::Next;
use crate::error::Fault;
use crate::port::{Rendered, Sent};

/// Fresh and retried work have capacity of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkClass {
    /// Heads never attempted.
    Fresh,
    /// Heads that were.
    Retry,
}

/// A request for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Who asks.
    pub worker: WorkerId,
    /// Of which endpoint.
    pub endpoint: EndpointId,
    /// Fresh or retried.
    pub class: WorkClass,
    /// Of these services, and what is of no service; of all where none is named.
    pub services: Vec<ServiceId>,
    /// At most.
    pub limit: u32,
    /// Now.
    pub now: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Proof of a lease: the fence grows with each lease of the lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseToken {
    /// The delivery at the lane's head.
    pub delivery: DeliveryId,
    /// The fence.
    pub fence: i64,
}

/// A leased delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The lease.
    pub token: LeaseToken,
    /// Its referral.
    pub referral: ReferralId,
    /// The referral's short reference.
    pub reference: Reference,
    /// The referral's stream.
    pub stream: StreamId,
    /// The agency that sent the referral.
    pub sender: AgencyId,
    /// The leg.
    pub leg: Option<LegId>,
    /// The referral's version that it carries; 0 for a status to the sender.
    pub version: u64,
    /// What it says.
    pub kind: Kind,
    /// The endpoint bound at accept.
    pub endpoint: EndpointId,
    /// The recipient bound at accept.
    pub recipient: AgencyId,
    /// The service.
    pub service: Option<ServiceId>,
    /// The wire id.
    pub wire_id: WireId,
    /// Its state when leased: `Attempting` means that an earlier attempt never ended.
    pub state: DeliveryState,
    /// Attempts opened so far.
    pub attempts: u32,
    /// Consecutive failures.
    pub failures: u32,
    /// Consecutive soft rejects.
    pub soft_rejects: u32,
    /// Attempts whose end was never recorded, in a row.
    pub unfinished: u32,
    /// The best evidence.
    pub evidence: Evidence,
    /// After when no attempt is made.
    pub deadline: Timestamp,
    /// Whether it must not wait behind others unseen.
    pub urgent: bool,
    /// When it was queued.
    pub queued: Timestamp,
    /// W3C trace context of the submitting call.
    pub traceparent: Option<String>,
}

/// What a delivery renders from.
#[derive(Clone, Debug)]
pub struct DeliveryContent {
    /// The canonical content; for a status that is not rendered yet the referral's, for its sender's own reference.
    pub content: Option<Payload>,
    /// The reason or status.
    pub note: Option<Payload>,
    /// The ids that answers to the referral's first message repeat; for a status alone.
    pub conversation: Option<Payload>,
    /// The bytes, once rendered.
    pub rendered: Option<Rendered>,
}

/// An attempt to open.
#[derive(Clone, Debug)]
pub struct OpenAttempt {
    /// The lease.
    pub token: LeaseToken,
    /// Number of the attempt, from 1.
    pub number: u32,
    /// When.
    pub at: Timestamp,
    /// The bytes and the id to keep them under, on the first attempt.
    pub rendered: Option<(BodyId, Rendered)>,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
}

/// The end of an attempt.
#[derive(Clone, Debug)]
pub struct CloseAttempt {
    /// The lease.
    pub token: LeaseToken,
    /// Number of the attempt; 0 when none was opened (nothing could be rendered).
    pub number: u32,
    /// When.
    pub at: Timestamp,
    /// Where the delivery goes.
    pub next: Next,
    /// How the attempt ended.
    pub outcome: &'static str,
    /// Why.
    pub why: Option<Why>,
    /// Whose mistake it was, where the far side said so.
    pub fault: Option<Fault>,
    /// By when better evidence is due, when it awaits some.
    pub evidence_due: Option<Timestamp>,
    /// The receiver's own reference.
    pub receiver_reference: Option<String>,
    /// The acknowledgement or receipt as it came.
    pub receipt: Option<NewBody>,
    /// The leg that a refused cancel gives back; left as it is unless it is cancelled still.
    pub reopen: Option<LegChange>,
    /// What the sender and other parties are shown.
    pub event: Option<NewEvent>,
    /// The message to the sender's return endpoint; of a message to a family that failed, what takes its place.
    pub tell: Option<(NewBody, NewDelivery)>,
    /// Alarms to open.
    pub alarms: Vec<NewAlarm>,
    /// Alarms to resolve.
    pub resolve: Vec<(AlarmKind, String)>,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
}

/// Better evidence for a delivery.
#[derive(Clone, Debug)]
pub struct RaiseEvidence {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The grade.
    pub grade: Evidence,
    /// The grade that ends the delivery.
    pub releases_at: Evidence,
    /// When.
    pub at: Timestamp,
    /// The receiver's own reference.
    pub receiver_reference: Option<String>,
    /// The evidence as it came.
    pub receipt: Option<NewBody>,
    /// What the parties are shown.
    pub event: Option<NewEvent>,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
}

/// What an operator, or news from the far side, does to one delivery.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The news that calls for it, where it is news: brought again as a change, it is a repeat.
    pub message_key: Option<MessageKey>,
    /// Park or resume.
    pub act: Act,
    /// When.
    pub at: Timestamp,
    /// The new deadline, when it resumes.
    pub deadline: Timestamp,
    /// What the parties are shown.
    pub event: NewEvent,
    /// The reason in words, sealed with the referral's subject; `event.text` names it.
    pub note: NewBody,
    /// The message to the sender's return endpoint.
    pub tell: Option<(NewBody, NewDelivery)>,
    /// Alarms to open.
    pub alarms: Vec<NewAlarm>,
    /// Alarms to resolve.
    pub resolve: Vec<(AlarmKind, String)>,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
}

/// What may be done to a delivery outside an attempt, without making a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Take it out of its lane.
    Park(ParkReason),
    /// Put it back, under the same id.
    Resume,
}

/// A delivery as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: NewDelivery,
    /// Its referral.
    pub referral: ReferralId,
    /// The referral's short reference.
    pub reference: Reference,
    /// The referral's stream.
    pub stream: StreamId,
    /// Its lane.
    pub lane: LaneId,
    /// The agency that sent the referral.
    pub sender: AgencyId,
    /// Where it stands.
    pub state: DeliveryState,
    /// The best evidence.
    pub evidence: Evidence,
    /// Why it needs a person.
    pub parked: Option<ParkReason>,
    /// When it is due next, at the head of its lane.
    pub next_attempt: Option<Timestamp>,
    /// When it was queued.
    pub queued: Timestamp,
    /// The receiver's own reference.
    pub receiver_reference: Option<String>,
    /// The rendered body.
    pub rendered: Option<BodyId>,
    /// Its attempts in order; filled when one delivery is asked for.
    pub attempts: Vec<AttemptView>,
    /// Attempts opened.
    pub attempts_opened: u32,
}

impl DeliveryView {
    /// Whether the far side had it, as far as is known, and said later that it did not arrive: nothing is open of it.
    pub fn came_back(&self) -> bool {
        let had = |attempt: &AttemptView| attempt.outcome.as_deref() == Some("delivered");
        let mut known = self.attempts.iter().rev();
        let last = known.find(|attempt| had(attempt) || attempt.may_have_arrived());
        self.state == DeliveryState::Parked && last.is_some_and(had)
    }

    /// The delivery as the holder of a lease names it; the store checks the fence, and counts failures by itself.
    pub fn leased(&self, fence: i64) -> Leased {
        Leased {
            token: LeaseToken {
                delivery: self.delivery.id,
                fence,
            },
            referral: self.referral,
            reference: self.reference.clone(),
            stream: self.stream,
            sender: self.sender.clone(),
            leg: self.delivery.leg,
            version: self.delivery.version,
            kind: self.delivery.kind,
            endpoint: self.delivery.endpoint.clone(),
            recipient: self.delivery.recipient.clone(),
            service: self.delivery.service.clone(),
            wire_id: self.delivery.wire_id.clone(),
            state: self.state,
            attempts: self.attempts_opened,
            failures: 0,
            soft_rejects: 0,
            unfinished: 0,
            evidence: self.evidence,
            deadline: self.delivery.deadline,
            urgent: self.delivery.urgent,
            queued: self.queued,
            traceparent: None,
        }
    }
}

/// An attempt as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// Its number, from 1.
    pub number: u32,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it ended.
    pub closed: Option<Timestamp>,
    /// How.
    pub outcome: Option<String>,
    /// Why.
    pub why: Option<Why>,
    /// Whose mistake it was, where the far side said so.
    pub fault: Option<Fault>,
    /// The evidence after it.
    pub evidence: Option<Evidence>,
}

impl AttemptView {
    /// Whether the message may have arrived by it: it never ended, or it ended without an answer that could be read.
    pub fn may_have_arrived(&self) -> bool {
        match self.outcome.as_deref() {
            None | Some("unknown") => true,
            Some("park") => self.evidence >= Some(Evidence::Sent),
            Some(_) => false,
        }
    }
}

/// Which deliveries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// In this state.
    pub state: Option<DeliveryState>,
    /// For this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of this referral.
    pub referral: Option<ReferralId>,
    /// In this lane.
    pub lane: Option<LaneId>,
    /// Made in place of this one.
    pub replaces: Option<DeliveryId>,
    /// After this one: the page's cursor.
    pub after: Option<DeliveryId>,
    /// At most.
    pub limit: u32,
}

/// How the database's disk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes below which nothing new is accepted.
    pub min: u64,
}

impl Disk {
    /// Whether nothing new is accepted.
    pub const fn is_low(self) -> bool {
        self.free < self.min
    }
}

/// Epochs of the keyring, as the database knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEpochs {
    /// The newest epoch that a gateway has begun to use.
    pub in_use: u32,
    /// Epochs that wrap something, oldest first.
    pub epochs: Vec<KeyEpoch>,
}

/// What one epoch of the keyring wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEpoch {
    /// The epoch.
    pub epoch: u32,
    /// Children whose keys it wraps.
    pub subjects: u64,
}

/// One page of what was sent to an endpoint and may have news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentPage {
    /// Those that await evidence, and those whose leg is still open where they were asked for.
    pub sent: Vec<Sent>,
    /// The next page's cursor; `None` at the end.
    pub next: Option<DeliveryId>,
}

/// A directory release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its number, from 1.
    pub number: u64,
    /// Its files, bundled; empty in lists.
    pub bundle: String,
    /// SHA-256 over its files as the contract has it, lower-case hex.
    pub sha256: String,
    /// When it was applied.
    pub at: Timestamp,
    /// Who applied it.
    pub by: String,
    /// Why.
    pub note: String,
    /// Its log event.
    pub event: EventId,
}

/// A release to make.
#[derive(Clone, Debug)]
pub struct NewRelease {
    /// The newest release that it was compared with; `None` for the first.
    pub expected: Option<u64>,
    /// Its files, bundled.
    pub bundle: String,
    /// SHA-256 over its files as the contract has it, lower-case hex.
    pub sha256: String,
    /// When.
    pub at: Timestamp,
    /// Who applies it.
    pub by: String,
    /// Why.
    pub note: String,
    /// The log entry.
    pub entry: EntryDraft,
}

/// What a sequencer round did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Entries added.
    pub added: u64,
    /// The log's size now.
    pub size: u64,
    /// Whether it took as much as one round may: more may wait for the next.
    pub full: bool,
}

/// The log's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Entries.
    pub size: u64,
    /// The tree's root.
    pub root: [u8; 32],
    /// The newest checkpoint; absent while the log is empty.
    pub checkpoint: Option<SignedCheckpoint>,
    /// ACCEPTED entries among them.
    pub accepted: u64,
}

/// A checkpoint as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// Entries that it covers.
    pub size: u64,
    /// The signed note.
    pub note: String,
    /// When it was signed; no part of the note.
    pub at: Timestamp,
}

/// Whether to leave resolved alarms out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenOnly {
    /// Open ones alone.
    Yes,
    /// All.
    No,
}

/// Facts kept by every transition, independent of the rows they count.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Referrals accepted, counted in the accept transaction.
    pub referrals: u64,
    /// Deliveries queued.
    pub deliveries: u64,
    /// Deliveries by state, as transitions left them.
    pub by_state: std::collections::BTreeMap<String, i64>,
    /// ACCEPTED entries: in the log plus in the outbox.
    pub accepted_entries: u64,
}

/// One page of the conservation check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckPage {
    /// Referrals looked at.
    pub referrals: u64,
    /// Deliveries looked at, by state.
    pub by_state: std::collections::BTreeMap<String, i64>,
    /// What is missing or left without work: ids and rule, never content.
    pub faults: Vec<CheckFault>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<ReferralId>,
}

/// One fault of the conservation check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CheckFault {
    /// The referral.
    pub referral: String,
    /// The rule broken, e.g. `leg_without_work`.
    pub rule: &'static str,
    /// Ids and numbers that show it.
    pub detail: String,
}

/// Work waiting for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Lanes with a live head, counted up to [`BACKLOG_COUNT_MAX`].
    pub lanes: u64,
    /// When the oldest head was queued.
    pub oldest: Timestamp,
}

/// Lanes counted for one endpoint's depth; more show as this many, so that a scrape costs the same whatever the backlog.
pub const BACKLOG_COUNT_MAX: u32 = 10_000;
