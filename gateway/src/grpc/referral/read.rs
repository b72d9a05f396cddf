//! What requests say, as the domain's values.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::Date;
use waymark_adapters::grpc::convert::{
    consent_scope_from_proto, date_from_proto, giver_from_proto, leg_state_from_proto,
    sender_reference_from_proto, timestamp_from_proto,
};
use waymark_core::error::Violation;
use waymark_core::id::{AgencyId, LegId, ServiceId};
use waymark_core::identifier::{NhsNumber, Upn};
use waymark_core::leg::LegState;
use waymark_core::personal::Personal;
use waymark_core::port::{CancelCode, Withdrawal};
use waymark_core::referral::Referral;
use waymark_core::time::Timestamp;
use waymark_proto::v1;
use waymark_proto::v1::referral_key::Key as Named;

use super::super::status::field;
use crate::service::{Key, ServiceError, StatusUpdate};

/// Characters in a note or a reason in words.
const WORDS_MAX: usize = 2_000;
/// Characters in words for the family.
const TEXT_MAX: usize = 4_000;
/// Characters in the evidence of a withdrawal, and in a next action.
const EVIDENCE_MAX: usize = 1_000;
/// Characters in a name.
const NAME_MAX: usize = 200;
/// Characters in a receiver's reference.
const REFERENCE_MAX: usize = 80;
/// Characters in a role.
const ROLE_MAX: usize = 100;
/// Legs that one amendment may name.
const ANSWERS_MAX: usize = 16;
/// How far a source's clock may be ahead.
const AHEAD_MAX: Duration = Duration::from_mins(5);

fn one(violation: Violation) -> ServiceError {
    ServiceError::invalid(vec![violation])
}

/// An id or code, where there is one.
pub(in super::super) fn parsed<T: FromStr>(
    name: &str,
    text: &str,
) -> Result<Option<T>, ServiceError>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|why: T::Err| field(name, why.to_string()))
}

/// An id or code that must be there.
pub(in super::super) fn required<T: FromStr>(name: &str, text: &str) -> Result<T, ServiceError>
where
    T::Err: std::fmt::Display,
{
    parsed(name, text)?.ok_or_else(|| field(name, "is required"))
}

/// A service's id.
pub(in super::super) fn service_id(name: &str, text: &str) -> Result<ServiceId, ServiceError> {
    required(name, text)
}

/// An agency's id.
pub(in super::super) fn agency_id(name: &str, text: &str) -> Result<AgencyId, ServiceError> {
    required(name, text)
}

/// Text within its limit, trimmed.
pub(super) fn text(name: &str, text: &str, max: usize) -> Result<String, ServiceError> {
    let text = text.trim();
    if text.chars().count() > max {
        return Err(field(name, format!("at most {max} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(field(
            name,
            "control characters are not allowed: remove them",
        ));
    }
    Ok(text.to_owned())
}

/// Which referral is meant.
pub(in super::super) fn key(name: &str, key: Option<v1::ReferralKey>) -> Result<Key, ServiceError> {
    let named = key
        .and_then(|key| key.key)
        .ok_or_else(|| field(name, "is required: say which referral"))?;
    match named {
        Named::ReferralId(id) => required(&format!("{name}.referral_id"), &id).map(Key::Id),
        Named::Reference(reference) => {
            required(&format!("{name}.reference"), reference.trim()).map(Key::Reference)
        }
        Named::SenderReference(reference) => {
            let name = format!("{name}.sender_reference");
            let reference = text(&name, &reference, REFERENCE_MAX)?;
            sender_reference_from_proto(&reference)
                .map(Key::SenderReference)
                .ok_or_else(|| field(name, "is empty"))
        }
    }
}

/// Why content is read, as the log names it.
pub(in super::super) fn purpose(name: &str, purpose: i32) -> Result<&'static str, ServiceError> {
    match v1::AccessPurpose::try_from(purpose) {
        Ok(v1::AccessPurpose::DirectCare) => Ok("DIRECT_CARE"),
        Ok(v1::AccessPurpose::Safeguarding) => Ok("SAFEGUARDING"),
        Ok(v1::AccessPurpose::Operations) => Ok("OPERATIONS"),
        Ok(v1::AccessPurpose::Audit) => Ok("AUDIT"),
        Ok(v1::AccessPurpose::Unspecified) => {
            Err(field(name, "is required: say why the content is read"))
        }
        Err(_) => Err(field(
            name,
            format!("{purpose} is not a value this release knows"),
        )),
    }
}

