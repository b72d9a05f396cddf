//! What stops a referral, as its receivers are told.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::Violation;
use crate::personal::Personal;
use crate::referral::{ConsentGiver, ConsentScope, limits};

/// Characters that say where the evidence of a withdrawal is.
const EVIDENCE_MAX: usize = 1_000;

/// Why a sender cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelCode {
    /// No longer needed.
    NoLongerNeeded,
    /// Entered in error.
    EnteredInError,
    /// The child moved away.
    Moved,
    /// The family asked.
    FamilyRequest,
    /// The same need was referred before.
    Duplicate,
    /// Anything else, in words.
    Other,
    /// The sender's protocol says no more than that it cancels.
    CancelledBySender,
}

impl CancelCode {
    /// The code as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoLongerNeeded => "no_longer_needed",
            Self::EnteredInError => "entered_in_error",
            Self::Moved => "moved",
            Self::FamilyRequest => "family_request",
            Self::Duplicate => "duplicate",
            Self::Other => "other",
            Self::CancelledBySender => "cancelled_by_sender",
        }
    }
}

/// A withdrawal of consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// What is withdrawn; [`ConsentScope::Referral`] is everything, and so is nothing named.
    pub scopes: BTreeSet<ConsentScope>,
    /// Who withdrew it.
    pub by: Personal<String>,
    /// In what capacity.
    pub role: ConsentGiver,
    /// On which day.
    pub date: Date,
    /// Where the evidence is.
    pub evidence: Option<Personal<String>>,
}

impl Withdrawal {
    /// What is wrong with it, by field.
    pub fn violations(&self, today: Date) -> Vec<Violation> {
        let by = self.by.expose().trim().chars().count();
        let evidence = self.evidence.as_ref().map(Personal::expose);
        let evidence = evidence.map_or(0, |text| text.chars().count());
        [
            (
                (1..=limits::SHORT_TEXT_MAX).contains(&by),
                "withdrawal.by",
                "names who withdrew it, in at most 200 characters",
            ),
            (
                self.date <= today,
                "withdrawal.date",
                "is in the future: correct the date",
            ),
            (
                evidence <= EVIDENCE_MAX,
                "withdrawal.evidence",
                "has at most 1000 characters",
            ),
        ]
        .into_iter()
        .filter(|(holds, _, _)| !holds)
        .map(|(_, field, why)| Violation::new(field, why))
        .collect()
    }

    /// The scopes that no longer stand.
    pub fn withdrawn(&self) -> BTreeSet<ConsentScope> {
        if self.scopes.is_empty() {
            BTreeSet::from([ConsentScope::Referral])
        } else {
            self.scopes.clone()
        }
    }

    /// Whether nothing is left of the consent, so that the referral stops.
    pub fn is_whole(&self) -> bool {
        self.withdrawn().contains(&ConsentScope::Referral)
    }
}

/// Why a referral stops, as the notice to a receiver carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopNotice {
    /// Its sender cancelled it.
    Cancelled {
        /// Why.
        code: CancelCode,
        /// In words.
        text: Option<Personal<String>>,
    },
    /// Consent was withdrawn.
    Withdrawn(Withdrawal),
}

impl StopNotice {
    /// What a receiver reads, where its protocol carries words alone.
    pub fn words(&self) -> Option<Personal<String>> {
        match self {
            Self::Cancelled {
                code: CancelCode::Duplicate,
                text,
            } => {
                let mut words = "the same need was referred before".to_owned();
                if let Some(text) = text {
                    words.push_str(": ");
                    words.push_str(text.expose());
                }
                Some(Personal::new(words))
            }
            Self::Cancelled { text, .. } => text.clone(),
            Self::Withdrawn(withdrawal) => Some(Personal::new(withdrawal_words(withdrawal))),
        }
    }
}

fn withdrawal_words(said: &Withdrawal) -> String {
    let scopes: Vec<&str> = said.scopes.iter().map(|scope| scope.as_str()).collect();
    let part = if said.is_whole() {
        String::new()
    } else {
        format!(" for {}", scopes.join(", "))
    };
    let evidence = said
        .evidence
        .as_ref()
        .map_or_else(String::new, |text| format!("; evidence: {}", text.expose()));
    format!(
        "consent withdrawn{part} by {} ({}) on {}{evidence}",
        said.by.expose(),
        said.role,
        said.date
    )
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn withdrawal(scopes: &[ConsentScope]) -> Withdrawal {
        Withdrawal {
            scopes: scopes.iter().copied().collect(),
            by: "Marisol".into(),
            role: ConsentGiver::Parent,
            date: date(2026, 2, 1),
            evidence: Some("by telephone".into()),
        }
    }

    #[test]
    fn nothing_named_and_the_referral_itself_are_everything() {
        assert!(withdrawal(&[]).is_whole());
        assert!(withdrawal(&[ConsentScope::Referral, ConsentScope::ShareHealth]).is_whole());
        assert!(!withdrawal(&[ConsentScope::ShareHealth]).is_whole());
    }

    #[test]
    fn a_receiver_reads_what_is_withdrawn_by_whom_and_when() {
        let words = |scopes: &[ConsentScope]| {
            StopNotice::Withdrawn(withdrawal(scopes))
                .words()
                .unwrap()
                .into_inner()
        };
        assert_eq!(
            words(&[]),
            "consent withdrawn by Marisol (parent_with_pr) on 2026-02-01; evidence: by telephone"
        );
        assert!(
            words(&[ConsentScope::ShareHealth])
                .starts_with("consent withdrawn for share_health by")
        );
    }

    #[test]
    fn a_notice_reads_back_as_it_was_written_and_shows_nobody() {
        for notice in [
            StopNotice::Withdrawn(withdrawal(&[ConsentScope::ShareHealth])),
            StopNotice::Cancelled {
                code: CancelCode::EnteredInError,
                text: Some("the wrong child".into()),
            },
        ] {
            let bytes = serde_json::to_vec(&notice).unwrap();
            assert_eq!(
                serde_json::from_slice::<StopNotice>(&bytes).unwrap(),
                notice
            );
            let shown = format!("{notice:?}");
            assert!(!shown.contains("Marisol") && !shown.contains("wrong child"));
        }
    }

    #[test]
    fn a_withdrawal_names_somebody_and_a_day_that_has_come() {
        let today = date(2026, 3, 2);
        let good = Withdrawal {
            scopes: BTreeSet::new(),
            by: "Marisol".into(),
            role: ConsentGiver::Parent,
            date: today,
            evidence: Some("x".repeat(EVIDENCE_MAX).into()),
        };
        assert_eq!(good.violations(today), []);
        let bad = Withdrawal {
            by: " ".into(),
            date: date(2026, 3, 3),
            evidence: Some("x".repeat(EVIDENCE_MAX + 1).into()),
            ..good
        };
        let fields: Vec<String> = bad.violations(today).into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            ["withdrawal.by", "withdrawal.date", "withdrawal.evidence"]
        );
    }
}
