//! Sending referrals and following them.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use waymark_adapters::grpc::convert::{
    leg_state_from_proto, referral_to_proto, sender_reference_to_proto,
};
use waymark_core::error::ErrorKind;
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{EventKind, ReferralView};
use waymark_core::time::Timestamp;
use waymark_proto::v1;
use waymark_proto::v1::referral_service_server::ReferralService;

use super::cursor::Kind;
use super::face::{Face, caller};
use super::page::{Page, SCANS_MAX};
use super::status::{field, refusal};
use super::{receipt, write};
use crate::service::{Amend, Cancel, Key, ListAsk, ServiceError, Withdraw};

mod document;
mod read;
mod route;
mod submit;
mod watch;

pub use document::CHUNK_BYTES;
pub use watch::{HEARTBEAT, WATCHED_MAX};

pub(super) use read::{agency_id, key, parsed, purpose, required, service_id};

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// States that one list is filtered by, at most.
const STATES_MAX: usize = 17;

/// The service.
#[derive(Clone)]
pub(super) struct Referrals {
    face: Face,
}

impl Referrals {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

#[tonic::async_trait]
impl ReferralService for Referrals {
    type SubmitReferralsStream = Answers<v1::SubmitReferralsResponse>;
    type WatchReferralsStream = Answers<v1::WatchReferralsResponse>;
    type DownloadDocumentStream = Answers<v1::DownloadDocumentResponse>;

    async fn submit_referral(
        &self,
        request: Request<v1::SubmitReferralRequest>,
    ) -> Result<Response<v1::SubmitReferralResponse>, Status> {
        let caller = caller(&request)?;
        let receipt = submit::one(&self.face, &caller, request.into_inner()).await;
        Ok(Response::new(v1::SubmitReferralResponse {
            receipt: Some(receipt.map_err(|e| refusal(&e))?),
        }))
    }

    async fn submit_referrals(
        &self,
        request: Request<Streaming<v1::SubmitReferralsRequest>>,
    ) -> Result<Response<Self::SubmitReferralsStream>, Status> {
        let caller = caller(&request)?;
        let room = self.face.open_stream()?;
        Ok(Response::new(submit::many(
            self.face.clone(),
            caller,
            request.into_inner(),
            room,
        )))
    }

