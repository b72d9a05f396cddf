//! The far side's protocols, a folder each.
mod connect;
pub mod context;
pub mod contract;
mod egress;
pub mod grpc;
pub mod hl7v2;
pub mod limits;
mod pool;
mod settings;
mod tls;
