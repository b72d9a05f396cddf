//! `waymark audit`: the delivery log verified offline, exported, and proven entry by entry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use waymark_audit::verify::{Exhibit, Options as Verification, verify_tree_with};
use waymark_audit::{Verdict, text};
use waymark_core::id::{EventId, StreamId};
use waymark_proto::v1;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_proto::v1::referral_key::Key;
use waymark_proto::v1::{get_entry_request, get_inclusion_proof_request, get_receipt_request};
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{TlogProof, leaf_hash};

use super::client::{ClientArgs, ClientDuty};
use super::failure::{Failure, REFUSED, Refusal, USAGE};
use super::output::{self, Format};
use super::receipts;

mod export;

/// Longest key or receipt that is read from a file named on the command line.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Verifies, exports and proves the delivery log.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark audit export log/ --as auditor
  waymark audit export log/ --from-database --config waymark.toml
  waymark audit verify log/ --vkey log.vkey
  waymark audit prove 01890000-0000-7000-8000-000000000001 --as auditor --out entry.tlog-proof
  waymark audit receipt WM-ABCDE-FGHJK-LMNPQ --as EE123456 --out receipts/

verify needs neither network nor database; `waymark-audit` does the same as a program of its own.
Exit codes of verify: 0 everything holds, 1 something was tampered with, 2 it cannot be told.")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Re-derives everything of an exported tree and names what does not hold.
    Verify(Verify),
    /// Writes the log as a static tree.
    Export(export::Export),
    /// Proves that an entry is in the log.
    Prove(Prove),
    /// Fetches a receipt again, with its proof.
    Receipt(Receipt),
}

#[derive(Args, Debug)]
struct Verify {
    /// Folder that the log was exported to.
    dir: PathBuf,
    /// Public key to trust, as text or in a file; without one, the tree's own keys are taken.
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Vec<String>,
    /// Checkpoint kept from earlier, which the tree must extend.
    #[arg(long, value_name = "FILE")]
    old_checkpoint: Vec<PathBuf>,
    /// Receipt kept from earlier, which the tree must bear out.
    #[arg(long, value_name = "FILE")]
    receipt: Vec<PathBuf>,
    /// Stream to list in full, as 32 hexadecimal digits; by default that of the first receipt.
    #[arg(long, value_name = "HEX")]
    stream: Option<String>,
}

#[derive(Args, Debug)]
struct Prove {
    /// The entry: its event's id, or its index in the log.
    entry: String,
    /// File for the proof; without it, the proof goes to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
struct Receipt {
    /// The referral's short reference, or the id of an event.
    subject: String,
    /// Folder for the proof, the entry and its openings.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the gateway refuses.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Verify(verify) => verify.run(),
            Command::Export(export) => export.run().await,
            Command::Prove(prove) => prove.run().await,
            Command::Receipt(receipt) => receipt.run().await,
        }
    }
}

