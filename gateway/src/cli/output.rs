//! The one place that prints: results to standard output, notes to standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// For scripts: one JSON object a line.
    Json,
}

/// What `--output` said; chosen once, before any command runs.
static CHOSEN: OnceLock<Format> = OnceLock::new();

/// Takes the format of this process; a second choice changes nothing.
pub(super) fn choose(format: Format) {
    CHOSEN.get_or_init(|| format);
}

/// How results are to be written.
pub(super) fn format() -> Format {
    CHOSEN.get().copied().unwrap_or_default()
}

/// Writes one line of a result.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes bytes of a result as they are.
pub(super) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a value as one line of JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Writes a value as JSON, or the lines that say the same to people.
pub(super) fn show<T: Serialize>(
    value: &T,
    human: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    match format() {
        Format::Json => json(value),
        Format::Human => Ok(line(human(value).trim_end())?),
    }
}

/// Tells a person something that is no result; nothing is left to report to when that fails.
pub(super) fn note(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// A table without frames, as wide as the terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// A progress bar on a terminal; nothing elsewhere, and nothing beside JSON.
pub(super) fn progress(total: usize, what: &'static str) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(u64::try_from(total).ok(), ProgressDrawTarget::stderr());
    if format() == Format::Json || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// A name of the wire contract as people read it: `LEG_STATE_IN_TRIAGE` without `LEG_STATE_` is `in_triage`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    let bare = name.strip_prefix(prefix).unwrap_or(name);
    if bare == "UNSPECIFIED" {
        String::new()
    } else {
        bare.to_ascii_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_contract_read_as_words() {
        assert_eq!(word("LEG_STATE_IN_TRIAGE", "LEG_STATE_"), "in_triage");
        assert_eq!(word("LEG_STATE_UNSPECIFIED", "LEG_STATE_"), "");
    }

    #[test]
    fn tables_hold_their_rows_without_frames() {
        let mut table = table(["state", "count"]);
        table.add_row(["done", "3"]);
        let text = table.to_string();
        assert!(
            text.contains("done") && !text.contains('|') && !text.contains('+'),
            "{text}"
        );
    }
}
