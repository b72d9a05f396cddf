//! Contract suites: what every implementation of a port must do, stated once and stamped over each.

pub mod store;
