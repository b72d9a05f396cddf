//! Why a referral stops, as the contract says it.

use waymark_core::personal::Personal;
use waymark_core::port::{CancelCode, Withdrawal};
use waymark_proto::v1;

use super::{consent_scope_to_proto, giver_to_proto};

/// What stands for a reason that nobody gave: the contract requires words.
const NO_REASON: &str = "no reason was given";

/// Writes why a referral is cancelled.
pub fn cancellation_to_proto(
    code: CancelCode,
    text: Option<&Personal<String>>,
) -> v1::Cancellation {
    let reason = match code {
        CancelCode::NoLongerNeeded => v1::CancelReason::NoLongerNeeded,
        CancelCode::EnteredInError => v1::CancelReason::EnteredInError,
        CancelCode::Moved => v1::CancelReason::MovedAway,
        CancelCode::FamilyRequest => v1::CancelReason::FamilyDeclined,
        CancelCode::Duplicate => v1::CancelReason::Duplicate,
        CancelCode::Other | CancelCode::CancelledBySender => v1::CancelReason::Other,
    };
    let wordless = match reason {
        v1::CancelReason::EnteredInError | v1::CancelReason::Other => NO_REASON,
        _ => "",
    };
    v1::Cancellation {
        reason: reason.into(),
        text: text.map_or_else(|| wordless.to_owned(), |t| t.expose().clone()),
    }
}

/// Writes what was withdrawn.
pub fn withdrawal_to_proto(withdrawal: &Withdrawal) -> v1::ConsentWithdrawal {
    let scopes = if withdrawal.is_whole() {
        Vec::new()
    } else {
        let scopes = withdrawal.scopes.iter();
        scopes
            .map(|scope| consent_scope_to_proto(*scope).into())
            .collect()
    };
    v1::ConsentWithdrawal {
        scopes,
        withdrawn_by: withdrawal.by.expose().clone(),
        role: giver_to_proto(withdrawal.role).into(),
        date: withdrawal.date.to_string(),
        evidence: withdrawal
            .evidence
            .as_ref()
            .map(|text| text.expose().clone())
            .unwrap_or_default(),
    }
}
