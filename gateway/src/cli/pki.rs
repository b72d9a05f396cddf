//! The development authority: it signs certificates for trying things out, never for real children.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use waymark_core::time::Clock as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::init::{write_private, write_public};
use super::{client, failure::Failure, output};
use crate::clock::SystemClock;
use crate::tls::Peer;

mod authority;

pub(super) use authority::CERTIFICATE_DAYS;
pub use authority::{Authority, CertificateAsk, Issued};

/// Issues and shows certificates of the development authority.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark pki issue --dir mydir --uri waymark:test:agency:R1L --out r1l
  waymark pki issue --dir mydir --uri waymark:test:agency:THER1 --name localhost --name 127.0.0.1 --out ther1
  waymark pki show mydir/tls/server.pem

The authority of `waymark init` is for development. In production, certificates come from the area's own authority,
with the same names: the URI decides who speaks, and the directory binds it to an agency.")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Signs a new certificate and key.
    Issue(Issue),
    /// Shows the certificates of a PEM file.
    Show {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Issue {
    /// The deployment whose authority signs.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// URI that the certificate proves; may be given several times.
    #[arg(long, value_name = "URI", required = true)]
    uri: Vec<String>,
    /// DNS name or address that it serves under; may be given several times. With one, it is a server's too.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Days that it holds.
    #[arg(long, default_value_t = CERTIFICATE_DAYS)]
    days: u32,
    /// Folder to write cert.pem and key.pem to; existing files are never touched.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A certificate, as shown.
#[derive(Debug, Serialize)]
struct Shown {
    subject: String,
    issuer: String,
    uris: Vec<String>,
    names: Vec<String>,
    not_before: String,
    not_after: String,
    days_left: i64,
    serial: String,
    authority: bool,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When the authority or the file cannot be read, or a file stands in the way.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Issue(issue) => {
                let authority = Authority::load(&issue.dir)?;
                let ask = CertificateAsk {
                    common_name: issue.uri.first().cloned().unwrap_or_default(),
                    uris: issue.uri,
                    names: issue.name,
                    days: issue.days,
                };
                let issued = authority.issue(&ask, SystemClock.now().london_date())?;
                std::fs::create_dir_all(&issue.out)
                    .with_context(|| format!("make {}", issue.out.display()))?;
                let (cert, key) = (
                    issue.out.join(client::CERT_FILE),
                    issue.out.join(client::KEY_FILE),
                );
                write_private(&key, issued.key_pem.as_bytes())?;
                write_public(&cert, issued.cert_pem.as_bytes())?;
                let written = serde_json::json!({ "cert": cert, "key": key });
                output::show(&written, |_| {
                    format!("wrote {} and {}", cert.display(), key.display())
                })?;
            }
            Command::Show { file } => {
                let pem = std::fs::read(&file)
                    .map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
                let shown = shown(&pem).with_context(|| format!("read {}", file.display()))?;
                output::show(&shown, |all| {
                    all.iter().map(text).collect::<Vec<_>>().join("\n\n")
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown(pem: &[u8]) -> anyhow::Result<Vec<Shown>> {
    let now = SystemClock.now();
    let mut all = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der.context("not PEM")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("not a certificate")?;
        let peer = Peer::parse(&der)?;
        let alternative = parsed.subject_alternative_name().ok().flatten();
        let names = alternative
            .iter()
            .flat_map(|san| &san.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            });
        all.push(Shown {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: names.collect(),
            not_before: waymark_core::time::Timestamp::from_ms(
                parsed.validity().not_before.timestamp() * 1_000,
            )
            .to_string(),
            not_after: peer.not_after.to_string(),
            days_left: crate::tls::days_between(now, peer.not_after),
            serial: peer.serial,
            uris: peer.san_uris,
            authority: parsed.is_ca(),
        });
    }
    if all.is_empty() {
        bail!("it holds no certificate");
    }
    Ok(all)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| IpAddr::from(v6).to_string())
}

fn text(shown: &Shown) -> String {
    format!(
        "subject   {}\nissuer    {}\nuris      {}\nnames     {}\nvalid     {} to {} ({} days left)\nserial    {}\nauthority {}",
        shown.subject,
        shown.issuer,
        shown.uris.join(", "),
        shown.names.join(", "),
        shown.not_before,
        shown.not_after,
        shown.days_left,
        shown.serial,
        if shown.authority { "yes" } else { "no" },
    )
}
