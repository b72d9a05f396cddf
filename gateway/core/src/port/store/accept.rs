//! What is accepted, changed and read of referrals.

use std::collections::BTreeSet;

use super::{
    AgencyId, BodyId, DeliveryId, DocumentId, EndpointId, EventId, Evidence, Kind, LegId, LegState,
    NewAlarm, Owner, ParkReason, Pathway, Payload, Personal, Priority, Reception, Reference,
    ReferralId, RuleId, SenderReference, ServiceId, StreamId, Timestamp, WireId,
};
use super::{AlarmKind, DeliveryState};
use crate::audit::{CommitmentTag, EntryDraft};
use crate::leg::Side;
use crate::referral::ConsentScope;

/// What makes a message the same message: unique per sender, compared by a keyed digest of the content.
#[derive(Clone, Debug)]
pub struct MessageKey {
    /// The agency that sent it.
    pub sender: AgencyId,
    /// The key's text, its kind first, e.g. `grpc:6f1c…` or `hl7:APP|FAC|REF^I12|MSG1`.
    pub key: Personal<String>,
    /// What is digested to tell the same content from other content.
    pub content: Payload,
}

/// A body to be sealed.
#[derive(Clone, Debug)]
pub struct NewBody {
    /// Its id.
    pub id: BodyId,
    /// Media type.
    pub media_type: String,
    /// Bytes.
    pub bytes: Payload,
}

/// A random salt of a commitment, kept until erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What the commitment covers.
    pub tag: CommitmentTag,
    /// The salt.
    pub salt: [u8; 32],
}

/// What a child is matched by (ruling 1). Each is looked up by a keyed hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectKey {
    /// A verified NHS number.
    NhsNumber(Personal<String>),
    /// A lasting UPN and the date of birth.
    UpnAndBirth(Personal<String>),
    /// Nothing that may match: always a new subject.
    New,
}

/// What records of one child share and those of two children seldom do. It matches nobody: where another child's
/// record has the same, the alarm is opened and a person looks (ruling 1: nothing is merged on a guess).
#[derive(Clone, Debug)]
pub struct Likeness {
    /// A lasting UPN and the date of birth.
    pub upn_and_birth: Option<Personal<String>>,
    /// Names and the date of birth.
    pub name_and_birth: Personal<String>,
    /// What is opened.
    pub alarm: NewAlarm,
}

/// A referral to accept. Everything that is random or read from a clock is already in it.
#[derive(Clone, Debug)]
pub struct Accept {
    /// When.
    pub at: Timestamp,
    /// The accept's event.
    pub event: EventId,
    /// The referral's id.
    pub referral: ReferralId,
    /// Its short reference.
    pub reference: Reference,
    /// Its stream in the log.
    pub stream: StreamId,
    /// The agency that sent it.
    pub sender: AgencyId,
    /// The message's key.
    pub message_key: MessageKey,
    /// The sender's own reference, and what is digested to tell two *new* under it apart.
    pub sender_reference: Option<(SenderReference, Payload)>,
    /// What the child is matched by.
    pub subject: SubjectKey,
    /// What its record is compared by; absent for a child that nothing identifies.
    pub likeness: Option<Likeness>,
    /// The canonical content.
    pub body: NewBody,
    /// The message as it came, where that is not the canonical content.
    pub original: Option<NewBody>,
    /// The ids that answers to it repeat, as JSON ([`super::super::Conversation`]).
    pub conversation: Option<NewBody>,
    /// What its deliveries say besides the content.
    pub notes: Vec<NewBody>,
    /// What is asked for.
    pub pathway: Pathway,
    /// How soon.
    pub priority: Priority,
    /// Whether it carries a safeguarding flag.
    pub safeguarding: bool,
    /// The directory release that routed it.
    pub release: u64,
    /// Its legs.
    pub legs: Vec<NewLeg>,
    /// Its deliveries: the frozen fan-out.
    pub deliveries: Vec<NewDelivery>,
    /// Documents that it takes along.
    pub documents: Vec<(DocumentId, String)>,
    /// Alarms that come with it.
    pub alarms: Vec<NewAlarm>,
    /// Its log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
    /// W3C trace context of the caller.
    pub traceparent: Option<String>,
}

