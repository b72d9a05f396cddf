//! An agency without a server fetches its own post: lent under a lease, a bounded number at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures::stream;
use prost::Message as _;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use waymark_adapters::grpc::convert::{
    delivery_state_to_proto, evidence_to_proto, fault_from_proto, timestamp_to_proto,
};
use waymark_adapters::grpc::receipt::{Receipted, grade};
use waymark_adapters::mailbox::receipt_keys;
use waymark_core::delivery::{DeliveryState, Evidence, Why};
use waymark_core::id::{DeliveryId, ServiceId};
use waymark_core::personal::Payload;
use waymark_core::port::Leased;
use waymark_core::time::Timestamp;
use waymark_proto::v1;
use waymark_proto::v1::mailbox_service_server::MailboxService;

use super::cursor::{self, Kind};
use super::face::{Caller, Face, caller};
use super::referral::{Answers, required, service_id};
use super::status::{field, refusal};
use crate::service::{MAILBOX_CREDIT_MAX, MailboxItem, ServiceError};

/// Deliveries lent on one stream and not yet answered, at most.
pub const CREDIT_MAX: u32 = MAILBOX_CREDIT_MAX;
/// Seconds of the shortest loan.
pub const LEASE_SECONDS_MIN: u32 = 5;
/// Seconds of the longest loan.
pub const LEASE_SECONDS_MAX: u32 = 3_600;
/// Seconds of a loan when the caller does not say.
const LEASE_SECONDS_DEFAULT: u32 = 60;
/// Services that one stream may name.
const SERVICES_MAX: usize = 100;
/// Loans remembered, of all streams; of more, the credit comes back when the loan ends.
const LOANS_MAX: usize = 100_000;
/// How often due post is looked for when nothing says that there is some.
const LOOK: Duration = Duration::from_secs(1);
/// How long a draining stream without credit waits for an answer.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// Characters in a code, in words and in a reference.
const CODE_MAX: usize = 64;
const WORDS_MAX: usize = 1_000;
const REFERENCE_MAX: usize = 80;

/// What this process has lent: an answer frees the credit of the stream that lent it.
#[derive(Default)]
pub(super) struct Loans {
    out: Mutex<BTreeMap<DeliveryId, Loan>>,
    answered: Notify,
}

#[derive(Clone)]
struct Loan {
    leased: Leased,
    until: Timestamp,
}

impl Loans {
    fn lend(&self, leased: Leased, until: Timestamp, now: Timestamp) {
        let mut out = self.lock();
        if out.len() >= LOANS_MAX {
            out.retain(|_, loan| loan.until > now);
        }
        if out.len() < LOANS_MAX {
            out.insert(leased.token.delivery, Loan { leased, until });
        }
    }

    fn find(&self, id: DeliveryId, fence: i64) -> Option<Leased> {
        self.lock().get(&id).filter(|loan| loan.leased.token.fence == fence).map(|loan| loan.leased.clone())
    }

    fn answer(&self, id: DeliveryId, fence: i64) {
        let mut out = self.lock();
        if out.get(&id).is_some_and(|loan| loan.leased.token.fence == fence) {
            out.remove(&id);
        }
        drop(out);
        self.answered.notify_waiters();
    }

