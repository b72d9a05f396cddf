//! `waymark mailbox`: an agency without a server fetches its own post, takes it, or refuses it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use clap::{Args, Subcommand, ValueEnum};
use prost::Message as _;
use serde::Serialize;
use tonic::transport::Channel;
use waymark_adapters::grpc::convert::{timestamp_from_proto, timestamp_to_proto};
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::mailbox_service_client::MailboxServiceClient;

use super::client::{ClientArgs, ClientDuty};
use super::failure::{Failure, Refusal};
use super::output::{self, word};
use crate::clock::SystemClock;

/// Deliveries lent at the same time unless asked otherwise.
const CREDIT: u32 = 10;
/// Seconds that a delivery is lent unless asked otherwise.
const LEASE_SECONDS: u32 = 300;

/// Fetches, takes and refuses an agency's post.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark mailbox receive --as SPEC1
  waymark mailbox receive --as SPEC1 --out post/ --acknowledge
  waymark mailbox acknowledge --as SPEC1 DELIVERY --token TOKEN --reference CASE-17
  waymark mailbox reject --as SPEC1 DELIVERY --token TOKEN --code not_our_area --fault sender

A delivery is lent for a time and comes again unless it is acknowledged or rejected; wire_id stays the same.
With --out, each is written as WIRE_ID.json, durable before it is acknowledged.")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetches what is waiting.
    Receive(Receive),
    /// Says that a delivery is durably taken.
    Acknowledge(Acknowledge),
    /// Says that a delivery cannot be taken.
    Reject(Reject),
}

#[derive(Args, Debug)]
struct Receive {
    /// Only for this service; may be given several times.
    #[arg(long, value_name = "ID")]
    service: Vec<String>,
    /// Most deliveries lent at the same time.
    #[arg(long, default_value_t = CREDIT, value_parser = clap::value_parser!(u32).range(1..=100))]
    credit: u32,
    /// Seconds that each is lent.
    #[arg(long, default_value_t = LEASE_SECONDS, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    lease_seconds: u32,
    /// Folder to write each delivery to.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Acknowledge each once it is written; its wire id is the reference.
    #[arg(long, requires = "out")]
    acknowledge: bool,
    /// Wait for more instead of ending when nothing is due.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
struct Acknowledge {
    /// The delivery.
    delivery: String,
    /// The loan's token, as `receive` shows it.
    #[arg(long, value_name = "HEX")]
    token: String,
    /// The agency's own reference for it.
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
struct Reject {
    /// The delivery.
    delivery: String,
    /// The loan's token, as `receive` shows it.
    #[arg(long, value_name = "HEX")]
    token: String,
    /// Code of the reason.
    #[arg(long, value_name = "CODE")]
    code: String,
    /// The reason in words, without personal data.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Whose mistake it is.
    #[arg(long, value_enum)]
    fault: Whose,
    #[command(flatten)]
    client: ClientArgs,
}

/// Whose mistake a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// The message is wrong.
    Sender,
    /// The message is right and cannot be taken here.
    Receiver,
}

/// A delivery, as shown.
#[derive(Debug, Serialize)]
struct Post {
    delivery_id: String,
    wire_id: String,
    attempt: u32,
    lease_token: String,
    lease_expires_at: String,
    acknowledged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// What it says; left out where it is in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatch: Option<v1::Dispatch>,
    #[serde(skip)]
    summary: String,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Receive(receive) => receive.run().await,
            Command::Acknowledge(acknowledge) => acknowledge.run().await,
            Command::Reject(reject) => reject.run().await,
        }
    }
}

