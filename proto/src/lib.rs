//! The wire contract waymark.v1: generated types and service traits, no logic.
//!
//! The `.proto` files beside this crate are the source; nothing generated is committed. Every message has canonical proto3
//! JSON through serde, and a `Debug` that shows its type alone, because the contract carries children's data.

/// The package `waymark`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod waymark {
    /// The package `waymark.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/waymark.v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/waymark.v1.serde.rs"));
        include!(concat!(env!("OUT_DIR"), "/redacted_debug.rs"));

        /// The encoded `FileDescriptorSet` of the contract and its imports, with comments, for the reflection service.
        pub const FILE_DESCRIPTOR_SET: &[u8] =
            include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    }
}

pub use waymark::v1;
