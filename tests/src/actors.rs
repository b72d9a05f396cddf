//! Agencies of ours for tests: each speaks its protocol over a real socket, does as it is told, and keeps what it got.
//!
//! They read the wire by code of their own, not by the gateway's, so that both cannot be wrong alike. Peers that we
//! did not write stand in `tests/peers`.

mod agency;
mod hospital;
pub mod mesh;
mod notify;
mod therapy;

pub use agency::MentalHealth;
pub use hospital::{Frame, Hospital, Play, Told, rri, send, siu};
pub use notify::{Answer, Callbacks, Message, Notify};
pub use therapy::{Hook, Therapy, callback};