impl Verify {
    fn run(self) -> anyhow::Result<ExitCode> {
        let stream = self.stream.as_deref().map(stream_id).transpose()?;
        let options = Verification {
            keys: self
                .vkey
                .iter()
                .map(|key| parse_key(key))
                .collect::<anyhow::Result<_>>()?,
            old_checkpoints: exhibits(&self.old_checkpoint)?,
            receipts: exhibits(&self.receipt)?,
            stream,
            ..Verification::default()
        };
        let bar = output::progress(0, "verifying");
        let report = verify_tree_with(&self.dir, &options, &mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        match output::format() {
            Format::Json => output::json(&report)?,
            Format::Human => {
                let mut said = Vec::new();
                text::write_report(&report, &mut said)?;
                output::bytes(&said)?;
            }
        }
        Ok(match report.verdict {
            Verdict::Ok => ExitCode::SUCCESS,
            Verdict::Tampered => ExitCode::from(REFUSED),
            Verdict::CannotTell => ExitCode::from(USAGE),
        })
    }
}

fn stream_id(hex: &str) -> anyhow::Result<StreamId> {
    hex.parse()
        .map_err(|_| Failure::usage("--stream is 32 hexadecimal digits"))
}

/// A key as text has plus signs; anything else is the name of a file with such a line.
fn parse_key(key: &str) -> anyhow::Result<VerifierKey> {
    if let Ok(key) = VerifierKey::parse(key) {
        return Ok(key);
    }
    let text = read_text(Path::new(key))?;
    VerifierKey::parse(text.trim()).map_err(|e| Failure::usage(format!("{key}: {e}")))
}

fn exhibits(paths: &[PathBuf]) -> anyhow::Result<Vec<Exhibit>> {
    let exhibit = |path: &PathBuf| {
        Ok(Exhibit {
            name: path.display().to_string(),
            text: read_text(path)?,
        })
    };
    paths.iter().map(exhibit).collect()
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let unread = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|e| unread(e.to_string()))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(unread(format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| unread(e.to_string()))
}

impl Prove {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut client = AuditServiceClient::new(self.client.connect(ClientDuty::Auditor).await?);
        let subject = match self.entry.parse::<u64>() {
            Ok(index) => get_entry_request::Subject::Index(index),
            Err(_) => get_entry_request::Subject::EventId(self.entry.clone()),
        };
        let ask = v1::GetEntryRequest {
            subject: Some(subject),
        };
        let entry = client
            .get_entry(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner()
            .entry;
        let entry = entry.context("the gateway answered without an entry")?;
        let subject = Some(get_inclusion_proof_request::Subject::Index(entry.index));
        let ask = v1::GetInclusionProofRequest {
            subject,
            tree_size: 0,
        };
        let proof = client
            .get_inclusion_proof(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        ensure!(
            !proof.tlog_proof.is_empty(),
            "no checkpoint covers the entry yet: ask again in a moment"
        );
        let key = self.client.log_vkey()?;
        verify(&proof.tlog_proof, &entry.entry, key.as_ref())?;
        let (Some(path), bytes) = (&self.out, &proof.tlog_proof) else {
            output::bytes(&proof.tlog_proof)?;
            return Ok(ExitCode::SUCCESS);
        };
        std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
        let verified = key.is_some();
        let said = serde_json::json!({ "proof": path, "index": entry.index, "tree_size": proof.tree_size, "verified": verified });
        output::show(&said, |_| {
            let verified = if verified {
                "verified"
            } else {
                "not verified: client.toml names no log_vkey"
            };
            format!(
                "entry {} of {}, {verified}, wrote {}",
                entry.index,
                proof.tree_size,
                path.display()
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a proof holds for an entry, as far as the log's key is known here.
fn verify(proof: &[u8], entry: &[u8], key: Option<&VerifierKey>) -> anyhow::Result<()> {
    let proof = TlogProof::parse(std::str::from_utf8(proof).context("the proof is not text")?)?;
    if let Some(key) = key {
        proof
            .verify(&leaf_hash(entry), key)
            .context("the proof does not hold")?;
    }
    Ok(())
}

impl Receipt {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let subject = match self.subject.parse::<EventId>() {
            Ok(event) => get_receipt_request::Subject::EventId(event.to_string()),
            Err(_) => {
                let key = Some(Key::Reference(self.subject.clone()));
                get_receipt_request::Subject::Key(v1::ReferralKey { key })
            }
        };
        let channel = self.client.connect(ClientDuty::Agency).await?;
        let receipt = receipts::fetch(channel, subject).await?;
        let saved = receipts::save(&self.out, &receipt, self.client.log_vkey()?.as_ref())?;
        output::show(&saved, |saved| {
            let verified = if saved.verified {
                "verified"
            } else {
                "not verified: client.toml names no log_vkey"
            };
            format!(
                "{}: entry {}, {verified}, wrote {}",
                receipt.reference,
                saved.index,
                saved.proof.display()
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use waymark_tlog::note::SigningKey;

    use super::*;

    #[test]
    fn a_key_is_taken_as_text_and_from_a_file() {
        let key = SigningKey::from_seed("waymark/test/x", [7; 32])
            .unwrap()
            .vkey();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log.vkey");
        std::fs::write(&file, format!("{key}\n")).unwrap();
        assert_eq!(
            parse_key(&key).unwrap(),
            parse_key(file.to_str().unwrap()).unwrap()
        );
        assert!(parse_key("neither").is_err());
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("receipt");
        std::fs::write(&file, vec![b'x'; usize::try_from(FILE_BYTES_MAX).unwrap()]).unwrap();
        assert!(read_text(&file).is_ok());
        std::fs::write(
            &file,
            vec![b'x'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1],
        )
        .unwrap();
        assert!(read_text(&file).unwrap_err().to_string().contains("longer"));
    }
}
