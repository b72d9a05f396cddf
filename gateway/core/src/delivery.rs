//! One delivery: did the bytes arrive, and how good is the evidence (DESIGN.md rulings 2, 4, 6, 10).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::time::Timestamp;

macro_rules! words {
    ($(#[$edoc:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$edoc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }
        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The value as text, as stored.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Reads a stored value.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// Where a delivery stands.
    DeliveryState {
        /// Never attempted.
        Queued = "queued",
        /// An attempt is open.
        Attempting = "attempting",
        /// An attempt failed; another is due.
        RetryWait = "retry_wait",
        /// An attempt ended and nobody knows how.
        Unknown = "unknown",
        /// Sent; the evidence that ends it has not come.
        AwaitingEvidence = "awaiting_evidence",
        /// Its endpoint's breaker is open; resumes by itself.
        Held = "held",
        /// Needs a person.
        Parked = "parked",
        /// Arrived, with the evidence asked for.
        Done = "done",
        /// The far side refused it for good.
        Rejected = "rejected",
        /// Stopped before any attempt.
        Cancelled = "cancelled",
        /// A linked new delivery took its place.
        Superseded = "superseded",
    }
}

words! {
    /// How good the evidence of arrival is, weakest first.
    Evidence {
        /// None.
        None = "none",
        /// Bytes were written.
        Sent = "sent",
        /// The transport acknowledged them.
        TransportAck = "transport_ack",
        /// The receiving application acknowledged them.
        ApplicationAck = "application_ack",
        /// The receiver signed for them.
        SignedReceipt = "signed_receipt",
        /// A named person accepted.
        HumanAcceptance = "human_acceptance",
    }
}

words! {
    /// What a delivery says.
    Kind {
        /// A new referral.
        New = "new",
        /// Changed content.
        Amend = "amend",
        /// Cancelled.
        Cancel = "cancel",
        /// Consent withdrawn: stop and do not share further.
        Withdraw = "withdraw",
        /// A status, to the sender's return endpoint.
        Status = "status",
        /// What happens next, to the family.
        Guidance = "guidance",
    }
}

words! {
    /// Whether a repeat of the same bytes is safe at the far side.
    Repeat {
        /// The far side's effect is the same.
        Idempotent = "idempotent",
        /// The far side recognises the wire id.
        DedupesById = "dedupes_by_id",
        /// The adapter must ask first.
        MustReconcile = "must_reconcile",
    }
}

words! {
    /// Why a delivery needs a person.
    ParkReason {
        /// The route's deadline passed.
        Exhausted = "exhausted",
        /// The far side said it has this id with other content.
        IdCollision = "id_collision",
        /// The peer was not the bound recipient.
        WrongRecipient = "wrong_recipient",
        /// The adapter failed on this message repeatedly.
        Poison = "poison",
        /// The adapter cannot carry something safety-critical.
        CannotCarry = "cannot_carry",
        /// An acknowledgement that needs a decision.
        Refused = "refused",
        /// The endpoint or identity is gone from the directory.
        NoEndpoint = "no_endpoint",
        /// An operator asked.
        Operator = "operator",
        /// An earlier message of the same referral was parked or refused.
        Behind = "behind",
        /// Nobody of the family can be written to.
        NoContact = "no_contact",
        /// What it says to a family, or to whom, is not what it would be now.
        Outdated = "outdated",
    }
}

impl ParkReason {
    /// Whether other content may mend it: then an amendment takes the place of what was never sent, and else it waits
    /// behind it.
    pub const fn mends_by_content(self) -> bool {
        matches!(self, Self::CannotCarry | Self::Poison)
    }
}

impl DeliveryState {
    /// Whether it will never be attempted again.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Rejected | Self::Cancelled | Self::Superseded
        )
    }

    /// Whether, at the head of a lane, it blocks what is behind it (ruling 2). One that awaits evidence does: its
    /// endpoint names the grade that releases the lane (ruling 4).
    pub const fn blocks_lane(self) -> bool {
        matches!(
            self,
            Self::Queued
                | Self::Attempting
                | Self::RetryWait
                | Self::Unknown
                | Self::Held
                | Self::AwaitingEvidence
        )
    }

    /// What becomes of a later message of the same referral when the head of its lane ends in `self`: `None` leaves
    /// it queued. A cancel behind a head that was refused is not needed any more (rulings 2, 3).
    pub const fn takes_along(self, later: Kind) -> Option<Self> {
        match (self, later) {
            // Each message to a family stands for itself, and a telling of the sender does not wait for one.
            (_, Kind::Guidance) => None,
            (Self::Rejected, Kind::Cancel | Kind::Withdraw) => Some(Self::Cancelled),
            (Self::Rejected | Self::Parked, _) => Some(Self::Parked),
            _ => None,
        }
    }
}

/// Why something happened: a stable code and words without personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Stable code, e.g. `mllp.connect`.
    pub code: String,
    /// Words for an operator; never content, never an identifier of a person.
    pub text: String,
}

