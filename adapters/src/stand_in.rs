//! Stand-ins for the services that agencies share: a MESH hub and a Notify provider. Tests and `waymark demo` speak with
//! the same ones; a gateway at work never does. They read the wire by code of their own, not by the adapters', so that
//! both cannot be wrong alike.

pub mod mesh;
pub mod notify;
