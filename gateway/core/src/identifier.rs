//! National identifiers of children and places, checked at the edge and stored normalised (DOMAIN.md 1.2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it claims to be. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// The NHS number does not have ten digits.
    #[error("an NHS number has 10 digits; spaces and hyphens are ignored")]
    NhsLength,
    /// The NHS number's last digit does not agree with the other nine.
    #[error("the NHS number fails its check digit (modulus 11): compare it with the source record")]
    NhsCheckDigit,
    /// The UPN does not have the shape of one.
    #[error("a UPN is a check letter and 12 digits, or 11 digits and a letter when temporary")]
    UpnShape,
    /// The UPN's first letter does not agree with the rest.
    #[error("the UPN fails its check letter (modulus 23): compare it with the school's register")]
    UpnCheckLetter,
    /// The school URN is not six digits.
    #[error("a school URN has 6 digits")]
    Urn,
    /// The ODS code is not one to nine letters or digits.
    #[error("an ODS code has 1 to 9 letters or digits")]
    Ods,
    /// The ULN does not have ten digits or fails its check digit.
    #[error("a ULN has 10 digits")]
    Uln,
}

macro_rules! text_identifier {
    ($(#[$doc:meta])* $name:ident, $parse:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Reads the identifier, normalising what may vary.
            pub fn parse(text: &str) -> Result<Self, IdentifierError> { $parse(text).map(Self) }
            /// The normalised text, for code that stores it or writes it to a wire.
            pub fn expose(&self) -> &str { &self.0 }
        }
        impl TryFrom<String> for $name {
            type Error = IdentifierError;
            fn try_from(text: String) -> Result<Self, IdentifierError> { Self::parse(&text) }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.0 }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([personal])"))
            }
        }
    };
}

text_identifier!(
    /// An NHS number, ten digits with a modulus-11 check digit (NHS Data Dictionary, NHS NUMBER).
    NhsNumber, parse_nhs
);
text_identifier!(
    /// A unique pupil number: check letter, LA, establishment, year and serial; temporary ones end in a letter.
    Upn, parse_upn
);
text_identifier!(
    /// A unique learner number, ten digits, from age 14.
    Uln, parse_uln
);
text_identifier!(
    /// A school's unique reference number, six digits.
    Urn, parse_urn
);
text_identifier!(
    /// An ODS code, one to nine letters or digits.
    OdsCode, parse_ods
);

impl Upn {
    /// Whether the school minted it as temporary: such a number is replaced later and must not match a child alone.
    pub fn is_temporary(&self) -> bool {
        self.0
            .bytes()
            .last()
            .is_some_and(|b| b.is_ascii_alphabetic())
    }
}

fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| *b != b' ' && *b != b'-').collect()
}

fn parse_nhs(text: &str) -> Result<String, IdentifierError> {
    let bytes = digits(text);
    if bytes.len() != 10 || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(IdentifierError::NhsLength);
    }
    let first = bytes.first().copied();
    let all_same = bytes.iter().all(|b| Some(*b) == first);
    let sum: u32 = bytes
        .iter()
        .take(9)
        .zip((2..=10).rev())
        .map(|(b, weight)| u32::from(b - b'0') * weight)
        .sum();
    let expected = match 11 - sum % 11 {
        11 => 0,
        10 => return Err(IdentifierError::NhsCheckDigit),
        d => d,
    };
    let last = bytes.last().map_or(0, |b| u32::from(b - b'0'));
    if all_same || last != expected {
        return Err(IdentifierError::NhsCheckDigit);
    }
    String::from_utf8(bytes).map_err(|_| IdentifierError::NhsLength)
}

/// The 23 letters of a UPN, by value: no I, O or S.
const UPN_LETTERS: &[u8; 23] = b"ABCDEFGHJKLMNPQRTUVWXYZ";

fn parse_upn(text: &str) -> Result<String, IdentifierError> {
    let upper = text.trim().to_ascii_uppercase();
    let bytes = upper.as_bytes();
    let (Some(check), Some(middle), Some(last), 13) =
        (bytes.first(), bytes.get(1..12), bytes.get(12), bytes.len())
    else {
        return Err(IdentifierError::UpnShape);
    };
    let shape = UPN_LETTERS.contains(check)
        && middle.iter().all(u8::is_ascii_digit)
        && (last.is_ascii_digit() || UPN_LETTERS.contains(last));
    if !shape {
        return Err(IdentifierError::UpnShape);
    }
    let value = |b: u8| match UPN_LETTERS.iter().position(|l| *l == b) {
        Some(at) => at,
        None => usize::from(b - b'0'),
    };
    let sum: usize = bytes
        .iter()
        .skip(1)
        .zip(2..)
        .map(|(b, position)| value(*b) * position)
        .sum();
    if UPN_LETTERS.get(sum % 23) == Some(check) {
        Ok(upper)
    } else {
        Err(IdentifierError::UpnCheckLetter)
    }
}

