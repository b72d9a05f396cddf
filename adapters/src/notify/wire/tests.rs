use http::HeaderValue;
use http::header::RETRY_AFTER;
use waymark_core::delivery::Kind;
use waymark_core::directory::{AdapterKind, Endpoint};

use super::*;
use crate::context::EgressPolicy;
use crate::contract::sample;
use crate::far_side::{self, NOW};

const REPLY_TO: &str = "8e222534-7f05-4972-86e3-17c5d9f894e2";

fn endpoint() -> Endpoint {
    let settings = format!(
        "url = \"https://notify.example\"\nprivate_network = true\napi_key = \"secret:new\"\nemail_reply_to_id = \"{REPLY_TO}\"\n\
         sms_sender_id = \"{REPLY_TO}\""
    );
    Endpoint {
        releases_at: Evidence::TransportAck,
        ..far_side::endpoint(AdapterKind::Notify, &settings)
    }
}

fn rendered(change: impl FnOnce(&mut FamilyMessage)) -> Result<Rendered, RenderError> {
    let mut source = sample::source(Kind::Guidance);
    change(source.family.as_mut().unwrap());
    let settings = Settings::read(&endpoint(), EgressPolicy::AsFlagged).unwrap();
    render(&source, Environment::Test, &settings)
}

fn text(change: impl FnOnce(&mut FamilyMessage)) -> (String, String) {
    let rendered = rendered(change).unwrap();
    let bytes = rendered.bytes.into_inner();
    (rendered.media_type, String::from_utf8(bytes).unwrap())
}

#[test]
fn an_email_is_written_as_the_api_has_it_and_what_others_wrote_is_sanitised() {
    let (media_type, text) = text(|_| {});
    insta::assert_snapshot!(text, @r#"{"email_address":"marisol.quillfeather@family.example","template_id":"f33517ff-2a88-4f6e-b855-c550268ce08a","personalisation":{"contact":"Marisol Quillfeather","service":"Community paediatrics"},"reference":"WM92W5JG3S992W5JG3S9","email_reply_to_id":"8e222534-7f05-4972-86e3-17c5d9f894e2","sanitise_content_for":["contact","service"]}"#);
    assert_eq!(Way::of_media_type(&media_type), Some(Way::Email));
}

#[test]
fn a_text_message_is_written_as_the_api_has_it() {
    let (media_type, text) = text(|m| {
        m.way = Way::Sms;
        m.to = vec!["07700900123".into()];
        m.fields.remove("contact");
    });
    insta::assert_snapshot!(text, @r#"{"phone_number":"07700900123","template_id":"f33517ff-2a88-4f6e-b855-c550268ce08a","personalisation":{"service":"Community paediatrics"},"reference":"WM92W5JG3S992W5JG3S9","sms_sender_id":"8e222534-7f05-4972-86e3-17c5d9f894e2"}"#);
    assert_eq!(Way::of_media_type(&media_type), Some(Way::Sms));
}

#[test]
fn a_letter_has_its_address_among_its_fields() {
    let lines = ["Marisol Quillfeather", "4 Lower Lane", "SS1 1AA"];
    let (media_type, text) = text(|m| {
        m.way = Way::Letter;
        m.to = lines.map(Personal::from).to_vec();
        m.fields.clear();
    });
    insta::assert_snapshot!(text, @r#"{"template_id":"f33517ff-2a88-4f6e-b855-c550268ce08a","personalisation":{"address_line_1":"Marisol Quillfeather","address_line_2":"4 Lower Lane","address_line_3":"SS1 1AA"},"reference":"WM92W5JG3S992W5JG3S9"}"#);
    assert_eq!(Way::of_media_type(&media_type), Some(Way::Letter));
}

#[test]
fn what_is_for_agencies_or_another_environment_or_has_no_address_is_refused() {
    let settings = Settings::read(&endpoint(), EgressPolicy::AsFlagged).unwrap();
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Guidance) {
        let refused = render(&sample::source(*kind), Environment::Test, &settings);
        assert!(
            matches!(refused, Err(RenderError::CannotCarry(_))),
            "{kind}"
        );
    }
    let live = render(
        &sample::source(Kind::Guidance),
        Environment::Live,
        &settings,
    );
    assert!(live.is_err());
    assert!(rendered(|m| m.to.clear()).is_err());
    assert!(rendered(|m| m.to.push("other@family.example".into())).is_err());
    assert!(rendered(|m| m.way = Way::Letter).is_err());
    let long = rendered(|m| {
        m.way = Way::Letter;
        m.to = vec!["line".into(); ADDRESS_LINES_MAX + 1];
    });
    assert!(long.is_err());
}

/// The outcome of an error of the API, by its code and stable word.
fn answer(status: u16, word: &str, retry_after: Option<&'static str>) -> Outcome {
    let mut headers = HeaderMap::new();
    if let Some(hint) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(hint));
    }
    let body = format!(
        "{{\"status_code\":{status},\"errors\":[{{\"error\":\"{word}\",\"message\":\"ife@family.example is wrong\"}}]}}"
    );
    let status = StatusCode::from_u16(status).unwrap();
    let outcome = refused(status, &headers, body.as_bytes(), NOW);
    assert!(!format!("{outcome:?}").contains("family.example"));
    outcome
}

