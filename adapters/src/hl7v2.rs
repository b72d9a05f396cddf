//! HL7 v2 over MLLP: referrals (REF), their answers (RRI), appointments (SIU) and acknowledgements, read
//! tolerantly and written strictly. The wire part is pure; sockets live in the adapter's two ends alone.
//!
//! What is read keeps unknown versions, structures and Z-segments; what is refused names segment and
//! field with a code of HL7 table 0357 ([`fault::FieldFault`]). Nothing here prints message content.

pub mod ack;
pub mod appointment;
pub mod brought;
pub mod build;
pub mod charset;
pub mod config;
pub mod content;
pub mod dialect;
pub mod document;
pub mod escape;
pub mod fault;
pub mod inbound;
pub mod map;
pub mod message;
pub mod mllp;
pub mod observation;
pub mod outbound;
mod peer;
pub mod referral;
pub mod separators;
pub mod status;
pub mod timestamp;

#[cfg(test)]
mod testing;
