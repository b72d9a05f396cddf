//! What administrators do to a whole lane: each delivery by a step and an entry of its own.

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::delivery::{DeliveryState, ParkReason};
use waymark_core::error::ErrorKind;
use waymark_core::id::{DeliveryId, LaneId};
use waymark_core::port::{DeliveryQuery, DeliveryView};

use super::super::{PAGE_MAX, Service, ServiceError};
use super::{DELIVERY_STATE, check_reason};

/// Deliveries of one lane that one act moves, at most.
pub const LANE_ACT_MAX: u32 = PAGE_MAX;

/// The states of a delivery that waits, and of which nothing is on its way.
const WAITING: [DeliveryState; 3] = [
    DeliveryState::Queued,
    DeliveryState::RetryWait,
    DeliveryState::Held,
];

impl Service {
    /// Parks every delivery that waits in a lane; one whose outcome is not known yet goes on.
    ///
    /// # Errors
    /// `Precondition` when nothing waits in it.
    pub async fn park_lane(
        &self,
        caller: &Principal,
        lane: &LaneId,
        reason: &str,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let waiting = self.to_move(caller, (lane, reason), &WAITING).await?;
        for view in &waiting {
            // What went along with one before it, or was leased meanwhile, is passed over.
            passed_over(self.park(caller, view.delivery.id, reason).await)?;
        }
        let mut moved = self.as_now(&waiting).await?;
        moved.retain(|now| now.state == DeliveryState::Parked);
        Ok(moved)
    }

    /// Resumes every parked delivery of a lane, in their order.
    ///
    /// # Errors
    /// `Precondition` when nothing of it is parked.
    pub async fn resume_lane(
        &self,
        caller: &Principal,
        lane: &LaneId,
        reason: &str,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let parked = [DeliveryState::Parked];
        let parked = self.to_move(caller, (lane, reason), &parked).await?;
        for view in &parked {
            passed_over(self.resume(caller, view.delivery.id, reason).await)?;
        }
        let mut moved = self.as_now(&parked).await?;
        moved.retain(|now| now.state != DeliveryState::Parked);
        Ok(moved)
    }

    async fn to_move(
        &self,
        caller: &Principal,
        (lane, reason): (&LaneId, &str),
        states: &[DeliveryState],
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        permit(caller, Action::ActOnDeliveries, Relationship::None)?;
        check_reason(reason)?;
        let found = self.in_lane(lane, states, None).await?;
        if found.is_empty() {
            let why = "nothing of it waits for this: list its deliveries";
            return Err(ServiceError::new(ErrorKind::Precondition, "LANE_STATE")
                .with_violation("lane_id", why));
        }
        Ok(found)
    }

    /// Deliveries of a lane in some states, after one, oldest first.
    async fn in_lane(
        &self,
        lane: &LaneId,
        states: &[DeliveryState],
        after: Option<DeliveryId>,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let mut found = Vec::new();
        for state in states {
            let query = DeliveryQuery {
                state: Some(*state),
                lane: Some(lane.clone()),
                after,
                limit: LANE_ACT_MAX,
                ..DeliveryQuery::default()
            };
            found.extend(self.parts.store.deliveries(&query).await?);
        }
        found.sort_by_key(|view| view.delivery.id);
        found.dedup_by_key(|view| view.delivery.id);
        found.truncate(usize::try_from(LANE_ACT_MAX).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// How many later deliveries of a delivery's lane wait behind it.
    pub(super) async fn waiting_behind(&self, view: &DeliveryView) -> Result<usize, ServiceError> {
        let waiting = [DeliveryState::Queued, DeliveryState::Parked];
        let later = self
            .in_lane(&view.lane, &waiting, Some(view.delivery.id))
            .await?;
        let behind = later.iter().filter(|later| match later.parked {
            Some(reason) => reason == ParkReason::Behind && later.referral == view.referral,
            None => true,
        });
        Ok(behind.count())
    }
}

fn passed_over<T>(done: Result<T, ServiceError>) -> Result<(), ServiceError> {
    match done {
        Err(error) if error.reason != DELIVERY_STATE => Err(error),
        _ => Ok(()),
    }
}
