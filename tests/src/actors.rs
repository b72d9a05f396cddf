//! Agencies of ours for tests: each speaks its protocol over a real socket, does as it is told, and keeps what it got.
//!
//! They read the wire by code of their own, not by the gateway's, so that both cannot be wrong alike. Peers that we
//! did not write stand in `tests/peers`.

mod agency;
mod hospital;
mod therapy;

pub use agency::MentalHealth;
pub use hospital::{Frame, Hospital, Play, rri, send, siu};
pub use therapy::{Hook, Therapy, callback};
pub use waymark_adapters::stand_in::mesh;
pub use waymark_adapters::stand_in::notify::{Answer, Callbacks, Message, Notify};
