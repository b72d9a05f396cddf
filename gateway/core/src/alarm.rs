//! Things an owner must be told of: opened once, resolved once, unique on (kind, subject).

use serde::{Deserialize, Serialize};

use crate::id::AgencyId;
use crate::time::Timestamp;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// No rule matched: the triage owner must decide. Subject: leg.
    Unrouted,
    /// A delivery needs a person. Subject: delivery.
    Parked,
    /// A delivery was refused for good. Subject: delivery.
    Rejected,
    /// A peer was not the bound recipient. Subject: endpoint.
    WrongRecipient,
    /// An urgent or safeguarding item waits behind another. Subject: delivery.
    UrgentHeld,
    /// An endpoint's breaker is open. Subject: endpoint.
    EndpointDown,
    /// An acknowledgement is overdue. Subject: delivery.
    EvidenceOverdue,
    /// The sender could not be told. Subject: delivery.
    SenderNotTold,
    /// Two records may be one child, or one may be two. Subject: referral.
    IdentityConflict,
    /// The conservation check found a difference. Subject: what is missing.
    Conservation,
    /// Plain MLLP: anybody on the network may answer. Subject: endpoint; stands as long as the endpoint does.
    NetworkIdentity,
    /// What waits at the far side cannot be collected. Subject: endpoint.
    NotCollected,
    /// An answer came with a delivery that nobody could read or keep: what it said is not known here. Subject: delivery.
    AnswerUnread,
    /// The database's disk is low, and nothing new is accepted. Subject: `database`.
    LowDisk,
}

impl AlarmKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Unrouted,
        Self::Parked,
        Self::Rejected,
        Self::WrongRecipient,
        Self::UrgentHeld,
        Self::EndpointDown,
        Self::EvidenceOverdue,
        Self::SenderNotTold,
        Self::IdentityConflict,
        Self::Conservation,
        Self::NetworkIdentity,
        Self::NotCollected,
        Self::AnswerUnread,
        Self::LowDisk,
    ];

    /// The kind as text, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unrouted => "unrouted",
            Self::Parked => "parked",
            Self::Rejected => "rejected",
            Self::WrongRecipient => "wrong_recipient",
            Self::UrgentHeld => "urgent_held",
            Self::EndpointDown => "endpoint_down",
            Self::EvidenceOverdue => "evidence_overdue",
            Self::SenderNotTold => "sender_not_told",
            Self::IdentityConflict => "identity_conflict",
            Self::Conservation => "conservation",
            Self::NetworkIdentity => "network_identity",
            Self::NotCollected => "not_collected",
            Self::AnswerUnread => "answer_unread",
            Self::LowDisk => "low_disk",
        }
    }

    /// Reads a stored kind.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == text)
    }
}

/// An alarm to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAlarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The id of the thing, never of a person.
    pub subject: String,
    /// The agency that must act.
    pub owner: AgencyId,
    /// The role within it.
    pub role: String,
    /// Words for the owner, without personal data.
    pub text: String,
}

/// An alarm as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What was opened.
    pub alarm: NewAlarm,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it was resolved.
    pub resolved: Option<Timestamp>,
}
