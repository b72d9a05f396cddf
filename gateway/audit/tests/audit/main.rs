//! The verifier and the export writer: honest trees pass, every other one is named.

mod cli;
mod export;
mod flips;
mod history;
mod sample;
mod streams;