impl Why {
    /// Characters kept of the words.
    pub const TEXT_MAX: usize = 300;

    /// Names a cause; longer words are cut.
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self {
            code: code.into(),
            text: text.chars().take(Self::TEXT_MAX).collect(),
        }
    }
}

/// How one attempt ended, as an adapter says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived with this evidence. `awaiting` names better evidence that will come by itself.
    Delivered {
        /// The grade reached.
        grade: Evidence,
        /// A better grade that is expected.
        awaiting: Option<Evidence>,
        /// The receiver's own reference, if it gave one.
        receiver_reference: Option<String>,
        /// Stored evidence: the acknowledgement or receipt as it came.
        receipt: Option<crate::personal::Payload>,
    },
    /// The far side says it has this id already (205, 409, `ALREADY_EXISTS`): ruling 6 decides what that is worth.
    Duplicate {
        /// What it said.
        why: Why,
    },
    /// Bytes may have arrived; the answer is not known.
    Unknown {
        /// What was seen.
        why: Why,
    },
    /// It did not arrive; the same bytes may be sent again.
    Retry {
        /// The far side's own hint.
        after: Option<Duration>,
        /// What was seen.
        why: Why,
    },
    /// Refused without a code that settles it (AR, CR): a bounded number of repeats, then a person.
    SoftReject {
        /// What was seen.
        why: Why,
    },
    /// Refused for good.
    Reject {
        /// What was said.
        why: Why,
        /// Whose fault.
        fault: Fault,
    },
    /// Needs a person, and must not be repeated.
    Park {
        /// The reason.
        reason: ParkReason,
        /// What was seen.
        why: Why,
    },
    /// Needs a person, and must not be repeated: its content was written to the peer, or may have been.
    ParkWritten {
        /// The reason. With [`ParkReason::WrongRecipient`] somebody else than the bound recipient has the content.
        reason: ParkReason,
        /// What was seen.
        why: Why,
    },
    /// It arrived with this evidence, and what the far side said with it could not be read or kept: a person must ask.
    Unread {
        /// The grade reached.
        grade: Evidence,
        /// Stored evidence: the answer as it came.
        receipt: Option<crate::personal::Payload>,
        /// What could not be read.
        why: Why,
    },
    /// It is not to be sent, nothing was, and nobody need act.
    Withheld {
        /// The reason, for the log.
        why: Why,
    },
}

impl Outcome {
    /// The outcome's stable word, for metrics and the log.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Delivered { .. } | Self::Unread { .. } => "delivered",
            Self::Duplicate { .. } => "duplicate",
            Self::Unknown { .. } => "unknown",
            Self::Retry { .. } => "retry",
            Self::SoftReject { .. } => "soft_reject",
            Self::Reject { .. } => "reject",
            Self::Park { .. } | Self::ParkWritten { .. } => "park",
            Self::Withheld { .. } => "withheld",
        }
    }

    /// Whose mistake it was, where the far side said so.
    pub const fn fault(&self) -> Option<Fault> {
        match self {
            Self::Reject { fault, .. } => Some(*fault),
            _ => None,
        }
    }

    /// The cause, where there is one.
    pub const fn why(&self) -> Option<&Why> {
        match self {
            Self::Delivered { .. } => None,
            Self::Duplicate { why }
            | Self::Unknown { why }
            | Self::Retry { why, .. }
            | Self::SoftReject { why }
            | Self::Reject { why, .. }
            | Self::Park { why, .. }
            | Self::ParkWritten { why, .. }
            | Self::Unread { why, .. }
            | Self::Withheld { why } => Some(why),
        }
    }
}

/// When and how long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Wait after the first failure, milliseconds.
    pub first_ms: u64,
    /// Longest wait, milliseconds.
    pub cap_ms: u64,
    /// Answers without a settling code that are repeated before a person is asked.
    pub soft_rejects_max: u32,
    /// Attempts that end in a panic before the message is called poison.
    pub panics_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_ms: 1_000,
            cap_ms: 15 * 60 * 1_000,
            soft_rejects_max: 5,
            panics_max: 3,
        }
    }
}

impl RetryPolicy {
    /// The wait after failure number `failures` (from 1): exponential, with full jitter in its upper half.
    /// `jitter` is a random number in 0..=1023.
    pub fn wait(&self, failures: u32, jitter: u16) -> Duration {
        let doubled = self.first_ms.saturating_mul(
            1u64.checked_shl(failures.saturating_sub(1))
                .unwrap_or(u64::MAX),
        );
        let whole = doubled.clamp(1, self.cap_ms.max(1));
        let spread = whole / 2 * u64::from(jitter.min(1023)) / 1023;
        Duration::from_millis(whole / 2 + spread + 1)
    }

    /// The far side's hint, clamped to this policy's own window: at least the first wait, at most the cap.
    pub fn hinted(&self, after: Duration) -> Duration {
        after.clamp(
            Duration::from_millis(self.first_ms),
            Duration::from_millis(self.cap_ms),
        )
    }
}

