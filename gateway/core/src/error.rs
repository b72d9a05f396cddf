//! The closed set of error kinds, whose fault each is, and the fixed sentence a caller may see.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a caller may know. Faces map each kind to their own status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong; the same request will always be refused.
    Invalid,
    /// The caller has no usable identity.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// The same key came before with other content.
    Conflict,
    /// The thing is not in a state that allows this.
    Precondition,
    /// A named limit was reached; try later.
    Exhausted,
    /// A passing fault; the same request is safe to repeat.
    Unavailable,
    /// A stored row does not decode.
    Corrupt,
    /// A defect of the gateway.
    Internal,
}

impl ErrorKind {
    /// The fixed sentence shown to a caller who may not see details.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Invalid => "the request is not valid",
            Self::Unauthenticated => "no known identity was presented",
            Self::Denied => "this identity may not do that",
            Self::NotFound => "no such thing",
            Self::Conflict => "the same key was used before with other content",
            Self::Precondition => "the current state does not allow that",
            Self::Exhausted => "a limit was reached, try again later",
            Self::Unavailable => "not available just now, the same request is safe to repeat",
            Self::Corrupt => "stored data could not be read, an operator has been told",
            Self::Internal => "the gateway failed, an operator has been told",
        }
    }
}

/// Whose fault a refusal is, in the manner of the NHS Booking and Referral Standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Fault {
    /// The sender must change something.
    Send,
    /// The receiver must change something.
    Rec,
    /// The gateway between them failed.
    Proxy,
}

impl Fault {
    /// The prefix, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "SEND",
            Self::Rec => "REC",
            Self::Proxy => "PROXY",
        }
    }

    /// Reads a stored prefix.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Send, Self::Rec, Self::Proxy]
            .into_iter()
            .find(|fault| fault.as_str() == text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One field that is wrong, why, and what to do: never the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path of the field, e.g. `referral.child.nhs_number`.
    pub field: String,
    /// What is wrong and how to put it right.
    pub why: String,
}

impl Violation {
    /// Names a field and its fault.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}
