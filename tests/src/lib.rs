//! Harness, contract suites and the one integration binary.
//!
//! Tests run against real parts: `SQLite` files, a `PostgreSQL` server of their own, TLS, and peers that we did not write.

pub mod actors;
pub mod build;
pub mod contract;
pub mod engine;
pub mod gateway;
pub mod peer;
