//! The far side's protocols, a folder each, and the registry that names one adapter for each kind.
//!
//! What an adapter must do is written in `README.md` beside this crate, and checked by [`contract`].

use std::collections::BTreeMap;
use std::sync::Arc;

use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::error::Violation;
use waymark_core::port::Adapter;

mod body;
mod connect;
pub mod context;
pub mod contract;
mod egress;
pub mod fhir;
pub mod file;
pub mod grpc;
pub mod hl7v2;
mod https;
pub mod inspect;
pub mod limits;
pub mod mailbox;
pub mod mesh;
pub mod notify;
mod pool;
mod receipt;
mod settings;
pub mod stand_in;
mod tls;
pub mod webhook;

#[cfg(test)]
mod far_side;

pub use context::{AdapterContext, DEFAULT_PROFILE, EgressPolicy, Peers, Secrets, TlsProfile};
pub use tls::ProfileError;

/// The adapters of one process, one for each kind. They hold no state shared between messages but connections.
#[derive(Clone)]
pub struct Adapters {
    grpc: Arc<grpc::Grpc>,
    mailbox: Arc<mailbox::Mailbox>,
    webhook: Arc<webhook::Webhook>,
    hl7v2: Arc<hl7v2::outbound::Hl7v2Adapter>,
    fhir: Arc<fhir::Fhir>,
    file: Arc<file::FileDrop>,
    notify: Arc<notify::Notify>,
    mesh: Arc<mesh::Mesh>,
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapters").finish_non_exhaustive()
    }
}

impl Adapters {
    /// Builds the adapters. A renewed certificate or key needs a new build: connections are then made afresh.
    ///
    /// # Errors
    /// [`ProfileError`] names the TLS profile that cannot be used.
    pub fn new(context: &AdapterContext) -> Result<Self, ProfileError> {
        let mut profiles = BTreeMap::new();
        for (name, profile) in &context.profiles {
            profiles.insert(name.clone(), tls::Profile::parse(name, profile)?);
        }
        let mut mllp = hl7v2::outbound::TlsProfiles::new();
        for (name, profile) in &profiles {
            let client = profile.client(None, &[]);
            let client = client.map_err(|e| ProfileError::Refused(name.clone(), e))?;
            mllp.insert(name.clone(), Arc::new(client));
        }
        let mut hl7v2 = hl7v2::outbound::Hl7v2Adapter::new(mllp, Arc::clone(&context.clock));
        if let Some(intake) = &context.intake {
            hl7v2 = hl7v2.with_intake(Arc::clone(intake));
        }
        let profiles = Arc::new(profiles);
        Ok(Self {
            grpc: Arc::new(grpc::Grpc::new(Arc::clone(&profiles), context)),
            mailbox: Arc::new(mailbox::Mailbox::new(context.environment)),
            fhir: Arc::new(fhir::Fhir::new(Arc::clone(&profiles), context)),
            notify: Arc::new(notify::Notify::new(Arc::clone(&profiles), context)),
            mesh: Arc::new(mesh::Mesh::new(Arc::clone(&profiles), context)),
            webhook: Arc::new(webhook::Webhook::new(profiles, context)),
            hl7v2: Arc::new(hl7v2),
            file: Arc::new(file::FileDrop::new(context)),
        })
    }

    /// The adapter of a kind.
    pub fn adapter(&self, kind: AdapterKind) -> Arc<dyn Adapter> {
        match kind {
            AdapterKind::Grpc => Arc::clone(&self.grpc) as Arc<dyn Adapter>,
            AdapterKind::Mailbox => Arc::clone(&self.mailbox) as Arc<dyn Adapter>,
            AdapterKind::Webhook => Arc::clone(&self.webhook) as Arc<dyn Adapter>,
            AdapterKind::Hl7v2 => Arc::clone(&self.hl7v2) as Arc<dyn Adapter>,
            AdapterKind::Fhir => Arc::clone(&self.fhir) as Arc<dyn Adapter>,
            AdapterKind::File => Arc::clone(&self.file) as Arc<dyn Adapter>,
            AdapterKind::Notify => Arc::clone(&self.notify) as Arc<dyn Adapter>,
            AdapterKind::Mesh => Arc::clone(&self.mesh) as Arc<dyn Adapter>,
        }
    }

    /// What is wrong with an endpoint's settings, without I/O: for `directory check` and before each release.
    pub fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        self.adapter(endpoint.adapter).validate(endpoint)
    }
}

/// The identity that an endpoint's peer must have, where its settings name one (a SAN URI, a mailbox): the directory
/// must bind it to the endpoint's own agency.
pub fn peer_identity(endpoint: &Endpoint) -> Option<String> {
    let text = |key: &str| endpoint.settings.get(key)?.as_str();
    match endpoint.adapter {
        AdapterKind::Grpc | AdapterKind::Webhook | AdapterKind::Fhir => {
            text("peer_identity").map(ToOwned::to_owned)
        }
        AdapterKind::Hl7v2 => text("peer_uri").map(ToOwned::to_owned),
        AdapterKind::Mesh => text("to").map(mesh::identity_of),
        AdapterKind::Mailbox | AdapterKind::File | AdapterKind::Notify => None,
    }
}
