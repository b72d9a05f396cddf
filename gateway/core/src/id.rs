//! Every id type, from two short lists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An id that does not have the shape of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: {rule}")]
pub struct IdError {
    /// The type asked for.
    pub kind: &'static str,
    /// The rule that the text broke.
    pub rule: &'static str,
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID.
            pub const fn from_uuid(id: Uuid) -> Self { Self(id) }
            /// The UUID.
            pub const fn as_uuid(&self) -> &Uuid { &self.0 }
            /// The 16 bytes, which sort by time of making.
            pub const fn as_bytes(&self) -> &[u8; 16] { self.0.as_bytes() }
            /// Reads 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self { Self(Uuid::from_bytes(bytes)) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Uuid::from_str(s).map(Self).map_err(|_| IdError { kind: stringify!($name), rule: "a UUID" })
            }
        }
    )*};
}

uuid_ids! {
    /// One referral, UUIDv7.
    ReferralId;
    /// One event of a referral, UUIDv7: also the idempotency key of its log entry.
    EventId;
    /// One leg: a referral at one destination service, UUIDv7.
    LegId;
    /// One delivery, UUIDv7.
    DeliveryId;
    /// One sealed body, UUIDv7.
    BodyId;
    /// One child as the store knows it, UUIDv7: its time of making and chance, no meaning.
    SubjectId;
    /// One referral's stream in the delivery log, UUIDv7: its first entry's time and chance, so that the log alone
    /// names nobody.
    StreamId;
    /// One uploaded document, UUIDv7.
    DocumentId;
    /// One running process.
    WorkerId;
}

