//! Finding what is stuck, and acting on it: nothing here shows the content of a referral.

use tonic::{Request, Response, Status};
use waymark_core::access::Principal;
use waymark_core::alarm::{Alarm, AlarmKind};
use waymark_core::delivery::DeliveryState;
use waymark_core::error::ErrorKind;
use waymark_core::id::DeliveryId;
use waymark_core::port::{DeliveryQuery, DeliveryView, OpenOnly};
use waymark_proto::v1;
use waymark_proto::v1::admin_service_server::AdminService;
use waymark_proto::v1::{park_lane_request, resume_lane_request};

use super::face::{Face, caller};
use super::referral::{purpose, required};
use super::status::{CHANGED_MEANWHILE, field, refusal};
use super::write;
use crate::service::{Service, ServiceError};

mod act;
mod list;
mod probe;
mod release;

/// The service.
#[derive(Clone)]
pub(super) struct Admin {
    face: Face,
}

impl Admin {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self
            .deliveries(&caller.principal, request.into_inner())
            .await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let id: DeliveryId = required("delivery_id", &ask.delivery_id)?;
            let service = &self.face.service;
            let view = service.delivery(&caller.principal, id).await?;
            let sha256 = if ask.include_body_sha256 {
                let purpose = purpose("purpose", ask.purpose)?;
                service
                    .body_sha256(&caller.principal, &view, purpose)
                    .await?
            } else {
                None
            };
            let delivery = Some(self.whole(&caller.principal, &view).await?);
            Ok::<_, ServiceError>(v1::GetDeliveryResponse {
                delivery,
                attempts: write::attempts(&view, &sha256.unwrap_or_default()),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn preview_resend(
        &self,
        request: Request<v1::PreviewResendRequest>,
    ) -> Result<Response<v1::PreviewResendResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.preview(&caller.principal, &request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn resend(
        &self,
        request: Request<v1::ResendRequest>,
    ) -> Result<Response<v1::ResendResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let id: DeliveryId = required("delivery_id", &ask.delivery_id)?;
            self.as_seen(&caller.principal, id, ask.expected_version)
                .await?;
            let view = self
                .face
                .service
                .resend(&caller.principal, id, &ask.reason)
                .await?;
            let delivery = Some(self.whole(&caller.principal, &view).await?);
            Ok::<_, ServiceError>(v1::ResendResponse { delivery })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn redirect(
        &self,
        request: Request<v1::RedirectRequest>,
    ) -> Result<Response<v1::RedirectResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self
            .redirected(&caller.principal, request.into_inner())
            .await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn park_lane(
        &self,
        request: Request<v1::ParkLaneRequest>,
    ) -> Result<Response<v1::ParkLaneResponse>, Status> {
        use park_lane_request::Target;
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let service = &self.face.service;
            let moved = match ask.target {
                Some(Target::DeliveryId(id)) => {
                    let id = required("delivery_id", &id)?;
                    service.park(&caller.principal, id, &ask.reason).await?
                }
                Some(Target::LaneId(lane)) => {
                    let lane = required("lane_id", &lane)?;
                    service
                        .park_lane(&caller.principal, &lane, &ask.reason)
                        .await?
                }
                None => return Err(no_target(service, &caller.principal)),
            };
            let parked = u32::try_from(moved.len()).unwrap_or(u32::MAX);
            Ok::<_, ServiceError>(v1::ParkLaneResponse {
                deliveries: self.all_shown(&caller.principal, &moved).await?,
                parked,
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn resume_lane(
        &self,
        request: Request<v1::ResumeLaneRequest>,
    ) -> Result<Response<v1::ResumeLaneResponse>, Status> {
        use resume_lane_request::Target;
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let service = &self.face.service;
            let moved = match ask.target {
                Some(Target::DeliveryId(id)) => {
                    let id = required("delivery_id", &id)?;
                    service.resume(&caller.principal, id, &ask.reason).await?
                }
                Some(Target::LaneId(lane)) => {
                    let lane = required("lane_id", &lane)?;
                    service
                        .resume_lane(&caller.principal, &lane, &ask.reason)
                        .await?
                }
                None => return Err(no_target(service, &caller.principal)),
            };
            let resumed = u32::try_from(moved.len()).unwrap_or(u32::MAX);
            Ok::<_, ServiceError>(v1::ResumeLaneResponse {
                deliveries: self.all_shown(&caller.principal, &moved).await?,
                resumed,
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn apply_directory(
        &self,
        request: Request<v1::ApplyDirectoryRequest>,
    ) -> Result<Response<v1::ApplyDirectoryResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.apply(&caller.principal, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn list_releases(
        &self,
        request: Request<v1::ListReleasesRequest>,
    ) -> Result<Response<v1::ListReleasesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self
            .releases(&caller.principal, &request.into_inner())
            .await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn list_alarms(
        &self,
        request: Request<v1::ListAlarmsRequest>,
    ) -> Result<Response<v1::ListAlarmsResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.alarms(&caller.principal, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn get_conservation(
        &self,
        request: Request<v1::GetConservationRequest>,
    ) -> Result<Response<v1::GetConservationResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.conservation(&caller.principal).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn probe_endpoint(
        &self,
        request: Request<v1::ProbeEndpointRequest>,
    ) -> Result<Response<v1::ProbeEndpointResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.probed(&caller.principal, &request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }
}

impl Admin {
    /// One delivery with all that is known of it: who was told of its park, and what replaced it.
    async fn whole(
        &self,
        principal: &Principal,
        view: &DeliveryView,
    ) -> Result<v1::Delivery, ServiceError> {
        let told = self.told(principal, std::slice::from_ref(view)).await?;
        let mut shown = self.shown(view, &told);
        if view.state.is_terminal() {
            let query = DeliveryQuery {
                referral: Some(view.referral),
                replaces: Some(view.delivery.id),
                limit: 1,
                ..DeliveryQuery::default()
            };
            let newer = self.face.service.deliveries(principal, query).await?;
            shown.replaced_by_delivery_id = newer
                .first()
                .map(|other| other.delivery.id.to_string())
                .unwrap_or_default();
        }
        Ok(shown)
    }

    /// One delivery. Who must act on a parked one is whoever its alarm was raised for.
    fn shown(&self, view: &DeliveryView, told: &[Alarm]) -> v1::Delivery {
        let mut shown = write::delivery(view, &self.face.service.in_force());
        let id = view.delivery.id.to_string();
        let alarm = told
            .iter()
            .find(|alarm| alarm.alarm.subject == id && alarm.alarm.kind == AlarmKind::Parked);
        if let (Some(park), Some(alarm)) = (shown.park.as_mut(), alarm) {
            let alarm = write::alarm(alarm);
            park.owner = alarm.owner;
            park.since = alarm.opened_at;
        }
        shown
    }

    /// The open alarms, where one of these deliveries is parked.
    async fn told(
        &self,
        principal: &Principal,
        views: &[DeliveryView],
    ) -> Result<Vec<Alarm>, ServiceError> {
        if views.iter().all(|view| view.state != DeliveryState::Parked) {
            return Ok(Vec::new());
        }
        self.face.service.alarms(principal, OpenOnly::Yes).await
    }

    /// A delivery as the caller saw it when it decided to act.
    async fn as_seen(
        &self,
        principal: &Principal,
        id: DeliveryId,
        expected_version: u64,
    ) -> Result<DeliveryView, ServiceError> {
        // Whoever may not act is told so, whatever the state.
        self.face.service.may_operate(principal)?;
        if expected_version == 0 {
            return Err(field(
                "expected_version",
                "is required: the version that was shown",
            ));
        }
        let view = self.face.service.delivery(principal, id).await?;
        if write::delivery_version(&view) != expected_version {
            let moved = ServiceError::new(ErrorKind::Precondition, CHANGED_MEANWHILE);
            return Err(moved.with_violation(
                "expected_version",
                format!("the delivery is {} now: look again", view.state),
            ));
        }
        Ok(view)
    }
}

/// Whoever may not act is told so, whatever it left out.
fn no_target(service: &Service, principal: &Principal) -> ServiceError {
    let missing = || field("target", "is required: name a lane or a delivery");
    service.may_operate(principal).err().unwrap_or_else(missing)
}
