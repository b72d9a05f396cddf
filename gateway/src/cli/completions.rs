//! `waymark completions` and `waymark man`: written from the parser itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;

use super::output;

/// Writes completions for a shell.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark completions bash > ~/.local/share/bash-completion/completions/waymark
  waymark completions zsh > ~/.zfunc/_waymark")]
pub(super) struct Options {
    /// The shell.
    shell: Shell,
}

impl Options {
    /// Writes them to standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::parser(), "waymark", &mut script);
        output::bytes(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes man pages.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark man | man -l -
  waymark man --out /usr/local/share/man/man1")]
pub(super) struct ManOptions {
    /// Folder for one page a command; without it, the main page goes to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ManOptions {
    /// Writes them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match &self.out {
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(super::parser()).render(&mut page)?;
                output::bytes(&page)?;
            }
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("make {}", folder.display()))?;
                clap_mangen::generate_to(super::parser(), folder)
                    .with_context(|| format!("write man pages to {}", folder.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
