//! An agency without a server fetches its own post: lent under a lease, a bounded number at a time.

use std::time::Duration;

use prost::Message as _;
use tonic::{Request, Response, Status};
use waymark_adapters::grpc::convert::{
    delivery_state_to_proto, evidence_to_proto, fault_from_proto, timestamp_from_proto,
};
use waymark_adapters::grpc::receipt::{Receipted, grade};
use waymark_adapters::mailbox::receipt_keys;
use waymark_core::delivery::{DeliveryState, Evidence, Why};
use waymark_core::id::{DeliveryId, ServiceId};
use waymark_core::personal::Payload;
use waymark_core::port::DeliveryView;
use waymark_proto::v1;
use waymark_proto::v1::mailbox_service_server::MailboxService;

use super::cursor::{self, Kind};
use super::face::{Caller, Face, caller};
use super::referral::{Answers, required, service_id};
use super::status::{field, refusal};
use crate::service::{MAILBOX_CREDIT_MAX, ServiceError};

mod lending;
mod loans;

pub(super) use loans::Loans;

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
/// Characters in a code, in words and in a reference.
const CODE_MAX: usize = 64;
const WORDS_MAX: usize = Why::TEXT_MAX;
const REFERENCE_MAX: usize = 80;
/// Characters in the name of a key.
const KEY_ID_MAX: usize = 100;
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// What a stream of post asks for, as read.
struct Ask {
    services: Vec<ServiceId>,
    credit: u32,
    lease: Duration,
    drain: Drain,
}

/// Whether a stream ends when nothing more is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// It does.
    Yes,
    /// It waits for more.
    No,
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
        let ask = Ask::read(&request.into_inner()).map_err(|e| refusal(&e))?;
        let room = self.face.open_stream()?;
        let post = lending::begin(self.face.clone(), caller, ask, room).await;
        post.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.acknowledged(&caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|e| refusal(&e))
    }

    async fn reject(
        &self,
        request: Request<v1::RejectRequest>,
    ) -> Result<Response<v1::RejectResponse>, Status> {
        let caller = caller(&request)?;
        let ask = request.into_inner();
        let answer = async {
            let (id, fence) = loan_of(&ask.delivery_id, &ask.lease_token)?;
            let code = printable("reason_code", &ask.reason_code, CODE_MAX)?;
            if ask.reason.chars().count() > WORDS_MAX {
                return Err(field("reason", format!("at most {WORDS_MAX} characters")));
            }
            let fault =
                fault_from_proto("fault", ask.fault).map_err(|v| ServiceError::invalid(vec![v]))?;
            let why = Why::new(code, ask.reason.as_str());
            let view = self
                .face
                .service
                .reject(&caller.principal, id, fence, why, fault)
                .await?;
            self.face.loans.answered(id, fence);
            Ok(v1::RejectResponse {
                state: delivery_state_to_proto(view.state).into(),
            })
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
        let receipt = ask
            .receipt
            .map(|receipt| checked(&receipt).map(|()| receipt))
            .transpose()?;
        let reference = receipt
            .as_ref()
            .map(|receipt| receipt.receiver_reference.clone());
        // Shown to nobody before the use case has decided that the caller may answer for it.
        let before = self.face.service.store().delivery(id).await?;
        let receipt = match (receipt, &before) {
            (Some(receipt), Some(view)) => {
                let grade = self.grade(view, fence, &receipt).await?;
                Some((Payload::new(receipt.encode_to_vec()), grade))
            }
            _ => None,
        };
        let view = self
            .face
            .service
            .acknowledge(&caller.principal, id, fence, reference, receipt)
            .await?;
        self.face.loans.answered(id, fence);
        Ok(v1::AcknowledgeResponse {
            state: delivery_state_to_proto(view.state).into(),
            evidence: evidence_to_proto(view.evidence).into(),
            duplicate: before.is_some_and(|before| before.state == DeliveryState::Done),
        })
    }

    /// What a receipt is worth: its signature is checked against the bytes that were lent, by keys of the directory.
    async fn grade(
        &self,
        view: &DeliveryView,
        fence: i64,
        receipt: &v1::AgencyReceipt,
    ) -> Result<Evidence, ServiceError> {
        let in_force = self.face.service.in_force();
        let keys = in_force
            .directory
            .endpoints
            .get(&view.delivery.endpoint)
            .map(receipt_keys)
            .unwrap_or_default();
        if keys.is_empty() || receipt.signature.is_empty() {
            return Ok(Evidence::ApplicationAck);
        }
        let content = self
            .face
            .service
            .store()
            .content(&view.leased(fence))
            .await?;
        let Some(body) = content.rendered else {
            return Ok(Evidence::ApplicationAck);
        };
        let of = Receipted {
            delivery: view.delivery.id,
            wire_id: &view.delivery.wire_id,
            body: body.bytes.expose(),
        };
        // An acknowledgement says by itself that the message was taken.
        Ok(grade(&of, receipt, &keys).max(Evidence::ApplicationAck))
    }
}

