//! The ports: what the domain asks of a store, of an adapter and of whoever takes in what adapters receive.

mod adapter;
mod stop;
mod store;

pub use adapter::{
    Adapter, AsksAfter, Attachment, Channel, Collected, Conversation, Deadline, Identification,
    Inbound, InboundBody, InboundDocument, InboundStatus, Intake, IntakeAnswer, IntakeError,
    Outbound, Probe, ProbeStage, Reconciliation, RenderError, Rendered, Sent, Source, StatusNotice,
    Undelivered,
};
pub use stop::{CancelCode, StopNotice, Withdrawal};
pub use store::*;
