//! What administrators do to deliveries: look before a resend, redirect, park and resume.

use waymark_core::access::Principal;
use waymark_core::directory::AdapterKind;
use waymark_core::id::DeliveryId;
use waymark_core::port::DeliveryView;
use waymark_proto::v1;
use waymark_proto::v1::redirect_request::Target;

use super::super::referral::{required, service_id};
use super::super::status::field;
use super::Admin;
use crate::service::{DELIVERY_STATE, Redirect, RedirectTarget, ServiceError};

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
        let waiting_behind = u32::try_from(preview.behind).unwrap_or(u32::MAX);
        Ok(v1::PreviewResendResponse {
            delivery: Some(self.whole(principal, view).await?),
            allowed: preview.allowed,
            refusal_code: if preview.allowed {
                String::new()
            } else {
                DELIVERY_STATE.to_owned()
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
        self.as_seen(principal, delivery, ask.expected_version)
            .await?;
        let to = match ask.target {
            None => {
                return Err(field(
                    "target",
                    "is required: name a service or an endpoint",
                ));
            }
            Some(Target::ServiceId(service)) => {
                RedirectTarget::Service(service_id("service_id", &service)?)
            }
            Some(Target::EndpointId(endpoint)) => {
                RedirectTarget::Endpoint(required("endpoint_id", &endpoint)?)
            }
        };
        let redirect = Redirect {
            delivery,
            to,
            reason: ask.reason,
        };
        let fresh = self.face.service.redirect(principal, &redirect).await?;
        let old = self.face.service.delivery(principal, delivery).await?;
        Ok(v1::RedirectResponse {
            superseded: Some(self.whole(principal, &old).await?),
            delivery: Some(self.whole(principal, &fresh).await?),
        })
    }

    /// Deliveries as they are shown, with who must act on those that are parked.
    pub(super) async fn all_shown(
        &self,
        principal: &Principal,
        views: &[DeliveryView],
    ) -> Result<Vec<v1::Delivery>, ServiceError> {
        let told = self.told(principal, views).await?;
        Ok(views.iter().map(|view| self.shown(view, &told)).collect())
    }
}

/// How an endpoint takes the same delivery again, by its protocol.
const fn repeat_policy(adapter: AdapterKind) -> v1::RepeatPolicy {
    match adapter {
        AdapterKind::Mailbox => v1::RepeatPolicy::Idempotent,
        AdapterKind::Grpc
        | AdapterKind::Webhook
        | AdapterKind::Hl7v2
        | AdapterKind::Fhir
        | AdapterKind::File => v1::RepeatPolicy::DedupesById,
        AdapterKind::Mesh | AdapterKind::Notify => v1::RepeatPolicy::MustReconcile,
    }
}