/// The delivery and the loan that an answer is about.
fn loan_of(delivery_id: &str, token: &[u8]) -> Result<(DeliveryId, i64), ServiceError> {
    let id: DeliveryId = required("delivery_id", delivery_id)?;
    let fence =
        cursor::read(Kind::Loan, id.as_bytes(), token).and_then(|fence| fence.try_into().ok());
    let fence =
        fence.ok_or_else(|| field("lease_token", "is not a token of this delivery's loan"))?;
    Ok((id, i64::from_be_bytes(fence)))
}

/// The token of a loan.
fn token(id: DeliveryId, fence: i64) -> Vec<u8> {
    cursor::write(Kind::Loan, id.as_bytes(), &fence.to_be_bytes())
}

impl Ask {
    fn read(ask: &v1::ReceiveRequest) -> Result<Self, ServiceError> {
        if ask.service_ids.len() > SERVICES_MAX {
            return Err(field("service_ids", format!("at most {SERVICES_MAX}")));
        }
        let named = ask.service_ids.iter().zip(0..);
        let services = named
            .map(|(id, at)| service_id(&format!("service_ids[{at}]"), id))
            .collect::<Result<_, _>>()?;
        if !(1..=CREDIT_MAX).contains(&ask.credit) {
            return Err(field("credit", format!("is 1 to {CREDIT_MAX}")));
        }
        let seconds = match ask.lease_seconds {
            0 => LEASE_SECONDS_DEFAULT,
            seconds if (LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&seconds) => seconds,
            _ => {
                return Err(field(
                    "lease_seconds",
                    format!("is {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX}"),
                ));
            }
        };
        let drain = if ask.drain { Drain::Yes } else { Drain::No };
        Ok(Self {
            services,
            credit: ask.credit,
            lease: Duration::from_secs(u64::from(seconds)),
            drain,
        })
    }
}

/// Checks the shape of a receipt; what its signature is worth is another question.
fn checked(receipt: &v1::AgencyReceipt) -> Result<(), ServiceError> {
    let at = receipt
        .received_at
        .as_ref()
        .ok_or_else(|| field("receipt.received_at", "is required"))?;
    timestamp_from_proto("receipt.received_at", at).map_err(|v| ServiceError::invalid(vec![v]))?;
    printable(
        "receipt.receiver_reference",
        &receipt.receiver_reference,
        REFERENCE_MAX,
    )?;
    if receipt.signature.is_empty() {
        return Ok(());
    }
    if receipt.signature.len() != SIGNATURE_BYTES {
        return Err(field(
            "receipt.signature",
            format!("is {SIGNATURE_BYTES} bytes, or empty"),
        ));
    }
    printable("receipt.key_id", &receipt.key_id, KEY_ID_MAX).map(|_| ())
}

