//! For [`crate::inspect`].

use waymark_core::directory::{CodeMap, Endpoint};
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::port::InboundBody;

use super::config::Settings;
use super::package::{ill_formed, unpack};
use super::{outbox, wire};
use crate::context::EgressPolicy;
use crate::inspect;

/// A folder that an agency writes to.
#[derive(Debug)]
pub(crate) struct Reader(Settings);

impl Reader {
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, Vec<Violation>> {
        Settings::read(endpoint, EgressPolicy::AsFlagged).map(Self)
    }

    /// Reads a manifest's line and the files behind it.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<Vec<InboundBody>> {
        let package = unpack(bytes)?;
        if ill_formed(&package.manifest).is_some() {
            return None;
        }
        let mut files = package.manifest.files.iter().zip(&package.files);
        let (_, data) = files.find(|(listed, _)| Some(*listed) == package.manifest.data())?;
        let said = wire::read(&package.manifest, data, &self.0, &CodeMap::default()).ok()?;
        Some(said.into_iter().map(|said| said.body).collect())
    }
}

/// As a receipt and as a refusal.
pub(crate) fn notes(wire: &WireId, bytes: &[u8]) {
    inspect::receipt(wire, bytes);
    drop(outbox::refusal(bytes));
}