/// What is known of a delivery when an attempt of it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Attempts opened so far, this one included.
    pub attempts: u32,
    /// Consecutive failures before this attempt.
    pub failures: u32,
    /// Consecutive answers without a settling code before this attempt.
    pub soft_rejects: u32,
    /// The best evidence so far.
    pub evidence: Evidence,
    /// Whether an earlier attempt with the same id and bytes was opened.
    pub earlier_attempt: bool,
    /// The instant after which no attempt is made.
    pub deadline: Timestamp,
    /// The grade that ends the delivery and releases its lane.
    pub releases_at: Evidence,
    /// Whether repeats are safe.
    pub repeat: Repeat,
}

/// Where a delivery goes after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The new state.
    pub state: DeliveryState,
    /// The best evidence so far.
    pub evidence: Evidence,
    /// When it is due again, for states that are.
    pub due: Option<Timestamp>,
    /// Why it needs a person.
    pub parked: Option<ParkReason>,
    /// Consecutive failures now.
    pub failures: u32,
    /// Consecutive soft rejects now.
    pub soft_rejects: u32,
}

/// Decides where a delivery goes: pure.
pub fn next(
    standing: &Standing,
    outcome: &Outcome,
    policy: &RetryPolicy,
    now: Timestamp,
    jitter: u16,
) -> Next {
    let at = |state, evidence: Evidence| Next {
        state,
        evidence: evidence.max(standing.evidence),
        due: None,
        parked: None,
        failures: 0,
        soft_rejects: 0,
    };
    let park = |reason, evidence| Next {
        parked: Some(reason),
        ..at(DeliveryState::Parked, evidence)
    };
    let again = |state, wait: Duration, evidence| {
        let due = now.plus(wait);
        if due > standing.deadline {
            return park(ParkReason::Exhausted, evidence);
        }
        Next {
            due: Some(due),
            failures: standing.failures.saturating_add(1),
            ..at(state, evidence)
        }
    };
    let backoff = policy.wait(standing.failures.saturating_add(1), jitter);
    match outcome {
        Outcome::Delivered { grade, .. } | Outcome::Unread { grade, .. }
            if grade.max(&standing.evidence) >= &standing.releases_at =>
        {
            at(DeliveryState::Done, *grade)
        }
        Outcome::Delivered { grade, .. } | Outcome::Unread { grade, .. } => {
            at(DeliveryState::AwaitingEvidence, *grade)
        }
        Outcome::Duplicate { .. } if standing.earlier_attempt => {
            at(DeliveryState::Done, Evidence::ApplicationAck)
        }
        Outcome::Duplicate { .. } => park(ParkReason::IdCollision, Evidence::Sent),
        Outcome::Unknown { .. } => again(DeliveryState::Unknown, backoff, Evidence::Sent),
        Outcome::Retry { after, .. } => {
            let wait = after.map_or(backoff, |hint| policy.hinted(hint));
            again(DeliveryState::RetryWait, wait, Evidence::None)
        }
        Outcome::SoftReject { .. }
            if standing.soft_rejects.saturating_add(1) >= policy.soft_rejects_max =>
        {
            park(ParkReason::Refused, Evidence::Sent)
        }
        Outcome::SoftReject { .. } => Next {
            soft_rejects: standing.soft_rejects.saturating_add(1),
            ..again(DeliveryState::RetryWait, backoff, Evidence::Sent)
        },
        Outcome::Reject { .. } => at(DeliveryState::Rejected, Evidence::Sent),
        Outcome::Park { reason, .. } => park(*reason, Evidence::None),
        Outcome::ParkWritten { reason, .. } => park(*reason, Evidence::Sent),
        Outcome::Withheld { .. } => at(DeliveryState::Cancelled, Evidence::None),
    }
}

/// Circuit breaker of one endpoint: after so many consecutive failures its lanes are held, then probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Timestamp>,
}

/// Consecutive failed attempts of one endpoint that open its breaker.
pub const BREAKER_FAILURES: u32 = 5;

impl Breaker {
    /// Whether attempts may be made; once the wait is over one probe may, and its end decides.
    pub fn allows(&self, now: Timestamp) -> bool {
        self.open_until.is_none_or(|until| now >= until)
    }

    /// Whether the breaker is open or probing.
    pub const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Notes that the far side answered.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// Notes that the far side did not answer; opens after [`BREAKER_FAILURES`] in a row.
    pub fn failed(&mut self, policy: &RetryPolicy, now: Timestamp, jitter: u16) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= BREAKER_FAILURES {
            let wait = policy.wait(self.failures - BREAKER_FAILURES + 1, jitter);
            self.open_until = Some(now.plus(wait));
        }
    }

    /// How many lanes may be attempted while probing.
    pub const fn probes(&self) -> u32 {
        if self.is_open() { 1 } else { u32::MAX }
    }
}

#[cfg(test)]
mod tests;