/// Text that is there, within its limit and without control characters.
fn printable<'t>(name: &str, text: &'t str, max: usize) -> Result<&'t str, ServiceError> {
    let count = text.chars().count();
    if count == 0 || count > max || text.chars().any(char::is_control) {
        return Err(field(
            name,
            format!("is 1 to {max} characters, none of them a control character"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_s_token_is_of_its_delivery_alone() {
        let (one, other) = (
            DeliveryId::from_bytes([1; 16]),
            DeliveryId::from_bytes([2; 16]),
        );
        let lent = token(one, 7);
        assert!(lent.len() <= 64);
        assert_eq!(loan_of(&one.to_string(), &lent).unwrap(), (one, 7));
        let refused = loan_of(&other.to_string(), &lent).unwrap_err();
        assert_eq!(refused.violations[0].field, "lease_token");
        assert!(loan_of(&one.to_string(), &[]).is_err());
    }

    fn wrong(ask: &v1::ReceiveRequest) -> String {
        Ask::read(ask)
            .err()
            .map(|e| e.violations[0].field.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_stream_keeps_its_limits() {
        let ask = || v1::ReceiveRequest {
            credit: 1,
            ..v1::ReceiveRequest::default()
        };
        assert_eq!(
            Ask::read(&ask()).unwrap().lease.as_secs(),
            u64::from(LEASE_SECONDS_DEFAULT)
        );
        for credit in [1, CREDIT_MAX] {
            assert_eq!(wrong(&v1::ReceiveRequest { credit, ..ask() }), "");
        }
        for credit in [0, CREDIT_MAX + 1] {
            assert_eq!(wrong(&v1::ReceiveRequest { credit, ..ask() }), "credit");
        }
        for lease_seconds in [LEASE_SECONDS_MIN, LEASE_SECONDS_MAX] {
            assert_eq!(
                wrong(&v1::ReceiveRequest {
                    lease_seconds,
                    ..ask()
                }),
                ""
            );
        }
        for lease_seconds in [LEASE_SECONDS_MIN - 1, LEASE_SECONDS_MAX + 1] {
            assert_eq!(
                wrong(&v1::ReceiveRequest {
                    lease_seconds,
                    ..ask()
                }),
                "lease_seconds"
            );
        }
        let named = |count| v1::ReceiveRequest {
            service_ids: vec!["s1".to_owned(); count],
            ..ask()
        };
        assert_eq!(wrong(&named(SERVICES_MAX)), "");
        assert_eq!(wrong(&named(SERVICES_MAX + 1)), "service_ids");
        assert_eq!(
            wrong(&v1::ReceiveRequest {
                service_ids: vec!["a b".to_owned()],
                ..ask()
            }),
            "service_ids[0]"
        );
    }

    #[test]
    fn a_receipt_without_its_parts_is_refused_by_name() {
        let good = v1::AgencyReceipt {
            received_at: Some(pbjson_types::Timestamp {
                seconds: 1_772_445_601,
                nanos: 0,
            }),
            receiver_reference: "x".repeat(REFERENCE_MAX),
            signature: vec![1; SIGNATURE_BYTES],
            key_id: "k".repeat(KEY_ID_MAX),
        };
        checked(&good).unwrap();
        let name =
            |receipt: &v1::AgencyReceipt| checked(receipt).unwrap_err().violations[0].field.clone();
        assert_eq!(
            name(&v1::AgencyReceipt {
                received_at: None,
                ..good.clone()
            }),
            "receipt.received_at"
        );
        let long = "x".repeat(REFERENCE_MAX + 1);
        assert_eq!(
            name(&v1::AgencyReceipt {
                receiver_reference: long,
                ..good.clone()
            }),
            "receipt.receiver_reference"
        );
        let short = vec![1; SIGNATURE_BYTES - 1];
        assert_eq!(
            name(&v1::AgencyReceipt {
                signature: short,
                ..good.clone()
            }),
            "receipt.signature"
        );
        assert_eq!(
            name(&v1::AgencyReceipt {
                key_id: String::new(),
                ..good
            }),
            "receipt.key_id"
        );
    }
}
