//! The contract's limits, in characters or items (`referral.proto`).

pub(super) const NAME: usize = 100;
pub(super) const TITLE: usize = 40;
pub(super) const CODE: usize = 64;
pub(super) const ADJUSTMENT_CODE: usize = 100;
pub(super) const SYSTEM: usize = 200;
pub(super) const SHORT: usize = 200;
pub(super) const NOTE: usize = 1_000;
pub(super) const TEXT: usize = 2_000;
pub(super) const LONG: usize = 4_000;
pub(super) const NARRATIVE: usize = 20_000;
pub(super) const PHONE: usize = 40;
pub(super) const EMAIL: usize = 254;
pub(super) const LANGUAGE: usize = 35;
pub(super) const REFERENCE: usize = 80;
pub(super) const MEDIA_TYPE: usize = 127;
pub(super) const CONTACTS: usize = 16;
pub(super) const NEEDS: usize = 13;
pub(super) const CYCLES: usize = 24;
pub(super) const SAFEGUARDING: usize = 16;
pub(super) const ADJUSTMENTS: usize = 32;
pub(super) const DOCUMENTS: usize = 32;
pub(super) const EXTERNAL_IDS: usize = 16;
pub(super) const LINES: usize = 5;
pub(super) const DOCUMENT_BYTES: u64 = 25 * 1024 * 1024;
