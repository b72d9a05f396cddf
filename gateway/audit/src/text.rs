//! Reports as text for people.

use std::io::{self, Write};

use crate::receipt::ReceiptReport;
use crate::{EntryView, Finding, Report, StreamReport, Verdict};

/// Writes the report on a tree.
pub fn write_report(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if let (Some(origin), Some(size), Some(root)) = (&report.origin, report.size, &report.root) {
        writeln!(out, "log      {origin}")?;
        writeln!(out, "tree     {size} entries, root {root}")?;
    }
    for key in &report.keys {
        let whence = if report.keys_pinned {
            "as named"
        } else {
            "from the tree itself"
        };
        writeln!(out, "key      {key} ({whence})")?;
    }
    let checked = &report.checked;
    writeln!(
        out,
        "checked  {} entries, {} tiles, {} streams, {} checkpoints, {} receipts, {} openings",
        checked.entries,
        checked.tiles,
        checked.streams,
        checked.checkpoints,
        checked.receipts,
        checked.openings
    )?;
    for note in &report.notes {
        writeln!(out, "note     {note}")?;
    }
    findings(&report.findings, out)?;
    if report.findings_omitted > 0 {
        writeln!(out, "WRONG    and {} more", report.findings_omitted)?;
    }
    if let Some(listed) = &report.stream {
        stream(listed, out)?;
    }
    verdict(report.verdict, out)
}

/// Writes the report on a receipt.
pub fn write_receipt(report: &ReceiptReport, out: &mut impl Write) -> io::Result<()> {
    if let (Some(origin), Some(size), Some(index)) = (&report.origin, report.size, report.index) {
        writeln!(out, "log      {origin}")?;
        writeln!(out, "entry    {index} of {size}")?;
    }
    if let Some(leaf) = &report.leaf {
        writeln!(out, "leaf     {leaf}")?;
    }
    if let Some(entry) = &report.entry {
        writeln!(out, "says     {}", line(entry))?;
    }
    findings(&report.findings, out)?;
    verdict(report.verdict, out)
}

fn findings(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    for finding in findings {
        write!(out, "WRONG    {}", finding.file)?;
        if let Some(entry) = finding.entry {
            write!(out, ", entry {entry}")?;
        }
        if let Some(byte) = finding.byte {
            write!(out, ", byte {byte}")?;
        }
        writeln!(out, ": {}", finding.detail)?;
    }
    Ok(())
}

fn stream(stream: &StreamReport, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\nstream   {}, {} entries",
        stream.stream,
        stream.entries.len()
    )?;
    for entry in &stream.entries {
        writeln!(
            out,
            "  {:>3}  entry {}  {}",
            entry.entry.stream_seq,
            entry.index,
            line(&entry.entry)
        )?;
    }
    let sentence = if stream.complete_and_unaltered {
        "complete and unaltered up to this checkpoint"
    } else {
        "NOT shown to be complete and unaltered"
    };
    writeln!(out, "stream   {sentence}\n")
}

fn line(entry: &EntryView) -> String {
    let codes = entry.codes.join(" ");
    format!("{}  {}  {}  {codes}", entry.at, entry.kind, entry.org)
}

fn verdict(verdict: Verdict, out: &mut impl Write) -> io::Result<()> {
    let sentence = match verdict {
        Verdict::Ok => "ok: everything holds",
        Verdict::Tampered => "TAMPERED: see what is wrong above",
        Verdict::CannotTell => "cannot tell: see what is wrong above",
    };
    writeln!(out, "{sentence}")
}
