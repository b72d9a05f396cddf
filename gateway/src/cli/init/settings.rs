//! The waymark.toml that `waymark init` writes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Component, Path};

use anyhow::Context as _;
use waymark_adapters::fhir;
use waymark_core::directory::{AdapterKind, Directory, Endpoint};
use waymark_core::id::Pathway;

use super::{InitOptions, Ports};
use crate::config::DatabaseUrl;

/// The file below secrets/ that holds a database URL with a password.
pub(super) const DATABASE_URL_SECRET: &str = "database-url";
/// What identities of plain MLLP listeners begin with.
const MLLP_IDENTITY: &str = "mllp:";
/// The folder of a deployment below which agencies' own folders lie.
pub(super) const FILES_FOLDER: &str = "files";
/// What consent covers that a sender holds by agreement.
const USUAL_SCOPE: &str =
    "consent_scope = [\"referral\", \"share_health\", \"share_education\", \"share_social_care\"]";
/// The pathway that a message asks for when its reason names none, where the area has it.
const USUAL_PATHWAY: &str = "autism-assessment";

/// Writes the configuration of a new deployment; keys that keep their default are left out.
pub(super) fn waymark_toml(directory: &Directory, options: &InitOptions) -> anyhow::Result<String> {
    let Ports {
        grpc,
        metrics,
        webhook,
        ..
    } = options.ports;
    let mut text = format!(
        "# How this process runs. `waymark config default` shows every key. Paths are relative to this file.\n\n\
         [gateway]\nenvironment = {}\n\n[database]\n{}\n\n\
         [keys]\nkeyring = \"keys/keyring\"\nlog = \"keys/log.key\"\n\n\
         [listen]\ngrpc = \"127.0.0.1:{grpc}\"\n",
        quoted(options.environment.as_str()),
        database(options.database.as_deref()),
    );
    if let Some(port) = metrics {
        writeln!(text, "metrics = \"127.0.0.1:{port}\"")?;
    }
    if let Some(port) = webhook {
        writeln!(text, "webhook = \"127.0.0.1:{port}\"")?;
    }
    listeners(&mut text, directory, options.ports.mllp)?;
    fhir(&mut text, directory, options.ports.fhir)?;
    text.push_str(
        "\n[tls]\ncert = \"tls/server.pem\"\nkey = \"tls/server.key\"\nclient_ca = \"ca.pem\"\n\n\
         [outbound]\ncert = \"tls/outbound.pem\"\nkey = \"tls/outbound.key\"\nroots = \"ca.pem\"\n\n\
         # Becomes release 1 at the first start; change it later with `waymark directory apply`.\n\
         [directory]\ninitial = \"directory\"\n\n[secrets]\ndir = \"secrets\"\n",
    );
    if !folders(directory).is_empty() {
        writeln!(
            text,
            "\n# Below it lies the folder of each agency that exchanges files on this machine.\n[files]\nroot = {}",
            quoted(FILES_FOLDER)
        )?;
    }
    Ok(text)
}

/// The folders of agencies that exchange files on this machine, below [`FILES_FOLDER`].
pub(super) fn folders(directory: &Directory) -> Vec<String> {
    let of = |endpoint: &Endpoint| {
        let text = |key: &str| endpoint.settings.get(key).and_then(toml::Value::as_str);
        let is_here = endpoint.adapter == AdapterKind::File && text("transport") == Some("folder");
        // A path that leads elsewhere is the directory check's to refuse.
        let plain = |path: &&str| {
            let parts = Path::new(path).components();
            parts
                .into_iter()
                .all(|part| matches!(part, Component::Normal(_)))
        };
        text("directory")
            .filter(|_| is_here)
            .filter(plain)
            .map(ToOwned::to_owned)
    };
    directory.endpoints.values().filter_map(of).collect()
}

/// The FHIR listener, for the services as which the directory's FHIR endpoints say that we write.
fn fhir(text: &mut String, directory: &Directory, port: u16) -> anyhow::Result<()> {
    let of = |endpoint: &Endpoint| {
        let source = endpoint.settings.get("source")?.as_table()?;
        let part = |key: &str| source.get(key).and_then(toml::Value::as_str);
        let system = part("system").unwrap_or(fhir::DOS_SERVICE);
        Some(format!("{system}|{}", part("value")?))
    };
    let endpoints = directory.endpoints.values();
    let targets: BTreeSet<String> = endpoints
        .filter(|endpoint| endpoint.adapter == AdapterKind::Fhir)
        .filter_map(of)
        .collect();
    if targets.is_empty() {
        return Ok(());
    }
    let pathway = pathway(directory).context("the directory has a FHIR endpoint and no pathway")?;
    let targets: Vec<String> = targets.iter().map(|target| quoted(target)).collect();
    writeln!(
        text,
        "\n# FHIR (BaRS) over mutual TLS: who calls is the agency whose identity its certificate proves.\n\
         [listen.fhir]\naddress = \"127.0.0.1:{port}\"\ntargets = [{}]\n\
         # What foreign messages cannot say, by agreement with their senders.\n\
         [listen.fhir.assume]\npathway = {}\nlawful_basis = \"public_task_care\"\n{USUAL_SCOPE}",
        targets.join(", "),
        quoted(pathway.as_str()),
    )?;
    Ok(())
}

fn database(url: Option<&str>) -> String {
    match url {
        None => "url = \"sqlite://waymark.db\"".to_owned(),
        Some(url) if DatabaseUrl::new(url).has_password() => {
            format!("url_file = \"secrets/{DATABASE_URL_SECRET}\"")
        }
        Some(url) => format!("url = {}", quoted(url)),
    }
}

/// One plain listener for each `mllp:` identity, on the loopback interface.
fn listeners(text: &mut String, directory: &Directory, first: u16) -> anyhow::Result<()> {
    let names = directory
        .identities
        .keys()
        .filter_map(|name| name.strip_prefix(MLLP_IDENTITY));
    for (name, number) in names.zip(0_u16..) {
        let port = match first {
            0 => 0,
            first => first
                .checked_add(number)
                .context("no port is left for the MLLP listeners")?,
        };
        let pathway =
            pathway(directory).context("the directory has an MLLP identity and no pathway")?;
        writeln!(
            text,
            "\n# Plain MLLP: whoever reaches it speaks for the directory's identity {MLLP_IDENTITY}{name}, so it stays on a private interface.\n\
             [[listen.mllp]]\nname = {}\naddress = \"127.0.0.1:{port}\"\ntls = false\n\
             # What HL7 v2 cannot say, by agreement with the sender.\n\
             [listen.mllp.assume]\npathway = {}\nlawful_basis = \"public_task_care\"\n{USUAL_SCOPE}",
            quoted(name),
            quoted(pathway.as_str()),
        )?;
    }
    Ok(())
}

fn pathway(directory: &Directory) -> Option<&Pathway> {
    let all = || directory.services.values().flat_map(|s| &s.pathways);
    all()
        .find(|p| p.as_str() == USUAL_PATHWAY)
        .or_else(|| all().next())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
