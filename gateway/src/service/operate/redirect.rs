//! Sending elsewhere: to another service as a new leg, or to another endpoint of the same agency.

use waymark_core::access::{Permit, Principal};
use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::Kind;
use waymark_core::directory::Endpoint;
use waymark_core::error::ErrorKind;
use waymark_core::id::{DeliveryId, EndpointId, ServiceId, WireId};
use waymark_core::leg::LegState;
use waymark_core::port::{
    DeliveryHead, DeliveryView, LegChange, NewDelivery, ReferralChange, ReferralView,
};
use waymark_core::routing::{Decision, Destination};

use super::super::submit::first_delivery;
use super::super::{STALE_RETRIES_MAX, Service, ServiceError};
use super::{in_flight, refuse_state, say};

/// Deliveries that one redirect to another endpoint moves, at most.
const MOVED_MAX: usize = 100;

/// Where a delivery is redirected to.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The delivery.
    pub delivery: DeliveryId,
    /// What takes it instead.
    pub to: RedirectTarget,
    /// Why.
    pub reason: String,
}

/// What takes a redirected delivery.
#[derive(Clone, Debug)]
pub enum RedirectTarget {
    /// Another service, at the endpoint that the directory gives it.
    Service(ServiceId),
    /// Another endpoint of the agency that the delivery is bound to.
    Endpoint(EndpointId),
}