impl Receive {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let channel = self.client.connect(ClientDuty::Agency).await?;
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make {}", folder.display()))?;
        }
        let ask = v1::ReceiveRequest {
            service_ids: self.service.clone(),
            credit: self.credit,
            lease_seconds: self.lease_seconds,
            drain: !self.wait,
        };
        let mut client = MailboxServiceClient::new(channel.clone());
        let mut post = client
            .receive(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        let mut count = 0_u64;
        loop {
            let next = tokio::select! {
                next = post.message() => next.map_err(Refusal::from)?,
                stopped = tokio::signal::ctrl_c() => {
                    stopped.context("listen for Ctrl-C")?;
                    break;
                }
            };
            let Some(item) = next else { break };
            let taken = self.take(&channel, &item).await?;
            output::show(&taken, |taken| taken.summary.clone())?;
            count += 1;
        }
        if count == 0 {
            output::note("nothing is due; what is on loan comes again when its loan ends");
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn take(&self, channel: &Channel, item: &v1::ReceiveResponse) -> anyhow::Result<Post> {
        if digest(&SHA256, &item.body).as_ref() != item.body_sha256 {
            anyhow::bail!(
                "delivery {} was damaged on the way: it comes again when its loan ends",
                item.delivery_id
            );
        }
        let dispatch = v1::Dispatch::decode(item.body.as_slice()).context("read the delivery")?;
        let file = self
            .out
            .as_deref()
            .map(|folder| write(folder, &item.wire_id, &dispatch))
            .transpose()?;
        if self.acknowledge {
            acknowledge(
                channel,
                &item.delivery_id,
                item.lease_token.clone(),
                Some(item.wire_id.clone()),
            )
            .await?;
        }
        let expires = item
            .lease_expires_at
            .as_ref()
            .and_then(|at| timestamp_from_proto("lease", at).ok());
        let expires = expires.map(|at| at.to_string()).unwrap_or_default();
        let kind = word(dispatch.kind().as_str_name(), "MESSAGE_KIND_");
        let token = hex::encode(&item.lease_token);
        let end = match (&file, self.acknowledge) {
            (Some(file), true) => format!("acknowledged, {}", file.display()),
            (Some(file), false) => format!("{}\n  token {token} until {expires}", file.display()),
            (None, _) => format!("loan {}\n  token {token} until {expires}", item.attempt),
        };
        let summary = format!(
            "{}  {kind}  {}  {} from {}  {end}",
            item.delivery_id, dispatch.reference, dispatch.service_id, dispatch.sender_agency_id
        );
        Ok(Post {
            delivery_id: item.delivery_id.clone(),
            wire_id: item.wire_id.clone(),
            attempt: item.attempt,
            lease_token: token,
            lease_expires_at: expires,
            acknowledged: self.acknowledge,
            dispatch: file.is_none().then_some(dispatch),
            file,
            summary,
        })
    }
}

/// Writes a delivery so that it is on the disk, under its own name, before this returns.
fn write(folder: &Path, wire_id: &str, dispatch: &v1::Dispatch) -> anyhow::Result<PathBuf> {
    use std::io::Write as _;
    // A wire id is 1 to 20 of A-Z and 0-9: parsed, it cannot lead out of the folder.
    let wire_id: waymark_core::id::WireId = wire_id.parse().context("read the wire id")?;
    let path = folder.join(format!("{wire_id}.json"));
    let save = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(dispatch)?)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    save().with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

async fn acknowledge(
    channel: &Channel,
    delivery: &str,
    token: Vec<u8>,
    reference: Option<String>,
) -> anyhow::Result<v1::AcknowledgeResponse> {
    let receipt = reference.map(|receiver_reference| v1::AgencyReceipt {
        received_at: Some(timestamp_to_proto(SystemClock.now())),
        receiver_reference,
        ..v1::AgencyReceipt::default()
    });
    let ask = v1::AcknowledgeRequest {
        delivery_id: delivery.to_owned(),
        lease_token: token,
        receipt,
    };
    let answer = MailboxServiceClient::new(channel.clone())
        .acknowledge(ask)
        .await;
    Ok(answer.map_err(Refusal::from)?.into_inner())
}

fn token(text: &str) -> anyhow::Result<Vec<u8>> {
    hex::decode(text.trim())
        .map_err(|_| Failure::usage("--token is hexadecimal, as `mailbox receive` shows it"))
}

impl Acknowledge {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let token = token(&self.token)?;
        let channel = self.client.connect(ClientDuty::Agency).await?;
        let answer = acknowledge(&channel, &self.delivery, token, self.reference).await?;
        output::show(&answer, |answer| {
            let again = if answer.duplicate { ", again" } else { "" };
            format!(
                "acknowledged{again}: {}, {}",
                word(answer.state().as_str_name(), "DELIVERY_STATE_"),
                word(answer.evidence().as_str_name(), "EVIDENCE_GRADE_")
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Reject {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let fault = match self.fault {
            Whose::Sender => v1::Fault::Sender,
            Whose::Receiver => v1::Fault::Receiver,
        };
        let ask = v1::RejectRequest {
            delivery_id: self.delivery,
            lease_token: token(&self.token)?,
            reason_code: self.code,
            reason: self.reason,
            fault: fault.into(),
        };
        let channel = self.client.connect(ClientDuty::Agency).await?;
        let answer = MailboxServiceClient::new(channel)
            .reject(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        output::show(&answer, |answer| {
            format!(
                "rejected: {}",
                word(answer.state().as_str_name(), "DELIVERY_STATE_")
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_written_whole_under_its_wire_id_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let dispatch = v1::Dispatch {
            reference: "WM-1".to_owned(),
            ..v1::Dispatch::default()
        };
        let path = write(dir.path(), "ABC123", &dispatch).unwrap();
        assert_eq!(path, dir.path().join("ABC123.json"));
        let read: v1::Dispatch = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, dispatch);
        for escaping in ["../X", "", "abc"] {
            assert!(
                write(dir.path(), escaping, &dispatch).is_err(),
                "{escaping}"
            );
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no half-written file stays"
        );
    }

    #[test]
    fn tokens_are_hexadecimal() {
        assert_eq!(token(" 0aff\n").unwrap(), [0x0a, 0xff]);
        assert!(token("xyz").is_err());
    }
}
