//! A cancel that its receiver refuses gives the leg back as the receiver sees it: the child is not lost on our side.

use waymark_core::delivery::{DeliveryState, Kind};
use waymark_core::leg::{LegState, Owner, replayed};
use waymark_core::port::{EventKind, Leased, LegChange, StoreError};

use super::Service;
use super::read::TIMELINE_MAX;

/// What a refused cancel leaves of its leg.
#[derive(Debug)]
pub enum CancelRefused {
    /// It had ended here, and goes on.
    Reopens(LegChange),
    /// It had not ended, because its service had begun: it stands where it is.
    Stands(LegState),
}

impl CancelRefused {
    /// The leg's state.
    pub const fn state(&self) -> LegState {
        match self {
            Self::Reopens(leg) => leg.state,
            Self::Stands(state) => *state,
        }
    }

    /// The change of the leg, where there is one.
    pub fn reopens(self) -> Option<LegChange> {
        match self {
            Self::Reopens(leg) => Some(leg),
            Self::Stands(_) => None,
        }
    }
}

impl Service {
    /// What is left of the leg, when a delivery that ends in `ended` is a refused cancel: one that goes on does so in
    /// the state that its service's reports lead to, those that came after the cancel included.
    ///
    /// # Errors
    /// The store's own.
    pub(crate) async fn cancel_refused(
        &self,
        leased: &Leased,
        ended: DeliveryState,
    ) -> Result<Option<CancelRefused>, StoreError> {
        let (Kind::Cancel, DeliveryState::Rejected, Some(id)) = (leased.kind, ended, leased.leg)
        else {
            return Ok(None);
        };
        let store = &self.parts.store;
        let Some(view) = store.referral(leased.referral).await? else {
            return Ok(None);
        };
        let leg = view.legs.iter().find(|leg| leg.leg.id == id);
        let ends = |state| matches!(state, LegState::Cancelled | LegState::EnteredInError);
        let leg = match leg {
            None => return Ok(None),
            Some(leg) if !ends(leg.state) => return Ok(Some(CancelRefused::Stands(leg.state))),
            Some(leg) => leg,
        };
        let timeline = store.timeline(leased.referral, TIMELINE_MAX).await?;
        let reports = timeline.iter().filter_map(|seen| {
            let of_leg = seen.event.leg == Some(id) && seen.event.kind == EventKind::Status;
            seen.event.state.filter(|_| of_leg)
        });
        let state = replayed(reports.filter(|state| !ends(*state)));
        let receiver = Owner {
            agency: leg.leg.agency.clone(),
            role: leg.leg.owner.role.clone(),
        };
        let duty = self.duty_of(state, &receiver, &view.sender, self.now());
        // Beyond the known bank holidays there is no day to name; the leg is given back all the same, due at once.
        let (owner, clock, next_action) = duty.unwrap_or_else(|_| {
            let today = self.now().london_date().to_string();
            (receiver, Some("TRIAGE".to_owned()), Some(today))
        });
        Ok(Some(CancelRefused::Reopens(LegChange {
            leg: id,
            state,
            owner,
            clock,
            next_action,
        })))
    }
}