/// A leg to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLeg {
    /// Its id.
    pub id: LegId,
    /// The service.
    pub service: ServiceId,
    /// The service's agency, bound now.
    pub agency: AgencyId,
    /// The rule that chose it; absent for triage.
    pub rule: Option<RuleId>,
    /// Why a person must decide, for triage.
    pub triage: Option<String>,
    /// Who must act.
    pub owner: Owner,
    /// The clock that runs.
    pub clock: String,
    /// When the clock started: a redirect keeps the first leg's.
    pub clock_started: Timestamp,
    /// The day by which something must happen, ISO date.
    pub next_action: String,
}

/// A delivery to queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Its wire id.
    pub wire_id: WireId,
    /// The leg; absent for a status to the sender and for guidance to the family.
    pub leg: Option<LegId>,
    /// What it says.
    pub kind: Kind,
    /// The endpoint, bound now.
    pub endpoint: EndpointId,
    /// The recipient, bound now.
    pub recipient: AgencyId,
    /// The service.
    pub service: Option<ServiceId>,
    /// The canonical content that it renders from.
    pub content: Option<BodyId>,
    /// The reason or status that it renders from.
    pub note: Option<BodyId>,
    /// The referral's version as this message makes or finds it; 0 for a status to the sender.
    pub version: u64,
    /// When it may first be attempted.
    pub due: Timestamp,
    /// After when no attempt is made.
    pub deadline: Timestamp,
    /// Whether it must not wait behind others unseen.
    pub urgent: bool,
    /// The delivery that it replaces.
    pub replaces: Option<DeliveryId>,
}

/// What the sender is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The referral.
    pub referral: ReferralId,
    /// Its short reference.
    pub reference: Reference,
    /// The accept's event.
    pub event: EventId,
    /// Its stream.
    pub stream: StreamId,
    /// The leaf hash of the accept's entry.
    pub leaf: [u8; 32],
    /// The entry's bytes.
    pub entry: Vec<u8>,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
    /// When it was accepted.
    pub at: Timestamp,
    /// The directory release that routed it.
    pub release: u64,
    /// Its legs as they were opened.
    pub legs: Vec<AcceptedLeg>,
    /// Whether the same message had been accepted before.
    pub repeated: bool,
}

/// A leg as the receipt shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedLeg {
    /// The leg.
    pub id: LegId,
    /// The service.
    pub service: ServiceId,
    /// Its agency.
    pub agency: AgencyId,
    /// The rule that chose it.
    pub rule: Option<RuleId>,
    /// Why a person must decide, for triage.
    pub triage: Option<String>,
}

/// One change of a referral after its accept, decided on a version of it.
#[derive(Clone, Debug)]
pub struct ReferralChange {
    /// When.
    pub at: Timestamp,
    /// The referral.
    pub referral: ReferralId,
    /// The version it was decided on.
    pub expected_version: u64,
    /// The message's key, where a message brought it.
    pub message_key: Option<MessageKey>,
    /// Bodies to seal: new content, reasons, words.
    pub bodies: Vec<NewBody>,
    /// The new content, where it changes.
    pub content: Option<BodyId>,
    /// Legs that move.
    pub legs: Vec<LegChange>,
    /// Legs to open.
    pub new_legs: Vec<NewLeg>,
    /// Deliveries to queue.
    pub deliveries: Vec<NewDelivery>,
    /// Deliveries to cancel: none may have an opened attempt, else the change is [`super::StoreError::Stale`].
    pub cancel: Vec<DeliveryId>,
    /// Deliveries that a new one replaces: none may be attempting or unknown, else [`super::StoreError::Stale`].
    pub supersede: Vec<DeliveryId>,
    /// The event that says what happened.
    pub event: NewEvent,
    /// Documents that new content takes along: each the referral's already, or the sender's and free.
    pub documents: Vec<(DocumentId, String)>,
    /// A (source, version) of a leg that must be new.
    pub status_version: Option<(LegId, AgencyId, u64)>,
    /// The receiver's own reference, to be found by later.
    pub receiver_reference: Option<(AgencyId, String)>,
    /// Scopes of consent that no longer stand from now on.
    pub withdraws: BTreeSet<ConsentScope>,
    /// Alarms to open.
    pub alarms: Vec<NewAlarm>,
    /// Alarms to resolve.
    pub resolve: Vec<(AlarmKind, String)>,
    /// The log entry.
    pub entry: EntryDraft,
    /// The salts of its commitments.
    pub openings: Vec<Opening>,
    /// W3C trace context of the caller.
    pub traceparent: Option<String>,
}

