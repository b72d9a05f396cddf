//! The offline verifier of an exported delivery log, and the writer of such exports: no network,
//! no database.

mod entry_view;
pub mod export;
mod layout;
pub mod receipt;
mod report;
pub mod text;
mod tree;
pub mod verify;

pub use entry_view::EntryView;
pub use report::{
    Checked, FINDINGS_MAX, Finding, Report, StreamEntry, StreamReport, Verdict, What,
};
