//! The domain's values as messages of the contract `waymark.v1`, and back: the one place where they meet.
//!
//! Reading is strict: a number that a vocabulary does not know is refused by name, never guessed. What the
//! canonical form (or the contract) has no field for is set down in words in `narrative`, so that nothing
//! is dropped on the way. Paths in violations are the contract's own, relative to the message read.

use jiff::civil::Date;
use waymark_core::error::Violation;
use waymark_core::referral::SenderReference;
use waymark_core::time::Timestamp;

mod code;
mod inward;
mod outward;
mod reading;
mod states;
mod stop;

pub use code::{
    consent_scope_from_proto, consent_scope_to_proto, giver_from_proto, giver_to_proto,
};
pub use inward::referral_from_proto;
pub use outward::referral_to_proto;
pub use states::{
    delivery_state_from_proto, delivery_state_to_proto, evidence_from_proto, evidence_to_proto,
    fault_from_proto, fault_to_proto, kind_from_proto, kind_to_proto, leg_state_from_proto,
    leg_state_to_proto, notice_to_proto,
};
pub use stop::{cancellation_to_proto, withdrawal_to_proto};

/// The code that stands where a sender gave words and no code.
pub const UNCODED: &str = "uncoded";
/// What the system of an external id begins with when it names the child and not the referral.
pub const CHILD_ID_SYSTEM: &str = "urn:waymark:child-id:";
/// The code system of reasonable adjustments, whose codes travel without naming it.
pub const ADJUSTMENT_SYSTEM: &str = "https://fhir.nhs.uk/CodeSystem/flag-categories-bars";
/// The most violations that one answer lists.
pub const VIOLATIONS_MAX: usize = 100;

const NANOS_PER_MS: i64 = 1_000_000;
const SECOND_MS: i64 = 1_000;

/// Writes an instant.
pub fn timestamp_to_proto(at: Timestamp) -> pbjson_types::Timestamp {
    let nanos = at.as_ms().rem_euclid(SECOND_MS) * NANOS_PER_MS;
    pbjson_types::Timestamp {
        seconds: at.as_ms().div_euclid(SECOND_MS),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// Reads an instant, kept to the millisecond.
///
/// # Errors
/// The violation of `field` when it is outside what a timestamp may hold.
pub fn timestamp_from_proto(
    field: &str,
    at: &pbjson_types::Timestamp,
) -> Result<Timestamp, Violation> {
    let wrong = || Violation::new(field, "is not an instant between years 1 and 9999");
    let nanos = i64::from(at.nanos);
    if !(0..1_000 * NANOS_PER_MS).contains(&nanos) {
        return Err(wrong());
    }
    let ms = at
        .seconds
        .checked_mul(SECOND_MS)
        .and_then(|ms| ms.checked_add(nanos / NANOS_PER_MS));
    ms.filter(|ms| jiff::Timestamp::from_millisecond(*ms).is_ok())
        .map(Timestamp::from_ms)
        .ok_or_else(wrong)
}

/// Reads a day in the one form `YYYY-MM-DD`.
///
/// # Errors
/// The violation of `field` when it is no such day.
pub fn date_from_proto(field: &str, text: &str) -> Result<Date, Violation> {
    let day: Option<Date> = text.parse().ok();
    day.filter(|day| day.to_string() == text)
        .ok_or_else(|| Violation::new(field, "is not a date: write YYYY-MM-DD"))
}

/// Writes a sender's reference as one text, `value^namespace` (the content of RF1-6).
pub fn sender_reference_to_proto(reference: &SenderReference) -> String {
    if reference.namespace.is_empty() {
        reference.value.clone()
    } else {
        format!("{}^{}", reference.value, reference.namespace)
    }
}

/// Reads a sender's reference; an empty text is none.
pub fn sender_reference_from_proto(text: &str) -> Option<SenderReference> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let (value, namespace) = text.split_once('^').unwrap_or((text, ""));
    Some(SenderReference {
        value: value.to_owned(),
        namespace: namespace.to_owned(),
    })
}

#[cfg(test)]
mod tests;