/// An instant, where there is one.
pub(super) fn instant(
    name: &str,
    at: Option<&pbjson_types::Timestamp>,
) -> Result<Option<Timestamp>, ServiceError> {
    at.map(|at| timestamp_from_proto(name, at))
        .transpose()
        .map_err(one)
}

/// What a child is looked up by.
pub(super) type ChildKey = (Option<NhsNumber>, Option<(Upn, Date)>);

/// Reads what a child is looked up by: a verified NHS number, else a UPN with the date of birth.
pub(super) fn child(child: Option<&v1::ChildIdentifier>) -> Result<ChildKey, ServiceError> {
    let Some(child) = child else {
        return Ok((None, None));
    };
    if !child.nhs_number.is_empty() {
        let verified = i32::from(v1::NhsNumberVerification::PresentAndVerified);
        if child.nhs_number_verification != verified {
            let why = "must be PRESENT_AND_VERIFIED: a number that was not traced finds no child";
            return Err(field("child.nhs_number_verification", why));
        }
        let number = NhsNumber::parse(&child.nhs_number)
            .map_err(|e| field("child.nhs_number", e.to_string()))?;
        return Ok((Some(number), None));
    }
    if child.upn.is_empty() {
        return Err(field(
            "child",
            "needs a verified NHS number, or a UPN and the date of birth",
        ));
    }
    let upn = Upn::parse(&child.upn).map_err(|e| field("child.upn", e.to_string()))?;
    let birth = date_from_proto("child.date_of_birth", &child.date_of_birth).map_err(one)?;
    Ok((None, Some((upn, birth))))
}

/// Adds an amendment's note to what the receiver reads.
pub(super) fn add_note(
    referral: &mut Referral,
    name: &str,
    note: &str,
) -> Result<(), ServiceError> {
    let note = text(name, note, WORDS_MAX)?;
    if !note.is_empty() {
        let before = referral
            .narrative
            .take()
            .map(Personal::into_inner)
            .filter(|text| !text.is_empty());
        let said = format!("About this amendment: {note}");
        referral.narrative = Some(Personal::new(
            before.map_or(said.clone(), |text| format!("{text}\n\n{said}")),
        ));
    }
    Ok(())
}

/// Why a referral is cancelled.
pub(super) fn cancellation(
    cancellation: Option<v1::Cancellation>,
) -> Result<(CancelCode, Option<Personal<String>>), ServiceError> {
    let Some(cancellation) = cancellation else {
        return Err(field("cancellation", "is required"));
    };
    let words = text("cancellation.text", &cancellation.text, WORDS_MAX)?;
    let (code, needs_words) = match v1::CancelReason::try_from(cancellation.reason) {
        Ok(v1::CancelReason::NoLongerNeeded) => (CancelCode::NoLongerNeeded, false),
        Ok(v1::CancelReason::FamilyDeclined) => (CancelCode::FamilyRequest, false),
        Ok(v1::CancelReason::MovedAway) => (CancelCode::Moved, false),
        Ok(v1::CancelReason::Duplicate) => (CancelCode::Duplicate, false),
        Ok(v1::CancelReason::EnteredInError) => (CancelCode::EnteredInError, true),
        Ok(v1::CancelReason::Other) => (CancelCode::Other, true),
        Ok(v1::CancelReason::Unspecified) => {
            return Err(field("cancellation.reason", "is required"));
        }
        Err(_) => {
            let why = format!("{} is not a value this release knows", cancellation.reason);
            return Err(field("cancellation.reason", why));
        }
    };
    if words.is_empty() && needs_words {
        return Err(field("cancellation.text", "is required with this reason"));
    }
    Ok((code, (!words.is_empty()).then(|| Personal::new(words))))
}

