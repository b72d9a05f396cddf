//! SQLite and PostgreSQL behind the same ports.
//!
//! SQL and logic stand once, in `queries/`, and are compiled once per engine by `sqlite.rs` and `postgres.rs`, which
//! hold only what differs. A store method is one atomic step: it opens and closes its own transaction.
//!
//! Every transaction takes its locks in this order, so that none waits for another in a circle: referral row,
//! message and status keys, log stream, lanes by (endpoint, subject), alarms by (kind, subject), counters by name.

pub mod bare;
mod error;
mod open;
mod postgres;
mod seal;
mod sqlite;

pub use open::{Mode, OpenError, OpenOptions, Schema, migrate, open, open_bare};
pub use seal::{KEYRING_BYTES_MAX, Keyring, KeyringError};
