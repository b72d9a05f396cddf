//! Software that we did not write, as `tests/run` installs it: started, asked and read here (tests/peers/README.md).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::engine::{root, setting};
use crate::gateway::{PATIENCE, wait_until};

/// The longest that a peer may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest that a program that ends by itself may run.
const RUN_TIMEOUT: Duration = Duration::from_mins(3);

/// What a failing test says of peers that are not there.
fn absent(what: &str, path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "{what} is not at {}: run `tests/run --setup-only`, which installs the peers",
        path.display()
    )
}

fn installed(what: &str, name: &str, default: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(setting(
        name,
        &root().join(".tests").join(default).display().to_string(),
    ));
    if path.exists() {
        Ok(path)
    } else {
        Err(absent(what, &path))
    }
}

/// A program that begins one of the peers' scripts, or stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Python,
    Node,
    Shell,
    Sumdb,
}

impl Program {
    fn of(script: &str) -> Self {
        match Path::new(script).extension().and_then(OsStr::to_str) {
            Some("py") => Self::Python,
            Some("js") => Self::Node,
            Some("sh") => Self::Shell,
            _ => Self::Sumdb,
        }
    }

    /// The command that runs a script of tests/peers.
    fn command(self, script: &str) -> anyhow::Result<Command> {
        let path = root().join("tests/peers").join(script);
        let python = || {
            installed(
                "the Python of the peers",
                "WAYMARK_TEST_PYTHON",
                "py/bin/python",
            )
        };
        let mut command = match self {
            Self::Python => Command::new(python()?),
            Self::Node => {
                let modules = installed(
                    "the folder of the Node peers",
                    "NODE_PATH",
                    "node/node_modules",
                )?;
                let mut command = Command::new(setting("WAYMARK_TEST_NODE", "node"));
                command.env("NODE_PATH", modules);
                command
            }
            Self::Shell => {
                // What the script runs stands beside Python.
                python()?;
                Command::new("bash")
            }
            Self::Sumdb => Command::new(installed(
                "the Go checker",
                "WAYMARK_TEST_SUMDB",
                "bin/sumdb",
            )?),
        };
        if self != Self::Sumdb {
            command.arg(path);
        }
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }
}

/// A peer that listens; dropped, it is killed.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    _words: BufReader<ChildStdout>,
    folder: TempDir,
    port: u16,
}

impl Peer {
    /// Starts a script of tests/peers that prints `READY <port>`, with arguments besides `--record`.
    ///
    /// # Errors
    /// When it is not installed or does not become ready; its own words are quoted.
    pub async fn start<S: AsRef<OsStr>>(script: &str, args: &[S]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let errors = folder.path().join("errors");
        let mut command = Program::of(script).command(script)?;
        command
            .arg("--record")
            .arg(folder.path().join("record"))
            .args(args);
        command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors)?);
        let mut process = command
            .spawn()
            .with_context(|| format!("start {script}: has tests/run --setup-only been run?"))?;
        let mut words = BufReader::new(process.stdout.take().context("its output")?);
        let mut line = String::new();
        let ready = tokio::time::timeout(READY_TIMEOUT, words.read_line(&mut line)).await;
        let port = line
            .strip_prefix("READY ")
            .and_then(|port| port.trim().parse().ok());
        let (Ok(Ok(_)), Some(port)) = (ready, port) else {
            bail!(
                "{script} did not become ready: {line}{}",
                std::fs::read_to_string(&errors)?
            );
        };
        Ok(Self {
            process,
            _words: words,
            folder,
            port,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came, as the peer wrote it down before it answered.
    ///
    /// # Errors
    /// When a whole line is no JSON.
    pub fn records(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.path().join("record")).unwrap_or_default();
        // A line that is just being written has no end yet.
        let whole = text
            .rfind('\n')
            .and_then(|end| text.get(..end))
            .unwrap_or_default();
        whole
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// Waits until so many arrivals are written down.
    ///
    /// # Errors
    /// When they do not come; the peer's own words are quoted.
    pub async fn has(&self, count: usize) -> anyhow::Result<Vec<Value>> {
        let what = format!("{count} arrivals at the peer");
        let came = wait_until(&what, PATIENCE, || async {
            let records = self.records()?;
            Ok((records.len() >= count).then_some(records))
        });
        came.await.with_context(|| {
            std::fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default()
        })
    }

    /// Ends it and waits until it is gone, so that its port is free.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("end the peer")
    }
}

/// The text of a field of a record; empty where it has none.
pub fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The bytes of a field of a record that is base64.
///
/// # Errors
/// When it is none.
pub fn bytes(record: &Value, field: &str) -> anyhow::Result<Vec<u8>> {
    STANDARD
        .decode(text(record, field))
        .with_context(|| format!("{field} of a record"))
}

/// What a program said that ended by itself.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Its output.
    pub out: String,
    /// Its errors.
    pub errors: String,
}

impl Said {
    /// The JSON of the last line.
    ///
    /// # Errors
    /// When there is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("it said {}{}", self.out, self.errors))
    }
}

/// Runs a script of tests/peers, or `sumdb`, to its end.
///
/// # Errors
/// When it is not installed or does not end in time.
pub async fn run<S: AsRef<OsStr>>(script: &str, args: &[S]) -> anyhow::Result<Said> {
    let mut command = Program::of(script).command(script)?;
    command.args(args);
    ended(command)
        .await
        .with_context(|| format!("run {script}"))
}

/// Runs any command to its end.
///
/// # Errors
/// When it does not start or does not end in time.
pub async fn ended(mut command: Command) -> anyhow::Result<Said> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN_TIMEOUT, command.output())
        .await
        .context("it did not end in time")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said {
        ok: output.status.success(),
        out: text(&output.stdout),
        errors: text(&output.stderr),
    })
}
