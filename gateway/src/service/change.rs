//! What a sender does after submit: amend, cancel, withdraw consent (rulings 3, 4).

use serde::Serialize;
use waymark_core::access::{Action, Principal};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::Kind;
use waymark_core::error::ErrorKind;
use waymark_core::id::{BodyId, EventId, LegId};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    EventKind, MessageKey, NewEvent, Opening, ReferralChange, ReferralView, StoreError,
};
use waymark_core::referral::Referral;
use waymark_core::time::Timestamp;

use super::draft::{CANONICAL, NOTE};
use super::submit::{canonical, check_request_id, documents_of, request_key};
use super::{Key, STALE_RETRIES_MAX, Service, ServiceError};

mod step;

use step::LegStep;

/// New content for a referral.
#[derive(Clone, Debug)]
pub struct Amend {
    /// The message key.
    pub request_id: String,
    /// The referral.
    pub key: Key,
    /// The version that the sender read, where it says so.
    pub expected_version: Option<u64>,
    /// The content, whole.
    pub referral: Referral,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// Why a sender cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelCode {
    /// No longer needed.
    NoLongerNeeded,
    /// Entered in error.
    EnteredInError,
    /// The child moved away.
    Moved,
    /// The family asked.
    FamilyRequest,
    /// Anything else, in words.
    Other,
}

impl CancelCode {
    /// The code as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoLongerNeeded => "no_longer_needed",
            Self::EnteredInError => "entered_in_error",
            Self::Moved => "moved",
            Self::FamilyRequest => "family_request",
            Self::Other => "other",
        }
    }
}

/// A cancel.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// The message key.
    pub request_id: String,
    /// The referral.
    pub key: Key,
    /// Why.
    pub code: CancelCode,
    /// In words.
    pub text: Option<Personal<String>>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A withdrawal of consent.
#[derive(Clone, Debug)]
pub struct Withdraw {
    /// The message key.
    pub request_id: String,
    /// The referral.
    pub key: Key,
    /// In words.
    pub text: Option<Personal<String>>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// What a cancel or withdrawal did to one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LegOutcome {
    /// Nothing had been sent, and nothing will be.
    NothingSent,
    /// The receiver will be told, after what went before.
    Queued,
    /// Assessment had begun: the receiver is asked, and decides.
    Requested,
    /// The leg had ended.
    AlreadyEnded,
}

/// One leg's part in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LegEffect {
    /// The leg.
    pub leg: LegId,
    /// What it did.
    pub outcome: LegOutcome,
}

/// What a change did.
#[derive(Clone, Debug)]
pub struct ChangeResult {
    /// The referral now.
    pub referral: ReferralView,
    /// The change's event.
    pub event: EventId,
    /// What it did to each leg.
    pub effects: Vec<LegEffect>,
    /// Whether the same message had been applied before.
    pub repeated: bool,
}

/// What a message of the sender says, as one shape for the three use cases.
pub(super) struct SenderMessage {
    pub(super) key: String,
    pub(super) content: Payload,
    pub(super) act: SenderAct,
    pub(super) traceparent: Option<String>,
}

pub(super) enum SenderAct {
    Amend {
        content: Vec<u8>,
        referral: Box<Referral>,
        expected: Option<u64>,
    },
    Cancel {
        code: &'static str,
        text: Option<Personal<String>>,
    },
    Withdraw {
        text: Option<Personal<String>>,
    },
}

impl SenderAct {
    const fn action(&self) -> Action {
        match self {
            Self::Amend { .. } => Action::Amend,
            Self::Cancel { .. } | Self::Withdraw { .. } => Action::Cancel,
        }
    }

    const fn event(&self) -> EventKind {
        match self {
            Self::Amend { .. } => EventKind::Amended,
            Self::Cancel { .. } => EventKind::Cancelled,
            Self::Withdraw { .. } => EventKind::ConsentWithdrawn,
        }
    }

    const fn delivery(&self) -> Kind {
        match self {
            Self::Amend { .. } => Kind::Amend,
            Self::Cancel { .. } => Kind::Cancel,
            Self::Withdraw { .. } => Kind::Withdraw,
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::Amend { .. } => "amended",
            Self::Cancel { code, .. } => code,
            Self::Withdraw { .. } => "consent_withdrawn",
        }
    }
}

