//! The domain and its ports: no I/O, no async runtime.
//!
//! Three state machines are kept apart and never merged: the **delivery** (did the bytes arrive, and how good is the
//! evidence: [`delivery`]), the **referral** (what the receiving service says is happening to the child's case:
//! [`leg`]) and the **clock** (what is due, from whom, by when: [`calendar`]).
//!
//! Words used throughout:
//! - **referral**: one request that a child be seen, assessed or supported; it has one **leg** per destination service.
//! - **agency**: an organisation in the directory, keyed by its ODS code; it owns services, endpoints and identities.
//! - **delivery**: one message for one endpoint, with one wire id for all its attempts.
//! - **lane**: the deliveries of one (endpoint, subject), in accept order; only its head may be attempted.
//! - **subject**: the random id that stands for one child in the store; keys that seal the child's data hang on it.
//! - **stream**: the referral's own chain of log entries, numbered from 0.
//! - **permit**: proof that [`access`] allowed a use case.

pub mod access;
pub mod alarm;
pub mod audit;
pub mod calendar;
pub mod delivery;
pub mod directory;
pub mod error;
pub mod family;
pub mod id;
pub mod identifier;
pub mod leg;
pub mod personal;
pub mod port;
pub mod referral;
pub mod routing;
pub mod time;
