//! One leg's part in a sender's change.

use std::collections::BTreeSet;

use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::{DeliveryState, Kind};
use waymark_core::id::{BodyId, WireId};
use waymark_core::leg::{LegState, Owner, Reception, Seen};
use waymark_core::port::{
    CancelCode, DeliveryHead, LegChange, LegView, NewDelivery, ReferralChange, ReferralView,
    StopNotice,
};
use waymark_core::referral::ConsentScope;
use waymark_core::time::Timestamp;

use super::super::{Drafter, Service, ServiceError};
use super::{LegEffect, LegOutcome, SenderAct};

/// One leg's part in one decision.
pub(super) struct LegStep<'a> {
    pub(super) service: &'a Service,
    pub(super) draft: &'a Drafter<'a>,
    pub(super) view: &'a ReferralView,
    pub(super) leg: &'a LegView,
    pub(super) act: &'a SenderAct,
    pub(super) content: Option<BodyId>,
    pub(super) note: Option<BodyId>,
    pub(super) now: Timestamp,
}

impl LegStep<'_> {
    pub(super) fn apply(&self, change: &mut ReferralChange) -> Result<LegEffect, ServiceError> {
        let leg = self.leg.leg.id;
        if self.leg.state.is_terminal() {
            return Ok(LegEffect {
                leg,
                outcome: LegOutcome::AlreadyEnded,
            });
        }
        let own: Vec<&DeliveryHead> = self.view.deliveries_of(leg).collect();
        let attempted = self.view.was_sent(leg);
        let outcome = match self.act {
            // Nothing more is shared with whom consent no longer covers.
            SenderAct::Amend { .. } if !self.covered(&self.view.withdrawn) => {
                LegOutcome::Unaffected
            }
            SenderAct::Amend { .. } => self.amend(&own, attempted, change)?,
            SenderAct::Stop(StopNotice::Withdrawn(said)) if self.covered(&said.withdrawn()) => {
                LegOutcome::Unaffected
            }
            SenderAct::Stop(stop) => self.stop(stop, &own, attempted, change)?,
        };
        Ok(LegEffect { leg, outcome })
    }

    /// Whether sharing with the leg's receiver stands, once these scopes are withdrawn.
    fn covered(&self, withdrawn: &BTreeSet<ConsentScope>) -> bool {
        self.service.consent_covers(withdrawn, &self.leg.leg.agency)
    }

    fn amend(
        &self,
        own: &[&DeliveryHead],
        attempted: bool,
        change: &mut ReferralChange,
    ) -> Result<LegOutcome, ServiceError> {
        let Some(last) = own.last() else {
            return Ok(LegOutcome::Queued);
        };
        // What is parked waits for a person, and what amends it waits behind it, unless its content is what is wrong.
        let parked = own
            .iter()
            .any(|d| d.parked.is_some_and(|reason| !reason.mends_by_content()));
        if attempted || parked {
            change
                .deliveries
                .push(self.delivery_like(last, Kind::Amend, self.content, None));
        } else {
            for live in own.iter().filter(|d| !d.state.is_terminal()) {
                change.supersede.push(live.id);
                change
                    .resolve
                    .push((AlarmKind::Parked, live.id.to_string()));
            }
            let mut fresh = self.delivery_like(last, Kind::New, self.content, None);
            fresh.replaces = Some(last.id);
            change.deliveries.push(fresh);
        }
        if self.leg.state == LegState::InfoNeeded && self.answered() {
            self.move_leg(LegState::InTriage, change)?;
        }
        Ok(LegOutcome::Queued)
    }

    /// Whether the amendment answers this leg, if it asked for anything.
    fn answered(&self) -> bool {
        match self.act {
            SenderAct::Amend { answers, .. } => {
                answers.is_empty() || answers.contains(&self.leg.leg.id)
            }
            SenderAct::Stop(_) => false,
        }
    }

    fn stop(
        &self,
        stop: &StopNotice,
        own: &[&DeliveryHead],
        attempted: bool,
        change: &mut ReferralChange,
    ) -> Result<LegOutcome, ServiceError> {
        let unsent: Vec<_> = own
            .iter()
            .filter(|d| d.attempts == 0 && !d.state.is_terminal())
            .collect();
        if !attempted {
            change.cancel.extend(unsent.iter().map(|d| d.id));
            change
                .resolve
                .extend(unsent.iter().map(|d| (AlarmKind::Parked, d.id.to_string())));
            change
                .resolve
                .push((AlarmKind::Unrouted, self.leg.leg.id.to_string()));
            self.move_leg(ends_as(stop), change)?;
            return Ok(LegOutcome::NothingSent);
        }
        let refused = own.iter().all(|d| {
            matches!(
                d.state,
                DeliveryState::Rejected | DeliveryState::Cancelled | DeliveryState::Superseded
            )
        });
        let asks =
            self.leg.state.receive(LegState::Cancelled, Seen::New) == Reception::CancelRequested;
        if let (Some(last), false) = (own.last(), refused) {
            change.deliveries.push(self.delivery_like(
                last,
                self.act.delivery(),
                Some(self.view.content),
                self.note,
            ));
        }
        // What is parked must not be resumed once its receiver was told to stop, and of what consent no longer covers
        // nothing more is sent.
        let withdrawn = matches!(stop, StopNotice::Withdrawn(_));
        let stops = |d: &&&DeliveryHead| {
            let shares = withdrawn && d.kind == Kind::Amend && d.attempts == 0;
            (shares && !d.state.is_terminal()) || (!asks && d.state == DeliveryState::Parked)
        };
        for stopped in own.iter().filter(stops) {
            change.supersede.push(stopped.id);
            change
                .resolve
                .push((AlarmKind::Parked, stopped.id.to_string()));
        }
        if asks {
            return Ok(LegOutcome::Requested);
        }
        if matches!(stop, StopNotice::Cancelled { .. }) {
            self.move_leg(ends_as(stop), change)?;
        }
        Ok(LegOutcome::Queued)
    }

    fn move_leg(&self, to: LegState, change: &mut ReferralChange) -> Result<(), ServiceError> {
        let receiver = Owner {
            agency: self.leg.leg.agency.clone(),
            role: self.service.role_of(self.leg),
        };
        let (owner, clock, next_action) =
            self.service
                .duty_of(to, &receiver, &self.view.sender, self.now)?;
        change.legs.push(LegChange {
            leg: self.leg.leg.id,
            state: to,
            owner,
            clock,
            next_action,
        });
        Ok(())
    }

    fn delivery_like(
        &self,
        like: &DeliveryHead,
        kind: Kind,
        content: Option<BodyId>,
        note: Option<BodyId>,
    ) -> NewDelivery {
        let id = self.draft.delivery(self.now);
        let deadline = self
            .service
            .in_force()
            .directory
            .endpoints
            .get(&like.endpoint)
            .map_or(self.now, |e| self.now.plus(e.deadline));
        NewDelivery {
            id,
            wire_id: WireId::of(id),
            leg: like.leg,
            kind,
            endpoint: like.endpoint.clone(),
            recipient: like.recipient.clone(),
            service: Some(self.leg.leg.service.clone()),
            content,
            note,
            version: self.view.version + 1,
            due: self.now,
            deadline,
            urgent: self.view.safeguarding,
            replaces: None,
        }
    }
}

/// The state in which a leg that is stopped ends.
const fn ends_as(stop: &StopNotice) -> LegState {
    match stop {
        StopNotice::Cancelled {
            code: CancelCode::EnteredInError,
            ..
        } => LegState::EnteredInError,
        StopNotice::Cancelled { .. } | StopNotice::Withdrawn(_) => LegState::Cancelled,
    }
}
