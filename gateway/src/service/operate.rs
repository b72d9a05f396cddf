//! What administrators do to deliveries: resend, redirect, park, resume; each with a reason, each in the log.

use waymark_core::access::{Action, Permit, Principal, Relationship, permit};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, ParkReason};
use waymark_core::error::ErrorKind;
use waymark_core::id::{DeliveryId, ServiceId, WireId};
use waymark_core::leg::LegState;
use waymark_core::port::{
    Act, DeliveryView, EventKind, LegChange, NewBody, NewDelivery, NewEvent, Opening, Operation,
    ReferralChange, ReferralView, StoreError,
};
use waymark_core::routing::{Decision, Destination};
use waymark_core::time::Timestamp;

use super::draft::NOTE;
use super::submit::first_delivery;
use super::{Drafter, STALE_RETRIES_MAX, Service, ServiceError};

/// Characters in a reason.
pub(super) const REASON_MAX: usize = 1_000;

/// What a resend would do, before anybody does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResendPreview {
    /// The delivery.
    pub delivery: DeliveryView,
    /// Deliveries of the same leg that the receiver already has evidence for, best first.
    pub already: Vec<(DeliveryId, Evidence)>,
    /// Whether it may be resent now.
    pub allowed: bool,
    /// Words for the operator: what will happen, or why it may not.
    pub warning: String,
}

