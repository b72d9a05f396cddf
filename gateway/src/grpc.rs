//! The gRPC face: `waymark.v1` over mutual TLS, with the standard health and reflection services.
//!
//! A call passes `admission` (who calls, is there room), is read into the domain's values, becomes one call of
//! [`crate::service::Service`], and is written back. Refusals have one map, `status`.

mod admin;
mod admission;
mod audit;
mod cursor;
mod directory;
mod face;
mod mailbox;
mod page;
mod receipt;
mod referral;
mod server;
mod status;
mod write;

pub use face::TRANSFERS_MAX;
pub use mailbox::{CREDIT_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN};
pub use page::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
pub use referral::{CHUNK_BYTES, HEARTBEAT, WATCHED_MAX};
pub use server::{MESSAGE_BYTES_MAX, serve};
