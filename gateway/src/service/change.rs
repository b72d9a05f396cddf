//! What a sender does after submit: amend, cancel, withdraw consent (rulings 3, 4).

use std::collections::BTreeSet;

use serde::Serialize;
use waymark_core::access::{Action, Principal};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::Kind;
use waymark_core::directory::consent_stands;
use waymark_core::error::ErrorKind;
use waymark_core::id::{AgencyId, EventId, LegId};
use waymark_core::leg::LegState;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    CancelCode, EventKind, MessageKey, NewEvent, Opening, ReferralChange, ReferralView, StopNotice,
    StoreError, Withdrawal,
};
use waymark_core::referral::{ConsentScope, Referral};
use waymark_core::time::Timestamp;

use super::draft::{CANONICAL, NOTE, VERSION_FACT};
use super::submit::{
    canonical, check_content, check_request_id, documents_of, request_key, subject_of,
};
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
    /// The legs whose request for information it answers; all that made one where none is named.
    pub answers: BTreeSet<LegId>,
    /// W3C trace context.
    pub traceparent: Option<String>,
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
    /// What is withdrawn, by whom and when.
    pub withdrawal: Withdrawal,
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
    /// Nothing of what was withdrawn is what sharing with its receiver rests on: it goes on.
    Unaffected,
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
        answers: BTreeSet<LegId>,
    },
    Stop(StopNotice),
}

impl SenderAct {
    const fn action(&self) -> Action {
        match self {
            Self::Amend { .. } => Action::Amend,
            Self::Stop(_) => Action::Cancel,
        }
    }

    const fn event(&self) -> EventKind {
        match self {
            Self::Amend { .. } => EventKind::Amended,
            Self::Stop(StopNotice::Cancelled { .. }) => EventKind::Cancelled,
            Self::Stop(StopNotice::Withdrawn(_)) => EventKind::ConsentWithdrawn,
        }
    }

    const fn delivery(&self) -> Kind {
        match self {
            Self::Amend { .. } => Kind::Amend,
            Self::Stop(StopNotice::Cancelled { .. }) => Kind::Cancel,
            Self::Stop(StopNotice::Withdrawn(_)) => Kind::Withdraw,
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::Amend { .. } => "amended",
            Self::Stop(StopNotice::Cancelled { code, .. }) => code.as_str(),
            Self::Stop(StopNotice::Withdrawn(_)) => "consent_withdrawn",
        }
    }

