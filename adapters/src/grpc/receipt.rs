//! What an agency's receipt proves: its signature, by a key that the directory lists.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use waymark_core::delivery::Evidence;
use waymark_core::id::{DeliveryId, WireId};
use waymark_proto::v1;

use super::convert::timestamp_from_proto;

/// What the signed bytes begin with.
const CONTEXT: &[u8] = b"waymark/receipt/v1\0";
/// The most characters of a receiver's reference (`AgencyReceipt.receiver_reference`).
const REFERENCE_CHARS_MAX: usize = crate::limits::REFERENCE_CHARS_MAX;

/// A public key that an agency signs receipts with: `{ id = "2026", ed25519 = "<32 bytes, base64>" }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptKey {
    /// Its name, which receipts give.
    pub id: String,
    /// The key.
    pub ed25519: PublicKey,
}

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey([u8; 32]);

impl TryFrom<String> for PublicKey {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = STANDARD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or("is an Ed25519 public key: 32 bytes in base64")
    }
}

/// What a receipt is for.
#[derive(Clone, Copy, Debug)]
pub struct Receipted<'a> {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its wire id.
    pub wire_id: &'a WireId,
    /// The body as it was sent.
    pub body: &'a [u8],
}

/// The bytes that a receipt's signature covers (`AgencyReceipt.signature`); `None` without a usable instant.
pub fn signed_bytes(of: &Receipted<'_>, receipt: &v1::AgencyReceipt) -> Option<Vec<u8>> {
    let at = timestamp_from_proto("received_at", receipt.received_at.as_ref()?).ok()?;
    let delivery = of.delivery.to_string();
    let body = digest(&SHA256, of.body);
    let at = at.as_ms().to_be_bytes();
    let fields: [&[u8]; 5] = [
        delivery.as_bytes(),
        of.wire_id.as_str().as_bytes(),
        body.as_ref(),
        receipt.receiver_reference.as_bytes(),
        &at,
    ];
    let mut bytes = CONTEXT.to_vec();
    for field in fields {
        bytes.extend_from_slice(&u32::try_from(field.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    Some(bytes)
}

/// The grade of evidence that a receipt is. Without a reference it proves no more than that something was sent;
/// a signature that does not verify proves no more than the reference does.
pub fn grade(of: &Receipted<'_>, receipt: &v1::AgencyReceipt, keys: &[ReceiptKey]) -> Evidence {
    let chars = receipt.receiver_reference.chars().count();
    if !(1..=REFERENCE_CHARS_MAX).contains(&chars) || receipt.received_at.is_none() {
        return Evidence::Sent;
    }
    let key = keys.iter().find(|key| key.id == receipt.key_id);
    match (key, signed_bytes(of, receipt)) {
        (Some(key), Some(signed))
            if UnparsedPublicKey::new(&ED25519, key.ed25519.0)
                .verify(&signed, &receipt.signature)
                .is_ok() =>
        {
            Evidence::SignedReceipt
        }
        _ => Evidence::ApplicationAck,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::contract::sample;
    use crate::grpc::convert::timestamp_to_proto;
    use waymark_core::delivery::Kind;
    use waymark_core::time::Timestamp;

    fn signed() -> (
        v1::AgencyReceipt,
        Vec<ReceiptKey>,
        waymark_core::port::Source,
    ) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let source = sample::source(Kind::New);
        let mut receipt = v1::AgencyReceipt {
            received_at: Some(timestamp_to_proto(Timestamp::from_ms(1_772_445_601_234))),
            receiver_reference: "R1L/88".to_owned(),
            signature: Vec::new(),
            key_id: "2026".to_owned(),
        };
        let of = Receipted {
            delivery: source.delivery,
            wire_id: &source.wire_id,
            body: b"body",
        };
        receipt.signature = pair
            .sign(&signed_bytes(&of, &receipt).unwrap())
            .as_ref()
            .to_vec();
        let key = STANDARD.encode(pair.public_key().as_ref());
        let key = ReceiptKey {
            id: "2026".to_owned(),
            ed25519: key.try_into().unwrap(),
        };
        (receipt, vec![key], source)
    }

    #[test]
    fn the_signed_bytes_are_those_that_the_contract_writes_down() {
        let (receipt, _, source) = signed();
        let of = Receipted {
            delivery: source.delivery,
            wire_id: &source.wire_id,
            body: b"body",
        };
        let bytes = signed_bytes(&of, &receipt).unwrap();
        let mut expected = b"waymark/receipt/v1\0\x00\x00\x00\x24".to_vec();
        expected.extend_from_slice(source.delivery.to_string().as_bytes());
        expected.extend_from_slice(b"\x00\x00\x00\x14");
        expected.extend_from_slice(source.wire_id.as_str().as_bytes());
        expected.extend_from_slice(b"\x00\x00\x00\x20");
        expected.extend_from_slice(digest(&SHA256, b"body").as_ref());
        expected.extend_from_slice(b"\x00\x00\x00\x06R1L/88\x00\x00\x00\x08");
        expected.extend_from_slice(&1_772_445_601_234_i64.to_be_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_receipt_is_a_signed_one_only_for_its_own_bytes_and_key() {
        let (receipt, keys, source) = signed();
        let of = Receipted {
            delivery: source.delivery,
            wire_id: &source.wire_id,
            body: b"body",
        };
        assert_eq!(grade(&of, &receipt, &keys), Evidence::SignedReceipt);
        let other = Receipted {
            body: b"bodY",
            ..of
        };
        assert_eq!(grade(&other, &receipt, &keys), Evidence::ApplicationAck);
        assert_eq!(grade(&of, &receipt, &[]), Evidence::ApplicationAck);
        let changed = v1::AgencyReceipt {
            receiver_reference: "R1L/89".to_owned(),
            ..receipt.clone()
        };
        assert_eq!(grade(&of, &changed, &keys), Evidence::ApplicationAck);
        let renamed = v1::AgencyReceipt {
            key_id: "2025".to_owned(),
            ..receipt
        };
        assert_eq!(grade(&of, &renamed, &keys), Evidence::ApplicationAck);
    }

    #[test]
    fn a_receipt_without_reference_or_instant_proves_only_that_it_was_sent() {
        let (receipt, keys, source) = signed();
        let of = Receipted {
            delivery: source.delivery,
            wire_id: &source.wire_id,
            body: b"body",
        };
        let with = |reference: String| v1::AgencyReceipt {
            receiver_reference: reference,
            signature: Vec::new(),
            ..receipt.clone()
        };
        assert_eq!(grade(&of, &with(String::new()), &keys), Evidence::Sent);
        assert_eq!(
            grade(&of, &with("x".repeat(80)), &keys),
            Evidence::ApplicationAck
        );
        assert_eq!(grade(&of, &with("x".repeat(81)), &keys), Evidence::Sent);
        let undated = v1::AgencyReceipt {
            received_at: None,
            ..receipt
        };
        assert_eq!(grade(&of, &undated, &keys), Evidence::Sent);
    }
}