macro_rules! code_ids {
    ($($(#[$doc:meta])* $name:ident($max:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest code, in characters.
            pub const LENGTH_MAX: usize = $max;
            /// The code as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                let ok = !s.is_empty() && s.len() <= $max
                    && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
                if ok { Ok(Self(s)) } else {
                    Err(IdError { kind: stringify!($name), rule: concat!("1 to ", stringify!($max), " letters, digits or any of -_.:") })
                }
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> { Self::try_from(s.to_owned()) }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}

code_ids! {
    /// An agency of the directory: its ODS code where it has one (a school is `EE` + URN).
    AgencyId(32);
    /// A service that an agency offers.
    ServiceId(64);
    /// A place where messages for an agency go.
    EndpointId(64);
    /// A map of code lists, e.g. `trust-x`.
    CodeMapId(64);
    /// A routing rule.
    RuleId(64);
    /// A text to a family, e.g. `accepted-email`.
    TemplateId(64);
    /// A pathway, e.g. `autism-assessment`.
    Pathway(64);
    /// A lane as it is shown: an endpoint, and what stands for one child there and nowhere else.
    LaneId(128);
}

/// The id that every attempt of one delivery carries on the wire: 1 to 20 of A-Z and 0-9, so that it fits MSH-10.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WireId(String);

impl WireId {
    /// The longest wire id: HL7 v2.5 gives MSH-10 twenty characters.
    pub const LENGTH_MAX: usize = 20;

    /// Makes the wire id of a delivery: `WM`, nine base-32 characters of its UUIDv7's time and nine of its random
    /// part (45 bits each). The store keeps each once; they sort by time, so that new ones lie together.
    pub fn of(delivery: DeliveryId) -> Self {
        let (time, chance) = parts(&delivery.0);
        Self(format!("WM{}{}", base32(time, 9), base32(chance, 9)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WireId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        let ok = !s.is_empty()
            && s.len() <= Self::LENGTH_MAX
            && s.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if ok {
            Ok(Self(s))
        } else {
            Err(IdError {
                kind: "WireId",
                rule: "1 to 20 of A-Z and 0-9",
            })
        }
    }
}

impl FromStr for WireId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::try_from(s.to_owned())
    }
}

impl From<WireId> for String {
    fn from(id: WireId) -> Self {
        id.0
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The short reference that people read out and letters print: `WM-` and three groups of five characters
/// without 0/O and 1/I look-alikes. It names nobody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(String);

impl Reference {
    /// Makes the reference of a referral: eight characters of its UUIDv7's time in milliseconds (40 bits, which
    /// begin anew after 34 years) and seven of its random part (35 bits). The store keeps each once.
    pub fn of(referral: ReferralId) -> Self {
        let (time, chance) = parts(&referral.0);
        let t = base32(time, 8) + &base32(chance, 7);
        let (a, rest) = t.split_at(5);
        let (b, c) = rest.split_at(5);
        Self(format!("WM-{a}-{b}-{c}"))
    }

    /// The reference as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reference {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        let plain: String = s.to_ascii_uppercase();
        let parts: Vec<&str> = plain.split('-').collect();
        let ok = matches!(parts.as_slice(), ["WM", a, b, c]
            if [a, b, c].iter().all(|p| p.len() == 5 && p.bytes().all(|x| BASE32.contains(&x))));
        if ok {
            Ok(Self(plain))
        } else {
            Err(IdError {
                kind: "Reference",
                rule: "WM-xxxxx-xxxxx-xxxxx as printed on the receipt",
            })
        }
    }
}

impl FromStr for Reference {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::try_from(s.to_owned())
    }
}

impl From<Reference> for String {
    fn from(r: Reference) -> Self {
        r.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Thirty-two characters that are not mistaken for one another.
const BASE32: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";

/// The time of a UUIDv7 in milliseconds, and its random part.
const fn parts(id: &Uuid) -> (u128, u128) {
    let bits = id.as_u128();
    (bits >> 80, bits)
}

/// The low bits of a number, five a character.
fn base32(mut bits: u128, chars: usize) -> String {
    let mut out: Vec<char> = Vec::with_capacity(chars);
    for _ in 0..chars {
        let at = usize::try_from(bits & 31).unwrap_or(0);
        out.push(BASE32.get(at).copied().map_or('2', char::from));
        bits >>= 5;
    }
    out.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_id_fits_msh_10() {
        let id = WireId::of(DeliveryId::from_bytes([0xff; 16]));
        assert_eq!(id.as_str().len(), WireId::LENGTH_MAX);
        assert_eq!(WireId::try_from(id.as_str().to_owned()).unwrap(), id);
        assert!(WireId::try_from("A".repeat(20)).is_ok());
        assert!(WireId::try_from("A".repeat(21)).is_err());
        assert!(WireId::try_from("a".to_owned()).is_err());
    }

    #[test]
    fn wire_ids_and_references_sort_by_time_and_differ_by_chance() {
        let id = |ms: u128, chance: u128| Uuid::from_u128(ms << 80 | chance);
        let wire = |ms, chance| WireId::of(DeliveryId::from_uuid(id(ms, chance)));
        let reference = |ms, chance| Reference::of(ReferralId::from_uuid(id(ms, chance)));
        let now = 1_795_392_000_000;
        assert!(wire(now, u128::from(u64::MAX)) < wire(now + 1, 0));
        assert!(reference(now, u128::from(u64::MAX)) < reference(now + 1, 0));
        assert_ne!(wire(now, 1), wire(now, 2));
        assert_ne!(reference(now, 1), reference(now, 2));
    }

    #[test]
    fn reference_reads_back_and_ignores_case() {
        let r = Reference::of(ReferralId::from_bytes([7; 16]));
        assert_eq!(
            r.as_str()
                .to_ascii_lowercase()
                .parse::<Reference>()
                .unwrap(),
            r
        );
        assert!("WM-OOOOO-11111-22222".parse::<Reference>().is_err());
        assert!(r.as_str().len() <= 30);
    }

    #[test]
    fn codes_hold_their_length_limit() {
        assert!("A".repeat(AgencyId::LENGTH_MAX).parse::<AgencyId>().is_ok());
        assert!(
            "A".repeat(AgencyId::LENGTH_MAX + 1)
                .parse::<AgencyId>()
                .is_err()
        );
        assert!("a b".parse::<ServiceId>().is_err());
    }
}
