//! The delivery port, method by method.

use async_trait::async_trait;
use waymark_core::alarm::NewAlarm;
use waymark_core::id::{DeliveryId, DocumentId, EndpointId, WireId};
use waymark_core::personal::Payload;
use waymark_core::port::{
    AsksAfter, CloseAttempt, DeliveryContent, DeliveryQuery, DeliveryStore, DeliveryView, LeaseAsk,
    LeaseToken, Leased, OpenAttempt, Operation, RaiseEvidence, SentPage, StoreError, WorkClass,
};
use waymark_core::time::Timestamp;

use super::{Backend, attempt, document, lease, operate, overdue, view};

#[async_trait]
impl DeliveryStore for Backend {
    async fn due_endpoints(
        &self,
        class: WorkClass,
        now: Timestamp,
    ) -> Result<Vec<EndpointId>, StoreError> {
        lease::due_endpoints(self, class, now).await
    }

    async fn lease(&self, ask: &LeaseAsk) -> Result<Vec<Leased>, StoreError> {
        lease::lease(self, ask).await
    }

    async fn content(&self, leased: &Leased) -> Result<DeliveryContent, StoreError> {
        attempt::content(self, leased).await
    }

    async fn attachment(
        &self,
        leased: &Leased,
        document: DocumentId,
    ) -> Result<Option<Payload>, StoreError> {
        document::of_referral(self, leased.referral, document).await
    }

    async fn open_attempt(&self, open: OpenAttempt) -> Result<(), StoreError> {
        attempt::open(self, open).await
    }

    async fn close_attempt(&self, close: CloseAttempt) -> Result<(), StoreError> {
        attempt::close(self, close).await
    }

    async fn renew(
        &self,
        leases: &[LeaseToken],
        until: Timestamp,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        lease::renew(self, leases, until).await
    }

    async fn release(&self, token: &LeaseToken, due: Timestamp) -> Result<(), StoreError> {
        lease::release(self, token, due).await
    }

    async fn raise_evidence(&self, raise: RaiseEvidence) -> Result<(), StoreError> {
        operate::raise_evidence(self, raise).await
    }

    async fn operate(&self, operation: Operation) -> Result<(), StoreError> {
        operate::operate(self, operation).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryView>, StoreError> {
        view::delivery(self, id).await
    }

    async fn delivery_by_wire_id(&self, id: &WireId) -> Result<Option<DeliveryView>, StoreError> {
        view::delivery_by_wire_id(self, id).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<DeliveryView>, StoreError> {
        view::deliveries(self, query).await
    }

    async fn sent(
        &self,
        endpoint: &EndpointId,
        which: AsksAfter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<SentPage, StoreError> {
        view::sent(self, endpoint, which, before, limit).await
    }

    async fn overdue(
        &self,
        now: Timestamp,
        mailboxes: &[(EndpointId, Timestamp)],
        limit: u32,
    ) -> Result<Vec<NewAlarm>, StoreError> {
        overdue::overdue(self, now, mailboxes, limit).await
    }

    async fn work_added(&self) {
        self.until_work_is_added().await;
    }
}
