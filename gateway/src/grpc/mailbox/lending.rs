//! One stream of post: lends what is due while the client's credit lasts.

use std::collections::VecDeque;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;
use waymark_adapters::grpc::convert::timestamp_to_proto;
use waymark_core::access::Principal;
use waymark_core::delivery::DeliveryState;
use waymark_core::directory::AdapterKind;
use waymark_core::port::WorkClass;
use waymark_proto::v1;

use super::super::face::{Caller, Face};
use super::super::status::refusal;
use super::loans::Credit;
use super::{Answers, Ask, Drain, token};
use crate::service::{MailboxItem, ServiceError};

/// Deliveries taken out of the store in one go: so many bodies at most wait in memory for a slow client.
const BATCH_MAX: u32 = 8;
/// How often the store is asked when nothing says that the log grew; another instance may have accepted work.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest time between two looks that found nothing, however fast the log grows.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Loans whose answer may have come by another instance, asked for at each look without credit.
const SETTLED_MAX: usize = 10;

/// A stream at work. Nothing is lent ahead of the client by more than one batch.
struct Lending {
    face: Face,
    caller: Caller,
    ask: Ask,
    credit: Credit,
    ready: VecDeque<MailboxItem>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.face.loans.forget(&self.credit);
    }
}

/// Begins a stream of post.
pub(super) async fn begin(
    face: Face,
    caller: Caller,
    ask: Ask,
    room: OwnedSemaphorePermit,
) -> Result<Answers<v1::ReceiveResponse>, ServiceError> {
    let credit = Credit::new(ask.credit);
    let mut lending = Lending {
        face,
        caller,
        ask,
        credit,
        ready: VecDeque::new(),
        _room: room,
    };
    // The first one says at once whether the caller may receive at all.
    let principal = lending.face.principal(&lending.caller.peer)?;
    lending.lend(&principal).await?;
    Ok(Box::pin(stream::try_unfold(
        lending,
        |mut lending| async move {
            let post = lending.step().await?;
            Ok(post.map(|post| (post, lending)))
        },
    )))
}

impl Lending {
    async fn step(&mut self) -> Result<Option<v1::ReceiveResponse>, Status> {
        loop {
            // A loan that ended while the client was slow is lent again, not shown late.
            let now = self.face.service.now();
            while let Some(item) = self.ready.pop_front() {
                if item.until > now {
                    return Ok(Some(written(item)));
                }
            }
            if self.face.stopping.is_cancelled() {
                return Err(Face::gone());
            }
            let looked = Instant::now();
            if self.credit.left() > 0 {
                let some_closed = self.look().await.map_err(|e| refusal(&e))?;
                if some_closed || !self.ready.is_empty() {
                    continue;
                }
                if self.ask.drain == Drain::Yes {
                    return Ok(None);
                }
                self.until_work(looked).await;
            } else {
                self.until_credit().await.map_err(|e| refusal(&e))?;
            }
        }
    }

    /// Takes what is due, if anything is; answers as [`Self::lend`]. Whether the caller may still receive is asked each time.
    async fn look(&mut self) -> Result<bool, ServiceError> {
        self.face
            .loans
            .expire(&self.credit, self.face.service.now());
        let principal = self.face.principal(&self.caller.peer)?;
        if !self.is_due(&principal).await? {
            return Ok(false);
        }
        self.lend(&principal).await
    }

    /// Whether a mailbox of the caller's has due work: a read, where leasing writes, as there are many idle streams.
    async fn is_due(&self, principal: &Principal) -> Result<bool, ServiceError> {
        let (service, now) = (&self.face.service, self.face.service.now());
        let (in_force, today) = (service.in_force(), now.london_date());
        let directory = &in_force.directory;
        for class in [WorkClass::Fresh, WorkClass::Retry] {
            for id in service.store().due_endpoints(class, now).await? {
                let endpoint = directory
                    .endpoint(&id, today)
                    .filter(|e| e.adapter == AdapterKind::Mailbox);
                let owner = endpoint.map(|endpoint| &endpoint.agency);
                let own = |agency| {
                    principal.speaks_for(agency)
                        || principal.speaks_for(&directory.successor(agency, today))
                };
                if owner.is_some_and(own) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes what is due, as far as the credit goes; answers whether some was closed in place of being lent.
    async fn lend(&mut self, principal: &Principal) -> Result<bool, ServiceError> {
        let room = self.credit.left().min(BATCH_MAX);
        let lent = self
            .face
            .service
            .receive(principal, &self.ask.services, room, self.ask.lease)
            .await?;
        for item in lent.items {
            let loan = &item.leased.token;
            if self
                .face
                .loans
                .lend(&self.credit, loan.delivery, loan.fence, item.until)
            {
                self.ready.push_back(item);
            }
        }
        Ok(lent.some_closed)
    }

    async fn until_work(&self, looked: Instant) {
        let stopping = self.face.stopping.clone();
        let work = async {
            // Not the store's own sign of new work: that one is the delivery engine's, and it may be taken but once.
            self.face.service.log_grown(LOOK).await;
            sleep_until(looked + LOOK_AGAIN).await;
        };
        tokio::select! {
            () = stopping.cancelled() => {}
            () = work => {}
        }
    }

    /// Waits until a loan is answered or ends. An answer may have gone to another instance: the store knows.
    async fn until_credit(&self) -> Result<(), ServiceError> {
        let stopping = self.face.stopping.clone();
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = self.credit.any() => return Ok(()),
            () = sleep(LOOK) => {}
        }
        self.face
            .loans
            .expire(&self.credit, self.face.service.now());
        for (id, fence) in self.face.loans.oldest(&self.credit, SETTLED_MAX) {
            let view = self.face.service.store().delivery(id).await?;
            if view.is_none_or(|view| view.state != DeliveryState::Attempting) {
                self.face.loans.answered(id, fence);
            }
        }
        Ok(())
    }
}

/// One piece of post.
fn written(item: MailboxItem) -> v1::ReceiveResponse {
    let MailboxItem {
        leased,
        attempt,
        body,
        until,
    } = item;
    let body = body.bytes.into_inner();
    v1::ReceiveResponse {
        delivery_id: leased.token.delivery.to_string(),
        wire_id: leased.wire_id.to_string(),
        body_sha256: digest(&SHA256, &body).as_ref().to_vec(),
        body,
        lease_token: token(leased.token.delivery, leased.token.fence),
        lease_expires_at: Some(timestamp_to_proto(until)),
        attempt,
        traceparent: leased.traceparent.unwrap_or_default(),
    }
}
