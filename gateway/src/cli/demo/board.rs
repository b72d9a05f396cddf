//! The journey of each referral, as a table that is drawn anew on a terminal and as lines elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{self, Format};

/// One delivery on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The delivery's id.
    pub(super) delivery: String,
    /// What the demo calls the referral.
    pub(super) referral: String,
    /// The gateway's reference of it.
    pub(super) reference: String,
    /// What the delivery tells.
    pub(super) kind: String,
    /// The service, or the agency of a notice.
    pub(super) to: String,
    /// Where the delivery stands.
    pub(super) state: String,
    /// How good the proof of arrival is.
    pub(super) evidence: String,
    /// Attempts opened.
    pub(super) attempts: u32,
    /// What the service says of the case.
    pub(super) case: String,
}

enum Mode {
    /// A table at the foot of the terminal.
    Live(ProgressBar),
    /// A line for each change.
    Lines(BTreeMap<String, String>),
    /// Nothing: the result is for a script.
    Quiet,
}

/// Where the demo tells its story.
pub(super) struct Board(Mode);

impl Board {
    /// Opens the board that fits the output.
    pub(super) fn open() -> Self {
        if output::format() == Format::Json {
            return Self(Mode::Quiet);
        }
        if !io::stdout().is_terminal() {
            return Self(Mode::Lines(BTreeMap::new()));
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(Mode::Live(bar))
    }

    /// Tells one thing that was checked.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        match &self.0 {
            Mode::Live(bar) => bar.suspend(|| output::line(text)),
            Mode::Lines(_) => output::line(text),
            Mode::Quiet => Ok(()),
        }
    }

    /// Shows where everything stands.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) fn show(&mut self, rows: &[Row]) -> io::Result<()> {
        match &mut self.0 {
            Mode::Live(bar) => bar.set_message(table(rows)),
            Mode::Lines(known) => {
                for row in rows {
                    let line = line_of(row);
                    if known.get(&row.delivery) != Some(&line) {
                        output::line(&line)?;
                        known.insert(row.delivery.clone(), line);
                    }
                }
            }
            Mode::Quiet => {}
        }
        Ok(())
    }

    /// Ends the drawing and leaves the whole table behind; what comes later comes as lines.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(super) fn finish(&mut self, rows: &[Row]) -> io::Result<()> {
        if matches!(self.0, Mode::Quiet) {
            return Ok(());
        }
        if let Mode::Live(bar) = &self.0 {
            bar.finish_and_clear();
        }
        self.0 = Mode::Lines(
            rows.iter()
                .map(|row| (row.delivery.clone(), line_of(row)))
                .collect(),
        );
        output::line(&format!("\n{}\n", table(rows)))
    }
}

fn line_of(row: &Row) -> String {
    let case = if row.case.is_empty() {
        String::new()
    } else {
        format!(", the case is {}", row.case)
    };
    format!(
        "  {} {} to {}: {}, evidence {}, attempts {}{case}",
        row.referral, row.kind, row.to, row.state, row.evidence, row.attempts
    )
}

fn table(rows: &[Row]) -> String {
    let header = [
        "REFERRAL",
        "REFERENCE",
        "MESSAGE",
        "TO",
        "DELIVERY",
        "EVIDENCE",
        "ATTEMPTS",
        "CASE",
    ];
    let mut table = output::table(header);
    for row in rows {
        let attempts = row.attempts.to_string();
        table.add_row([
            &row.referral,
            &row.reference,
            &row.kind,
            &row.to,
            &row.state,
            &row.evidence,
            &attempts,
            &row.case,
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &str) -> Row {
        Row {
            delivery: "d1".to_owned(),
            referral: "adhd".to_owned(),
            reference: "WM-A".to_owned(),
            kind: "new".to_owned(),
            to: "community-paediatrics".to_owned(),
            state: state.to_owned(),
            evidence: "none".to_owned(),
            attempts: 2,
            case: "submitted".to_owned(),
        }
    }

    #[test]
    fn a_line_says_where_to_how_far_and_how_sure() {
        assert_eq!(
            line_of(&row("retry_wait")),
            "  adhd new to community-paediatrics: retry_wait, evidence none, attempts 2, the case is submitted"
        );
    }

    #[test]
    fn a_table_has_a_line_for_each_delivery() {
        let text = table(&[row("retry_wait"), row("done")]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("retry_wait") && text.contains("EVIDENCE"),
            "{text}"
        );
    }
}
