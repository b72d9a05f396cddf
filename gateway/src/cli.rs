//! The command line: one parser, one exit code, and everything that is printed goes through `output`.
//!
//! Exit codes, the same for every command unless its help says otherwise: 0 done, 1 refused or a check failed,
//! 2 the command line or a configuration file is wrong, 3 the gateway or the database cannot be reached.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod audit;
mod bench;
mod client;
mod completions;
mod config;
mod demo;
mod directory;
mod doctor;
mod failure;
mod https;
mod init;
mod keys;
mod mailbox;
mod mesh;
mod migrate;
mod output;
mod pki;
mod probe;
mod receipts;
mod route;
mod send;
mod serve;
mod watch;
mod worker;

pub use client::{ClientArgs, ClientDuty, ClientIdentity};
pub use failure::{Failure, Refusal};
pub use init::{Deployment, InitOptions, Ports, init_deployment};
pub use output::Format;
pub use pki::{Authority, CertificateAsk, Issued};
pub use send::{Accepted, Item, Outcome, Refused, SendReport};

/// Referrals for children with special educational needs: routed, delivered, answered and proven.
#[derive(Debug, Parser)]
#[command(name = "waymark", version, propagate_version = true, after_long_help = AFTER_HELP)]
struct Cli {
    /// How results are written.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Begin:
  waymark demo                          a gateway and its agencies on this machine
  waymark init mydir                    keys, certificates, configuration, sample directory
  waymark serve --config mydir/waymark.toml
  waymark send --config mydir/waymark.toml --as EE123456 referrals/

Exit codes:
  0  done
  1  refused, or a check failed
  2  the command line or a configuration file is wrong
  3  the gateway or the database cannot be reached";

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a deployment: keys, certificates, configuration and a directory.
    Init(init::Options),
    /// Runs a gateway.
    Serve(serve::Options),
    /// Delivers, without faces.
    Worker(worker::Options),
    /// Shows the whole job on this machine.
    Demo(demo::Options),
    /// Brings the database's schema up to date.
    Migrate(migrate::Options),
    /// Shows, rotates and destroys the keys that children's keys are wrapped by.
    Keys(keys::Options),
    /// Checks everything that a deployment needs, and names what is wrong.
    Doctor(doctor::Options),
    /// Checks and shows waymark.toml.
    Config(config::Options),
    /// Checks, compares and applies the directory.
    Directory(directory::Options),
    /// Tries whether an endpoint's far side can be reached, stage by stage.
    Probe(probe::Options),
    /// Says where a referral goes, and why.
    Route(route::Options),
    /// Sends referrals from files.
    Send(Box<send::Options>),
    /// Follows what happens to referrals.
    Watch(watch::Options),
    /// Fetches, takes and refuses an agency's post.
    Mailbox(mailbox::Options),
    /// Verifies, exports and proves the delivery log.
    Audit(audit::Options),
    /// Issues and shows certificates of the development authority.
    Pki(pki::Options),
    /// Measures against the machine's limits.
    Bench(bench::Options),
    /// Writes completions for a shell.
    Completions(completions::Options),
    /// Writes man pages.
    Man(completions::ManOptions),
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Init(options) => options.run(),
            Self::Serve(options) => options.run().await,
            Self::Worker(options) => options.run().await,
            Self::Demo(options) => Box::pin(options.run()).await,
            Self::Migrate(options) => options.run().await,
            Self::Keys(options) => options.run().await,
            Self::Doctor(options) => Box::pin(options.run()).await,
            Self::Config(options) => options.run(),
            Self::Directory(options) => options.run().await,
            Self::Probe(options) => options.run().await,
            Self::Route(options) => options.run().await,
            Self::Send(options) => options.run().await,
            Self::Watch(options) => options.run().await,
            Self::Mailbox(options) => options.run().await,
            Self::Audit(options) => options.run().await,
            Self::Pki(options) => options.run(),
            Self::Bench(options) => Box::pin(options.run()).await,
            Self::Completions(options) => options.run(),
            Self::Man(options) => options.run(),
        }
    }
}

/// Parses the command line, runs the command and answers the process's exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    output::choose(cli.output);
    // Where another library has chosen a provider first, that choice stands.
    let _chosen: Result<(), _> = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure::report(&anyhow::Error::new(error).context("start the runtime"));
        }
    };
    match runtime.block_on(Box::pin(cli.command.run())) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

/// The parser, for completions and man pages.
fn parser() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests;
