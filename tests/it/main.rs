//! The one integration binary.

mod store;
mod tidy;