impl Service {
    /// Replaces a referral's content; also how a sender answers a request for information.
    ///
    /// # Errors
    /// `Precondition` when the referral moved past `expected_version`, ended, or lost its consent.
    pub async fn amend(
        &self,
        caller: &Principal,
        ask: Amend,
    ) -> Result<ChangeResult, ServiceError> {
        check_request_id(&ask.request_id)?;
        let content = canonical(&ask.referral)?;
        let message = SenderMessage {
            key: request_key(&ask.request_id),
            content: Payload::new(content.clone()),
            act: SenderAct::Amend {
                content,
                referral: Box::new(ask.referral),
                expected: ask.expected_version,
            },
            traceparent: ask.traceparent,
        };
        self.sender_change(caller, &ask.key, &message).await
    }

    /// Cancels a referral: what was never sent never is, and who was told is told of the cancel.
    ///
    /// # Errors
    /// `NotFound` for a stranger; `Conflict` for a key used for something else.
    pub async fn cancel(
        &self,
        caller: &Principal,
        ask: Cancel,
    ) -> Result<ChangeResult, ServiceError> {
        check_request_id(&ask.request_id)?;
        let text = ask.text.as_ref().map_or("", |t| t.expose().as_str());
        let message = SenderMessage {
            key: request_key(&ask.request_id),
            content: Payload::new(
                format!("cancel|{:?}|{}|{text}", ask.key, ask.code.as_str()).into_bytes(),
            ),
            act: SenderAct::Cancel {
                code: ask.code.as_str(),
                text: ask.text,
            },
            traceparent: ask.traceparent,
        };
        self.sender_change(caller, &ask.key, &message).await
    }

    /// Withdraws consent: nothing more is sent, and who was told is told of the withdrawal.
    ///
    /// # Errors
    /// As [`Service::cancel`].
    pub async fn withdraw_consent(
        &self,
        caller: &Principal,
        ask: Withdraw,
    ) -> Result<ChangeResult, ServiceError> {
        check_request_id(&ask.request_id)?;
        let text = ask.text.as_ref().map_or("", |t| t.expose().as_str());
        let message = SenderMessage {
            key: request_key(&ask.request_id),
            content: Payload::new(format!("withdraw|{:?}|{text}", ask.key).into_bytes()),
            act: SenderAct::Withdraw { text: ask.text },
            traceparent: ask.traceparent,
        };
        self.sender_change(caller, &ask.key, &message).await
    }

    /// Decides a sender's change on the referral as it is, and decides anew when it moved meanwhile.
    pub(super) async fn sender_change(
        &self,
        caller: &Principal,
        key: &Key,
        message: &SenderMessage,
    ) -> Result<ChangeResult, ServiceError> {
        for _ in 0..STALE_RETRIES_MAX {
            let (view, _permit) = self.find(caller, key, message.act.action()).await?;
            let (change, effects) = self.decide_change(caller, &view, message)?;
            match self.parts.store.change(change).await {
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(changed) => {
                    let referral =
                        self.parts.store.referral(view.id).await?.ok_or_else(|| {
                            ServiceError::new(ErrorKind::Internal, "REFERRAL_GONE")
                        })?;
                    return Ok(ChangeResult {
                        referral,
                        event: changed.event,
                        effects,
                        repeated: changed.repeated,
                    });
                }
            }
        }
        Err(ServiceError::new(
            ErrorKind::Unavailable,
            "CHANGED_MEANWHILE",
        ))
    }

