//! What administrators do to deliveries: resend, redirect, park, resume; each with a reason, each in the log.

use waymark_core::access::{Action, Permit, Principal, Relationship, permit};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::error::ErrorKind;
use waymark_core::id::{AgencyId, DeliveryId, WireId};
use waymark_core::port::{
    Act, DeliveryQuery, DeliveryView, EventKind, NewBody, NewDelivery, NewEvent, Opening,
    Operation, ReferralChange, ReferralView, StoreError,
};
use waymark_core::time::Timestamp;

use super::draft::NOTE;
use super::{Drafter, PAGE_MAX, Service, ServiceError};

mod lane;
mod redirect;

pub use lane::LANE_ACT_MAX;
pub use redirect::{Redirect, RedirectTarget};
use redirect::{Redirecting, told_of};

/// The reason of a refusal that a delivery's state decides.
pub const DELIVERY_STATE: &str = "DELIVERY_STATE";
/// Characters in a reason.
pub(super) const REASON_MAX: usize = 1_000;

/// What a resend would do, before anybody does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResendPreview {
    /// The delivery.
    pub delivery: DeliveryView,
    /// Deliveries of the same leg that the receiver already has evidence for, best first.
    pub already: Vec<(DeliveryId, Evidence)>,
    /// How many later deliveries of its lane wait behind it, counted up to a page of each state.
    pub behind: usize,
    /// Whether it may be resent now.
    pub allowed: bool,
    /// Words for the operator: what will happen, or why it may not.
    pub warning: String,
}

fn check_reason(reason: &str) -> Result<(), ServiceError> {
    let count = reason.trim().chars().count();
    if count == 0 || count > REASON_MAX {
        return Err(ServiceError::field(
            "reason",
            format!("is required, at most {REASON_MAX} characters"),
        ));
    }
    Ok(())
}

/// An operator's reason may name people: it is sealed, and the log only commits to it.
fn sealed_reason(
    draft: &Drafter<'_>,
    entry: &mut EntryDraft,
    reason: &str,
    at: Timestamp,
) -> Result<(NewBody, Opening), ServiceError> {
    let bytes = serde_json::to_vec(reason).map_err(|e| ServiceError {
        cause: Some(Box::new(e)),
        ..ServiceError::new(ErrorKind::Internal, "ENCODE")
    })?;
    let opening = draft.commit(entry, CommitmentTag::Payload, &bytes);
    Ok((draft.body(at, NOTE, bytes), opening))
}

/// Whether an attempt's outcome is not known yet.
const fn in_flight(state: DeliveryState) -> bool {
    matches!(
        state,
        DeliveryState::Attempting | DeliveryState::Unknown | DeliveryState::AwaitingEvidence
    )
}

