//! The names of the state machines, the same on both sides.

use waymark_core::delivery::{DeliveryState, Evidence, Kind};
use waymark_core::error::{Fault, Violation};
use waymark_core::leg::LegState;
use waymark_core::port::StatusNotice;
use waymark_proto::v1;

use super::timestamp_to_proto;

macro_rules! same_names {
    ($(#[$to_doc:meta])* $to:ident, $(#[$from_doc:meta])* $from:ident: $ours:ty = $theirs:ty,
     $($a:ident <=> $b:ident,)*) => {
        $(#[$to_doc])*
        pub const fn $to(value: $ours) -> $theirs {
            match value { $(<$ours>::$a => <$theirs>::$b,)* }
        }
        $(#[$from_doc])*
        ///
        /// # Errors
        /// The violation of `field` when it is not stated or not known.
        pub fn $from(field: &str, number: i32) -> Result<$ours, Violation> {
            match <$theirs>::try_from(number) {
                $(Ok(<$theirs>::$b) => Ok(<$ours>::$a),)*
                Ok(<$theirs>::Unspecified) => Err(Violation::new(field, "is required")),
                Err(_) => Err(Violation::new(field, format!("{number} is not a value this release knows"))),
            }
        }
    };
}

same_names! {
    /// Writes a leg's state.
    leg_state_to_proto,
    /// Reads a leg's state.
    leg_state_from_proto: LegState = v1::LegState,
    Submitted <=> Submitted, InTriage <=> InTriage, InfoNeeded <=> InfoNeeded, Accepted <=> Accepted,
    Waiting <=> Waiting, Booked <=> Booked, WasNotBrought <=> WasNotBrought,
    AppointmentCancelled <=> AppointmentCancelled, InAssessment <=> InAssessment, OnHold <=> OnHold,
    Assessed <=> Assessed, Guided <=> Guided, Declined <=> Declined, Redirected <=> Redirected,
    Closed <=> Closed, Cancelled <=> Cancelled, EnteredInError <=> EnteredInError,
}

same_names! {
    /// Writes a delivery's state.
    delivery_state_to_proto,
    /// Reads a delivery's state.
    delivery_state_from_proto: DeliveryState = v1::DeliveryState,
    Queued <=> Queued, Attempting <=> Attempting, RetryWait <=> RetryWait, Unknown <=> Unknown,
    AwaitingEvidence <=> AwaitingEvidence, Held <=> Held, Parked <=> Parked, Done <=> Done,
    Rejected <=> Rejected, Cancelled <=> Cancelled, Superseded <=> Superseded,
}

same_names! {
    /// Writes a grade of evidence.
    evidence_to_proto,
    /// Reads a grade of evidence.
    evidence_from_proto: Evidence = v1::EvidenceGrade,
    None <=> None, Sent <=> Sent, TransportAck <=> TransportAck, ApplicationAck <=> ApplicationAck,
    SignedReceipt <=> SignedReceipt, HumanAcceptance <=> HumanAcceptance,
}

same_names! {
    /// Writes what a delivery says.
    kind_to_proto,
    /// Reads what a delivery says.
    kind_from_proto: Kind = v1::MessageKind,
    New <=> New, Amend <=> Amend, Cancel <=> Cancel, Withdraw <=> Withdrawal, Status <=> Status, Guidance <=> Guidance,
}

same_names! {
    /// Writes whose mistake it is.
    fault_to_proto,
    /// Reads whose mistake it is.
    fault_from_proto: Fault = v1::Fault,
    Send <=> Sender, Rec <=> Receiver, Proxy <=> Gateway,
}

/// Writes what a sender is told of a leg. The instant of the news, in milliseconds, is its version at the source.
pub fn notice_to_proto(notice: &StatusNotice) -> v1::StatusChange {
    v1::StatusChange {
        state: leg_state_to_proto(notice.state).into(),
        reason_code: notice.code.clone(),
        text_for_family: notice
            .text
            .as_ref()
            .map(|t| t.expose().clone())
            .unwrap_or_default(),
        next_action: notice
            .due
            .map(|_| "the service's next step".to_owned())
            .unwrap_or_default(),
        due: notice.due.map(|day| day.to_string()).unwrap_or_default(),
        occurred_at: Some(timestamp_to_proto(notice.at)),
        source_version: u64::try_from(notice.at.as_ms()).unwrap_or(1).max(1),
        ..v1::StatusChange::default()
    }
}

#[cfg(test)]
mod tests {
    use waymark_core::time::Timestamp;

    use super::super::timestamp_from_proto;
    use super::*;

    #[test]
    fn every_state_grade_kind_and_fault_comes_back_and_no_other_number_does() {
        for s in LegState::ALL {
            assert_eq!(
                leg_state_from_proto("s", leg_state_to_proto(*s).into()),
                Ok(*s)
            );
            let name = leg_state_to_proto(*s).as_str_name().to_ascii_lowercase();
            assert_eq!(name, format!("leg_state_{s}"));
        }
        for s in DeliveryState::ALL {
            assert_eq!(
                delivery_state_from_proto("s", delivery_state_to_proto(*s).into()),
                Ok(*s)
            );
            let name = delivery_state_to_proto(*s)
                .as_str_name()
                .to_ascii_lowercase();
            assert_eq!(name, format!("delivery_state_{s}"));
        }
        for e in Evidence::ALL {
            assert_eq!(
                evidence_from_proto("e", evidence_to_proto(*e).into()),
                Ok(*e)
            );
            let name = evidence_to_proto(*e).as_str_name().to_ascii_lowercase();
            assert_eq!(name, format!("evidence_grade_{e}"));
        }
        for k in Kind::ALL {
            assert_eq!(kind_from_proto("k", kind_to_proto(*k).into()), Ok(*k));
        }
        for f in [Fault::Send, Fault::Rec, Fault::Proxy] {
            assert_eq!(fault_from_proto("f", fault_to_proto(f).into()), Ok(f));
        }
        for wrong in [0, 99, -1] {
            assert_eq!(leg_state_from_proto("s", wrong).unwrap_err().field, "s");
            assert_eq!(
                delivery_state_from_proto("s", wrong).unwrap_err().field,
                "s"
            );
            assert_eq!(evidence_from_proto("e", wrong).unwrap_err().field, "e");
            assert_eq!(kind_from_proto("k", wrong).unwrap_err().field, "k");
            assert_eq!(fault_from_proto("f", wrong).unwrap_err().field, "f");
        }
    }

    #[test]
    fn a_notice_carries_state_code_words_and_instant() {
        let notice = StatusNotice {
            from: "R1L".parse().unwrap(),
            service: None,
            state: LegState::Declined,
            code: "RRNA".to_owned(),
            text: Some("not this service".into()),
            due: None,
            at: Timestamp::from_ms(1_772_445_600_123),
        };
        let change = notice_to_proto(&notice);
        assert_eq!(
            leg_state_from_proto("state", change.state),
            Ok(LegState::Declined)
        );
        assert_eq!(
            (change.reason_code.as_str(), change.text_for_family.as_str()),
            ("RRNA", "not this service")
        );
        assert_eq!(
            timestamp_from_proto("at", &change.occurred_at.unwrap()),
            Ok(notice.at)
        );
        assert_eq!(change.source_version, 1_772_445_600_123);
    }
}
