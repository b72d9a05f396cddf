//! How one receiver's messages differ from everybody's: tested mapping data, read from an endpoint's settings.

use serde::Deserialize;
use waymark_core::error::Violation;

use super::build::{AckMode, Version};
use super::charset::Charset;
use super::config::check;

/// The most bytes of documents that may go inline: encoded, they leave a quarter of a message to everything else.
pub const INLINE_BYTES_MAX: u64 = 589_824;
/// Segments of the receiver's own that a message may end with.
pub const EXTRA_SEGMENTS_MAX: usize = 10;
/// Characters of one of them.
pub const EXTRA_SEGMENT_CHARS_MAX: usize = 1_000;

/// How a sender is told of an appointment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusAs {
    /// By RRI^I12, as of every other status.
    #[default]
    Rri,
    /// By SIU^S12, S15 or S26; every other status by RRI^I12.
    Siu,
}

/// The particulars of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// The version that it reads.
    pub version: Version,
    /// The acknowledgements that it gives.
    pub ack_mode: AckMode,
    /// The character set that it reads.
    pub charset: Charset,
    /// Z-segments that its referrals end with, as they stand.
    pub extra_segments: Vec<String>,
    /// How it is told of appointments.
    pub status_as: StatusAs,
    /// Bytes of one message's documents that go inline, all together.
    pub inline_bytes_max: u64,
}

/// The particulars as an endpoint's settings write them.
pub(super) struct Written<'s> {
    pub(super) version: &'s str,
    pub(super) ack_mode: &'s str,
    pub(super) charset: Option<&'s str>,
    pub(super) extra_segments: &'s [String],
    pub(super) status_as: StatusAs,
    pub(super) inline_bytes_max: Option<u64>,
}

impl Dialect {
    /// Reads the particulars; each that is wrong is named, and stands for nothing.
    pub(super) fn read(written: &Written<'_>, faults: &mut Vec<Violation>) -> Self {
        let version = Version::from_code(written.version);
        let known = "is 2.3, 2.3.1, 2.4, 2.5 or 2.5.1";
        check(version.is_some(), "version", known, faults);
        let ack_mode = match written.ack_mode {
            "original" => Some(AckMode::Original),
            "enhanced" => Some(AckMode::Enhanced),
            _ => None,
        };
        let known = "is original or enhanced";
        check(ack_mode.is_some(), "ack_mode", known, faults);
        let charset = written
            .charset
            .map_or(Some(Charset::Utf8), Charset::from_name);
        let known = "is ASCII, 8859/1 or UNICODE UTF-8";
        check(charset.is_some(), "charset", known, faults);
        let extra = written.extra_segments;
        let good = extra.len() <= EXTRA_SEGMENTS_MAX && extra.iter().all(|it| is_z_segment(it));
        let rule = "are at most 10 lines such as \"ZWM|1|SEND\", of at most 1000 printing ASCII characters";
        check(good, "extra_segments", rule, faults);
        let inline = written.inline_bytes_max.unwrap_or(INLINE_BYTES_MAX);
        let rule = "is at most 589824 bytes: what is larger goes by reference";
        check(inline <= INLINE_BYTES_MAX, "inline_bytes_max", rule, faults);
        Self {
            version: version.unwrap_or(Version::V25),
            ack_mode: ack_mode.unwrap_or(AckMode::Original),
            charset: charset.unwrap_or(Charset::Utf8),
            extra_segments: extra.to_vec(),
            status_as: written.status_as,
            inline_bytes_max: inline,
        }
    }
}

fn is_z_segment(line: &str) -> bool {
    let (name, rest) = line.split_at_checked(3).unwrap_or((line, ""));
    let named = name.len() == 3
        && name.starts_with('Z')
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    named
        && (rest.is_empty() || rest.starts_with('|'))
        && line.len() <= EXTRA_SEGMENT_CHARS_MAX
        && line.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_of_the_z_kind_are_taken_and_none_can_break_out_of_its_line() {
        for (line, good) in [
            ("ZWM|1|SEND", true),
            ("Z12", true),
            ("ZWM1", false),
            ("PID|1", false),
            ("zwm|1", false),
            ("Z", false),
            ("", false),
            ("ZWM|1\rPID|1", false),
            ("ZWM|Zoë", false),
        ] {
            assert_eq!(is_z_segment(line), good, "{line}");
        }
        let edge = format!("ZWM|{}", "x".repeat(EXTRA_SEGMENT_CHARS_MAX - 4));
        assert!(is_z_segment(&edge));
        assert!(!is_z_segment(&(edge + "x")));
    }
}
