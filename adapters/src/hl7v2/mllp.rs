//! The minimal lower layer protocol: `0x0B` message `0x1C 0x0D` on a stream of bytes.
//!
//! A reader meets split reads, several frames in one read, bytes that belong to no frame, and `0x1C`
//! inside a message. Everything is bounded, and what breaks a bound closes the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::message::MESSAGE_BYTES_MAX;

/// The byte that begins a frame.
pub const START_BLOCK: u8 = 0x0b;
/// The first of the two bytes that end a frame.
pub const END_BLOCK: u8 = 0x1c;
/// The second of the two bytes that end a frame.
pub const CARRIAGE_RETURN: u8 = 0x0d;
/// The most bytes outside any frame that are skipped before the next frame.
pub const JUNK_BYTES_MAX: usize = 64 * 1024;

/// One message taken out of its frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes between start and end.
    pub body: Bytes,
    /// How many bytes that belong to no frame were skipped before this one.
    pub junk_before: usize,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("bytes", &self.body.len())
            .field("junk_before", &self.junk_before)
            .finish()
    }
}

/// Why a stream of frames cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MllpError {
    /// A frame is larger than the reader takes.
    #[error("frame is larger than {limit} bytes")]
    Oversize {
        /// The most bytes a message may have.
        limit: usize,
    },
    /// Too many bytes came that belong to no frame.
    #[error("more than {limit} bytes outside any frame")]
    Junk {
        /// The most bytes that are skipped.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    CutOff,
    /// The message to send holds a byte that would end its own frame.
    #[error("message holds a framing byte")]
    FramingByte,
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
}

/// Takes frames out of a stream, and puts messages into frames.
#[derive(Debug)]
pub struct MllpCodec {
    message_bytes_max: usize,
    state: State,
    junk: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between frames.
    Outside,
    /// After a start byte; so many bytes of the body were searched for its end.
    Inside { searched: usize },
}

impl Default for MllpCodec {
    fn default() -> Self {
        Self::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl MllpCodec {
    /// Makes a codec that refuses messages of more than so many bytes.
    pub fn with_limit(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            state: State::Outside,
            junk: 0,
        }
    }

    /// Returns how many bytes outside any frame were skipped since the last frame.
    pub fn junk_since_frame(&self) -> usize {
        self.junk
    }

    /// Says whether a frame has begun whose end has not come.
    pub fn is_inside_frame(&self) -> bool {
        self.state != State::Outside
    }

    fn skip_junk(&mut self, source: &mut BytesMut, count: usize) -> Result<(), MllpError> {
        source.advance(count);
        self.junk += count;
        if self.junk > JUNK_BYTES_MAX {
            return Err(MllpError::Junk {
                limit: JUNK_BYTES_MAX,
            });
        }
        Ok(())
    }
}

fn find_end(source: &BytesMut, searched: usize) -> Option<usize> {
    let unsearched = source.get(searched..).unwrap_or_default();
    unsearched
        .windows(2)
        .position(|pair| pair == [END_BLOCK, CARRIAGE_RETURN])
        .map(|at| searched + at)
}

impl Decoder for MllpCodec {
    type Item = Frame;
    type Error = MllpError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, MllpError> {
        if self.state == State::Outside {
            let start = source.iter().position(|byte| *byte == START_BLOCK);
            self.skip_junk(source, start.unwrap_or(source.len()))?;
            if start.is_none() {
                return Ok(None);
            }
            source.advance(1);
            self.state = State::Inside { searched: 0 };
        }
        let State::Inside { searched } = self.state else {
            return Ok(None);
        };
        let oversize = Err(MllpError::Oversize {
            limit: self.message_bytes_max,
        });
        match find_end(source, searched) {
            Some(end) if end > self.message_bytes_max => oversize,
            Some(end) => {
                let body = source.split_to(end).freeze();
                source.advance(2);
                self.state = State::Outside;
                Ok(Some(Frame {
                    body,
                    junk_before: std::mem::take(&mut self.junk),
                }))
            }
            // The last byte may be the first half of an end that is still on its way.
            None if source.len() > self.message_bytes_max + 1 => oversize,
            None => {
                self.state = State::Inside {
                    searched: source.len().saturating_sub(1),
                };
                Ok(None)
            }
        }
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, MllpError> {
        match self.decode(source)? {
            Some(frame) => Ok(Some(frame)),
            None if self.state == State::Outside => Ok(None),
            None => Err(MllpError::CutOff),
        }
    }
}

impl Encoder<&[u8]> for MllpCodec {
    type Error = MllpError;

