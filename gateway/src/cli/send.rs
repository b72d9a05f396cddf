//! `waymark send`: referrals from files, as JSON over gRPC, as HL7 v2 over MLLP, as FHIR messages over HTTPS, by an
//! agency's folder and from its MESH mailbox, one answer for each file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use tonic::transport::Channel;
use waymark_core::directory::Environment;

use super::client::{ClientArgs, ClientDuty};
use super::failure::Failure;
use super::output::{self, Format};

mod fhir;
pub(super) mod folder;
mod grpc;
mod mesh;
mod mllp;
mod outcome;
mod source;

pub use outcome::{Accepted, Item, Outcome, Refused, SendReport};
use source::{Content, Kind, Source};

/// Items at work at the same time unless asked otherwise.
const IN_FLIGHT: usize = 16;

/// Sends referrals from files.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark send --as EE123456 referral.json
  waymark send --as EE123456 --want-proof --receipts receipts/ outbox/
  waymark send --as R1L --mllp 127.0.0.1:2576 --mllp-plain messages/
  waymark send --as OT001 --fhir 127.0.0.1:8445 message.json
  waymark send --folder /srv/waymark/files/portage referral.json statuses.csv
  waymark send --as AUD01 --mesh https://hub.example:443 --mailbox X26ABC2 --to X26ABC1 --workflow SEND_REFERRAL \\
               --password-file password --shared-key-file shared-key referral.json

Files:
  *.json  a referral in the canonical form (`waymark send --example` prints one)
  *.hl7   one HL7 v2 message; lines may end in CR, LF or CRLF
  *.json with a resourceType  one FHIR message bundle (BaRS), sent to $process-message; FHIR as XML is not taken
  *.csv   one referral or statuses, by --folder alone (docs/partners/file.md)
A folder stands for its *.json, *.hl7 and *.xml files in the order of their names, with --folder its *.csv files too.
A JSON file is sent under the SHA-256 of its bytes as its message key, so sending the same file again is harmless and
answered as a repeat; by --folder and --mesh every file is.

By --folder JSON may also be a status, a cancel or a withdrawal of consent, as docs/partners/file.md has them, and with
--amend an amendment. A file is accepted once the gateway moved it to `done`, and refused once it lies in `failed`. By --mesh the
hub's word is not the gateway's: a file is accepted once the gateway acknowledged it, which it does only with what it has
stored; what it does not take in stays unanswered here, and alarms its operators. A gateway looks into its mailbox every
five minutes unless its directory says otherwise: --wait 600 waits for two looks.
Webhooks, mailboxes and messages to families take in no new referrals: send those by one of the ways above.

Exit codes: 0 everything was accepted, 1 something was refused, 2 nothing to send, 3 no connection.")]
pub(super) struct Options {
    /// Files and folders.
    #[arg(required_unless_present = "example")]
    paths: Vec<PathBuf>,
    /// Message key to send one JSON file under, in place of its digest.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Wait for the log's proof of each accept.
    #[arg(long)]
    want_proof: bool,
    /// Folder for proofs and entries; implies --want-proof.
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Most referrals at work at the same time, over gRPC; HL7 v2 goes one by one.
    #[arg(long, value_name = "N", default_value_t = IN_FLIGHT, value_parser = in_flight)]
    in_flight: usize,
    /// MLLP listener for HL7 v2: an address, or a listener's name in waymark.toml. Without it, the first there.
    #[arg(long, value_name = "HOST:PORT|NAME")]
    mllp: Option<String>,
    /// Speak plain MLLP to the address given; a listener of waymark.toml says itself.
    #[arg(long, requires = "mllp")]
    mllp_plain: bool,
    /// FHIR listener, in place of the one in waymark.toml.
    #[arg(long, value_name = "HOST:PORT")]
    fhir: Option<String>,
    #[command(flatten)]
    by_folder: FolderOptions,
    #[command(flatten)]
    by_mesh: MeshOptions,
    /// How long to wait for what becomes of the files, by --folder and --mesh.
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS, value_parser = clap::value_parser!(u64).range(1..=WAIT_SECONDS_MAX))]
    wait: u64,
    /// What a manifest, or a message by MESH, says of its data.
    #[arg(long, value_name = "test|live", default_value = "test", value_parser = environment)]
    environment: Environment,
    /// Print an example referral and end.
    #[arg(long, exclusive = true)]
    example: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// How files go by a folder.
#[derive(Args, Debug)]
struct FolderOptions {
    /// The agency's own folder at the gateway, to leave every file in as a message with its manifest.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["mesh", "mllp", "fhir", "receipts", "want_proof", "request_id"])]
    folder: Option<PathBuf>,
    /// Send referrals in JSON as new content of those that their `sender_reference` names, by --folder.
    #[arg(long, requires = "folder")]
    amend: bool,
}

