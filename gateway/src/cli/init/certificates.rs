//! The certificates of a new deployment: the authority, the gateway's own, and one for each client identity.

use std::path::Path;

use waymark_core::directory::{Directory, Identity};
use waymark_core::time::Clock as _;

use super::super::client::{CERT_FILE, KEY_FILE};
use super::super::pki::{Authority, CERTIFICATE_DAYS, CertificateAsk};
use super::files::{private_folder, write_private, write_public};
use super::{CA_CERT, CA_KEY};
use crate::clock::SystemClock;

/// Names that the development server's certificate holds besides those asked for.
pub(super) const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Writes the authority, the gateway's certificates and one for each certificate identity; answers the clients.
pub(super) fn write_certificates(
    dir: &Path,
    directory: &Directory,
    further: &[String],
) -> anyhow::Result<Vec<(String, Identity)>> {
    let today = SystemClock.now().london_date();
    let (area, environment) = (&directory.area.id, directory.area.environment.as_str());
    let authority = Authority::generate(
        &format!("Waymark development authority ({environment}, {area})"),
        today,
    )?;
    write_public(&dir.join(CA_CERT), authority.cert_pem().as_bytes())?;
    write_private(&dir.join(CA_KEY), authority.key_pem().as_bytes())?;
    let tls = dir.join("tls");
    private_folder(&tls)?;
    let gateway = format!("waymark:{environment}:gateway:{area}");
    let mut server = CertificateAsk {
        common_name: format!("Waymark gateway ({environment}, {area})"),
        uris: vec![gateway],
        names: SERVER_NAMES
            .iter()
            .map(|name| (*name).to_owned())
            .chain(further.iter().cloned())
            .collect(),
        days: CERTIFICATE_DAYS,
    };
    let issued = authority.issue(&server, today)?;
    write_public(&tls.join("server.pem"), issued.cert_pem.as_bytes())?;
    write_private(&tls.join("server.key"), issued.key_pem.as_bytes())?;
    server.names.clear();
    let issued = authority.issue(&server, today)?;
    write_public(&tls.join("outbound.pem"), issued.cert_pem.as_bytes())?;
    write_private(&tls.join("outbound.key"), issued.key_pem.as_bytes())?;

    let mut clients: Vec<(String, Identity)> = Vec::new();
    private_folder(&dir.join("clients"))?;
    for identity in directory
        .identities
        .values()
        .filter(|i| is_certificate(&i.name))
    {
        let name = client_name(&identity.name);
        let ask = CertificateAsk {
            common_name: name.clone(),
            uris: vec![identity.name.clone()],
            names: Vec::new(),
            days: CERTIFICATE_DAYS,
        };
        let issued = authority.issue(&ask, today)?;
        let folder = dir.join("clients").join(&name);
        private_folder(&folder)?;
        write_public(&folder.join(CERT_FILE), issued.cert_pem.as_bytes())?;
        write_private(&folder.join(KEY_FILE), issued.key_pem.as_bytes())?;
        clients.push((name, identity.clone()));
    }
    Ok(clients)
}

/// Whether an identity is proved by a certificate's URI: the others name a listener, an endpoint or a folder of ours.
pub(super) fn is_certificate(name: &str) -> bool {
    let scheme = name.split(':').next().unwrap_or_default();
    !["mllp", "webhook", "mailbox", "mesh", "file"].contains(&scheme)
}

/// A client's folder: the id of an agency's system, `<kind>-<id>` of any other identity.
pub(super) fn client_name(identity: &str) -> String {
    let parts: Vec<&str> = identity.split(':').collect();
    let name = match parts.as_slice() {
        ["waymark", _, "agency", id] => (*id).to_owned(),
        ["waymark", _, rest @ ..] => rest.join("-"),
        _ => identity.to_owned(),
    };
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars()
        .map(plain)
        .collect::<String>()
        .trim_matches(['-', '.'])
        .to_owned()
}