fn word(outcome: &Outcome) -> (&'static str, &str) {
    (outcome.word(), outcome.why().unwrap().code.as_str())
}

#[test]
fn each_error_is_later_never_a_person_or_not_known_by_its_code_and_word() {
    for (status, error, expected) in [
        (400, "ValidationError", ("reject", "notify.validation")),
        (400, "BadRequestError", ("park", "notify.bad_request")),
        (401, "AuthError", ("retry", "notify.auth")),
        (403, "AuthError", ("retry", "notify.auth")),
        (404, "NoResultFound", ("park", "notify.refused")),
        (429, "RateLimitError", ("retry", "notify.rate_limit")),
        (429, "TooManyRequestsError", ("retry", "notify.day_limit")),
        (500, "Exception", ("unknown", "notify.broke")),
        (502, "", ("unknown", "notify.broke")),
        (408, "", ("unknown", "notify.broke")),
        (503, "", ("unknown", "notify.broke")),
        (302, "", ("park", "notify.refused")),
    ] {
        assert_eq!(
            word(&answer(status, error, None)),
            expected,
            "{status} {error}"
        );
    }
    let after = |outcome| match outcome {
        Outcome::Retry { after, .. } => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        after(answer(429, "RateLimitError", Some("7"))),
        Some(Duration::from_secs(7))
    );
    assert_eq!(after(answer(429, "RateLimitError", None)), None);
    assert_eq!(
        after(answer(429, "TooManyRequestsError", None)),
        Some(DAY_IS_FULL)
    );
    let unreadable = refused(StatusCode::BAD_REQUEST, &HeaderMap::new(), b"<html>", NOW);
    assert_eq!(unreadable.word(), "park");
}

#[test]
fn a_message_that_was_taken_is_sent_and_no_more_and_its_id_is_kept_if_it_can_be_one() {
    let of = |body: &str| match taken(body.as_bytes()) {
        Outcome::Delivered {
            grade: Evidence::Sent,
            awaiting: Some(Evidence::TransportAck),
            receiver_reference,
            receipt: None,
        } => receiver_reference,
        other => panic!("{other:?}"),
    };
    let id = "740e5834-3a29-46b4-9a6f-16142fde533a";
    assert_eq!(
        of(&format!("{{\"id\":\"{id}\",\"content\":{{}}}}")).as_deref(),
        Some(id)
    );
    assert_eq!(of("{\"id\":\"../../admin\"}"), None);
    assert_eq!(of(""), None);
}

#[test]
fn of_several_messages_under_a_reference_the_one_that_got_furthest_counts() {
    let wire_id = crate::contract::wire_id();
    let list = |statuses: &[&str]| {
        let all = statuses
            .iter()
            .map(|s| serde_json::json!({"id": "a", "reference": wire_id.as_str(), "status": s}))
            .chain([serde_json::json!({"id": "b", "reference": "another", "status": "delivered"})]);
        serde_json::json!({ "notifications": all.collect::<Vec<_>>() }).to_string()
    };
    let status = |statuses: &[&str]| {
        let found = furthest(list(statuses).as_bytes(), &wire_id).unwrap();
        found.map(|seen| seen.status)
    };
    assert_eq!(
        status(&["permanent-failure", "sending"]).as_deref(),
        Some("sending")
    );
    assert_eq!(
        status(&["delivered", "temporary-failure"]).as_deref(),
        Some("delivered")
    );
    assert_eq!(status(&[]), None);
    assert!(furthest(b"{}", &wire_id).is_err());
}
