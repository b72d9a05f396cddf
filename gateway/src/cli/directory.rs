//! `waymark directory`: who is in the area and what goes where, checked, compared and applied as a release.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use tonic::transport::Channel;
use waymark_core::directory::{Change, Directory, Finding, Severity, SourceFile, check, diff};
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::admin_service_client::AdminServiceClient;
use waymark_proto::v1::directory_service_client::DirectoryServiceClient;

use super::client::{ClientArgs, ClientDuty};
use super::failure::{Failure, Refusal};
use super::output::{self, Format, word};
use crate::app::read_folder;
use crate::clock::SystemClock;
use crate::config::Config;

mod endpoints;

/// Checks, compares and applies the directory.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark directory check area/
  waymark directory check area/ --config waymark.toml       # names secrets that do not resolve, too
  waymark directory diff area/ --against area-last-month/
  waymark directory diff area/ --as admin                   # against the release in force
  waymark directory apply area/ --note 'new therapy service from June' --as admin

check exits 1 when there is an error, 0 with warnings alone.")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Finds everything that is wrong, each with file and line, and runs the tests inside.
    Check {
        /// The folder.
        folder: PathBuf,
        /// A waymark.toml, to find out whether every secret that the directory names can be had.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Lists what differs from the release in force, or from another folder.
    Diff {
        /// The folder.
        folder: PathBuf,
        /// Another folder to compare with, in place of the release in force.
        #[arg(long, value_name = "DIR")]
        against: Option<PathBuf>,
        #[command(flatten)]
        client: Box<ClientArgs>,
    },
    /// Makes it the next release; running instances follow within 5 seconds.
    Apply(Box<Apply>),
}

#[derive(Args, Debug)]
struct Apply {
    /// The folder.
    folder: PathBuf,
    /// Why; kept with the release.
    #[arg(long, value_name = "TEXT")]
    note: String,
    /// Apply without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When a folder cannot be read, or the gateway refuses.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Check { folder, config } => {
                let config = config.map(|path| Config::load(&path)).transpose()?;
                let checked = checked(&read(&folder)?, config.as_ref())?;
                output::show(&checked, text)?;
                Ok(if checked.ok {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                })
            }
            Command::Diff {
                folder,
                against,
                client,
            } => {
                let new = load_folder(&folder)?;
                let old = match against {
                    Some(folder) => load_folder(&folder)?,
                    None => in_force(client.connect(ClientDuty::Admin).await?).await?,
                };
                output::show(&diff(&old, &new), |changes| lines(changes))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Apply(apply) => apply.run().await,
        }
    }
}

fn read(folder: &Path) -> anyhow::Result<Vec<SourceFile>> {
    read_folder(folder).map_err(|error| Failure::usage(format!("{error:#}")))
}

/// Loads a folder; a fault in it is a mistake of whoever named it.
pub(super) fn load_folder(folder: &Path) -> anyhow::Result<Directory> {
    Directory::load(&read(folder)?).map_err(|findings| {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failure::usage(format!(
            "{} does not load:\n{}",
            folder.display(),
            all.join("\n")
        ))
    })
}

/// Everything that is wrong with a directory's files: references, rules, tests, endpoints' settings and secrets.
fn checked(files: &[SourceFile], config: Option<&Config>) -> anyhow::Result<Checked> {
    let findings = match Directory::load(files) {
        Err(findings) => findings,
        Ok(directory) => {
            let mut findings = check(&directory, SystemClock.now().london_date());
            findings.extend(endpoints::findings(&directory)?);
            if let Some(config) = config {
                findings.extend(endpoints::secrets(&directory, &config.secrets()));
            }
            findings.sort_by(|a, b| (a.severity, &a.place).cmp(&(b.severity, &b.place)));
            findings
        }
    };
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    Ok(Checked {
        ok: errors == 0,
        errors,
        warnings: findings.len() - errors,
        findings,
    })
}

fn text(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked.findings.iter().map(ToString::to_string).collect();
    lines.push(format!(
        "{} errors, {} warnings",
        checked.errors, checked.warnings
    ));
    lines.join("\n")
}

fn lines(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no difference".to_owned();
    }
    changes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The release in force, with its files.
async fn in_force(channel: Channel) -> anyhow::Result<Directory> {
    let ask = v1::GetReleaseRequest {
        directory_release: 0,
        include_files: true,
    };
    let answer = DirectoryServiceClient::new(channel)
        .get_release(ask)
        .await
        .map_err(Refusal::from)?;
    let files = answer.into_inner().files.into_iter().map(|file| {
        let text = String::from_utf8(file.content)
            .with_context(|| format!("{} is not text", file.path))?;
        Ok(SourceFile {
            path: file.path,
            text,
        })
    });
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    Directory::load(&files).map_err(|_| {
        anyhow::anyhow!("the release in force does not load here: this program may be older")
    })
}

