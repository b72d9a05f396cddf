//! Opaque cursors: a position, bound to what it is a position in. They hold nothing of a child.
//!
//! A cursor carries a check against mistakes, not against forgery: whoever may read a list may read it from anywhere.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Version of the form.
const VERSION: u8 = 1;
/// Bytes of the check.
const CHECK_BYTES: usize = 8;
/// Bytes of the longest cursor, before base64.
pub(super) const CURSOR_BYTES_MAX: usize = 256;

/// What a cursor is a position in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A watch.
    Watch,
    /// A list of referrals.
    Referrals,
    /// A list of deliveries.
    Deliveries,
    /// A list of services.
    Services,
    /// A list of log entries.
    Entries,
    /// A list of checkpoints.
    Checkpoints,
    /// A list of alarms.
    Alarms,
    /// A list of directory releases.
    Releases,
    /// One loan of a delivery.
    Loan,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Watch => 1,
            Self::Referrals => 2,
            Self::Deliveries => 3,
            Self::Services => 4,
            Self::Entries => 5,
            Self::Alarms => 6,
            Self::Releases => 7,
            Self::Loan => 8,
            Self::Checkpoints => 9,
        }
    }
}

/// Writes a cursor. `scope` is what it is bound to, such as a list's filters; it does not stand in the cursor.
pub(super) fn write(kind: Kind, scope: &[u8], position: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind.number()];
    bytes.extend_from_slice(&check(kind, scope, position));
    bytes.extend_from_slice(position);
    bytes
}

/// Reads a cursor; `None` when it was not written for this kind and scope.
pub(super) fn read(kind: Kind, scope: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let rest = bytes.strip_prefix(&[VERSION, kind.number()])?;
    let (found, position) = rest.split_at_checked(CHECK_BYTES)?;
    (found == check(kind, scope, position)).then(|| position.to_owned())
}

/// Writes a cursor as text.
pub(super) fn write_text(kind: Kind, scope: &[u8], position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(write(kind, scope, position))
}

/// Reads a cursor's text.
pub(super) fn read_text(kind: Kind, scope: &[u8], text: &str) -> Option<Vec<u8>> {
    if text.len() > CURSOR_BYTES_MAX * 2 {
        return None;
    }
    read(kind, scope, &URL_SAFE_NO_PAD.decode(text).ok()?)
}

/// A position that is a number.
pub(super) fn number(position: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(position.try_into().ok()?))
}

fn check(kind: Kind, scope: &[u8], position: &[u8]) -> [u8; CHECK_BYTES] {
    let mut input = b"waymark/cursor/v1\0".to_vec();
    input.push(kind.number());
    input.extend_from_slice(digest(&SHA256, scope).as_ref());
    input.extend_from_slice(position);
    let mut out = [0; CHECK_BYTES];
    for (slot, byte) in out.iter_mut().zip(digest(&SHA256, &input).as_ref()) {
        *slot = *byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_for_its_own_list_alone() {
        let text = write_text(Kind::Referrals, b"pathway=autism", &7u64.to_be_bytes());
        let position = read_text(Kind::Referrals, b"pathway=autism", &text).unwrap();
        assert_eq!(number(&position), Some(7));
        assert_eq!(read_text(Kind::Referrals, b"pathway=adhd", &text), None);
        assert_eq!(read_text(Kind::Deliveries, b"pathway=autism", &text), None);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let good = write(Kind::Watch, b"EE123456", &7u64.to_be_bytes());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(
                    read(Kind::Watch, b"EE123456", &bad),
                    None,
                    "byte {at} bit {bit}"
                );
            }
        }
        assert_eq!(
            read(Kind::Watch, b"EE123456", &good[..good.len() - 1]),
            None
        );
    }

    #[test]
    fn nonsense_is_no_cursor() {
        for text in ["", "!", "AQ", "AQEAAAAAAAAAAA"] {
            assert_eq!(read_text(Kind::Watch, b"", text), None, "{text}");
        }
    }

    #[test]
    fn a_cursor_over_the_limit_is_refused() {
        let room = CURSOR_BYTES_MAX - CHECK_BYTES - 2;
        let most = write(Kind::Services, b"", &vec![1; room]);
        assert!(read(Kind::Services, b"", &most).is_some());
        let over = write(Kind::Services, b"", &vec![1; room + 1]);
        assert!(read(Kind::Services, b"", &over).is_none());
    }
}
