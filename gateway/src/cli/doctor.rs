//! `waymark doctor`: everything that a deployment needs, looked at in order, each with what is wrong and what to do.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::output;

mod log;
mod stage;
mod store;

/// Looks at everything that a deployment needs.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark doctor --config /etc/waymark/waymark.toml
  waymark doctor --output json

It only reads, and may run beside a gateway. Exit codes: 0 nothing fails, 1 something does.")]
pub(super) struct Options {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "waymark.toml",
        env = "WAYMARK_CONFIG"
    )]
    config: PathBuf,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    /// As it should be.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at, because an earlier stage failed.
    Skipped,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Stage {
    #[serde(rename = "stage")]
    name: &'static str,
    health: Health,
    /// What was found, one line each.
    details: Vec<String>,
}

impl Stage {
    fn ok(stage: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name: stage,
            health: Health::Ok,
            details: vec![detail.into()],
        }
    }

    fn fail(stage: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name: stage,
            health: Health::Fail,
            details: vec![detail.into()],
        }
    }

    fn skipped(stage: &'static str) -> Self {
        Self {
            name: stage,
            health: Health::Skipped,
            details: Vec::new(),
        }
    }

    /// Adds something found; the stage is as well as the worst of them.
    fn add(&mut self, health: Health, detail: impl Into<String>) {
        self.health = self.health.max(health);
        self.details.push(detail.into());
    }
}

/// What the doctor found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Diagnosis {
    ok: bool,
    stages: Vec<Stage>,
}

impl Diagnosis {
    fn of(stages: Vec<Stage>) -> Self {
        let ok = stages
            .iter()
            .all(|s| matches!(s.health, Health::Ok | Health::Warn));
        Self { ok, stages }
    }

    fn text(&self) -> String {
        let mut table = output::table(["", "stage", "found"]);
        for stage in &self.stages {
            table.add_row([
                stage.health.to_string(),
                stage.name.to_owned(),
                stage.details.join("\n"),
            ]);
        }
        let verdict = if self.ok {
            "nothing fails"
        } else {
            "something fails: see FAIL above"
        };
        format!("{table}\n{verdict}")
    }
}

impl Options {
    /// Looks, and shows what was found.
    ///
    /// # Errors
    /// When the result cannot be written; what is wrong with the deployment is the result.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let diagnosis = Diagnosis::of(Box::pin(stage::look(&self.config)).await);
        output::show(&diagnosis, Diagnosis::text)?;
        Ok(if diagnosis.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[cfg(test)]
mod tests;