impl Service {
    async fn operated(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<(DeliveryView, ReferralView, Permit), ServiceError> {
        let permit = permit(caller, Action::ActOnDeliveries, Relationship::None)?;
        check_reason(reason)?;
        let missing = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DELIVERY");
        let view = self.parts.store.delivery(id).await?.ok_or_else(missing)?;
        let referral = self
            .parts
            .store
            .referral(view.referral)
            .await?
            .ok_or_else(missing)?;
        Ok((view, referral, permit))
    }

    /// Whether a caller may act on deliveries at all.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators.
    pub fn may_operate(&self, caller: &Principal) -> Result<(), ServiceError> {
        permit(caller, Action::ActOnDeliveries, Relationship::None)?;
        Ok(())
    }

    /// Says who already has a delivery's message, at which grade, and what a resend would do.
    ///
    /// # Errors
    /// `NotFound` when there is no such delivery.
    pub async fn preview_resend(
        &self,
        caller: &Principal,
        id: DeliveryId,
    ) -> Result<ResendPreview, ServiceError> {
        let (view, referral, _permit) = self.operated(caller, id, "preview").await?;
        let mut already: Vec<(DeliveryId, Evidence)> = referral
            .deliveries
            .iter()
            .filter(|d| d.leg == view.delivery.leg && d.evidence > Evidence::None)
            .map(|d| (d.id, d.evidence))
            .collect();
        already.sort_by_key(|(id, grade)| (std::cmp::Reverse(*grade), *id));
        let (allowed, warning) = match view.state {
            DeliveryState::Parked if view.came_back() => (
                true,
                "a new, linked delivery with a new id is made: the far side gave this one back"
                    .to_owned(),
            ),
            DeliveryState::Parked => (
                true,
                "the same bytes go out again under the same id".to_owned(),
            ),
            DeliveryState::Rejected | DeliveryState::Done => (
                true,
                "a new, linked delivery with a new id is made: the receiver may see it twice"
                    .to_owned(),
            ),
            state => (
                false,
                format!("the delivery is {state}: wait for it to end or park it first"),
            ),
        };
        Ok(ResendPreview {
            behind: self.waiting_behind(&view).await?,
            delivery: view,
            already,
            allowed,
            warning,
        })
    }

    /// Sends again: a parked delivery under its own id; as a new, linked delivery one that ended, and one that the far
    /// side had and gave back, whose id it may not take a second time.
    ///
    /// # Errors
    /// `Precondition` while an outcome is unknown.
    pub async fn resend(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<DeliveryView, ServiceError> {
        let (view, referral, permit) = self.operated(caller, id, reason).await?;
        match view.state {
            DeliveryState::Parked if view.came_back() => {
                let in_force = self.in_force();
                let today = self.now().london_date();
                let endpoint = in_force.directory.endpoint(&view.delivery.endpoint, today);
                let endpoint = endpoint.ok_or_else(|| {
                    let why = "is bound to an endpoint that is not in force: redirect it";
                    ServiceError::field("delivery_id", why)
                })?;
                let again = Redirecting {
                    permit: &permit,
                    view: &view,
                    referral: &referral,
                    reason,
                };
                self.moved_to(&again, endpoint, "resend").await
            }
            DeliveryState::Parked => {
                self.resume(caller, id, reason).await?;
                self.seen(id).await
            }
            DeliveryState::Rejected | DeliveryState::Done => {
                self.check_consent(&referral, view.delivery.kind, &view.delivery.recipient)?;
                let now = self.now();
                let fresh = self.drafter().delivery(now);
                let deadline = self.deadline_of(&view, now);
                let delivery = NewDelivery {
                    id: fresh,
                    wire_id: WireId::of(fresh),
                    due: now,
                    deadline,
                    replaces: Some(id),
                    ..view.delivery.clone()
                };
                self.operator_change(&permit, &referral, "resend", reason, |change| {
                    change.deliveries.push(delivery.clone());
                    change.resolve.extend(told_of(id));
                    change.event.delivery = Some(fresh);
                    say(
                        change,
                        &[
                            ("delivery", fresh.to_string()),
                            ("replaces", id.to_string()),
                        ],
                    );
                })
                .await?;
                self.seen(fresh).await
            }
            state => Err(refuse_state(state)),
        }
    }

    /// Takes a delivery out of its lane; answers it and what it took along.
    ///
    /// # Errors
    /// `Precondition` while an outcome is unknown, or once it ended.
    pub async fn park(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let (view, _referral, permit) = self.operated(caller, id, reason).await?;
        if in_flight(view.state) || view.state.is_terminal() || view.state == DeliveryState::Parked
        {
            return Err(refuse_state(view.state));
        }
        let before = self.parked_of(&view).await?;
        self.operate(&permit, &view, Act::Park(ParkReason::Operator), reason)
            .await?;
        let mut moved = self.parked_of(&view).await?;
        moved.retain(|now| before.iter().all(|b| b.delivery.id != now.delivery.id));
        Ok(moved)
    }

    /// Puts a parked delivery back, under the same id; answers it and what goes on with it.
    ///
    /// # Errors
    /// `Precondition` when it is not parked.
    pub async fn resume(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let (view, _referral, permit) = self.operated(caller, id, reason).await?;
        if view.state != DeliveryState::Parked {
            return Err(refuse_state(view.state));
        }
        let before = self.parked_of(&view).await?;
        self.operate(&permit, &view, Act::Resume, reason).await?;
        let mut moved = self.as_now(&before).await?;
        moved.retain(|now| now.state != DeliveryState::Parked);
        Ok(moved)
    }

    /// What is parked of a delivery's referral, oldest first.
    async fn parked_of(&self, view: &DeliveryView) -> Result<Vec<DeliveryView>, ServiceError> {
        let query = DeliveryQuery {
            state: Some(DeliveryState::Parked),
            referral: Some(view.referral),
            limit: PAGE_MAX,
            ..DeliveryQuery::default()
        };
        Ok(self.parts.store.deliveries(&query).await?)
    }

    /// Deliveries as they are now.
    async fn as_now(&self, views: &[DeliveryView]) -> Result<Vec<DeliveryView>, ServiceError> {
        let mut now = Vec::with_capacity(views.len());
        for view in views {
            now.push(self.seen(view.delivery.id).await?);
        }
        Ok(now)
    }

    /// Nothing more is shared with whom consent no longer covers.
    fn check_consent(
        &self,
        referral: &ReferralView,
        kind: Kind,
        agency: &AgencyId,
    ) -> Result<(), ServiceError> {
        let shares = matches!(kind, Kind::New | Kind::Amend);
        if !shares || self.consent_covers(&referral.withdrawn, agency) {
            return Ok(());
        }
        Err(
            ServiceError::new(ErrorKind::Precondition, "CONSENT_WITHDRAWN").with_violation(
                "delivery_id",
                format!("consent to share this referral with {agency} was withdrawn"),
            ),
        )
    }

    async fn operate(
        &self,
        permit: &Permit,
        view: &DeliveryView,
        act: Act,
        reason: &str,
    ) -> Result<(), ServiceError> {
        let now = self.now();
        let id = view.delivery.id;
        let word = match act {
            Act::Park(_) => "park",
            Act::Resume => "resume",
        };
        let draft = self.drafter();
        let mut entry = draft
            .entry(EntryKind::AdminAction, view.stream, permit.principal(), now)
            .code("action", word)
            .code("delivery", id.to_string());
        let (note, opening) = sealed_reason(&draft, &mut entry, reason, now)?;
        let event = NewEvent {
            leg: view.delivery.leg,
            delivery: Some(id),
            text: Some(note.id),
            ..NewEvent::of(&entry, EventKind::Operator, word)
        };
        let parked = NewAlarm {
            kind: AlarmKind::Parked,
            subject: id.to_string(),
            owner: permit.principal().agency.clone(),
            role: "administrator".to_owned(),
            text: "parked by an administrator: resume or redirect it".to_owned(),
        };
        let (alarms, resolve) = match act {
            Act::Park(_) => (vec![parked], Vec::new()),
            Act::Resume => (Vec::new(), vec![(AlarmKind::Parked, id.to_string())]),
        };
        let deadline = self.deadline_of(view, now);
        let operation = Operation {
            delivery: id,
            message_key: None,
            act,
            at: now,
            deadline,
            event,
            note,
            tell: None,
            alarms,
            resolve,
            entry,
            openings: vec![opening],
        };
        self.parts
            .store
            .operate(operation)
            .await
            .map_err(|e| match e {
                StoreError::Stale => refuse_state(view.state),
                other => other.into(),
            })
    }

    fn deadline_of(&self, view: &DeliveryView, now: Timestamp) -> Timestamp {
        let in_force = self.in_force();
        let endpoint = in_force.directory.endpoints.get(&view.delivery.endpoint);
        endpoint.map_or(view.delivery.deadline, |e| now.plus(e.deadline))
    }

    async fn seen(&self, id: DeliveryId) -> Result<DeliveryView, ServiceError> {
        let view = self.parts.store.delivery(id).await?;
        view.ok_or_else(|| ServiceError::new(ErrorKind::Internal, "DELIVERY_GONE"))
    }

    async fn operator_change(
        &self,
        permit: &Permit,
        referral: &ReferralView,
        word: &str,
        reason: &str,
        fill: impl FnOnce(&mut ReferralChange),
    ) -> Result<(), ServiceError> {
        let now = self.now();
        let who = permit.principal();
        let draft = self.drafter();
        let mut entry = draft
            .entry(EntryKind::Routed, referral.stream, who, now)
            .code("action", word);
        let (note, opening) = sealed_reason(&draft, &mut entry, reason, now)?;
        let event = NewEvent {
            text: Some(note.id),
            ..NewEvent::of(&entry, EventKind::Operator, word)
        };
        let mut change = ReferralChange {
            bodies: vec![note],
            openings: vec![opening],
            ..ReferralChange::of((referral.id, referral.version), event, entry)
        };
        fill(&mut change);
        self.guide(referral, &mut change);
        self.parts.store.change(change).await?;
        Ok(())
    }
}

/// Adds facts in clear to a change's entry.
fn say(change: &mut ReferralChange, facts: &[(&str, String)]) {
    for (name, value) in facts {
        change.entry = change.entry.clone().code(name, value);
    }
}

fn refuse_state(state: DeliveryState) -> ServiceError {
    ServiceError::new(ErrorKind::Precondition, DELIVERY_STATE).with_violation(
        "delivery_id",
        format!("is {state}: this is possible once its outcome is known and while it has not been replaced"),
    )
}
