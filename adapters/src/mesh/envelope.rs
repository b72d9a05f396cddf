//! The headers of a message in the inbox, and what its chunks are. Pure.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use waymark_core::error::Violation;
use waymark_core::time::Timestamp;

/// The most characters of a header that is kept.
const HEADER_CHARS_MAX: usize = 500;
/// What our own checksums begin with; others' are theirs to check.
const CHECKSUM: &str = "SHA-256 ";

/// What lies in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    /// A message of another mailbox.
    Data,
    /// The hub's word that one of ours did not arrive.
    Report,
}

/// The headers of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) lies: Lies,
    /// The mailbox that sent it; empty for a report.
    pub(super) from: String,
    pub(super) workflow: String,
    /// The sender's own id of it; in a report and an acknowledgement ours.
    pub(super) local_id: Option<String>,
    pub(super) checksum: Option<String>,
    /// Why, in a report.
    pub(super) code: Option<String>,
    /// Since when it lies there.
    pub(super) at: Option<Timestamp>,
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (1..=HEADER_CHARS_MAX)
        .contains(&value.len())
        .then(|| value.to_owned())
}

impl Envelope {
    /// Reads the headers.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Violation> {
        let of = |name: &str| text(headers, name);
        let lies = match of("mex-messagetype").as_deref() {
            Some("DATA") => Lies::Data,
            Some("REPORT") => Lies::Report,
            _ => return Err(Violation::new("Mex-MessageType", "is DATA or REPORT")),
        };
        let at = of("mex-statustimestamp").and_then(|text| {
            let at = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
            let at = jiff::tz::TimeZone::UTC.to_timestamp(at).ok()?;
            Some(Timestamp::from_ms(at.as_millisecond()))
        });
        Ok(Self {
            lies,
            from: of("mex-from").unwrap_or_default().to_uppercase(),
            workflow: of("mex-workflowid").unwrap_or_default(),
            local_id: of("mex-localid"),
            checksum: of("mex-content-checksum"),
            code: of("mex-statuscode"),
            at,
        })
    }
}

/// The checksum that we write, and check where it is of our kind.
pub(super) fn checksum(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    format!("{CHECKSUM}{}", hex::encode(digest))
}

/// Whether bytes are what their sender's checksum says; one of another kind says nothing to us.
pub(super) fn sums_up(written: Option<&str>, bytes: &[u8]) -> bool {
    match written {
        Some(sum) if sum.starts_with(CHECKSUM) => sum.eq_ignore_ascii_case(&checksum(bytes)),
        Some(_) | None => true,
    }
}

/// The bytes of a chunk, however they were packed, and no more than `bytes_max` of them.
pub(super) fn unpacked(
    headers: &HeaderMap,
    body: Vec<u8>,
    bytes_max: usize,
) -> Result<Vec<u8>, Violation> {
    let too_long = || Violation::new("data", "is longer than is taken in");
    let bytes = match text(headers, CONTENT_ENCODING.as_str()).as_deref() {
        None | Some("identity") => body,
        Some("gzip") => {
            let most = u64::try_from(bytes_max).unwrap_or(u64::MAX);
            let mut bytes = Vec::new();
            MultiGzDecoder::new(body.as_slice())
                .take(most.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(|_| Violation::new("data", "is not the gzip that its header says"))?;
            bytes
        }
        Some(_) => return Err(Violation::new("Content-Encoding", "is gzip or none")),
    };
    if bytes.len() > bytes_max {
        return Err(too_long());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::{HeaderName, HeaderValue};
    use waymark_core::time::Timestamp;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_headers_of_a_report_are_read_whatever_their_case() {
        let read = Envelope::read(&headers(&[
            ("Mex-MessageType", "REPORT"),
            ("mex-workflowid", "SEND_REFERRAL"),
            ("MEX-LOCALID", "WM1"),
            ("mex-statuscode", "14"),
            ("mex-statustimestamp", "20260302100000"),
        ]))
        .unwrap();
        assert_eq!(read.lies, Lies::Report);
        assert_eq!(read.local_id.as_deref(), Some("WM1"));
        assert_eq!(read.code.as_deref(), Some("14"));
        assert_eq!(read.at, Some(Timestamp::from_ms(1_772_445_600_000)));
        assert!(Envelope::read(&HeaderMap::new()).is_err());
    }

    #[test]
    fn what_is_packed_is_unpacked_up_to_its_limit_and_no_further() {
        let gzipped = headers(&[("content-encoding", "gzip")]);
        let bytes = vec![b'a'; 100_000];
        assert_eq!(unpacked(&gzipped, gzip(&bytes), 100_000).unwrap(), bytes);
        assert!(unpacked(&gzipped, gzip(&bytes), 99_999).is_err());
        assert!(unpacked(&gzipped, b"no gzip".to_vec(), 100).is_err());
        assert!(unpacked(&HeaderMap::new(), bytes, 99_999).is_err());
        let other = headers(&[("content-encoding", "br")]);
        assert!(unpacked(&other, Vec::new(), 10).is_err());
    }

    #[test]
    fn a_checksum_of_our_kind_is_compared_and_another_is_not() {
        let own = checksum(b"abc");
        assert_eq!(
            own,
            "SHA-256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(sums_up(Some(&own), b"abc"));
        assert!(!sums_up(Some(&own), b"abd"));
        assert!(sums_up(Some("b10a8db164e0754105b7a99be72e3fe5"), b"abc"));
        assert!(sums_up(None, b"abc"));
    }
}
