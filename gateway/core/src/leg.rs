//! One leg of a referral: what the receiving service says is happening (DOMAIN.md 2.1).
//!
//! ROUTED, DELIVERED, RECEIVED and UNDELIVERABLE are shown from the delivery machine and are no states of a leg.

use serde::{Deserialize, Serialize};

use crate::id::AgencyId;

macro_rules! states {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => [$($next:ident)*],)*) => {
        /// What the receiving service says is happening.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum LegState { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl LegState {
            /// Every state, in the usual order of a referral's life.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The state as text, as stored.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Reads a stored state.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
            /// The states that may follow. Services do not report every step, so steps may be skipped.
            pub const fn next(self) -> &'static [Self] { match self { $(Self::$variant => &[$(Self::$next,)*],)* } }
        }
        impl std::fmt::Display for LegState {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

states! {
    /// Durably accepted by the gateway.
    Submitted = "submitted" => [InTriage InfoNeeded Accepted Waiting Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// Being triaged.
    InTriage = "in_triage" => [InfoNeeded Accepted Waiting Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// The service asked the sender for more.
    InfoNeeded = "info_needed" => [InTriage Accepted Waiting Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// Accepted by the service.
    Accepted = "accepted" => [InfoNeeded Waiting Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// On the service's list, with a review date.
    Waiting = "waiting" => [InfoNeeded Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// An appointment is booked.
    Booked = "booked" => [InfoNeeded WasNotBrought AppointmentCancelled InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// The child was not brought.
    WasNotBrought = "was_not_brought" => [InfoNeeded Waiting Booked AppointmentCancelled InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// The appointment was cancelled.
    AppointmentCancelled = "appointment_cancelled" => [InfoNeeded Waiting Booked InAssessment OnHold Assessed Declined Redirected Cancelled EnteredInError],
    /// Assessment has begun: first contact was made.
    InAssessment = "in_assessment" => [InfoNeeded Booked WasNotBrought AppointmentCancelled OnHold Assessed Redirected Cancelled EnteredInError],
    /// Paused, with a reason.
    OnHold = "on_hold" => [InTriage InfoNeeded Accepted Waiting Booked InAssessment Assessed Declined Redirected Cancelled EnteredInError],
    /// The outcome was issued.
    Assessed = "assessed" => [Guided EnteredInError],
    /// The family was told what happens next.
    Guided = "guided" => [Closed EnteredInError],
    /// Declined, with a reason and guidance.
    Declined = "declined" => [],
    /// Sent on to another service as a child referral.
    Redirected = "redirected" => [],
    /// Complete.
    Closed = "closed" => [],
    /// Cancelled.
    Cancelled = "cancelled" => [],
    /// Entered in error.
    EnteredInError = "entered_in_error" => [],
}

/// A move that the table of states does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a leg that is {from} cannot become {to}")]
pub struct InvalidTransition {
    /// The state now.
    pub from: LegState,
    /// The state asked for.
    pub to: LegState,
}

/// How a status update was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reception {
    /// Applied.
    Applied,
    /// The same (source, version) came before: no effect.
    Repeated,
    /// The same state again under a new version: kept, no move.
    Unchanged,
    /// Would move backwards: kept and flagged, no move.
    OutOfOrder,
    /// The leg had ended: kept and flagged, no move.
    AfterEnd,
    /// Cancel asked for once assessment had begun: kept as a request, no move.
    CancelRequested,
}

impl Reception {
    /// The flag as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Repeated => "repeated",
            Self::Unchanged => "unchanged",
            Self::OutOfOrder => "out_of_order",
            Self::AfterEnd => "after_end",
            Self::CancelRequested => "cancel_requested",
        }
    }

    /// Whether the day that an update names is news of its leg, which is in `state` after it: an appointment moves by
    /// being booked once more on another day, which moves no state. What is late, backward or of an ended leg has no day.
    pub const fn brings_day(self, state: LegState) -> bool {
        match self {
            Self::Applied | Self::Unchanged => !state.is_terminal(),
            Self::Repeated | Self::OutOfOrder | Self::AfterEnd | Self::CancelRequested => false,
        }
    }

    /// Reads a stored flag.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Applied,
            Self::Repeated,
            Self::Unchanged,
            Self::OutOfOrder,
            Self::AfterEnd,
            Self::CancelRequested,
        ]
        .into_iter()
        .find(|r| r.as_str() == text)
    }
}

/// Who must act next on a leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The agency.
    pub agency: AgencyId,
    /// The role within it.
    pub role: String,
}

/// The clock that runs while a leg is in a state, in working days (DOMAIN.md 4.1; defaults of the gateway).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// Which side must act.
    pub side: Side,
    /// Rule id.
    pub rule: &'static str,
    /// Working days from the day after the state was entered.
    pub working_days: u16,
}

/// The two sides of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agency that sent the referral.
    Sender,
    /// The service that received it.
    Receiver,
}

