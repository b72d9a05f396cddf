//! The strict protobuf profile of a log entry.

use super::{
    CODE_BYTES_MAX, CODES_MAX, COMMITMENTS_MAX, Code, Commitment, CommitmentTag, ENTRY_BYTES_MAX,
    EntryKind, LogEntry, VERSION,
};
use crate::id::{AgencyId, EventId, StreamId};
use crate::time::Timestamp;

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the limit.
    #[error("the entry is longer than {ENTRY_BYTES_MAX} bytes")]
    TooLong,
    /// Ends within a field.
    #[error("the entry ends within a field at byte {0}")]
    Truncated(usize),
    /// A field that is not known, out of order, or of the wrong type.
    #[error("unexpected field at byte {0}")]
    Unexpected(usize),
    /// A field's value is outside its range.
    #[error("field {0} has a value outside its range")]
    Value(u32),
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(u32),
    /// The bytes say the same in another way than `encode` writes it.
    #[error("the entry is not in canonical form")]
    NotCanonical,
}

const VARINT: u64 = 0;
const BYTES: u64 = 2;

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(u8::try_from(n & 0x7f).unwrap_or(0) | 0x80);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap_or(0));
}

fn put_number(out: &mut Vec<u8>, tag: u64, n: u64) {
    if n != 0 {
        put_varint(out, tag << 3 | VARINT);
        put_varint(out, n);
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_varint(out, tag << 3 | BYTES);
    put_varint(out, u64::try_from(bytes.len()).unwrap_or(0));
    out.extend_from_slice(bytes);
}

pub(super) fn encode(e: &LogEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_number(&mut out, 1, u64::from(VERSION));
    put_number(&mut out, 2, u64::from(e.kind.number()));
    put_bytes(&mut out, 3, e.event.as_bytes());
    put_number(&mut out, 4, u64::try_from(e.at.as_ms()).unwrap_or(0));
    put_bytes(&mut out, 5, e.stream.as_bytes());
    put_number(&mut out, 6, u64::from(e.stream_seq));
    if let Some(prev) = &e.prev_leaf {
        put_bytes(&mut out, 7, prev);
    }
    put_bytes(&mut out, 8, &e.actor);
    put_bytes(&mut out, 9, e.org.as_str().as_bytes());
    for code in &e.codes {
        let mut inner = Vec::with_capacity(code.name.len() + code.value.len() + 8);
        put_bytes(&mut inner, 1, code.name.as_bytes());
        put_bytes(&mut inner, 2, code.value.as_bytes());
        put_bytes(&mut out, 10, &inner);
    }
    for commitment in &e.commitments {
        let mut inner = Vec::with_capacity(40);
        put_number(&mut inner, 1, u64::from(commitment.tag.number()));
        put_bytes(&mut inner, 2, &commitment.hash);
        put_bytes(&mut out, 11, &inner);
    }
    if let Some(event) = &e.reference {
        put_bytes(&mut out, 12, event.as_bytes());
    }
    out
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = *self
                .bytes
                .get(self.at)
                .ok_or(DecodeError::Truncated(self.at))?;
            self.at += 1;
            n |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(DecodeError::Unexpected(self.at))
    }

    fn take(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated(self.at))?;
        let end = self
            .at
            .checked_add(len)
            .ok_or(DecodeError::Truncated(self.at))?;
        let out = self
            .bytes
            .get(self.at..end)
            .ok_or(DecodeError::Truncated(self.at))?;
        self.at = end;
        Ok(out)
    }

    /// The next field's tag when it is `tag` of type `wire`; the position does not move otherwise.
    fn is(&mut self, tag: u64, wire: u64) -> bool {
        let start = self.at;
        if self.at < self.bytes.len() && self.varint() == Ok(tag << 3 | wire) {
            return true;
        }
        self.at = start;
        false
    }

    fn number(&mut self, tag: u32) -> Result<u64, DecodeError> {
        if self.is(u64::from(tag), VARINT) {
            self.varint()
        } else {
            Ok(0)
        }
    }

    fn fixed<const N: usize>(&mut self, tag: u32) -> Result<[u8; N], DecodeError> {
        self.optional(tag)?.ok_or(DecodeError::Missing(tag))
    }

    fn optional<const N: usize>(&mut self, tag: u32) -> Result<Option<[u8; N]>, DecodeError> {
        if !self.is(u64::from(tag), BYTES) {
            return Ok(None);
        }
        self.take()?
            .try_into()
            .map(Some)
            .map_err(|_| DecodeError::Value(tag))
    }

    fn text(&mut self, tag: u32, max: usize) -> Result<String, DecodeError> {
        if !self.is(u64::from(tag), BYTES) {
            return Err(DecodeError::Missing(tag));
        }
        let bytes = self.take()?;
        let fits = bytes.len() <= max && bytes.iter().all(|b| matches!(b, b' '..=b'~'));
        if !fits {
            return Err(DecodeError::Value(tag));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Value(tag))
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<LogEntry, DecodeError> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(DecodeError::TooLong);
    }
    let mut r = Reader { bytes, at: 0 };
    if r.number(1)? != u64::from(VERSION) {
        return Err(DecodeError::Value(1));
    }
    let kind = u32::try_from(r.number(2)?)
        .ok()
        .and_then(EntryKind::from_number)
        .ok_or(DecodeError::Value(2))?;
    let event = EventId::from_bytes(r.fixed(3)?);
    let at = i64::try_from(r.number(4)?)
        .map(Timestamp::from_ms)
        .map_err(|_| DecodeError::Value(4))?;
    let stream = StreamId::from_bytes(r.fixed(5)?);
    let stream_seq = u32::try_from(r.number(6)?).map_err(|_| DecodeError::Value(6))?;
    let prev_leaf: Option<[u8; 32]> = r.optional(7)?;
    if prev_leaf.is_some() == (stream_seq == 0) {
        return Err(DecodeError::Value(7));
    }
    let actor = r.fixed(8)?;
    let org: AgencyId = r
        .text(9, AgencyId::LENGTH_MAX)?
        .parse()
        .map_err(|_| DecodeError::Value(9))?;
    let codes = codes(&mut r)?;
    let commitments = commitments(&mut r)?;
    let reference = r.optional(12)?.map(EventId::from_bytes);
    if r.at != bytes.len() {
        return Err(DecodeError::Unexpected(r.at));
    }
    let entry = LogEntry {
        kind,
        event,
        at,
        stream,
        stream_seq,
        prev_leaf,
        actor,
        org,
        codes,
        commitments,
        reference,
    };
    if encode(&entry) == bytes {
        Ok(entry)
    } else {
        Err(DecodeError::NotCanonical)
    }
}