    /// The scopes of consent that it withdraws.
    fn withdraws(&self) -> BTreeSet<ConsentScope> {
        match self {
            Self::Stop(StopNotice::Withdrawn(withdrawal)) => withdrawal.withdrawn(),
            _ => BTreeSet::new(),
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
        let mut compared = content.clone();
        for leg in &ask.answers {
            compared.extend_from_slice(leg.as_bytes());
        }
        let message = SenderMessage {
            key: request_key(&ask.request_id),
            content: Payload::new(compared),
            act: SenderAct::Amend {
                content,
                referral: Box::new(ask.referral),
                expected: ask.expected_version,
                answers: ask.answers,
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
        let stop = StopNotice::Cancelled {
            code: ask.code,
            text: ask.text,
        };
        self.stop(caller, (&ask.request_id, &ask.key), stop, ask.traceparent)
            .await
    }

    /// Withdraws consent, whole or in part: whoever it no longer covers is sent nothing more, and told if it was told
    /// before.
    ///
    /// # Errors
    /// As [`Service::cancel`].
    pub async fn withdraw_consent(
        &self,
        caller: &Principal,
        ask: Withdraw,
    ) -> Result<ChangeResult, ServiceError> {
        let stop = StopNotice::Withdrawn(ask.withdrawal);
        self.stop(caller, (&ask.request_id, &ask.key), stop, ask.traceparent)
            .await
    }

    async fn stop(
        &self,
        caller: &Principal,
        (request_id, key): (&str, &Key),
        stop: StopNotice,
        traceparent: Option<String>,
    ) -> Result<ChangeResult, ServiceError> {
        check_request_id(request_id)?;
        let mut compared = format!("{key:?}|").into_bytes();
        compared.extend(encoded(&stop)?);
        let message = SenderMessage {
            key: request_key(request_id),
            content: Payload::new(compared),
            act: SenderAct::Stop(stop),
            traceparent,
        };
        self.sender_change(caller, key, &message).await
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
            if let SenderAct::Amend { referral, .. } = &message.act {
                self.check_child(&view, referral).await?;
            }
            let (change, effects) = match self.decide_change(caller, &view, message) {
                Ok(decided) => decided,
                // What was done once is refused no more, however the referral has moved since.
                Err(refused) => return self.done_before(view, message, refused).await,
            };
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

    /// An amendment never makes one child's referral another child's.
    async fn check_child(
        &self,
        view: &ReferralView,
        referral: &Referral,
    ) -> Result<(), ServiceError> {
        let child = subject_of(referral);
        if !self.parts.store.names_another(view.id, &child).await? {
            return Ok(());
        }
        Err(
            ServiceError::new(ErrorKind::Precondition, "ANOTHER_CHILD").with_violation(
                "referral.child",
                "is another child than the referral's: cancel it as entered in error and submit another",
            ),
        )
    }

    /// The answer to a message that was applied before; else its refusal stands.
    async fn done_before(
        &self,
        view: ReferralView,
        message: &SenderMessage,
        refused: ServiceError,
    ) -> Result<ChangeResult, ServiceError> {
        let key = message.key_of(&view);
        match self.parts.store.answered(&key, view.id).await? {
            Some(event) => Ok(ChangeResult {
                referral: view,
                event,
                effects: Vec::new(),
                repeated: true,
            }),
            None => Err(refused),
        }
    }

    fn decide_change(
        &self,
        caller: &Principal,
        view: &ReferralView,
        message: &SenderMessage,
    ) -> Result<(ReferralChange, Vec<LegEffect>), ServiceError> {
        let now = self.now();
        if let SenderAct::Amend {
            referral,
            expected,
            answers,
            ..
        } = &message.act
        {
            check_amend(view, referral, *expected, now)?;
            check_answers(view, answers)?;
        }
        let draft = self.drafter();
        let (entry, openings) = self.change_entry(caller, view, message, now);
        let body = match &message.act {
            SenderAct::Amend { content, .. } => draft.body(now, CANONICAL, content.clone()),
            SenderAct::Stop(stop) => draft.body(now, NOTE, encoded(stop)?),
        };
        let id = body.id;
        let (content, note) = match &message.act {
            SenderAct::Amend { .. } => (Some(id), None),
            SenderAct::Stop(_) => (None, Some(id)),
        };
        let event = NewEvent {
            text: note,
            ..NewEvent::of(&entry, message.act.event(), message.act.code())
        };
        let mut change = ReferralChange {
            message_key: Some(message.key_of(view)),
            bodies: vec![body],
            content,
            documents: match &message.act {
                SenderAct::Amend { referral, .. } => documents_of(referral),
                SenderAct::Stop(_) => Vec::new(),
            },
            withdraws: message.act.withdraws(),
            openings,
            traceparent: message.traceparent.clone(),
            ..ReferralChange::of((view.id, view.version), event, entry)
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
            .code("reason", message.act.code())
            .code(VERSION_FACT, (view.version + 1).to_string());
        let scopes = message.act.withdraws();
        if !scopes.is_empty() {
            let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
            entry = entry.code("scopes", scopes.join(","));
        }
        let openings = match &message.act {
            SenderAct::Amend { content, .. } => {
                vec![draft.commit(&mut entry, CommitmentTag::Payload, content)]
            }
            SenderAct::Stop(_) => Vec::new(),
        };
        (entry, openings)
    }

    /// Whether sharing with an agency still stands once some scopes are withdrawn.
    pub(super) fn consent_covers(
        &self,
        withdrawn: &BTreeSet<ConsentScope>,
        agency: &AgencyId,
    ) -> bool {
        let today = self.now().london_date();
        consent_stands(
            withdrawn,
            self.in_force().directory.sector_of(agency, today),
        )
    }
}

impl SenderMessage {
    fn key_of(&self, view: &ReferralView) -> MessageKey {
        MessageKey {
            sender: view.sender.clone(),
            key: Personal::new(self.key.clone()),
            content: self.content.clone(),
        }
    }
}

fn encoded(stop: &StopNotice) -> Result<Vec<u8>, ServiceError> {
    serde_json::to_vec(stop).map_err(|e| ServiceError {
        cause: Some(Box::new(e)),
        ..ServiceError::new(ErrorKind::Internal, "ENCODE")
    })
}

/// Only a leg that asked for information is answered.
fn check_answers(view: &ReferralView, answers: &BTreeSet<LegId>) -> Result<(), ServiceError> {
    let asked = |id: &LegId| {
        view.legs
            .iter()
            .any(|leg| leg.leg.id == *id && leg.state == LegState::InfoNeeded)
    };
    match answers.iter().find(|id| !asked(id)) {
        None => Ok(()),
        Some(id) => Err(
            ServiceError::new(ErrorKind::Precondition, "CANNOT_AMEND").with_violation(
                "answers_leg_ids",
                format!("{id} is not a leg of this referral in INFO_NEEDED: leave it out"),
            ),
        ),
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
    if view.withdrawn.contains(&ConsentScope::Referral) {
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
    check_content(referral, now.london_date())
}
