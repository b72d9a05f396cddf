//! MLLP: a stream cut anywhere gives the same frames as the stream whole.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;
use waymark_adapters::hl7v2::mllp::MllpCodec;

fn frames(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let mut codec = MllpCodec::default();
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame.body.to_vec()),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let size = usize::from(*cut).max(1);
    let chunks: Vec<&[u8]> = stream.chunks(size).collect();
    assert_eq!(frames(&[stream]), frames(&chunks));
});
