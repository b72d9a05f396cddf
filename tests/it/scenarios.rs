//! The acceptance scenarios of the domain, each on both stores, over real sockets.

mod audit;
mod cancel;
mod consent;
mod crash_points;
mod directory;
mod document;
mod family;
mod identity;
mod mailbox;
mod mesh;
mod mllp_answer;
mod mllp_repeat;
mod operator;
mod outage;
mod pair;
mod poison;
mod probe;
mod routing;
mod safety;
mod status;
mod status_request;
