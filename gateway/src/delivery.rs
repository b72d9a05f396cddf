//! Delivery: leases due heads of lanes, makes one attempt each, and records how it ended.

use std::sync::Arc;

use waymark_core::directory::AdapterKind;
use waymark_core::port::Adapter;

mod close;
mod collect;
mod driver;
mod endpoints;
mod open;
mod render;

pub use close::{Closing, close_of};
pub use collect::Collector;
pub use driver::{DeliveryOptions, Driver};
pub use open::{Bytes, changed_hands, open_of};
pub use render::{render, source_of};

/// The adapters, by kind.
pub type AdapterFor = Arc<dyn Fn(AdapterKind) -> Arc<dyn Adapter> + Send + Sync>;

/// The identity that the gateway's own steps are logged under.
pub const SYSTEM_IDENTITY: &str = "waymark:system";
