//! The mailbox of an agency without a server: receive under a lease, then acknowledge or reject.

use std::time::Duration;

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::delivery::{Evidence, Outcome, Repeat, RetryPolicy, Standing, Why, next};
use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::error::{ErrorKind, Fault};
use waymark_core::id::{AgencyId, DeliveryId, ServiceId, WorkerId};
use waymark_core::personal::Payload;
use waymark_core::port::{DeliveryView, LeaseAsk, Leased, Rendered, WorkClass};
use waymark_core::time::Timestamp;

use super::{InForce, Service, ServiceError};
use crate::clock::{jitter, random_16};
use crate::delivery::{Bytes, Closing, changed_hands, close_of, open_of, render, source_of};

/// Items under lease at a time, for one call.
pub const MAILBOX_CREDIT_MAX: u32 = 100;
/// Shortest lease.
pub(super) const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
pub(super) const LEASE_MAX: Duration = Duration::from_hours(1);

/// One message of a mailbox.
#[derive(Clone, Debug)]
pub struct MailboxItem {
    /// The lease: its delivery and fence come back with the answer.
    pub leased: Leased,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// The bytes, the same on every attempt.
    pub body: Rendered,
    /// Until when it is the receiver's.
    pub until: Timestamp,
}

/// What one look into the mailboxes gave.
#[derive(Clone, Debug, Default)]
pub struct Lent {
    /// What was lent.
    pub items: Vec<MailboxItem>,
    /// Whether some that was due was closed in place of being lent: more may wait behind it.
    pub some_closed: bool,
}

impl Service {
    /// Leases what waits in the caller's own mailboxes, for some services or for all.
    ///
    /// # Errors
    /// `Denied` for an identity that is no agency's.
    pub async fn receive(
        &self,
        caller: &Principal,
        services: &[ServiceId],
        credit: u32,
        lease: Duration,
    ) -> Result<Lent, ServiceError> {
        permit(caller, Action::Mailbox, Relationship::None)?;
        if credit > MAILBOX_CREDIT_MAX {
            return Err(ServiceError::field(
                "credit",
                format!("at most {MAILBOX_CREDIT_MAX}"),
            ));
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
            return Err(ServiceError::field("lease_seconds", "is 1 to 3600"));
        }
        let in_force = self.in_force();
        let now = self.now();
        let worker = WorkerId::from_bytes(random_16(&*self.parts.random));
        let today = now.london_date();
        let mine = in_force.directory.endpoints.values().filter(|e| {
            e.adapter == AdapterKind::Mailbox
                && e.validity.holds_on(today)
                && self.owns(caller, &e.agency)
        });
        let mut lent = Lent::default();
        for endpoint in mine {
            for class in [WorkClass::Fresh, WorkClass::Retry] {
                let taken = u32::try_from(lent.items.len()).unwrap_or(u32::MAX);
                let room = credit.saturating_sub(taken);
                if room == 0 {
                    return Ok(lent);
                }
                let until = now.plus(lease);
                let ask = LeaseAsk {
                    worker,
                    endpoint: endpoint.id.clone(),
                    class,
                    services: services.to_vec(),
                    limit: room,
                    now,
                    until,
                };
                for leased in self.parts.store.lease(&ask).await? {
                    match self
                        .open_item(caller, leased, endpoint, until, &in_force)
                        .await?
                    {
                        Some(item) => lent.items.push(item),
                        None => lent.some_closed = true,
                    }
                }
            }
        }
        Ok(lent)
    }

    async fn open_item(
        &self,
        caller: &Principal,
        leased: Leased,
        endpoint: &Endpoint,
        until: Timestamp,
        in_force: &InForce,
    ) -> Result<Option<MailboxItem>, ServiceError> {
        let now = self.now();
        if let Some(outcome) = changed_hands(&leased, endpoint) {
            // Not the act of whoever asked: the post is not its own.
            let system = Closing::system(&leased);
            self.close_item(system, &leased, 0, outcome, endpoint, in_force)
                .await?;
            return Ok(None);
        }
        let content = self.parts.store.content(&leased).await?;
        let (body, bytes) = match content.rendered.clone() {
            Some(rendered) => (rendered, Bytes::Stored),
            None => {
                let rendered = source_of(&leased, &content, self.parts.environment, now)
                    .and_then(|source| render(&*self.parts.mailbox, &source, endpoint));
                match rendered {
                    Ok(rendered) => (rendered, Bytes::Fresh),
                    Err(outcome) => {
                        let who = (caller.actor, caller.agency.clone());
                        self.close_item(who, &leased, 0, outcome, endpoint, in_force)
                            .await?;
                        return Ok(None);
                    }
                }
            }
        };
        let who = (caller.actor, &caller.agency);
        let open = open_of(&self.drafter(), &leased, (&body, bytes), who, now);
        let attempt = open.number;
        self.parts.store.open_attempt(open).await?;
        Ok(Some(MailboxItem {
            leased,
            attempt,
            body,
            until,
        }))
    }