impl ReferralChange {
    /// A change of a referral at a version that records an event, and nothing else yet.
    pub fn of(
        (referral, expected_version): (ReferralId, u64),
        event: NewEvent,
        entry: EntryDraft,
    ) -> Self {
        Self {
            at: entry.at,
            referral,
            expected_version,
            message_key: None,
            bodies: Vec::new(),
            content: None,
            legs: Vec::new(),
            new_legs: Vec::new(),
            deliveries: Vec::new(),
            cancel: Vec::new(),
            supersede: Vec::new(),
            event,
            documents: Vec::new(),
            status_version: None,
            receiver_reference: None,
            withdraws: BTreeSet::new(),
            alarms: Vec::new(),
            resolve: Vec::new(),
            entry,
            openings: Vec::new(),
            traceparent: None,
        }
    }
}

/// What a leg becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegChange {
    /// The leg.
    pub leg: LegId,
    /// Its new state.
    pub state: LegState,
    /// Who must act now; kept for an ended leg as its last owner.
    pub owner: Owner,
    /// The clock that runs; `None` once ended.
    pub clock: Option<String>,
    /// The day by which something must happen; `None` once ended.
    pub next_action: Option<String>,
}

/// An event to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id: the same as its log entry's.
    pub id: EventId,
    /// What happened.
    pub kind: EventKind,
    /// The leg.
    pub leg: Option<LegId>,
    /// The delivery.
    pub delivery: Option<DeliveryId>,
    /// Who says so.
    pub source: AgencyId,
    /// The source's version.
    pub source_version: Option<u64>,
    /// The state it names.
    pub state: Option<LegState>,
    /// How it was taken.
    pub reception: Option<Reception>,
    /// A stable code.
    pub code: String,
    /// Words, sealed.
    pub text: Option<BodyId>,
}

impl NewEvent {
    /// The event of an entry, under the entry's id, as its agency says it.
    pub fn of(entry: &EntryDraft, kind: EventKind, code: impl Into<String>) -> Self {
        Self {
            id: entry.event,
            kind,
            leg: None,
            delivery: None,
            source: entry.org.clone(),
            source_version: None,
            state: None,
            reception: None,
            code: code.into(),
            text: None,
        }
    }
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Accepted.
    Accepted,
    /// Content changed.
    Amended,
    /// Cancelled, or cancel asked for.
    Cancelled,
    /// Consent withdrawn.
    ConsentWithdrawn,
    /// A status came.
    Status,
    /// A delivery moved.
    Delivery,
    /// An operator acted.
    Operator,
}

impl EventKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Accepted,
        Self::Amended,
        Self::Cancelled,
        Self::ConsentWithdrawn,
        Self::Status,
        Self::Delivery,
        Self::Operator,
    ];

    /// The kind as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Amended => "amended",
            Self::Cancelled => "cancelled",
            Self::ConsentWithdrawn => "consent_withdrawn",
            Self::Status => "status",
            Self::Delivery => "delivery",
            Self::Operator => "operator",
        }
    }

    /// Reads a stored kind.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == text)
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The event: the earlier one's when repeated.
    pub event: EventId,
    /// The referral's version now.
    pub version: u64,
    /// Whether the same message had been applied before.
    pub repeated: bool,
}