impl Service {
    /// Sends a delivery elsewhere, as a new, linked one.
    ///
    /// # Errors
    /// `Precondition` while an outcome is unknown; `Invalid` for a service or endpoint that is not in force.
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
            let redirecting = Redirecting {
                permit: &permit,
                view: &view,
                referral: &referral,
                reason: &ask.reason,
            };
            let done = match &ask.to {
                RedirectTarget::Service(id) => self.to_service(&redirecting, id).await,
                RedirectTarget::Endpoint(id) => self.to_endpoint(&redirecting, id).await,
            };
            match done {
                Err(error) if error.reason == "CHANGED_MEANWHILE" => {}
                other => return other,
            }
        }
        Err(ServiceError::new(
            ErrorKind::Unavailable,
            "CHANGED_MEANWHILE",
        ))
    }

    /// Sends a leg to another service: a new leg and delivery, linked, keeping the first start of the wait.
    async fn to_service(
        &self,
        of: &Redirecting<'_>,
        service: &ServiceId,
    ) -> Result<DeliveryView, ServiceError> {
        let (view, referral) = (of.view, of.referral);
        let now = self.now();
        let in_force = self.in_force();
        let today = now.london_date();
        let service = in_force.directory.service(service, today).ok_or_else(|| {
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
        if !carries_content(view.delivery.kind) {
            let why = "stops what its receiver was told: no other service has heard of it";
            return Err(ServiceError::field("delivery_id", why));
        }
        self.check_consent(referral, Kind::New, &service.agency)?;
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
            (referral.content, referral.version + 1),
            now,
            view.delivery.urgent,
        )?;
        delivery.replaces = Some(view.delivery.id);
        let ended = !old.state.is_terminal();
        // The new leg begins with the content as it stands: amendments that wait for the old one are in it.
        let waiting = of.followers().filter(|later| carries_content(later.kind));
        let waiting: Vec<DeliveryId> = waiting.map(|later| later.id).collect();
        self.operator_change(of.permit, referral, "redirect", of.reason, |change| {
            change.new_legs.push(leg.clone());
            change.deliveries.push(delivery.clone());
            of.replace(change, view.delivery.id);
            for later in waiting {
                replace(change, later);
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
            let unrouted = (AlarmKind::Unrouted, old.leg.id.to_string());
            change.resolve.push(unrouted);
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

    /// Sends a delivery, and what waits behind it for the same leg, to another endpoint of the agency that it is bound to:
    /// the leg stays.
    async fn to_endpoint(
        &self,
        of: &Redirecting<'_>,
        endpoint: &EndpointId,
    ) -> Result<DeliveryView, ServiceError> {
        let in_force = self.in_force();
        let today = self.now().london_date();
        let bound = &of.view.delivery;
        let refused = |why: &str| Err(ServiceError::field("endpoint_id", why));
        let Some(endpoint) = in_force.directory.endpoint(endpoint, today) else {
            return refused("is not an endpoint in force");
        };
        if endpoint.id == bound.endpoint {
            return refused("is the one that it is bound to: resend it");
        }
        let heir = in_force.directory.successor(&bound.recipient, today);
        if endpoint.agency != bound.recipient && endpoint.agency != heir {
            return refused("is another agency's: name the service that shall take it");
        }
        self.moved_to(of, endpoint, "redirect").await
    }

    /// Sends a delivery, and what waits behind it for the same leg, to an endpoint as new, linked ones.
    pub(super) async fn moved_to(
        &self,
        of: &Redirecting<'_>,
        endpoint: &Endpoint,
        word: &str,
    ) -> Result<DeliveryView, ServiceError> {
        let bound = &of.view.delivery;
        self.check_consent(of.referral, bound.kind, &endpoint.agency)?;
        let mut moved = vec![self.bound_anew(bound, endpoint)];
        let mut gone = vec![bound.id];
        for later in of.followers() {
            if in_flight(later.state) {
                return Err(refuse_state(later.state));
            }
            if moved.len() >= MOVED_MAX {
                let why =
                    format!("more than {MOVED_MAX} deliveries wait behind it: resume it first");
                return Err(ServiceError::field("delivery_id", why));
            }
            let later = self.seen(later.id).await?.delivery;
            moved.push(self.bound_anew(&later, endpoint));
            gone.push(later.id);
        }
        let fresh = moved.first().map_or(bound.id, |first| first.id);
        self.operator_change(of.permit, of.referral, word, of.reason, |change| {
            of.replace(change, bound.id);
            for later in gone.iter().skip(1) {
                replace(change, *later);
            }
            change.deliveries.extend(moved);
            change.event.delivery = Some(fresh);
            change.event.leg = bound.leg;
            say(
                change,
                &[
                    ("delivery", fresh.to_string()),
                    ("replaces", bound.id.to_string()),
                    ("from", bound.recipient.to_string()),
                    ("from_endpoint", bound.endpoint.to_string()),
                    ("to", endpoint.agency.to_string()),
                    ("to_endpoint", endpoint.id.to_string()),
                ],
            );
        })
        .await?;
        self.seen(fresh).await
    }

    /// A delivery of the same message to another endpoint.
    fn bound_anew(&self, old: &NewDelivery, endpoint: &Endpoint) -> NewDelivery {
        let now = self.now();
        let id = self.drafter().delivery(now);
        NewDelivery {
            id,
            wire_id: WireId::of(id),
            endpoint: endpoint.id.clone(),
            recipient: endpoint.agency.clone(),
            due: now,
            deadline: now.plus(endpoint.deadline),
            replaces: Some(old.id),
            ..old.clone()
        }
    }
}

/// What a redirect is decided on.
pub(super) struct Redirecting<'a> {
    pub(super) permit: &'a Permit,
    pub(super) view: &'a DeliveryView,
    pub(super) referral: &'a ReferralView,
    pub(super) reason: &'a str,
}

impl Redirecting<'_> {
    /// Later messages of the same leg to the same endpoint that have not ended, in their order.
    fn followers(&self) -> impl Iterator<Item = &DeliveryHead> {
        let own = &self.view.delivery;
        let mut heads = self.referral.deliveries.iter();
        heads.by_ref().find(|head| head.id == own.id);
        heads.filter(|head| {
            head.leg == own.leg && head.endpoint == own.endpoint && !head.state.is_terminal()
        })
    }

    /// Replaces the delivery itself, which may have ended.
    fn replace(&self, change: &mut ReferralChange, id: DeliveryId) {
        if self.view.state.is_terminal() {
            change.resolve.extend(told_of(id));
        } else {
            replace(change, id);
        }
    }
}

/// What may have been said of a delivery that ended: that it was refused, or that it did not arrive after all.
pub(super) fn told_of(id: DeliveryId) -> [(AlarmKind, String); 2] {
    [AlarmKind::Rejected, AlarmKind::Parked].map(|kind| (kind, id.to_string()))
}

/// Supersedes a delivery that has not ended, and resolves what was said of it.
fn replace(change: &mut ReferralChange, id: DeliveryId) {
    change.supersede.push(id);
    change.resolve.push((AlarmKind::Parked, id.to_string()));
}

const fn carries_content(kind: Kind) -> bool {
    matches!(kind, Kind::New | Kind::Amend)
}