/// A withdrawal of consent.
pub(super) fn withdrawal(
    withdrawal: Option<v1::ConsentWithdrawal>,
    today: Date,
) -> Result<Withdrawal, ServiceError> {
    let Some(said) = withdrawal else {
        return Err(field("withdrawal", "is required"));
    };
    let mut scopes = BTreeSet::new();
    for (scope, at) in said.scopes.iter().zip(0..) {
        let name = format!("withdrawal.scopes[{at}]");
        if !scopes.insert(consent_scope_from_proto(&name, *scope).map_err(one)?) {
            return Err(field(name, "stands twice"));
        }
    }
    let by = text("withdrawal.withdrawn_by", &said.withdrawn_by, NAME_MAX)?;
    if by.is_empty() {
        return Err(field("withdrawal.withdrawn_by", "is required"));
    }
    let role = giver_from_proto("withdrawal.role", said.role).map_err(one)?;
    let date = date_from_proto("withdrawal.date", &said.date).map_err(one)?;
    if date > today {
        return Err(field(
            "withdrawal.date",
            "is in the future: correct the date",
        ));
    }
    let evidence = text("withdrawal.evidence", &said.evidence, EVIDENCE_MAX)?;
    Ok(Withdrawal {
        scopes,
        by: Personal::new(by),
        role,
        date,
        evidence: (!evidence.is_empty()).then(|| Personal::new(evidence)),
    })
}

/// The legs that an amendment answers.
pub(super) fn answers(ids: &[String]) -> Result<BTreeSet<LegId>, ServiceError> {
    if ids.len() > ANSWERS_MAX {
        return Err(field("answers_leg_ids", format!("at most {ANSWERS_MAX}")));
    }
    let named = ids.iter().zip(0..);
    named
        .map(|(id, at)| required(&format!("answers_leg_ids[{at}]"), id))
        .collect()
}

/// A status of a leg.
pub(super) fn status_update(
    ask: v1::UpdateStatusRequest,
    now: Timestamp,
) -> Result<StatusUpdate, ServiceError> {
    let Some(change) = ask.change else {
        return Err(field("change", "is required"));
    };
    let state = leg_state_from_proto("change.state", change.state).map_err(one)?;
    let reason_code = text("change.reason_code", &change.reason_code, 64)?;
    let needs_reason = [
        LegState::Declined,
        LegState::Redirected,
        LegState::OnHold,
        LegState::EnteredInError,
    ]
    .contains(&state);
    if needs_reason && reason_code.is_empty() {
        return Err(field(
            "change.reason_code",
            format!("is required for {state}"),
        ));
    }
    if change.source_version == 0 {
        return Err(field(
            "change.source_version",
            "is 1 or more, and rises with each change that you report",
        ));
    }
    let at = instant("change.occurred_at", change.occurred_at.as_ref())?;
    if at.is_some_and(|at| at > now.plus(AHEAD_MAX)) {
        return Err(field(
            "change.occurred_at",
            "is more than 5 minutes in the future: set the clock",
        ));
    }
    let owner_role = text("change.owner_role", &change.owner_role, ROLE_MAX)?;
    let receiver_reference = text(
        "change.receiver_reference",
        &change.receiver_reference,
        REFERENCE_MAX,
    )?;
    Ok(StatusUpdate {
        key: key("key", ask.key)?,
        leg: parsed("leg_id", &ask.leg_id)?,
        source_version: change.source_version,
        state,
        reason_code: (!reason_code.is_empty()).then_some(reason_code),
        text: words(&change)?,
        due: match change.due.as_str() {
            "" => None,
            day => Some(date_from_proto("change.due", day).map_err(one)?),
        },
        at,
        receiver_reference: (!receiver_reference.is_empty()).then_some(receiver_reference),
        owner_role: (!owner_role.is_empty()).then_some(owner_role),
        traceparent: None,
    })
}

/// The words of a status: what the family is told, and what happens next, by when.
fn words(change: &v1::StatusChange) -> Result<Option<Personal<String>>, ServiceError> {
    let mut words = text("change.text_for_family", &change.text_for_family, TEXT_MAX)?;
    let next = text("change.next_action", &change.next_action, EVIDENCE_MAX)?;
    match (next.is_empty(), change.due.is_empty()) {
        (true, true) => {}
        (true, false) => {
            return Err(field(
                "change.next_action",
                "is required with a day by which",
            ));
        }
        (false, true) => return Err(field("change.due", "is required with a next action")),
        (false, false) => {
            let due = date_from_proto("change.due", &change.due).map_err(one)?;
            if !words.is_empty() {
                words.push_str("\n\n");
            }
            words.push_str("Next: ");
            words.push_str(&next);
            words.push_str(", by ");
            words.push_str(&due.to_string());
        }
    }
    Ok((!words.is_empty()).then(|| Personal::new(words)))
}

#[cfg(test)]
mod tests;
