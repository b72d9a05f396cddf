//! The one integration binary.

mod access;
mod crash;
mod interop;
mod privacy;
mod scenarios;
mod store;
mod tidy;
