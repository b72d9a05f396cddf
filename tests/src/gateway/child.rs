//! Made-up children, each with names and numbers that no other has, and referrals of them as the contract's JSON.

use serde_json::{Value, json};

/// A made-up child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child(pub u32);

/// A number of the test range with a good check digit; different numbers give different ones.
///
/// # Panics
/// Never: of three numbers in a row one has a check digit.
pub fn nhs_number(number: u32) -> String {
    let good = (0..3).find_map(|nudge| {
        let nine = 999_000_000 + u64::from(number) * 3 + nudge;
        let digits: Vec<u64> = nine
            .to_string()
            .bytes()
            .map(|b| u64::from(b - b'0'))
            .collect();
        let sum: u64 = digits
            .iter()
            .zip((2..=10).rev())
            .map(|(digit, weight)| digit * weight)
            .sum();
        match 11 - sum % 11 {
            10 => None,
            11 => Some(format!("{nine}0")),
            check => Some(format!("{nine}{check}")),
        }
    });
    good.expect("of three numbers in a row one has a check digit")
}

/// The letters of a UPN, by value.
const UPN_LETTERS: &str = "ABCDEFGHJKLMNPQRTUVWXYZ";

/// A UPN of one school; `temporary` ends it in a letter.
pub fn upn(number: u32, temporary: Option<char>) -> String {
    let tail = match temporary {
        None => format!("882{:04}21{:03}", 2000 + number / 1000, number % 1000),
        Some(letter) => format!("882{:04}21{:02}{letter}", 2000 + number / 100, number % 100),
    };
    let value = |c: char| {
        let letter = UPN_LETTERS
            .chars()
            .zip(0u32..)
            .find(|(l, _)| *l == c)
            .map(|(_, at)| at);
        letter.or_else(|| c.to_digit(10)).unwrap_or_default()
    };
    let sum: u32 = tail
        .chars()
        .zip(2..)
        .map(|(c, position)| value(c) * position)
        .sum();
    let check = UPN_LETTERS
        .chars()
        .nth(usize::try_from(sum % 23).unwrap_or_default())
        .unwrap_or('A');
    format!("{check}{tail}")
}

impl Child {
    /// The NHS number.
    pub fn nhs(self) -> String {
        nhs_number(self.0)
    }

    /// The UPN.
    pub fn upn(self) -> String {
        upn(self.0, None)
    }

    /// The family name.
    pub fn family(self) -> String {
        format!("Quillfeather{}", letters(self.0))
    }

    /// The given name.
    pub fn given(self) -> String {
        format!("Zephyrine{}", letters(self.0))
    }

    /// The family name of the parent.
    pub fn parent(self) -> String {
        format!("Okonkwode{}", letters(self.0))
    }

    /// Every word and number that nobody but the parties may read.
    pub fn secrets(self) -> Vec<String> {
        vec![
            self.nhs(),
            self.upn(),
            self.family(),
            self.given(),
            self.parent(),
        ]
    }

    /// A referral by the school, complete enough for every destination, whose consent covers everybody.
    pub fn referral(self, pathway: &str) -> Value {
        json!({
            "child": {
                "name": { "family": self.family(), "given": self.given() },
                "dateOfBirth": "2016-03-14",
                "sex": "SEX_FEMALE",
                "nhsNumber": self.nhs(),
                "nhsNumberVerification": "NHS_NUMBER_VERIFICATION_PRESENT_AND_VERIFIED",
                "upn": self.upn(),
                "address": { "lines": ["4 Larkspur Row"], "postcode": "SS1 1AA" },
            },
            "contacts": [{
                "name": { "family": self.parent(), "given": "Marisol" },
                "role": "CONTACT_ROLE_PARENT",
                "parentalResponsibility": "ANSWER_YES",
                "phone": "01632 960001",
                "safeToContact": "CONTACT_SAFETY_SAFE",
            }],
            "referrer": { "name": { "family": "Adeyemi", "given": "Ruth" }, "role": "SENCO" },
            "needs": [{ "type": "NEED_TYPE_SEMH", "rank": 1 }],
            "setting": { "urn": "123456", "name": "Hillside", "kind": "SETTING_KIND_PRIMARY", "yearGroup": "4" },
            "pathway": pathway,
            "priority": "PRIORITY_ROUTINE",
            "reason": { "code": "REQ", "text": format!("{} finds lessons hard to follow", self.given()) },
            "consent": {
                "givenBy": format!("Marisol {}", self.parent()),
                "role": "CONSENT_GIVER_ROLE_PARENT_WITH_PR",
                "scopes": [
                    "CONSENT_SCOPE_REFERRAL", "CONSENT_SCOPE_SHARE_HEALTH", "CONSENT_SCOPE_SHARE_EDUCATION",
                    "CONSENT_SCOPE_SHARE_SOCIAL_CARE"
                ],
                "date": "2026-01-12",
                "status": "CONSENT_STATUS_GIVEN",
            },
            "lawfulBasis": "LAWFUL_BASIS_PUBLIC_TASK",
            "narrative": format!("{} {} enjoys drawing.", self.given(), self.family()),
        })
    }
}

/// A number in letters, so that a name holds no digit.
fn letters(number: u32) -> String {
    number
        .to_string()
        .bytes()
        .map(|b| char::from(b - b'0' + b'a'))
        .collect()
}

#[cfg(test)]
mod tests {
    use waymark_core::identifier::{NhsNumber, Upn};

    use super::*;

    #[test]
    fn made_up_numbers_pass_their_checks_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..500 {
            assert!(NhsNumber::parse(&nhs_number(number)).is_ok(), "{number}");
            assert!(!Upn::parse(&upn(number, None)).unwrap().is_temporary());
            assert!(Upn::parse(&upn(number, Some('A'))).unwrap().is_temporary());
            assert!(seen.insert(nhs_number(number)) && seen.insert(upn(number, None)));
        }
    }
}