fn parse_uln(text: &str) -> Result<String, IdentifierError> {
    let bytes = digits(text);
    if bytes.len() != 10 || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(IdentifierError::Uln);
    }
    String::from_utf8(bytes).map_err(|_| IdentifierError::Uln)
}

fn parse_urn(text: &str) -> Result<String, IdentifierError> {
    let t = text.trim();
    if t.len() == 6 && t.bytes().all(|b| b.is_ascii_digit()) {
        Ok(t.to_owned())
    } else {
        Err(IdentifierError::Urn)
    }
}

fn parse_ods(text: &str) -> Result<String, IdentifierError> {
    let t = text.trim().to_ascii_uppercase();
    if (1..=9).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(t)
    } else {
        Err(IdentifierError::Ods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_nhs_numbers_pass_and_fail_as_documented() {
        for good in [
            "9434765870",
            "943 476 5919",
            "947-673-1931",
            "9912003888",
            "9990000018",
            "9990000026",
            "9990000042",
        ] {
            assert!(NhsNumber::parse(good).is_ok(), "{good}");
        }
        // 4857773456 is the booking and referral standard's own example.
        for bad in ["9434765871", "4857773456"] {
            assert_eq!(
                NhsNumber::parse(bad),
                Err(IdentifierError::NhsCheckDigit),
                "{bad}"
            );
        }
        for bad in ["0000000000", "1111111111"] {
            assert_eq!(
                NhsNumber::parse(bad),
                Err(IdentifierError::NhsCheckDigit),
                "{bad}"
            );
        }
        for bad in ["", "943476587", "94347658700", "943476587O", "943.476.5870"] {
            assert_eq!(
                NhsNumber::parse(bad),
                Err(IdentifierError::NhsLength),
                "{bad}"
            );
        }
        for prefix in ["123456789", "999000000"] {
            assert!(
                (0..10).all(|d| NhsNumber::parse(&format!("{prefix}{d}")).is_err()),
                "{prefix}"
            );
        }
    }

    #[test]
    fn published_upns_pass_and_fail_as_documented() {
        for good in [
            "B801200005001",
            "H882200021001",
            "H882400021002",
            "L882200021003",
            "g88220002101a",
        ] {
            assert!(Upn::parse(good).is_ok(), "{good}");
        }
        assert!(Upn::parse("G88220002101A").unwrap().is_temporary());
        assert!(!Upn::parse("B801200005001").unwrap().is_temporary());
        assert_eq!(
            Upn::parse("A801200005001"),
            Err(IdentifierError::UpnCheckLetter)
        );
        assert_eq!(Upn::parse("I801200005001"), Err(IdentifierError::UpnShape));
        assert_eq!(Upn::parse("B80120000500"), Err(IdentifierError::UpnShape));
        assert_eq!(Upn::parse("B8012000050é"), Err(IdentifierError::UpnShape));
    }

    #[test]
    fn place_codes_hold_their_shape() {
        assert_eq!(Urn::parse(" 123456 ").unwrap().expose(), "123456");
        assert!(Urn::parse("12345").is_err());
        assert_eq!(OdsCode::parse("r1l").unwrap().expose(), "R1L");
        assert!(OdsCode::parse("ABCDEFGHIJ").is_err());
        assert!(OdsCode::parse("").is_err());
    }

    #[test]
    fn debug_hides_the_number() {
        assert_eq!(
            format!("{:?}", NhsNumber::parse("9434765870").unwrap()),
            "NhsNumber([personal])"
        );
    }

    proptest! {
        #[test]
        fn one_wrong_digit_is_always_caught(n in 0u64..1_000_000_000, at in 0usize..10, by in 1u8..10) {
            let stem = format!("{n:09}");
            if let Some(whole) = (0..10).map(|d| format!("{stem}{d}")).find(|t| NhsNumber::parse(t).is_ok()) {
                let mut bytes = whole.into_bytes();
                bytes[at] = b'0' + (bytes[at] - b'0' + by) % 10;
                prop_assert!(NhsNumber::parse(&String::from_utf8(bytes).unwrap()).is_err());
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let results = (NhsNumber::parse(&text).is_ok(), Upn::parse(&text).is_ok(), Urn::parse(&text).is_ok(), OdsCode::parse(&text).is_ok());
            prop_assert!(!(results.0 && results.1));
        }
    }
}