/// Where a delivery is redirected to.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The service that takes it instead.
    pub service: ServiceId,
    /// Why.
    pub reason: String,
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
            delivery: view,
            already,
            allowed,
            warning,
        })
    }

    /// Sends again: a parked delivery under its own id, an ended one as a new, linked delivery.
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
            DeliveryState::Parked => self.resume(caller, id, reason).await,
            DeliveryState::Rejected | DeliveryState::Done => {
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

    /// Sends a leg to another service: a new leg and delivery, linked, keeping the first start of the wait.
    ///
    /// # Errors
    /// `Precondition` while an outcome is unknown; `Invalid` for a service that is not in force.
    pub async fn redirect(
        &self,
        caller: &Principal,
        ask: &Redirect,
    ) -> Result<DeliveryView, ServiceError> {
        for _ in 0..STALE_RETRIES_MAX {
            let (view, referral, permit) = self.operated(caller, ask.delivery, &ask.reason).await?;
            if in_flight(view.state) {
                return Err(refuse_state(view.state));
            }
            match self.redirect_once(&permit, &view, &referral, ask).await {
                Err(error) if error.reason == "CHANGED_MEANWHILE" => {}
                other => return other,
            }
        }
        Err(ServiceError::new(
            ErrorKind::Unavailable,
            "CHANGED_MEANWHILE",
        ))
    }

    async fn redirect_once(
        &self,
        permit: &Permit,
        view: &DeliveryView,
        referral: &ReferralView,
        ask: &Redirect,
    ) -> Result<DeliveryView, ServiceError> {
        let now = self.now();
        let in_force = self.in_force();
        let today = now.london_date();
        let service = in_force
            .directory
            .service(&ask.service, today)
            .ok_or_else(|| {
                ServiceError::field(
                    "service_id",
                    "is not a service in force: list services for those that are",
                )
            })?;
        let old = referral
            .legs
            .iter()
            .find(|l| Some(l.leg.id) == view.delivery.leg)
            .ok_or_else(|| {
                ServiceError::field(
                    "delivery_id",
                    "is a status to the sender, which is not redirected",
                )
            })?;
        let destination = Destination {
            service: service.id.clone(),
            agency: service.agency.clone(),
            endpoint: service.endpoint.clone(),
            owner: service.owner(),
            rule: None,
        };
        let decision = Decision {
            destinations: vec![destination.clone()],
            rule: None,
            triage: None,
            withheld: Vec::new(),
        };
        let draft = self.drafter();
        let started = old.leg.clock_started;
        let leg = self.leg_for(
            &destination,
            &decision,
            draft.leg(now),
            &referral.sender,
            started,
            now,
        )?;
        let fresh = draft.delivery(now);
        let mut delivery = first_delivery(
            &in_force.directory,
            &destination,
            leg.id,
            fresh,
            Kind::New,
            referral.content,
            now,
            view.delivery.urgent,
        )?;
        delivery.replaces = Some(view.delivery.id);
        let ended = !old.state.is_terminal();
        self.operator_change(permit, referral, "redirect", &ask.reason, |change| {
            change.new_legs.push(leg.clone());
            change.deliveries.push(delivery.clone());
            if !view.state.is_terminal() {
                change.supersede.push(view.delivery.id);
            }
            if ended {
                change.legs.push(LegChange {
                    leg: old.leg.id,
                    state: LegState::Redirected,
                    owner: old.owner.clone(),
                    clock: None,
                    next_action: None,
                });
            }
            change.resolve.extend([
                (AlarmKind::Parked, view.delivery.id.to_string()),
                (AlarmKind::Rejected, view.delivery.id.to_string()),
                (AlarmKind::Unrouted, old.leg.id.to_string()),
            ]);
            change.event.delivery = Some(fresh);
            change.event.leg = Some(leg.id);
            // Both sides by name, so that the log alone says who had it and who has it now.
            say(
                change,
                &[
                    ("delivery", fresh.to_string()),
                    ("replaces", view.delivery.id.to_string()),
                    ("from", old.leg.agency.to_string()),
                    ("from_service", old.leg.service.to_string()),
                    ("to", destination.agency.to_string()),
                    ("to_service", destination.service.to_string()),
                ],
            );
        })
        .await?;
        self.seen(fresh).await
    }

    /// Takes a delivery out of its lane.
    ///
    /// # Errors
    /// `Precondition` while an outcome is unknown, or once it ended.
    pub async fn park(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<DeliveryView, ServiceError> {
        let (view, _referral, permit) = self.operated(caller, id, reason).await?;
        if in_flight(view.state) || view.state.is_terminal() || view.state == DeliveryState::Parked
        {
            return Err(refuse_state(view.state));
        }
        self.operate(&permit, &view, Act::Park(ParkReason::Operator), reason)
            .await
    }

    /// Puts a parked delivery back, under the same id.
    ///
    /// # Errors
    /// `Precondition` when it is not parked.
    pub async fn resume(
        &self,
        caller: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<DeliveryView, ServiceError> {
        let (view, _referral, permit) = self.operated(caller, id, reason).await?;
        if view.state != DeliveryState::Parked {
            return Err(refuse_state(view.state));
        }
        self.operate(&permit, &view, Act::Resume, reason).await
    }

    async fn operate(
        &self,
        permit: &Permit,
        view: &DeliveryView,
        act: Act,
        reason: &str,
    ) -> Result<DeliveryView, ServiceError> {
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
            id: entry.event,
            kind: EventKind::Operator,
            leg: view.delivery.leg,
            delivery: Some(id),
            source: permit.principal().agency.clone(),
            source_version: None,
            state: None,
            reception: None,
            code: word.to_owned(),
            text: Some(note.id),
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
            })?;
        self.seen(id).await
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
        let mut change = ReferralChange {
            at: now,
            referral: referral.id,
            expected_version: referral.version,
            message_key: None,
            content: None,
            legs: Vec::new(),
            new_legs: Vec::new(),
            deliveries: Vec::new(),
            cancel: Vec::new(),
            supersede: Vec::new(),
            event: NewEvent {
                id: entry.event,
                kind: EventKind::Operator,
                leg: None,
                delivery: None,
                source: who.agency.clone(),
                source_version: None,
                state: None,
                reception: None,
                code: word.to_owned(),
                text: Some(note.id),
            },
            bodies: vec![note],
            documents: Vec::new(),
            status_version: None,
            receiver_reference: None,
            withdraws_consent: false,
            alarms: Vec::new(),
            resolve: Vec::new(),
            entry,
            openings: vec![opening],
            traceparent: None,
        };
        fill(&mut change);
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
    ServiceError::new(ErrorKind::Precondition, "DELIVERY_STATE").with_violation(
        "delivery_id",
        format!("is {state}: this is possible once its outcome is known and while it has not been replaced"),
    )
}