/// How files go from a MESH mailbox.
#[derive(Args, Debug)]
struct MeshOptions {
    /// MESH hub to send every file to, from an agency's own mailbox.
    #[arg(long, value_name = "URL", requires_all = ["mailbox", "to", "workflow", "password_file", "shared_key_file"],
          conflicts_with_all = ["mllp", "fhir", "receipts", "want_proof", "request_id"])]
    mesh: Option<String>,
    /// The agency's own mailbox.
    #[arg(long, value_name = "MAILBOX", requires = "mesh")]
    mailbox: Option<String>,
    /// The gateway's mailbox.
    #[arg(long, value_name = "MAILBOX", requires = "mesh")]
    to: Option<String>,
    /// The workflow id agreed with the gateway.
    #[arg(long, value_name = "WORKFLOW", requires = "mesh")]
    workflow: Option<String>,
    /// File that holds the mailbox's password.
    #[arg(long, value_name = "FILE", requires = "mesh")]
    password_file: Option<PathBuf>,
    /// File that holds the key that all mailboxes of the environment share.
    #[arg(long, value_name = "FILE", requires = "mesh")]
    shared_key_file: Option<PathBuf>,
}

/// How long is waited for what becomes of the files unless asked otherwise: three looks of a gateway into a folder.
const WAIT_SECONDS: u64 = 90;
/// The longest such wait: MESH keeps a message for five days, and nobody waits for that at a terminal.
const WAIT_SECONDS_MAX: u64 = 3_600;

fn environment(text: &str) -> Result<Environment, String> {
    let known = [Environment::Test, Environment::Live];
    let found = known.into_iter().find(|known| known.as_str() == text);
    found.ok_or_else(|| "is test or live".to_owned())
}

/// The most items of one stream at work that the gateway allows at all.
const IN_FLIGHT_MAX: usize = 1_024;

fn in_flight(text: &str) -> Result<usize, String> {
    let count: Option<usize> = text.parse().ok();
    count
        .filter(|n| (1..=IN_FLIGHT_MAX).contains(n))
        .ok_or_else(|| format!("is 1 to {IN_FLIGHT_MAX}"))
}

/// An example of the canonical form, with data of nobody.
const EXAMPLE: &str = include_str!("send/example.json");

/// What every file of one run of `send` shares.
struct Sending<'a> {
    options: &'a Options,
    bar: ProgressBar,
    items: Vec<Item>,
    channel: Option<Channel>,
    /// Items put on streams so far: the name of the last one.
    numbered: u64,
}

impl Options {
    /// Sends, and shows what became of each file.
    ///
    /// # Errors
    /// When nothing is to be sent, or no connection can be made.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.example {
            output::line(EXAMPLE.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let report = self.send().await?;
        match output::format() {
            Format::Json => output::json(&report)?,
            Format::Human => output::line(&report.summary())?,
        }
        Ok(if report.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    async fn send(&self) -> anyhow::Result<SendReport> {
        let sources = source::collect(&self.paths, self.by_folder.folder.is_some())?;
        if self.request_id.is_some() && sources.iter().filter(|s| s.kind == Kind::Json).count() != 1
        {
            return Err(Failure::usage("--request-id is for one JSON file"));
        }
        let bar = output::progress(sources.len(), "sending");
        let mut sending = Sending {
            options: self,
            bar,
            items: Vec::new(),
            channel: None,
            numbered: 0,
        };
        if let Some(folder) = &self.by_folder.folder {
            folder::send(&mut sending, folder, &sources).await?;
        } else if self.by_mesh.mesh.is_some() {
            mesh::send(&mut sending, &self.by_mesh, &sources).await?;
        } else {
            sending.in_runs(&sources).await?;
        }
        sending.bar.finish_and_clear();
        Ok(SendReport::of(sending.items))
    }

    /// How long is waited for what becomes of the files.
    const fn patience(&self) -> Duration {
        Duration::from_secs(self.wait)
    }

    fn wants_proof(&self) -> bool {
        self.want_proof || self.receipts.is_some()
    }
}

impl Sending<'_> {
    /// Sends each file by the protocol of its kind.
    async fn in_runs(&mut self, sources: &[Source]) -> anyhow::Result<()> {
        // Runs of files of one kind go together, so that the order of the names is the order of sending.
        for run in sources.chunk_by(|a, b| a.kind == b.kind) {
            match run.first().map(|s| s.kind) {
                Some(Kind::Json) => grpc::send(self, run).await?,
                Some(Kind::Hl7) => mllp::send(self, run).await?,
                Some(Kind::Message) => fhir::send(self, run).await?,
                Some(Kind::Csv | Kind::Fhir | Kind::Other) | None => {
                    for source in run {
                        self.done(source, Outcome::Refused(source::not_taken(source)))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The connection to the gateway, made at first use.
    async fn channel(&mut self) -> anyhow::Result<Channel> {
        match &self.channel {
            Some(channel) => Ok(channel.clone()),
            None => {
                let channel = self.options.client.connect(ClientDuty::Agency).await?;
                Ok(self.channel.insert(channel).clone())
            }
        }
    }

    /// Notes what became of a file and shows it.
    fn done(&mut self, source: &Source, outcome: Outcome) -> anyhow::Result<()> {
        let item = Item {
            file: source.path.display().to_string(),
            outcome,
        };
        if output::format() == Format::Human {
            self.bar.suspend(|| output::line(&item.to_string()))?;
        }
        self.bar.inc(1);
        self.items.push(item);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