    async fn get_referral(
        &self,
        request: Request<v1::GetReferralRequest>,
    ) -> Result<Response<v1::GetReferralResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let key = key("key", ask.key)?;
            let service = &self.face.service;
            let purpose = ask
                .include_content
                .then(|| purpose("purpose", ask.purpose))
                .transpose()?;
            let view = service.referral(&caller.principal, &key).await?;
            let key = Key::Id(view.id);
            let events = service.timeline(&caller.principal, &key).await?;
            let mut record = write::record(&view, &events);
            if let Some(purpose) = purpose {
                let content = service.content(&caller.principal, &key, purpose).await?;
                record.sender_reference = content
                    .sender_reference
                    .as_ref()
                    .map(sender_reference_to_proto)
                    .unwrap_or_default();
                record.content = Some(referral_to_proto(&content));
                for (shown, leg) in record.legs.iter_mut().zip(&view.legs) {
                    let said = write::reported(leg, &events).and_then(|e| e.event.text);
                    if let Some(said) = said {
                        let words = service
                            .words(&caller.principal, view.id, said, purpose)
                            .await?;
                        shown.text_for_family = words.map(Personal::into_inner).unwrap_or_default();
                    }
                }
            }
            Ok::<_, ServiceError>(v1::GetReferralResponse {
                referral: Some(record),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn list_referrals(
        &self,
        request: Request<v1::ListReferralsRequest>,
    ) -> Result<Response<v1::ListReferralsResponse>, Status> {
        let caller = caller(&request)?;
        self.list(&caller.principal, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|e| refusal(&e))
    }

    async fn amend_referral(
        &self,
        request: Request<v1::AmendReferralRequest>,
    ) -> Result<Response<v1::AmendReferralResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            if ask.expected_version == 0 {
                return Err(field(
                    "expected_version",
                    "is required: the version that GetReferral shows",
                ));
            }
            let mut referral = submit::referral(&caller, ask.referral)?;
            read::add_note(&mut referral, "note", &ask.note)?;
            let content = referral.to_canonical().unwrap_or_default();
            let amend = Amend {
                request_id: ask.request_id,
                key: key("key", ask.key)?,
                expected_version: Some(ask.expected_version),
                referral,
                answers: read::answers(&ask.answers_leg_ids)?,
                traceparent: caller.traceparent.clone(),
            };
            let done = self.face.service.amend(&caller.principal, amend).await?;
            let (view, proven) = (&done.referral, ask.want_proof.into());
            let receipt = receipt::of_event(
                &self.face,
                view,
                done.event,
                done.repeated,
                Some(&content),
                proven,
            )
            .await?;
            Ok(v1::AmendReferralResponse {
                receipt: Some(receipt),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn cancel_referral(
        &self,
        request: Request<v1::CancelReferralRequest>,
    ) -> Result<Response<v1::CancelReferralResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let (code, text) = read::cancellation(ask.cancellation)?;
            let cancel = Cancel {
                request_id: ask.request_id,
                key: key("key", ask.key)?,
                code,
                text,
                traceparent: caller.traceparent.clone(),
            };
            let done = self.face.service.cancel(&caller.principal, cancel).await?;
            let (view, proven) = (&done.referral, ask.want_proof.into());
            let receipt =
                receipt::of_event(&self.face, view, done.event, done.repeated, None, proven)
                    .await?;
            let legs = done.effects.iter().map(write::leg_effect).collect();
            Ok::<_, ServiceError>(v1::CancelReferralResponse {
                receipt: Some(receipt),
                legs,
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn withdraw_consent(
        &self,
        request: Request<v1::WithdrawConsentRequest>,
    ) -> Result<Response<v1::WithdrawConsentResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let today = self.face.service.now().london_date();
            let withdraw = Withdraw {
                request_id: ask.request_id,
                key: key("key", ask.key)?,
                withdrawal: read::withdrawal(ask.withdrawal, today)?,
                traceparent: caller.traceparent.clone(),
            };
            let done = self
                .face
                .service
                .withdraw_consent(&caller.principal, withdraw)
                .await?;
            let (view, proven) = (&done.referral, ask.want_proof.into());
            let receipt =
                receipt::of_event(&self.face, view, done.event, done.repeated, None, proven)
                    .await?;
            let legs = done.effects.iter().map(write::leg_effect).collect();
            Ok::<_, ServiceError>(v1::WithdrawConsentResponse {
                receipt: Some(receipt),
                legs,
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn update_status(
        &self,
        request: Request<v1::UpdateStatusRequest>,
    ) -> Result<Response<v1::UpdateStatusResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let proven = ask.want_proof.into();
        let answer = async {
            let mut update = read::status_update(ask, self.face.service.now())?;
            update.traceparent.clone_from(&caller.traceparent);
            let version = update.source_version;
            let asked = update.leg;
            let done = self
                .face
                .service
                .update_status(&caller.principal, update)
                .await?;
            let view = &done.referral;
            let events = self
                .face
                .service
                .timeline(&caller.principal, &Key::Id(view.id))
                .await?;
            // Whoever took over an agency answers for it under its old name.
            let mine = |agency| self.face.service.owns(&caller.principal, agency);
            let event = events.iter().rev().find(|e| {
                e.event.kind == EventKind::Status
                    && e.event.source_version == Some(version)
                    && asked.is_none_or(|leg| e.event.leg == Some(leg))
                    && (mine(&e.event.source) || asked.is_some())
            });
            let event =
                event.ok_or_else(|| ServiceError::new(ErrorKind::Internal, "EVENT_GONE"))?;
            let leg = view.legs.iter().find(|l| Some(l.leg.id) == event.event.leg);
            let repeated = done.reception == waymark_core::leg::Reception::Repeated;
            let receipt =
                receipt::of_event(&self.face, view, event.event.id, repeated, None, proven).await?;
            Ok::<_, ServiceError>(v1::UpdateStatusResponse {
                receipt: Some(receipt),
                effect: write::update_effect(done.reception).into(),
                leg: leg.map(|leg| write::leg(view, leg, &events)),
            })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn watch_referrals(
        &self,
        request: Request<v1::WatchReferralsRequest>,
    ) -> Result<Response<Self::WatchReferralsStream>, Status> {
        let caller = caller(&request)?;
        let room = self.face.open_stream()?;
        let watching = watch::begin(self.face.clone(), caller, request.into_inner(), room).await;
        watching.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn explain_route(
        &self,
        request: Request<v1::ExplainRouteRequest>,
    ) -> Result<Response<v1::ExplainRouteResponse>, Status> {
        let caller = caller(&request)?;
        let answer = route::explain(&self.face, &caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn upload_document(
        &self,
        request: Request<Streaming<v1::UploadDocumentRequest>>,
    ) -> Result<Response<v1::UploadDocumentResponse>, Status> {
        let caller = caller(&request)?;
        let _room = self.face.open_transfer()?;
        document::upload(&self.face, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn download_document(
        &self,
        request: Request<v1::DownloadDocumentRequest>,
    ) -> Result<Response<Self::DownloadDocumentStream>, Status> {
        let caller = caller(&request)?;
        let room = self.face.open_transfer()?;
        let parts = document::download(&self.face, &caller, request.into_inner(), room).await;
        parts.map(Response::new).map_err(|e| refusal(&e))
    }
}

/// What a list of referrals is filtered by, beyond what the store looks up.
struct Filter {
    states: Vec<LegState>,
    service: Option<waymark_core::id::ServiceId>,
    sender: Option<waymark_core::id::AgencyId>,
    from: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Filter {
    fn read(ask: &v1::ListReferralsRequest) -> Result<Self, ServiceError> {
        if ask.states.len() > STATES_MAX {
            return Err(field("states", format!("at most {STATES_MAX}")));
        }
        let states = ask.states.iter().zip(0..).map(|(state, at)| {
            leg_state_from_proto(&format!("states[{at}]"), *state)
                .map_err(|v| ServiceError::invalid(vec![v]))
        });
        Ok(Self {
            states: states.collect::<Result<_, _>>()?,
            service: parsed("service_id", &ask.service_id)?,
            sender: parsed("sender_agency_id", &ask.sender_agency_id)?,
            from: read::instant("accepted_from", ask.accepted_from.as_ref())?,
            before: read::instant("accepted_before", ask.accepted_before.as_ref())?,
        })
    }

    fn takes(&self, view: &ReferralView) -> bool {
        let mut legs = view.legs.iter();
        (self.states.is_empty() || view.legs.iter().any(|l| self.states.contains(&l.state)))
            && self
                .service
                .as_ref()
                .is_none_or(|id| legs.any(|l| l.leg.service == *id))
            && self.sender.as_ref().is_none_or(|id| view.sender == *id)
            && self.from.is_none_or(|from| view.accepted >= from)
            && self.before.is_none_or(|before| view.accepted < before)
    }
}

impl Referrals {
    async fn list(
        &self,
        principal: &waymark_core::access::Principal,
        ask: v1::ListReferralsRequest,
    ) -> Result<v1::ListReferralsResponse, ServiceError> {
        let filter = Filter::read(&ask)?;
        let (nhs_number, upn_and_birth) = read::child(ask.child.as_ref())?;
        let scope = page_scope(
            principal,
            &v1::ListReferralsRequest {
                page_size: 0,
                page_token: String::new(),
                ..ask.clone()
            },
        );
        let page = Page::read(Kind::Referrals, scope, ask.page_size, &ask.page_token)?;
        let mut before = page.id().map(waymark_core::id::ReferralId::from_bytes);
        let mut referrals = Vec::new();
        for _ in 0..SCANS_MAX {
            let ask = ListAsk {
                pathway: None,
                nhs_number: nhs_number.clone(),
                upn_and_birth: upn_and_birth.clone(),
                before,
                limit: page.size,
            };
            let found = self.face.service.list(principal, &ask).await?;
            let more = found.more;
            let mut unread = found.referrals.into_iter().peekable();
            while referrals.len() < page.len() {
                let Some(view) = unread.next() else { break };
                before = Some(view.id);
                if filter.takes(&view) {
                    referrals.push(write::record(&view, &[]));
                }
            }
            if unread.peek().is_none() {
                before = more;
                if more.is_none() {
                    break;
                }
            }
            if referrals.len() == page.len() {
                break;
            }
        }
        let next_page_token = before
            .map(|id| page.token(id.as_bytes()))
            .unwrap_or_default();
        Ok(v1::ListReferralsResponse {
            referrals,
            next_page_token,
        })
    }
}

/// What a page token is bound to: for whom, and the request without its page.
pub(super) fn page_scope(
    principal: &waymark_core::access::Principal,
    request: &impl prost::Message,
) -> Vec<u8> {
    let mut scope = principal.identity.clone().into_bytes();
    scope.push(0);
    scope.extend_from_slice(&request.encode_to_vec());
    scope
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filtered_by_known_states_within_the_limit() {
        let accepted = i32::from(v1::LegState::Accepted);
        let by = |states| v1::ListReferralsRequest {
            states,
            ..v1::ListReferralsRequest::default()
        };
        assert!(Filter::read(&by(vec![accepted; STATES_MAX])).is_ok());
        let over = Filter::read(&by(vec![accepted; STATES_MAX + 1]))
            .err()
            .unwrap();
        assert_eq!(over.violations[0].field, "states");
        let unknown = Filter::read(&by(vec![accepted, 99])).err().unwrap();
        assert_eq!(unknown.violations[0].field, "states[1]");
    }
}
