//! The acceptance scenarios of the domain, each on both stores, over real sockets.

mod audit;
mod cancel;
mod crash_points;
mod directory;
mod identity;
mod outage;
mod pair;
mod poison;
mod routing;
mod safety;
mod status;
mod status_request;
