//! What a check of the directory asks the adapters and the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use waymark_adapters::{
    AdapterContext, Adapters, DEFAULT_PROFILE, EgressPolicy, Peers, Secrets, TlsProfile,
    peer_identity,
};
use waymark_core::directory::{Directory, Finding, Severity, secret_names};
use waymark_core::id::AgencyId;
use waymark_core::time::Clock as _;
use zeroize::Zeroizing;

use super::super::pki::{Authority, CertificateAsk};
use crate::clock::SystemClock;
use crate::config;

/// Nobody's secrets and nobody's identities: settings are checked without either.
struct Nobody;

impl Secrets for Nobody {
    fn secret(&self, _name: &str) -> Option<Zeroizing<Vec<u8>>> {
        None
    }
}

impl Peers for Nobody {
    fn agency_of(&self, _identity: &str) -> Option<AgencyId> {
        None
    }
}

/// What the adapters find wrong with the settings of endpoints, and peers that the directory binds to somebody else.
pub(super) fn findings(directory: &Directory) -> anyhow::Result<Vec<Finding>> {
    let adapters = adapters(directory)?;
    let mut findings = Vec::new();
    for endpoint in directory.endpoints.values() {
        let place = directory.place("endpoint", endpoint.id.as_str());
        let mut fault = |code, message: String, remedy: &str| {
            findings.push(Finding {
                severity: Severity::Error,
                code,
                place: place.clone(),
                message,
                remedy: remedy.to_owned(),
            });
        };
        for violation in adapters.validate(endpoint) {
            let message = format!("endpoint {}: {violation}", endpoint.id);
            fault(
                "endpoint-settings",
                message,
                "correct the endpoint's settings",
            );
        }
        if let Some(peer) = peer_identity(endpoint) {
            let bound = directory
                .identities
                .get(&peer)
                .map(|identity| &identity.agency);
            if bound.is_some_and(|agency| *agency != endpoint.agency) {
                let message = format!(
                    "endpoint {} of {} expects {peer}, which is another agency's",
                    endpoint.id, endpoint.agency
                );
                fault(
                    "peer-of-another-agency",
                    message,
                    "name the identity of the endpoint's own agency",
                );
            }
        }
    }
    Ok(findings)
}

/// Adapters that will never speak: settings are checked by their own code, with a certificate made for the purpose.
fn adapters(directory: &Directory) -> anyhow::Result<Adapters> {
    let today = SystemClock.now().london_date();
    let authority = Authority::generate("check", today)?;
    let ask = CertificateAsk {
        common_name: "check".to_owned(),
        uris: Vec::new(),
        names: Vec::new(),
        days: 1,
    };
    let issued = authority.issue(&ask, today)?;
    let profile = TlsProfile {
        roots_pem: authority.cert_pem().as_bytes().to_vec(),
        chain_pem: issued.cert_pem.into_bytes(),
        key_pem: Zeroizing::new(issued.key_pem.as_bytes().to_vec()),
    };
    let context = AdapterContext {
        profiles: BTreeMap::from([(DEFAULT_PROFILE.to_owned(), profile)]),
        secrets: Arc::new(Nobody),
        peers: Arc::new(Nobody),
        environment: directory.area.environment,
        egress: EgressPolicy::AsFlagged,
        clock: Arc::new(SystemClock),
        intake: None,
        files_root: Some(std::path::PathBuf::new()),
    };
    Adapters::new(&context).context("set up the adapters")
}

/// The secrets that the directory names and that cannot be had here.
pub(super) fn secrets(directory: &Directory, secrets: &config::Secrets) -> Vec<Finding> {
    let named = secret_names(directory).into_iter();
    let missing = named.filter_map(|(name, place)| {
        let error = secrets.find(&name).err()?;
        Some(Finding {
            severity: Severity::Warning,
            code: "secret-missing",
            place,
            message: format!("secret {name} cannot be had here: {error}"),
            remedy: "put it there before the release is applied".to_owned(),
        })
    });
    missing.collect()
}