impl Apply {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let files = read(&self.folder)?;
        let channel = self.client.connect(ClientDuty::Admin).await?;
        let ask = v1::GetReleaseRequest {
            directory_release: 0,
            include_files: false,
        };
        let current = DirectoryServiceClient::new(channel.clone())
            .get_release(ask)
            .await
            .map_err(Refusal::from)?;
        let expected_release = current
            .into_inner()
            .release
            .map_or(0, |r| r.directory_release);
        let mut admin = AdminServiceClient::new(channel);
        let mut ask = v1::ApplyDirectoryRequest {
            files: files
                .into_iter()
                .map(|f| v1::DirectoryFile {
                    path: f.path,
                    content: f.text.into_bytes(),
                })
                .collect(),
            comment: self.note.clone(),
            expected_release,
            dry_run: true,
        };
        let tried = admin
            .apply_directory(ask.clone())
            .await
            .map_err(Refusal::from)?
            .into_inner();
        let faulty = tried
            .findings
            .iter()
            .any(|f| f.severity() == v1::FindingSeverity::Error);
        if output::format() == Format::Human || faulty {
            output::show(&tried, |tried| preview(tried, expected_release))?;
        }
        if faulty {
            return Ok(ExitCode::FAILURE);
        }
        if !self.yes && !confirmed()? {
            bail!("not applied");
        }
        ask.dry_run = false;
        let applied = admin
            .apply_directory(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        output::show(&applied, |applied| match &applied.release {
            Some(release) => format!("release {} is in force", release.directory_release),
            None => format!("nothing differs from release {expected_release}: none was made"),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn preview(tried: &v1::ApplyDirectoryResponse, against: u64) -> String {
    let mut lines = Vec::new();
    for f in &tried.findings {
        let severity = word(f.severity().as_str_name(), "FINDING_SEVERITY_");
        lines.push(format!(
            "{}:{}: {severity} {}: {}",
            f.path, f.line, f.code, f.message
        ));
    }
    if tried
        .findings
        .iter()
        .any(|f| f.severity() == v1::FindingSeverity::Error)
    {
        return lines.join("\n");
    }
    lines.push(format!("compared with release {against}:"));
    for change in &tried.changes {
        let sign = match change.kind() {
            v1::DirectoryChangeKind::Added => '+',
            v1::DirectoryChangeKind::Removed => '-',
            v1::DirectoryChangeKind::Changed | v1::DirectoryChangeKind::Unspecified => '~',
        };
        lines.push(format!(
            "{sign} {} {}: {}",
            change.object, change.id, change.summary
        ));
    }
    if tried.changes.is_empty() {
        lines.push("no difference".to_owned());
    }
    lines.join("\n")
}

/// Asks the person at the terminal; elsewhere nobody can answer, so `--yes` must say it.
fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody is there to ask: give --yes to apply",
        ));
    }
    let mut err = std::io::stderr();
    write!(err, "apply? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::{InitOptions, init_deployment};

    fn sample() -> (tempfile::TempDir, Config, Vec<SourceFile>) {
        let root = tempfile::tempdir().unwrap();
        let made = init_deployment(&root.path().join("area"), &InitOptions::default()).unwrap();
        let files = read(&made.dir.join("directory")).unwrap();
        (root, Config::load(&made.config).unwrap(), files)
    }

    fn codes(checked: &Checked) -> Vec<(&'static str, String)> {
        checked
            .findings
            .iter()
            .map(|f| (f.code, f.place.file.clone()))
            .collect()
    }

    #[test]
    fn the_sample_directory_has_no_errors_and_its_secrets_resolve() {
        let (_root, config, files) = sample();
        let checked = checked(&files, Some(&config)).unwrap();
        assert!(checked.ok, "{}", text(&checked));
        assert!(
            !codes(&checked)
                .iter()
                .any(|(code, _)| *code == "secret-missing"),
            "{}",
            text(&checked)
        );
    }

    #[test]
    fn a_secret_that_does_not_resolve_is_named_with_file_and_line() {
        let (_root, config, files) = sample();
        std::fs::remove_file(config.secrets.dir.join("therapy-webhook")).unwrap();
        let checked = checked(&files, Some(&config)).unwrap();
        let missing = checked
            .findings
            .iter()
            .find(|f| f.code == "secret-missing")
            .unwrap();
        assert_eq!(missing.place.file, "services.toml");
        assert!(
            missing.place.line > 0 && missing.message.contains("therapy-webhook"),
            "{missing}"
        );
    }

    #[test]
    fn settings_that_the_adapter_refuses_are_an_error_where_the_endpoint_stands() {
        let (_root, _, mut files) = sample();
        for file in &mut files {
            file.text = file
                .text
                .replace("ack_mode = \"original\"", "ack_mode = \"never\"");
        }
        let checked = checked(&files, None).unwrap();
        assert!(!checked.ok);
        assert!(
            codes(&checked).contains(&("endpoint-settings", "services.toml".to_owned())),
            "{}",
            text(&checked)
        );
    }

    #[test]
    fn what_does_not_load_is_listed_with_file_and_line() {
        let (_root, _, mut files) = sample();
        files.push(SourceFile {
            path: "x.toml".to_owned(),
            text: "\n[[servce]]\n".to_owned(),
        });
        let checked = checked(&files, None).unwrap();
        assert!(
            text(&checked).starts_with("x.toml:2: error unknown-table"),
            "{}",
            text(&checked)
        );
    }
}
