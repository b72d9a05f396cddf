//! For [`crate::inspect`].

use futures::FutureExt as _;
use prost::Message as _;
use tonic::{Code, Status};
use waymark_core::delivery::Outcome;
use waymark_core::port::Source;
use waymark_proto::v1;

use super::receipt::{PublicKey, ReceiptKey, Receipted};
use super::wire;
use crate::connect::{self, ConnectError};

/// The key that receipts are checked with: the seed of its private half is 32 times the byte 3.
const KEY_ID: &str = "2026";
const KEY: &str = "7UkoxijRwsbq6QM4kFmVYSlZJzpcY/k2NsFGFKyHN9E=";
/// The body that they are for.
const BODY: &[u8] = b"body";

/// As what a probe reads, as the answer to a delivery, and as the details of a failure with every code.
pub(crate) fn answers(source: &Source, bytes: &[u8]) {
    let _spoken = probed(bytes);
    drop(answer(source, bytes));
    for code in (0..=Code::Unauthenticated as i32).map(Code::from_i32) {
        drop(refusal(code, bytes));
    }
}

/// What the beginning of HTTP/2 says, all of which is there.
fn probed(bytes: &[u8]) -> Option<Result<bool, ConnectError>> {
    let mut stream = tokio::io::join(bytes, tokio::io::sink());
    connect::speaks_http2(&mut stream).now_or_never()
}

fn answer(source: &Source, bytes: &[u8]) -> Option<Outcome> {
    let response = v1::DeliverResponse::decode(bytes).ok()?;
    let key = |ed25519| ReceiptKey {
        id: KEY_ID.to_owned(),
        ed25519,
    };
    let keys: Vec<_> = PublicKey::try_from(KEY.to_owned())
        .into_iter()
        .map(key)
        .collect();
    let of = Receipted {
        delivery: source.delivery,
        wire_id: &source.wire_id,
        body: BODY,
    };
    Some(wire::answered(&response, &of, &keys))
}

fn refusal(code: Code, bytes: &[u8]) -> Outcome {
    wire::failed(&Status::with_details(code, "", bytes.to_vec().into()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use aws_lc_rs::signature::Ed25519KeyPair;
    use waymark_core::delivery::{Evidence, Kind};
    use waymark_core::error::Fault;

    use super::*;
    use crate::contract::sample;
    use crate::grpc::convert::timestamp_to_proto;
    use crate::grpc::receipt::signed_bytes;
    use crate::grpc::wire::{ErrorInfo, RetryInfo};

    fn seed(name: &str) -> Vec<u8> {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/grpc");
        std::fs::read(seeds.join(name)).unwrap()
    }

    /// A receipt whose signature verifies.
    fn receipted(source: &Source) -> Vec<u8> {
        let mut receipt = v1::AgencyReceipt {
            received_at: Some(timestamp_to_proto(crate::inspect::now())),
            receiver_reference: "R1L/88".to_owned(),
            signature: Vec::new(),
            key_id: KEY_ID.to_owned(),
        };
        let of = Receipted {
            delivery: source.delivery,
            wire_id: &source.wire_id,
            body: BODY,
        };
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let signature = pair.sign(&signed_bytes(&of, &receipt).unwrap());
        receipt.signature = signature.as_ref().to_vec();
        let receipt = Some(receipt);
        v1::DeliverResponse { receipt }.encode_to_vec()
    }

    /// A hint of when to try again, and a reason.
    fn refused() -> Vec<u8> {
        let delay = pbjson_types::Duration {
            seconds: 30,
            nanos: 500_000_000,
        };
        let retry = RetryInfo {
            retry_delay: Some(delay),
        };
        let reason = "REC_CLOSED".to_owned();
        let detail = |name: &str, value: Vec<u8>| pbjson_types::Any {
            type_url: format!("type.googleapis.com/google.rpc.{name}"),
            value: value.into(),
        };
        let rich = v1::Status {
            code: Code::Aborted.into(),
            message: "closed".to_owned(),
            details: vec![
                detail("RetryInfo", retry.encode_to_vec()),
                detail("ErrorInfo", ErrorInfo { reason }.encode_to_vec()),
            ],
        };
        rich.encode_to_vec()
    }

    #[test]
    fn the_seeds_come_as_far_as_settings_a_signature_a_hint_and_a_reason() {
        assert_eq!(probed(&seed("settings")), Some(Ok(true)));
        assert_eq!(probed(b""), Some(Err(ConnectError::Closed)));

        let source = sample::source(Kind::New);
        assert_eq!(seed("answer"), receipted(&source));
        let Some(Outcome::Delivered { grade, .. }) = answer(&source, &seed("answer")) else {
            panic!("an answer")
        };
        assert_eq!(grade, Evidence::SignedReceipt);

        assert_eq!(seed("refusal"), refused());
        let Outcome::Retry { after, why } = refusal(Code::Aborted, &seed("refusal")) else {
            panic!("later")
        };
        assert_eq!(after, Some(Duration::from_millis(30_500)));
        assert!(why.text.ends_with("(REC_CLOSED)"), "{why:?}");
        let Outcome::Reject { fault, .. } = refusal(Code::InvalidArgument, &seed("refusal")) else {
            panic!("for good")
        };
        assert_eq!(fault, Fault::Rec);
    }
}
