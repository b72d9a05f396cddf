//! The one integration binary.

mod crash;
mod scenarios;
mod store;
mod tidy;
