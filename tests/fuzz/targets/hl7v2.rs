//! HL7 v2: whatever comes is read or refused; what is read as a referral survives being read again.
#![no_main]

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use waymark_adapters::hl7v2::ack::AckReading;
use waymark_adapters::hl7v2::config::Assumptions;
use waymark_adapters::hl7v2::message::{LineEndings, Message};
use waymark_adapters::hl7v2::referral::RefMessage;
use waymark_adapters::hl7v2::status::RriMessage;
use waymark_adapters::hl7v2::{map, timestamp};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _date = timestamp::date(text);
        let _instant = timestamp::instant(text, &TimeZone::UTC);
    }
    for endings in [LineEndings::Cr, LineEndings::Any] {
        let Ok(message) = Message::parse(data, endings) else {
            continue;
        };
        let _ack = AckReading::read(&message);
        if let Ok(referral) = RefMessage::read(&message) {
            let assumptions = Assumptions::of("unsorted".parse().expect("a pathway"));
            let _body = map::inward::read(&referral, &assumptions);
        }
        if let Ok(status) = RriMessage::read(&message) {
            let _status = map::status::read(&status);
        }
    }
});