impl LegState {
    /// Whether nothing may follow.
    pub const fn is_terminal(self) -> bool {
        self.next().is_empty()
    }

    /// Moves to another state.
    ///
    /// # Errors
    /// [`InvalidTransition`] when the table does not allow it.
    pub fn moved_to(self, to: Self) -> Result<Self, InvalidTransition> {
        if self.next().contains(&to) {
            Ok(to)
        } else {
            Err(InvalidTransition { from: self, to })
        }
    }

    /// How an update that names `to` is taken, given whether its (source, version) was seen before.
    pub fn receive(self, to: Self, seen: Seen) -> Reception {
        if seen == Seen::Before {
            return Reception::Repeated;
        }
        if self == to {
            return Reception::Unchanged;
        }
        if self.is_terminal() {
            return Reception::AfterEnd;
        }
        if to == Self::Cancelled && self.assessment_began() {
            return Reception::CancelRequested;
        }
        if self.moved_to(to).is_ok() {
            Reception::Applied
        } else {
            Reception::OutOfOrder
        }
    }

    /// Whether assessment had begun, so that a cancel is a request and no fact.
    pub const fn assessment_began(self) -> bool {
        matches!(self, Self::InAssessment | Self::Assessed | Self::Guided)
    }

    /// What must happen next while in this state; `None` once the leg has ended.
    pub const fn duty(self) -> Option<Duty> {
        let (side, rule, working_days) = match self {
            Self::Submitted | Self::InTriage => (Side::Receiver, "TRIAGE", 10),
            Self::InfoNeeded => (Side::Sender, "INFO", 10),
            Self::Accepted | Self::Waiting | Self::OnHold => (Side::Receiver, "WAIT-TOUCH", 60),
            Self::Booked => (Side::Receiver, "APPOINTMENT", 60),
            Self::WasNotBrought | Self::AppointmentCancelled => (Side::Receiver, "REBOOK", 10),
            Self::InAssessment => (Side::Receiver, "OUTCOME", 60),
            Self::Assessed => (Side::Receiver, "GUIDE", 5),
            Self::Guided => (Side::Receiver, "CLOSE", 10),
            Self::Declined
            | Self::Redirected
            | Self::Closed
            | Self::Cancelled
            | Self::EnteredInError => {
                return None;
            }
        };
        Some(Duty {
            side,
            rule,
            working_days,
        })
    }
}

/// The state that a leg comes to when these reports are taken in their order: what a refused cancel gives back.
pub fn replayed(reports: impl IntoIterator<Item = LegState>) -> LegState {
    reports
        .into_iter()
        .fold(LegState::Submitted, |state, reported| {
            match state.receive(reported, Seen::New) {
                Reception::Applied => reported,
                _ => state,
            }
        })
}

/// Whether the (source, version) of an update came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It did.
    Before,
    /// It is new.
    New,
}

