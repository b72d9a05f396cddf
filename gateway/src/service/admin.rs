//! What administrators and auditors see: deliveries and alarms.

use aws_lc_rs::digest::{SHA256, digest};
use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::alarm::Alarm;
use waymark_core::error::ErrorKind;
use waymark_core::id::DeliveryId;
use waymark_core::port::{DeliveryQuery, DeliveryView, OpenOnly};

use super::read::page;
use super::{Service, ServiceError};

/// Alarms listed.
const ALARMS_MAX: u32 = 1_000;

impl Service {
    /// Deliveries, oldest first.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators and auditors.
    pub async fn deliveries(
        &self,
        caller: &Principal,
        mut query: DeliveryQuery,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        query.limit = page(query.limit);
        Ok(self.parts.store.deliveries(&query).await?)
    }

    /// One delivery with its attempts.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn delivery(
        &self,
        caller: &Principal,
        id: DeliveryId,
    ) -> Result<DeliveryView, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        let view = self.parts.store.delivery(id).await?;
        view.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DELIVERY"))
    }

    /// The digest of the bytes that a delivery sends, once there are any: of personal data, so that it is for readers of
    /// bodies, and the read is in the log before it.
    ///
    /// # Errors
    /// `Denied` for anybody who may not read bodies.
    pub async fn body_sha256(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        purpose: &str,
    ) -> Result<Option<Vec<u8>>, ServiceError> {
        let permit = permit(caller, Action::ReadBody, Relationship::None)?;
        let entry = self
            .read_entry(permit.principal(), view.stream, "delivery", purpose)?
            .code("delivery", view.delivery.id.to_string());
        let Some(body) = view.rendered else {
            return Ok(None);
        };
        let bytes = self.parts.store.read_body(body, entry).await?;
        Ok(bytes.map(|bytes| digest(&SHA256, bytes.expose()).as_ref().to_vec()))
    }

    /// Alarms, open ones first.
    ///
    /// # Errors
    /// `Denied` for anybody but administrators and auditors.
    pub async fn alarms(
        &self,
        caller: &Principal,
        open_only: OpenOnly,
    ) -> Result<Vec<Alarm>, ServiceError> {
        permit(caller, Action::ReadDeliveries, Relationship::None)?;
        Ok(self.parts.store.alarms(open_only, ALARMS_MAX).await?)
    }
}
