//! Scratch target of one helper, removed before the end: its own modules alone.
#[path = "../it/access.rs"]
mod access;
#[path = "../it/privacy.rs"]
mod privacy;
#[path = "../it/scenarios/audit.rs"]
mod audit;
#[path = "../it/scenarios/cancel.rs"]
mod cancel;
#[path = "../it/scenarios/crash_points.rs"]
mod crash_points;
#[path = "../it/scenarios/directory.rs"]
mod directory;
#[path = "../it/scenarios/identity.rs"]
mod identity;
#[path = "../it/scenarios/outage.rs"]
mod outage;
#[path = "../it/scenarios/poison.rs"]
mod poison;
#[path = "../it/scenarios/routing.rs"]
mod routing;
#[path = "../it/scenarios/safety.rs"]
mod safety;
#[path = "../it/scenarios/status.rs"]
mod status;
