//! What a sender is told of its referral: who says it, and what is no acceptance.

use super::*;

/// What a service of an agency says of a leg.
fn said_by(agency: &str, service: &str, state: LegState) -> Source {
    let mut source = told(state);
    let notice = source.status.as_mut().unwrap();
    notice.from = agency.parse().unwrap();
    notice.service = Some(service.parse().unwrap());
    source
}

#[test]
fn of_two_legs_each_status_says_which_agency_and_service_speaks() {
    for (agency, service, state) in [
        ("RX2", "camhs", LegState::Declined),
        ("R1L", "paediatrics", LegState::Accepted),
    ] {
        let source = said_by(agency, service, state);
        let mut bundle = rendered(&source, BARS);
        let message = Message::read(&bundle).unwrap();
        assert_eq!(message.sender().unwrap(), Some(agency));
        let headers = Outgoing::of(&bundle, "WM1").unwrap();
        assert_eq!(headers.organisation, agency, "the end user's organisation");
        let receiver = message.header.list("destination").unwrap()[0].required("receiver");
        let receiver = message.resolve(&receiver.unwrap()).unwrap().unwrap();
        let school = &receiver.node.list("identifier").unwrap()[0];
        assert_eq!(school.text("value").unwrap(), Some("EE123456"));
        let performer = message.request().unwrap().list("performer").unwrap();
        let led = message.resolve(&performer[0]).unwrap().unwrap();
        let id = led.node.list("identifier").unwrap()[0].text("value");
        assert_eq!(id.unwrap(), Some(agency));
        let request = resource(&mut bundle, "ServiceRequest");
        assert_eq!(
            request["performer"][1]["identifier"],
            json!({"system": name::SERVICE_ID, "value": service})
        );
        let words = format!("From {agency}, service {service}.");
        assert_eq!(request["note"][0]["text"], words);

        let mut bundle = rendered(&source, PLAIN);
        let task = resource(&mut bundle, "Task");
        assert_eq!(task["owner"]["identifier"]["value"], agency);
        assert_eq!(task["note"][0]["text"], words);
        let key = task["identifier"][0]["value"].as_str().unwrap();
        let expected = format!("{}-{service}-task", source.reference);
        assert_eq!(key, expected, "each service has a task of its own");
    }
}

#[test]
fn a_message_that_did_not_arrive_is_never_told_as_planned_and_always_in_words() {
    for (code, task_status, words) in [
        (StatusNotice::UNDELIVERABLE, "failed", "NOT DELIVERED: "),
        (StatusNotice::REJECTED, "failed", "NOT TAKEN: "),
        (StatusNotice::CANCEL_REFUSED, "requested", "NOT CANCELLED: "),
    ] {
        let mut source = told(LegState::Submitted);
        let notice = source.status.as_mut().unwrap();
        (notice.code, notice.text) = (code.to_owned(), None);
        let mut bundle = rendered(&source, BARS);
        assert_eq!(resource(&mut bundle, "Encounter")["status"], "unknown");
        let request = resource(&mut bundle, "ServiceRequest");
        let note = request["note"][1]["text"].as_str().unwrap();
        assert!(note.starts_with(words), "{note}");
        // A reader that knows nothing of ours takes it for no acceptance either.
        request["extension"] = json!([{"url": "urn:other", "valueCode": "x"}]);
        assert!(status_of(&bundle).is_err(), "{code}");
        let mut bundle = rendered(&source, PLAIN);
        let task = resource(&mut bundle, "Task");
        assert_eq!(task["status"], task_status, "{code}");
        let note = task["note"][1]["text"].as_str().unwrap();
        assert!(note.starts_with(words), "{note}");
    }
    let mut bundle = rendered(&told(LegState::Accepted), BARS);
    assert_eq!(resource(&mut bundle, "Encounter")["status"], "planned");
}

#[test]
fn a_referral_that_comes_back_to_a_service_makes_resources_of_its_own_there() {
    let keys = |source: &Source| -> Vec<String> {
        let bundle = rendered(source, PLAIN);
        let entries = bundle["entry"].as_array().unwrap().iter();
        let own = entries.map(|entry| entry["resource"]["identifier"][0]["value"].as_str());
        own.map(|key| key.unwrap().to_owned()).collect()
    };
    let first = sample::source(Kind::New);
    let mut again = first.clone();
    again.leg = Some(LegId::from_bytes([9; 16]));
    let (before, after) = (keys(&first), keys(&again));
    assert!(!before.iter().any(|key| after.contains(key)), "{after:?}");
    // What is said later of a leg is said of the resources that its first message made.
    for kind in [Kind::Amend, Kind::Cancel, Kind::Withdraw] {
        let mut later = sample::source(kind);
        later.leg = again.leg;
        let named = keys(&later);
        assert!(named.iter().all(|key| after.contains(key)), "{named:?}");
        assert!(!named.is_empty());
    }
}