/// A referral as stored, without content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferralView {
    /// Its id.
    pub id: ReferralId,
    /// Its short reference.
    pub reference: Reference,
    /// The agency that sent it.
    pub sender: AgencyId,
    /// Its stream.
    pub stream: StreamId,
    /// The accept's event.
    pub event: EventId,
    /// Grows by one with each change.
    pub version: u64,
    /// The canonical content now.
    pub content: BodyId,
    /// What is asked for.
    pub pathway: Pathway,
    /// How soon.
    pub priority: Priority,
    /// Whether it carries a safeguarding flag.
    pub safeguarding: bool,
    /// Scopes of consent that were withdrawn after the accept; with [`ConsentScope::Referral`] nothing is left of it.
    pub withdrawn: BTreeSet<ConsentScope>,
    /// The directory release that routed it.
    pub release: u64,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// Its legs in the order of opening.
    pub legs: Vec<LegView>,
    /// Its deliveries in the order of queueing.
    pub deliveries: Vec<DeliveryHead>,
}

impl ReferralView {
    /// A leg's deliveries, in the order of queueing.
    pub fn deliveries_of(&self, leg: LegId) -> impl Iterator<Item = &DeliveryHead> {
        self.deliveries.iter().filter(move |d| d.leg == Some(leg))
    }

    /// Whether an attempt of a leg's deliveries was ever opened: its receiver may have the referral (ruling 3).
    pub fn was_sent(&self, leg: LegId) -> bool {
        self.deliveries_of(leg).any(|d| d.attempts > 0)
    }
}

/// A leg as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegView {
    /// As it was opened.
    pub leg: NewLeg,
    /// Its state.
    pub state: LegState,
    /// The clock that runs.
    pub clock: Option<String>,
    /// The day by which something must happen.
    pub next_action: Option<String>,
    /// Who must act.
    pub owner: Owner,
}

impl LegView {
    /// Whether its receiver must act next, rather than the sender or nobody.
    pub fn waits_for_receiver(&self) -> bool {
        self.state
            .duty()
            .is_some_and(|duty| duty.side == Side::Receiver)
    }
}

/// The short form of a delivery within a referral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryHead {
    /// Its id.
    pub id: DeliveryId,
    /// The leg.
    pub leg: Option<LegId>,
    /// What it says.
    pub kind: Kind,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The recipient.
    pub recipient: AgencyId,
    /// The wire id.
    pub wire_id: WireId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it needs a person.
    pub parked: Option<ParkReason>,
    /// The best evidence.
    pub evidence: Evidence,
    /// Attempts opened.
    pub attempts: u32,
    /// The receiver's own reference, as it gave it with its answer.
    pub receiver_reference: Option<String>,
}

/// Which referrals to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferralQuery {
    /// Sent or received by one of these agencies: one and those that it took over; `None` for all (administrators).
    pub agencies: Option<Vec<AgencyId>>,
    /// Of this pathway.
    pub pathway: Option<Pathway>,
    /// Of the child behind this key.
    pub subject: Option<SubjectKey>,
    /// Before this one: the page's cursor.
    pub before: Option<ReferralId>,
    /// At most.
    pub limit: u32,
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventView {
    /// The event.
    pub event: NewEvent,
    /// Its referral.
    pub referral: ReferralId,
    /// The referral's short reference.
    pub reference: Reference,
    /// When.
    pub at: Timestamp,
    /// The delivery's state after it.
    pub delivery_state: Option<DeliveryState>,
    /// The delivery's evidence after it.
    pub evidence: Option<Evidence>,
    /// Its index in the log, once sequenced.
    pub log_index: Option<u64>,
}

/// Which events to feed to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedQuery {
    /// Events of referrals that one of these agencies sent or receives: one and those that it took over.
    pub agencies: Vec<AgencyId>,
    /// From this log index on.
    pub from: u64,
    /// Log entries looked at, at most.
    pub window: u32,
}

/// One window of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// The events of this agency in it.
    pub events: Vec<EventView>,
    /// Where the next window begins.
    pub next: u64,
}
