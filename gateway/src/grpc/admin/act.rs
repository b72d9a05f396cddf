//! What administrators do to deliveries: look before a resend, redirect, park and resume.

use std::collections::BTreeSet;

use waymark_core::access::Principal;
use waymark_core::delivery::DeliveryState;
use waymark_core::directory::AdapterKind;
use waymark_core::id::{DeliveryId, EndpointId, ServiceId};
use waymark_core::port::DeliveryView;
use waymark_proto::v1;
use waymark_proto::v1::redirect_request::Target;

use super::super::referral::{required, service_id};
use super::super::status::field;
use super::Admin;
use crate::service::{Redirect, ServiceError};

/// The code of a resend that the delivery's state does not allow.
const NOT_IN_THIS_STATE: &str = "DELIVERY_STATE";

impl Admin {
    pub(super) async fn preview(
        &self,
        principal: &Principal,
        ask: &v1::PreviewResendRequest,
    ) -> Result<v1::PreviewResendResponse, ServiceError> {
        let id: DeliveryId = required("delivery_id", &ask.delivery_id)?;
        let preview = self.face.service.preview_resend(principal, id).await?;
        let view = &preview.delivery;
        let mut notes = vec![preview.warning];
        let already = preview.already.iter();
        notes.extend(
            already.map(|(id, grade)| {
                format!("the receiver has delivery {id} of the same leg: {grade}")
            }),
        );
        let in_force = self.face.service.in_force();
        let endpoint = in_force.directory.endpoints.get(&view.delivery.endpoint);
        if endpoint.is_none() {
            notes.push("its endpoint is not in the directory in force".to_owned());
        }
        let siblings = self.of_referral(principal, view, None).await?;
        let behind = siblings.iter().filter(|other| {
            other.delivery.id > id
                && other.delivery.endpoint == view.delivery.endpoint
                && other.state == DeliveryState::Queued
        });
        let waiting_behind = u32::try_from(behind.count()).unwrap_or(u32::MAX);
        Ok(v1::PreviewResendResponse {
            delivery: Some(self.whole(principal, view).await?),
            allowed: preview.allowed,
            refusal_code: if preview.allowed {
                String::new()
            } else {
                NOT_IN_THIS_STATE.to_owned()
            },
            notes,
            repeat_policy: endpoint.map_or(0, |endpoint| repeat_policy(endpoint.adapter).into()),
            waiting_behind,
        })
    }

    pub(super) async fn redirected(
        &self,
        principal: &Principal,
        ask: v1::RedirectRequest,
    ) -> Result<v1::RedirectResponse, ServiceError> {
        let delivery: DeliveryId = required("delivery_id", &ask.delivery_id)?;
        let view = self
            .as_seen(principal, delivery, ask.expected_version)
            .await?;
        let service = match ask.target {
            None => {
                return Err(field(
                    "target",
                    "is required: name a service or an endpoint",
                ));
            }
            Some(Target::ServiceId(service)) => service_id("service_id", &service)?,
            Some(Target::EndpointId(endpoint)) => {
                self.serving(&view, &required("endpoint_id", &endpoint)?)?
            }
        };
        let redirect = Redirect {
            delivery,
            service,
            reason: ask.reason,
        };
        let fresh = self.face.service.redirect(principal, &redirect).await?;
        let old = self.face.service.delivery(principal, delivery).await?;
        Ok(v1::RedirectResponse {
            superseded: Some(self.whole(principal, &old).await?),
            delivery: Some(self.whole(principal, &fresh).await?),
        })
    }

    /// The service of a delivery, where the release in force gives it this endpoint: the directory decides where a
    /// service's messages go, so that the next ones follow.
    fn serving(
        &self,
        view: &DeliveryView,
        endpoint: &EndpointId,
    ) -> Result<ServiceId, ServiceError> {
        let in_force = self.face.service.in_force();
        let service = view
            .delivery
            .service
            .as_ref()
            .and_then(|id| in_force.directory.services.get(id));
        let service = service.filter(|service| service.endpoint == *endpoint);
        service.map(|service| service.id.clone()).ok_or_else(|| {
            let why = "is not the endpoint that the directory gives the delivery's service: change the directory first, \
                       or name another service";
            field("endpoint_id", why)
        })
    }

    /// Parks a delivery; answers it, and what it took along.
    pub(super) async fn parked(
        &self,
        principal: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<Vec<v1::Delivery>, ServiceError> {
        let view = self.face.service.delivery(principal, id).await?;
        let before = self
            .of_referral(principal, &view, Some(DeliveryState::Parked))
            .await?;
        self.face.service.park(principal, id, reason).await?;
        let after = self
            .of_referral(principal, &view, Some(DeliveryState::Parked))
            .await?;
        self.all_shown(principal, &only_in(after, &before)).await
    }

    /// Resumes a delivery; answers it, and what went on with it.
    pub(super) async fn resumed(
        &self,
        principal: &Principal,
        id: DeliveryId,
        reason: &str,
    ) -> Result<Vec<v1::Delivery>, ServiceError> {
        let view = self.face.service.delivery(principal, id).await?;
        let before = self
            .of_referral(principal, &view, Some(DeliveryState::Parked))
            .await?;
        self.face.service.resume(principal, id, reason).await?;
        let after = self.of_referral(principal, &view, None).await?;
        let still: Vec<DeliveryView> = after
            .iter()
            .filter(|view| view.state == DeliveryState::Parked)
            .cloned()
            .collect();
        let gone: BTreeSet<DeliveryId> = only_in(before, &still)
            .iter()
            .map(|view| view.delivery.id)
            .collect();
        let moved: Vec<DeliveryView> = after
            .into_iter()
            .filter(|view| gone.contains(&view.delivery.id))
            .collect();
        self.all_shown(principal, &moved).await
    }

    async fn all_shown(
        &self,
        principal: &Principal,
        views: &[DeliveryView],
    ) -> Result<Vec<v1::Delivery>, ServiceError> {
        let told = self.told(principal, views).await?;
        Ok(views.iter().map(|view| self.shown(view, &told)).collect())
    }
}

/// The deliveries of one list that are not in the other.
fn only_in(views: Vec<DeliveryView>, other: &[DeliveryView]) -> Vec<DeliveryView> {
    let others: BTreeSet<DeliveryId> = other.iter().map(|view| view.delivery.id).collect();
    views
        .into_iter()
        .filter(|view| !others.contains(&view.delivery.id))
        .collect()
}

/// How an endpoint takes the same delivery again, by its protocol.
const fn repeat_policy(adapter: AdapterKind) -> v1::RepeatPolicy {
    match adapter {
        AdapterKind::Mailbox => v1::RepeatPolicy::Idempotent,
        AdapterKind::Grpc | AdapterKind::Webhook | AdapterKind::Hl7v2 | AdapterKind::Fhir => {
            v1::RepeatPolicy::DedupesById
        }
    }
}
