//! The command line.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use waymark_audit::Verdict;
use waymark_audit::receipt::verify_receipt;
use waymark_audit::text;
use waymark_audit::verify::{Exhibit, Options, Progress, verify_tree_with};
use waymark_core::id::StreamId;
use waymark_tlog::note::VerifierKey;

/// Longest key, entry or receipt that is read from a file named on the command line.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Entries between two lines of progress.
const PROGRESS_STEP: u64 = 16 * 1024;

/// Checks an exported delivery log, or one receipt, offline.
///
/// Exit codes: 0 everything holds, 1 something was tampered with, 2 it cannot be told.
#[derive(Debug, Parser)]
#[command(name = "waymark-audit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Re-derives everything of an exported tree and names what does not hold.
    Verify(VerifyArgs),
    /// Verifies one receipt for one entry.
    Receipt(ReceiptArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Directory that the log was exported to.
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
    stream: Option<StreamId>,
    /// How to write the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct ReceiptArgs {
    /// The receipt, a `.tlog-proof` file.
    file: PathBuf,
    /// Public key of the log, as text or in a file.
    #[arg(long, value_name = "KEY|FILE", required = true)]
    vkey: Vec<String>,
    /// The entry's bytes; by default those that the receipt carries itself.
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
    /// How to write the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// Runs the command and gives the exit code; what goes wrong before a check means "cannot tell".
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Verify(args) => verify(&args),
        Command::Receipt(args) => receipt(&args),
    };
    match outcome {
        Ok(Verdict::Ok) => ExitCode::SUCCESS,
        Ok(Verdict::Tampered) => ExitCode::from(1),
        Ok(Verdict::CannotTell) => ExitCode::from(2),
        Err(error) => {
            // Nothing is left to report to when standard error is closed.
            writeln!(io::stderr(), "waymark-audit: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn verify(args: &VerifyArgs) -> Result<Verdict> {
    let options = Options {
        keys: keys(&args.vkey)?,
        old_checkpoints: exhibits(&args.old_checkpoint)?,
        receipts: exhibits(&args.receipt)?,
        stream: args.stream,
        ..Options::default()
    };
    let mut line = ProgressLine::new();
    let report = verify_tree_with(&args.dir, &options, &mut |progress| line.show(progress));
    line.clear();
    match args.output {
        Output::Text => text::write_report(&report, &mut io::stdout().lock())?,
        Output::Json => json(&report)?,
    }
    Ok(report.verdict)
}

fn receipt(args: &ReceiptArgs) -> Result<Verdict> {
    let entry = args.entry.as_deref().map(read).transpose()?;
    let report = verify_receipt(&exhibit(&args.file)?, entry.as_deref(), &keys(&args.vkey)?);
    match args.output {
        Output::Text => text::write_receipt(&report, &mut io::stdout().lock())?,
        Output::Json => json(&report)?,
    }
    Ok(report.verdict)
}

fn json(report: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report).context("write the report")?;
    writeln!(out).context("write the report")
}

fn keys(named: &[String]) -> Result<Vec<VerifierKey>> {
    named
        .iter()
        .map(|key| parse_key(key).with_context(|| format!("key {key}")))
        .collect()
}

/// A key as text has plus signs; anything else is the name of a file with such a line.
fn parse_key(key: &str) -> Result<VerifierKey> {
    if let Ok(key) = VerifierKey::parse(key) {
        return Ok(key);
    }
    let text = String::from_utf8(read(Path::new(key))?).context("not text")?;
    Ok(VerifierKey::parse(text.trim_end())?)
}

fn exhibits(paths: &[PathBuf]) -> Result<Vec<Exhibit>> {
    paths.iter().map(|path| exhibit(path)).collect()
}

fn exhibit(path: &Path) -> Result<Exhibit> {
    let name = path.display().to_string();
    let text = String::from_utf8(read(path)?).with_context(|| format!("{name} is not text"))?;
    Ok(Exhibit { name, text })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("read {}", path.display());
    let metadata = std::fs::metadata(path).with_context(context)?;
    if metadata.len() > FILE_BYTES_MAX {
        bail!("{} is longer than {FILE_BYTES_MAX} bytes", path.display());
    }
    std::fs::read(path).with_context(context)
}

/// One line on standard error that is written over; silent when that is not a terminal.
struct ProgressLine {
    terminal: bool,
    next: u64,
    shown: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            next: PROGRESS_STEP,
            shown: false,
        }
    }

    fn show(&mut self, Progress { done, total }: Progress) {
        if self.terminal && done >= self.next {
            self.next = done.saturating_add(PROGRESS_STEP);
            self.shown = true;
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            // Progress is a courtesy: that it cannot be shown is no reason to stop.
            write!(
                io::stderr(),
                "\rverified {done} of {total} entries ({percent} %)"
            )
            .ok();
        }
    }

    fn clear(&self) {
        if self.shown {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
