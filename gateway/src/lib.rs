//! The gateway: faces, use cases, the delivery engine and the command line.
//!
//! Direction of dependence: `cli -> app -> { grpc, intake, delivery } -> service -> waymark_core::port`. Only `grpc`
//! names the wire contract; only `app` names concrete stores and adapters; only `lifecycle` spawns tasks; only
//! `config` reads the environment; only [`clock`] reads the time.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod grpc;
pub mod lifecycle;
pub mod service;
pub mod telemetry;
pub mod tls;