    fn encode(&mut self, message: &[u8], target: &mut BytesMut) -> Result<(), MllpError> {
        if message.len() > self.message_bytes_max {
            return Err(MllpError::Oversize {
                limit: self.message_bytes_max,
            });
        }
        if message
            .iter()
            .any(|byte| matches!(*byte, START_BLOCK | END_BLOCK))
        {
            return Err(MllpError::FramingByte);
        }
        target.reserve(message.len() + 3);
        target.put_u8(START_BLOCK);
        target.put_slice(message);
        target.put_slice(&[END_BLOCK, CARRIAGE_RETURN]);
        Ok(())
    }
}

/// Puts one message into its frame.
///
/// # Errors
/// Refuses a message that is too large or holds a framing byte.
pub fn frame(message: &[u8]) -> Result<Bytes, MllpError> {
    let mut target = BytesMut::new();
    MllpCodec::default().encode(message, &mut target)?;
    Ok(target.freeze())
}

/// Takes one message out of its frame; what has none is taken as it is.
pub(super) fn unframed(frame: &[u8]) -> &[u8] {
    let inner = frame.strip_prefix(&[START_BLOCK]).unwrap_or(frame);
    inner
        .strip_suffix(&[END_BLOCK, CARRIAGE_RETURN])
        .unwrap_or(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the chunks one after the other and returns every frame, then the end of the stream.
    fn decode_all(codec: &mut MllpCodec, chunks: &[&[u8]]) -> Result<Vec<Frame>, MllpError> {
        let mut source = BytesMut::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            source.extend_from_slice(chunk);
            while let Some(frame) = codec.decode(&mut source)? {
                frames.push(frame);
            }
        }
        while let Some(frame) = codec.decode_eof(&mut source)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn bodies(frames: &[Frame]) -> Vec<&[u8]> {
        frames.iter().map(|frame| &frame.body[..]).collect()
    }

    #[test]
    fn several_frames_of_one_read_are_all_taken() {
        let frames = decode_all(
            &mut MllpCodec::default(),
            &[b"\x0bone\x1c\r\x0btwo\x1c\r\x0b\x1c\r"],
        );
        assert_eq!(bodies(&frames.unwrap()), [&b"one"[..], b"two", b""]);
    }

    #[test]
    fn junk_between_frames_is_skipped_and_counted() {
        let frames = decode_all(
            &mut MllpCodec::default(),
            &[b"xx\x0bone\x1c\r\r\n??\x0btwo\x1c\r"],
        );
        let frames = frames.unwrap();
        assert_eq!(bodies(&frames), [&b"one"[..], b"two"]);
        assert_eq!(
            frames.iter().map(|it| it.junk_before).collect::<Vec<_>>(),
            [2, 4]
        );
    }

    #[test]
    fn end_byte_without_its_carriage_return_belongs_to_the_message() {
        let frames = decode_all(
            &mut MllpCodec::default(),
            &[b"\x0ba\x1cb\x1c", b"\x1c", b"\rz"],
        );
        assert_eq!(bodies(&frames.unwrap()), [&b"a\x1cb\x1c"[..]]);
    }

    #[test]
    fn frame_at_the_limit_is_taken_and_one_byte_more_is_refused_early() {
        let limit = 10;
        let framed = |n: usize| [&[START_BLOCK][..], &vec![b'x'; n], b"\x1c\r"].concat();
        let read = |bytes: &[u8]| decode_all(&mut MllpCodec::with_limit(limit), &[bytes]);
        assert_eq!(read(&framed(limit)).unwrap().len(), 1);
        assert!(matches!(
            read(&framed(limit + 1)),
            Err(MllpError::Oversize { limit: 10 })
        ));
        let endless = [&[START_BLOCK][..], &vec![b'x'; limit + 2]].concat();
        let mut source = BytesMut::from(&endless[..]);
        let outcome = MllpCodec::with_limit(limit).decode(&mut source);
        assert!(matches!(outcome, Err(MllpError::Oversize { .. })));
    }

    #[test]
    fn frame_at_the_limit_is_taken_byte_by_byte() {
        let stream = [&[START_BLOCK][..], &[b'x'; 10], b"\x1c\r"].concat();
        let chunks: Vec<&[u8]> = stream.chunks(1).collect();
        let frames = decode_all(&mut MllpCodec::with_limit(10), &chunks).unwrap();
        assert_eq!(frames[0].body.len(), 10);
    }

    #[test]
    fn junk_is_bounded_at_its_edge() {
        let junk = vec![b'x'; JUNK_BYTES_MAX];
        let frames = decode_all(&mut MllpCodec::default(), &[&junk, b"\x0bone\x1c\r"]).unwrap();
        assert_eq!(frames[0].junk_before, JUNK_BYTES_MAX);
        let outcome = decode_all(&mut MllpCodec::default(), &[&junk, b"x\x0bone\x1c\r"]);
        assert!(matches!(outcome, Err(MllpError::Junk { .. })));
    }

    #[test]
    fn stream_that_ends_inside_a_frame_is_an_error_and_between_frames_is_not() {
        let outcome = decode_all(&mut MllpCodec::default(), &[b"\x0bone"]);
        assert!(matches!(outcome, Err(MllpError::CutOff)));
        assert!(
            decode_all(&mut MllpCodec::default(), &[b"junk"])
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn framing_bytes_inside_a_message_are_never_sent() {
        assert!(matches!(frame(b"a\x0bb"), Err(MllpError::FramingByte)));
        assert!(matches!(frame(b"a\x1c\rb"), Err(MllpError::FramingByte)));
        assert_eq!(&frame(b"ab\r").unwrap()[..], b"\x0bab\r\x1c\r");
        let largest = vec![b'x'; MESSAGE_BYTES_MAX];
        assert!(frame(&largest).is_ok());
        assert!(frame(&[&largest[..], b"x"].concat()).is_err());
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        // Few different bytes, so that 0x1C, 0x0D and 0x0B meet each other often.
        let byte = prop::sample::select(vec![b'a', 0x0b, 0x0d, 0x1c]);
        prop::collection::vec(byte, 0..12).prop_filter("an end inside is two frames", |body| {
            !body
                .windows(2)
                .any(|pair| pair == [END_BLOCK, CARRIAGE_RETURN])
        })
    }

    proptest! {
        #[test]
        fn any_chunking_of_a_stream_yields_the_same_frames(
            messages in prop::collection::vec((0_usize..4, body()), 0..6),
            cuts in prop::collection::vec(1_usize..7, 1..60),
        ) {
            let mut stream = Vec::new();
            for (junk, body) in &messages {
                stream.extend(std::iter::repeat_n(b'.', *junk));
                stream.push(START_BLOCK);
                stream.extend(body);
                stream.extend([END_BLOCK, CARRIAGE_RETURN]);
            }
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            let mut sizes = cuts.iter().cycle();
            while !rest.is_empty() {
                let (chunk, left) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                chunks.push(chunk);
                rest = left;
            }
            let frames = decode_all(&mut MllpCodec::default(), &chunks).unwrap();
            let expected: Vec<(usize, &[u8])> =
                messages.iter().map(|(junk, body)| (*junk, &body[..])).collect();
            let found: Vec<(usize, &[u8])> =
                frames.iter().map(|it| (it.junk_before, &it.body[..])).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_in_any_chunks_end_the_same_way(
            stream in prop::collection::vec(prop::sample::select(vec![b'a', 0x0b, 0x0d, 0x1c]), 0..60),
        ) {
            let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
            let one = decode_all(&mut MllpCodec::with_limit(8), &[&stream]);
            let many = decode_all(&mut MllpCodec::with_limit(8), &bytewise);
            match (one, many) {
                (Ok(one), Ok(many)) => prop_assert_eq!(one, many),
                (Err(one), Err(many)) => prop_assert_eq!(one.to_string(), many.to_string()),
                (one, many) => prop_assert!(false, "{one:?} and {many:?}"),
            }
        }
    }
}
