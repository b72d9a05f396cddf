//! The adapter spec as checks (`adapters/README.md`).

pub mod sample;