    fn is_out(&self, id: DeliveryId, fence: i64) -> bool {
        self.lock().get(&id).is_some_and(|loan| loan.leased.token.fence == fence)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeliveryId, Loan>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Mailboxes {
    face: Face,
}

impl Mailboxes {
    pub(super) fn new(face: Face) -> Self {
        Self { face }
    }
}

#[tonic::async_trait]
impl MailboxService for Mailboxes {
    type ReceiveStream = Answers<v1::ReceiveResponse>;

    async fn receive(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let caller = caller(&request)?;
        let room = self.face.open_stream()?;
        let receiving = Receiving::begin(self.face.clone(), caller, request.into_inner(), room);
        let receiving = receiving.map_err(|e| refusal(&e))?;
        Ok(Response::new(Box::pin(stream::try_unfold(receiving, |mut receiving| async move {
            let next = receiving.next().await?;
            Ok(next.map(|response| (response, receiving)))
        }))))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.acknowledged(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn reject(&self, request: Request<v1::RejectRequest>) -> Result<Response<v1::RejectResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let (id, fence) = loan_of(&ask.delivery_id, &ask.lease_token)?;
            let code = ask.reason_code.trim();
            if !(1..=CODE_MAX).contains(&code.chars().count()) {
                return Err(field("reason_code", format!("is 1 to {CODE_MAX} characters")));
            }
            if ask.reason.chars().count() > WORDS_MAX {
                return Err(field("reason", format!("at most {WORDS_MAX} characters")));
            }
            let fault = fault_from_proto("fault", ask.fault).map_err(|v| ServiceError::invalid(vec![v]))?;
            let why = Why::new(code, ask.reason);
            let view = self.face.service.reject(&caller.principal, id, fence, why, fault).await?;
            self.face.loans.answer(id, fence);
            Ok(v1::RejectResponse { state: delivery_state_to_proto(view.state).into() })
        };
        answer.await.map(Response::new).map_err(|e| refusal(&e))
    }
}

impl Mailboxes {
    async fn acknowledged(
        &self,
        caller: &Caller,
        ask: v1::AcknowledgeRequest,
    ) -> Result<v1::AcknowledgeResponse, ServiceError> {
        let (id, fence) = loan_of(&ask.delivery_id, &ask.lease_token)?;
        let store = self.face.service.store();
        let before = store.delivery(id).await?;
        let reference = ask.receipt.as_ref().map(|receipt| receipt.receiver_reference.trim().to_owned());
        if reference.as_ref().is_some_and(|r| !(1..=REFERENCE_MAX).contains(&r.chars().count())) {
            return Err(field("receipt.receiver_reference", format!("is 1 to {REFERENCE_MAX} characters")));
        }
        let receipt = match ask.receipt {
            None => None,
            Some(receipt) => {
                let grade = self.grade(id, fence, &receipt).await?;
                Some((Payload::new(receipt.encode_to_vec()), grade))
            }
        };
        let view = self.face.service.acknowledge(&caller.principal, id, fence, reference, receipt).await?;
        self.face.loans.answer(id, fence);
        Ok(v1::AcknowledgeResponse {
            state: delivery_state_to_proto(view.state).into(),
            evidence: evidence_to_proto(view.evidence).into(),
            duplicate: before.is_some_and(|before| before.state == DeliveryState::Done),
        })
    }

    /// What a receipt is worth: its signature is checked against the bytes that were lent, by keys of the directory.
    async fn grade(
        &self,
        id: DeliveryId,
        fence: i64,
        receipt: &v1::AgencyReceipt,
    ) -> Result<Evidence, ServiceError> {
        let Some(leased) = self.face.loans.find(id, fence) else { return Ok(Evidence::ApplicationAck) };
        let in_force = self.face.service.in_force();
        let Some(endpoint) = in_force.directory.endpoints.get(&leased.endpoint) else {
            return Ok(Evidence::ApplicationAck);
        };
        let keys = receipt_keys(endpoint);
        if keys.is_empty() || receipt.signature.is_empty() {
            return Ok(Evidence::ApplicationAck);
        }
        let Some(body) = self.face.service.store().content(&leased).await?.rendered else {
            return Ok(Evidence::ApplicationAck);
        };
        let of = Receipted { delivery: id, wire_id: &leased.wire_id, body: body.bytes.expose() };
        // An acknowledgement says by itself that the message was taken.
        Ok(grade(&of, receipt, &keys).max(Evidence::ApplicationAck))
    }
}

/// The delivery and the loan that an answer is about.
fn loan_of(delivery_id: &str, token: &[u8]) -> Result<(DeliveryId, i64), ServiceError> {
    let id: DeliveryId = required("delivery_id", delivery_id)?;
    let fence = cursor::read(Kind::Loan, id.as_bytes(), token).and_then(|fence| fence.try_into().ok());
    let fence = fence.ok_or_else(|| field("lease_token", "is not a token of this delivery's loan"))?;
    Ok((id, i64::from_be_bytes(fence)))
}

/// The token of a loan.
fn token(id: DeliveryId, fence: i64) -> Vec<u8> {
    cursor::write(Kind::Loan, id.as_bytes(), &fence.to_be_bytes())
}

/// A stream of post at work. The next is fetched when the client takes the last one.
struct Receiving {
    face: Face,
    caller: Caller,
    services: Vec<ServiceId>,
    credit: u32,
    lease: Duration,
    drain: bool,
    out: BTreeMap<DeliveryId, (i64, Timestamp)>,
    ready: VecDeque<v1::ReceiveResponse>,
    lent: Instant,
    _room: OwnedSemaphorePermit,
}

impl Receiving {
    fn begin(
        face: Face,
        caller: Caller,
        ask: v1::ReceiveRequest,
        room: OwnedSemaphorePermit,
    ) -> Result<Self, ServiceError> {
        if ask.service_ids.len() > SERVICES_MAX {
            return Err(field("service_ids", format!("at most {SERVICES_MAX}")));
        }
        let services = ask.service_ids.iter().zip(0..).map(|(id, at)| service_id(&format!("service_ids[{at}]"), id));
        if !(1..=CREDIT_MAX).contains(&ask.credit) {
            return Err(field("credit", format!("is 1 to {CREDIT_MAX}")));
        }
        let seconds = match ask.lease_seconds {
            0 => LEASE_SECONDS_DEFAULT,
            seconds if (LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&seconds) => seconds,
            _ => return Err(field("lease_seconds", format!("is {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX}"))),
        };
        Ok(Self {
            face,
            caller,
            services: services.collect::<Result<_, _>>()?,
            credit: ask.credit,
            lease: Duration::from_secs(u64::from(seconds)),
            drain: ask.drain,
            out: BTreeMap::new(),
            ready: VecDeque::new(),
            lent: Instant::now(),
            _room: room,
        })
    }

    async fn next(&mut self) -> Result<Option<v1::ReceiveResponse>, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(Some(response));
            }
            if self.face.stopping.is_cancelled() {
                return Err(Face::gone());
            }
            let free = self.free();
            if free > 0 {
                self.fetch(free).await.map_err(|e| refusal(&e))?;
                if !self.ready.is_empty() {
                    continue;
                }
            }
            if self.drain && (free > 0 || self.lent.elapsed() >= DRAIN_PATIENCE) {
                return Ok(None);
            }
            let (stopping, loans) = (self.face.stopping.clone(), self.face.loans.clone());
            tokio::select! {
                () = stopping.cancelled() => {}
                () = loans.answered.notified() => {}
                () = self.face.service.log_grown(LOOK) => {}
            }
        }
    }

    /// How many more may be lent: what was answered and what ran out is free again.
    fn free(&mut self) -> u32 {
        let now = self.face.service.now();
        let loans = &self.face.loans;
        self.out.retain(|id, (fence, until)| *until > now && loans.is_out(*id, *fence));
        self.credit.saturating_sub(u32::try_from(self.out.len()).unwrap_or(u32::MAX))
    }

    async fn fetch(&mut self, free: u32) -> Result<(), ServiceError> {
        let principal = self.face.principal(&self.caller.peer)?;
        let items = self.face.service.receive(&principal, &self.services, free, self.lease).await?;
        for item in items {
            self.lent = Instant::now();
            let now = self.face.service.now();
            let (id, fence) = (item.leased.token.delivery, item.leased.token.fence);
            self.out.insert(id, (fence, item.until));
            self.face.loans.lend(item.leased.clone(), item.until, now);
            self.ready.push_back(response(item));
        }
        Ok(())
    }
}

fn response(item: MailboxItem) -> v1::ReceiveResponse {
    let token = token(item.leased.token.delivery, item.leased.token.fence);
    let body = item.body.bytes.into_inner();
    v1::ReceiveResponse {
        delivery_id: item.leased.token.delivery.to_string(),
        wire_id: item.leased.wire_id.to_string(),
        body_sha256: digest(&SHA256, &body).as_ref().to_vec(),
        body,
        lease_token: token,
        lease_expires_at: Some(timestamp_to_proto(item.until)),
        attempt: item.attempt,
        traceparent: item.leased.traceparent.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_s_token_is_of_its_delivery_alone() {
        let (one, other) = (DeliveryId::from_bytes([1; 16]), DeliveryId::from_bytes([2; 16]));
        let lent = token(one, 7);
        assert!(lent.len() <= 64);
        assert_eq!(loan_of(&one.to_string(), &lent).unwrap(), (one, 7));
        let refused = loan_of(&other.to_string(), &lent).unwrap_err();
        assert_eq!(refused.violations[0].field, "lease_token");
        assert!(loan_of(&one.to_string(), &[]).is_err());
    }
}