/// The referral's own state: a pure function of its legs. The least advanced open leg speaks for the referral;
/// when none is open, a completed leg outweighs a declined one, and that a cancelled one.
pub fn referral_state(legs: &[LegState]) -> Option<LegState> {
    let open = legs.iter().copied().filter(|s| !s.is_terminal()).min();
    let ended = [
        LegState::Closed,
        LegState::Redirected,
        LegState::Declined,
        LegState::Cancelled,
        LegState::EnteredInError,
    ];
    open.or_else(|| ended.into_iter().find(|s| legs.contains(s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = LegState> {
        proptest::sample::select(LegState::ALL)
    }

    #[test]
    fn accepted_after_assessed_is_kept_and_flagged() {
        assert_eq!(
            LegState::Assessed.receive(LegState::Accepted, Seen::New),
            Reception::OutOfOrder
        );
        assert_eq!(
            LegState::Booked.receive(LegState::Accepted, Seen::New),
            Reception::OutOfOrder
        );
    }

    #[test]
    fn a_booking_again_brings_its_day_and_what_is_late_or_of_an_ended_leg_brings_none() {
        use LegState::*;
        for (state, update, seen, brings) in [
            (Waiting, Booked, Seen::New, true),
            (Booked, Booked, Seen::New, true),
            (Waiting, Waiting, Seen::New, true),
            (Booked, Booked, Seen::Before, false),
            (InAssessment, Waiting, Seen::New, false),
            (InAssessment, Cancelled, Seen::New, false),
            (Booked, Declined, Seen::New, false),
            (Closed, Booked, Seen::New, false),
            (Closed, Closed, Seen::New, false),
        ] {
            let reception = state.receive(update, seen);
            let after = if reception == Reception::Applied {
                update
            } else {
                state
            };
            assert_eq!(reception.brings_day(after), brings, "{state} to {update}");
        }
    }

    #[test]
    fn cancel_after_assessment_began_is_a_request() {
        assert_eq!(
            LegState::InAssessment.receive(LegState::Cancelled, Seen::New),
            Reception::CancelRequested
        );
        assert_eq!(
            LegState::Assessed.receive(LegState::Cancelled, Seen::New),
            Reception::CancelRequested
        );
        assert_eq!(
            LegState::Booked.receive(LegState::Cancelled, Seen::New),
            Reception::Applied
        );
    }

    #[test]
    fn a_refused_cancel_gives_back_what_was_reported_before_and_meanwhile() {
        use LegState::*;
        assert_eq!(replayed([]), Submitted);
        assert_eq!(replayed([Accepted, Booked]), Booked);
        assert_eq!(replayed([Booked, Accepted, Waiting]), Booked);
        assert_eq!(replayed([Accepted, Declined, Booked]), Declined);
    }

    #[test]
    fn a_leg_is_not_closed_before_the_family_is_told() {
        for state in LegState::ALL.iter().filter(|s| **s != LegState::Guided) {
            assert!(state.moved_to(LegState::Closed).is_err(), "{state}");
        }
    }

    #[test]
    fn every_open_state_has_a_duty_and_no_ended_one() {
        for state in LegState::ALL {
            assert_eq!(state.duty().is_none(), state.is_terminal(), "{state}");
            assert_eq!(LegState::parse(state.as_str()), Some(*state));
        }
    }

    #[test]
    fn the_least_advanced_open_leg_speaks_for_the_referral() {
        use LegState::*;
        assert_eq!(referral_state(&[Booked, InTriage, Closed]), Some(InTriage));
        assert_eq!(referral_state(&[Declined, Closed]), Some(Closed));
        assert_eq!(referral_state(&[Cancelled]), Some(Cancelled));
        assert_eq!(referral_state(&[]), None);
    }

    proptest! {
        #[test]
        fn only_an_applied_update_moves_and_a_seen_one_never_does(from in any_state(), to in any_state()) {
            prop_assert_eq!(from.receive(to, Seen::Before), Reception::Repeated);
            let taken = from.receive(to, Seen::New);
            prop_assert_eq!(taken == Reception::Applied, from.moved_to(to).is_ok() && !(to == LegState::Cancelled && from.assessment_began()));
            if from.is_terminal() { prop_assert_ne!(taken, Reception::Applied); }
        }
    }
}