fn codes(r: &mut Reader<'_>) -> Result<Vec<Code>, DecodeError> {
    let mut codes = Vec::new();
    while r.is(10, BYTES) {
        let mut inner = Reader {
            bytes: r.take()?,
            at: 0,
        };
        codes.push(Code {
            name: inner.text(1, CODE_BYTES_MAX)?,
            value: inner.text(2, CODE_BYTES_MAX)?,
        });
        if inner.at != inner.bytes.len() || codes.len() > CODES_MAX {
            return Err(DecodeError::Value(10));
        }
    }
    Ok(codes)
}

fn commitments(r: &mut Reader<'_>) -> Result<Vec<Commitment>, DecodeError> {
    let mut commitments = Vec::new();
    while r.is(11, BYTES) {
        let mut inner = Reader {
            bytes: r.take()?,
            at: 0,
        };
        let tag = u32::try_from(inner.number(1)?)
            .ok()
            .and_then(CommitmentTag::from_number);
        let tag = tag.ok_or(DecodeError::Value(11))?;
        commitments.push(Commitment {
            tag,
            hash: inner.fixed(2)?,
        });
        if inner.at != inner.bytes.len() || commitments.len() > COMMITMENTS_MAX {
            return Err(DecodeError::Value(11));
        }
    }
    Ok(commitments)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = LogEntry> {
        let code = ("[a-z_.]{1,20}", "[ -~]{0,60}").prop_map(|(name, value)| Code { name, value });
        let commitment = (1u32..5, any::<[u8; 32]>()).prop_map(|(tag, hash)| Commitment {
            tag: CommitmentTag::from_number(tag).unwrap(),
            hash,
        });
        (
            proptest::sample::select(EntryKind::ALL),
            any::<[u8; 16]>(),
            0i64..i64::MAX,
            any::<[u8; 16]>(),
            any::<u32>(),
            any::<[u8; 32]>(),
            any::<[u8; 16]>(),
            proptest::collection::vec(code, 0..5),
            proptest::collection::vec(commitment, 0..4),
            proptest::option::of(any::<[u8; 16]>()),
        )
            .prop_map(
                |(kind, event, at, stream, seq, prev, actor, codes, commitments, reference)| {
                    LogEntry {
                        kind,
                        event: EventId::from_bytes(event),
                        at: Timestamp::from_ms(at),
                        stream: StreamId::from_bytes(stream),
                        stream_seq: seq,
                        prev_leaf: (seq > 0).then_some(prev),
                        actor,
                        org: "EE123456".parse().unwrap(),
                        codes,
                        commitments,
                        reference: reference.map(EventId::from_bytes),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn entries_read_back(e in entry()) {
            let bytes = e.encode();
            prop_assert!(bytes.len() <= ENTRY_BYTES_MAX);
            prop_assert_eq!(LogEntry::decode(&bytes), Ok(e));
        }

        #[test]
        fn what_decodes_is_exactly_what_encodes(mut bytes in entry().prop_map(|e| e.encode()), at in any::<proptest::sample::Index>(), by in 1u8..) {
            let i = at.index(bytes.len());
            bytes[i] = bytes[i].wrapping_add(by);
            if let Ok(e) = LogEntry::decode(&bytes) { prop_assert_eq!(e.encode(), bytes); }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(e) = LogEntry::decode(&bytes) { prop_assert_eq!(e.encode(), bytes); }
        }
    }

    #[test]
    fn an_entry_at_the_limit_is_read_and_one_over_is_not() {
        let over = vec![0u8; ENTRY_BYTES_MAX + 1];
        assert_eq!(LogEntry::decode(&over), Err(DecodeError::TooLong));
        assert_ne!(
            LogEntry::decode(&over[..ENTRY_BYTES_MAX]),
            Err(DecodeError::TooLong)
        );
    }
}
