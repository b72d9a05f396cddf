//! gRPC: any message that decodes is a referral or is refused; what is accepted is written and read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use waymark_adapters::grpc::convert::{referral_from_proto, referral_to_proto};
use waymark_proto::v1;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = v1::Referral::decode(data) else {
        return;
    };
    let Ok(referral) = referral_from_proto(message) else {
        return;
    };
    let again = referral_from_proto(referral_to_proto(&referral));
    assert!(again.is_ok(), "what was read can be sent on");
});