    fn decide_change(
        &self,
        caller: &Principal,
        view: &ReferralView,
        message: &SenderMessage,
    ) -> Result<(ReferralChange, Vec<LegEffect>), ServiceError> {
        let now = self.now();
        if let SenderAct::Amend {
            referral, expected, ..
        } = &message.act
        {
            check_amend(view, referral, *expected, now)?;
        }
        let draft = self.drafter();
        let (bodies, content, note) = self.bodies_of(&message.act, now)?;
        let (entry, openings) = self.change_entry(caller, view, message, now);
        let mut change = ReferralChange {
            at: now,
            referral: view.id,
            expected_version: view.version,
            message_key: Some(MessageKey {
                sender: view.sender.clone(),
                key: Personal::new(message.key.clone()),
                content: message.content.clone(),
            }),
            bodies,
            content,
            legs: Vec::new(),
            new_legs: Vec::new(),
            deliveries: Vec::new(),
            cancel: Vec::new(),
            supersede: Vec::new(),
            event: NewEvent {
                id: entry.event,
                kind: message.act.event(),
                leg: None,
                delivery: None,
                source: caller.agency.clone(),
                source_version: None,
                state: None,
                reception: None,
                code: message.act.code().to_owned(),
                text: note,
            },
            documents: match &message.act {
                SenderAct::Amend { referral, .. } => documents_of(referral),
                SenderAct::Cancel { .. } | SenderAct::Withdraw { .. } => Vec::new(),
            },
            status_version: None,
            receiver_reference: None,
            withdraws_consent: matches!(message.act, SenderAct::Withdraw { .. }),
            alarms: Vec::new(),
            resolve: Vec::new(),
            entry,
            openings,
            traceparent: message.traceparent.clone(),
        };
        let mut effects = Vec::new();
        for leg in &view.legs {
            let step = LegStep {
                service: self,
                draft: &draft,
                view,
                leg,
                act: &message.act,
                content,
                note,
                now,
            };
            effects.push(step.apply(&mut change)?);
        }
        Ok((change, effects))
    }

    #[expect(
        clippy::type_complexity,
        reason = "bodies to seal, and which of them is content and which is the note"
    )]
    fn bodies_of(
        &self,
        act: &SenderAct,
        now: Timestamp,
    ) -> Result<
        (
            Vec<waymark_core::port::NewBody>,
            Option<BodyId>,
            Option<BodyId>,
        ),
        ServiceError,
    > {
        let draft = self.drafter();
        Ok(match act {
            SenderAct::Amend { content, .. } => {
                let body = draft.body(now, CANONICAL, content.clone());
                let id = body.id;
                (vec![body], Some(id), None)
            }
            SenderAct::Cancel { text: None, .. } | SenderAct::Withdraw { text: None } => {
                (Vec::new(), None, None)
            }
            SenderAct::Cancel {
                text: Some(text), ..
            }
            | SenderAct::Withdraw { text: Some(text) } => {
                let bytes = serde_json::to_vec(text).map_err(|e| ServiceError {
                    cause: Some(Box::new(e)),
                    ..ServiceError::new(ErrorKind::Internal, "ENCODE")
                })?;
                let body = draft.body(now, NOTE, bytes);
                let id = body.id;
                (vec![body], None, Some(id))
            }
        })
    }

    fn change_entry(
        &self,
        caller: &Principal,
        view: &ReferralView,
        message: &SenderMessage,
        now: Timestamp,
    ) -> (EntryDraft, Vec<Opening>) {
        let draft = self.drafter();
        let mut entry = draft
            .entry(EntryKind::Status, view.stream, caller, now)
            .code("event", message.act.event().as_str())
            .code("reason", message.act.code());
        let openings = match &message.act {
            SenderAct::Amend { content, .. } => {
                vec![draft.commit(&mut entry, CommitmentTag::Payload, content)]
            }
            SenderAct::Cancel { .. } | SenderAct::Withdraw { .. } => Vec::new(),
        };
        (entry, openings)
    }
}

fn check_amend(
    view: &ReferralView,
    referral: &Referral,
    expected: Option<u64>,
    now: Timestamp,
) -> Result<(), ServiceError> {
    let refused = |field: &str, why: &str| {
        Err(ServiceError::new(ErrorKind::Precondition, "CANNOT_AMEND").with_violation(field, why))
    };
    if expected.is_some_and(|v| v != view.version) {
        let why = format!(
            "the referral is at version {}: read it again and amend that",
            view.version
        );
        return refused("expected_version", &why);
    }
    if view.consent_withdrawn {
        return refused(
            "referral",
            "consent was withdrawn: submit a new referral once consent is given again",
        );
    }
    if view.legs.iter().all(|l| l.state.is_terminal()) {
        return refused("referral", "every leg has ended: submit a new referral");
    }
    if referral.pathway != view.pathway {
        return refused(
            "referral.pathway",
            "cannot change: cancel this referral and submit another",
        );
    }
    let violations = referral.violations(now.london_date());
    if violations.is_empty() {
        Ok(())
    } else {
        Err(ServiceError::invalid(violations))
    }
}