    /// Takes the receiver's word that a message arrived; a receipt signed by the receiver raises the grade.
    ///
    /// # Errors
    /// `Precondition` when the lease ended meanwhile: the message will come again under the same id.
    pub async fn acknowledge(
        &self,
        caller: &Principal,
        delivery: DeliveryId,
        fence: i64,
        receiver_reference: Option<String>,
        receipt: Option<(Payload, Evidence)>,
    ) -> Result<DeliveryView, ServiceError> {
        let grade = receipt
            .as_ref()
            .map_or(Evidence::ApplicationAck, |(_, grade)| *grade);
        let outcome = Outcome::Delivered {
            grade,
            awaiting: None,
            receiver_reference,
            receipt: receipt.map(|(bytes, _)| bytes),
        };
        self.answer(caller, delivery, fence, outcome).await
    }

    /// Takes the receiver's word that it will not have a message; its sender is told and a person is asked.
    ///
    /// # Errors
    /// As [`Service::acknowledge`].
    pub async fn reject(
        &self,
        caller: &Principal,
        delivery: DeliveryId,
        fence: i64,
        why: Why,
        fault: Fault,
    ) -> Result<DeliveryView, ServiceError> {
        self.answer(caller, delivery, fence, Outcome::Reject { why, fault })
            .await
    }

    async fn answer(
        &self,
        caller: &Principal,
        id: DeliveryId,
        fence: i64,
        outcome: Outcome,
    ) -> Result<DeliveryView, ServiceError> {
        permit(caller, Action::Mailbox, Relationship::None)?;
        let missing = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DELIVERY");
        let view = self.parts.store.delivery(id).await?.ok_or_else(missing)?;
        let in_force = self.in_force();
        let endpoint = in_force
            .directory
            .endpoints
            .get(&view.delivery.endpoint)
            .ok_or_else(missing)?;
        if endpoint.adapter != AdapterKind::Mailbox || !self.owns(caller, &view.delivery.recipient)
        {
            return Err(missing());
        }
        if view.state == waymark_core::delivery::DeliveryState::Done
            && matches!(outcome, Outcome::Delivered { .. })
        {
            return Ok(view);
        }
        let leased = view.leased(fence);
        self.close_item(
            (caller.actor, caller.agency.clone()),
            &leased,
            view.attempts_opened,
            outcome,
            endpoint,
            &in_force,
        )
        .await?;
        self.parts.store.delivery(id).await?.ok_or_else(missing)
    }

    async fn close_item(
        &self,
        actor: ([u8; 16], AgencyId),
        leased: &Leased,
        number: u32,
        outcome: Outcome,
        endpoint: &Endpoint,
        in_force: &InForce,
    ) -> Result<(), ServiceError> {
        let now = self.now();
        let standing = Standing {
            attempts: number,
            failures: leased.failures,
            soft_rejects: leased.soft_rejects,
            evidence: leased.evidence,
            earlier_attempt: number > 1,
            deadline: leased.deadline,
            releases_at: endpoint.releases_at,
            repeat: Repeat::Idempotent,
        };
        let next = next(
            &standing,
            &outcome,
            &RetryPolicy::default(),
            now,
            jitter(&*self.parts.random),
        );
        let refused = self.cancel_refused(leased, next.state).await?;
        let closing = Closing {
            leased,
            number,
            outcome,
            next,
            refused,
            told_next: None,
            endpoint: Some(endpoint),
            directory: &in_force.directory,
            at: now,
            actor,
        };
        Ok(self
            .parts
            .store
            .close_attempt(close_of(&self.drafter(), closing))
            .await?)
    }
}
