//! Our server, asked by a foreign sender.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_sender_is_answered_in_bars_shape_and_once() -> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let new = place.file("new.json", &golden("bars-new.json")?)?;
    let path = "/$process-message";
    let first = place
        .sends(&school, "POST", path, &["--file", &new, "--bars", TARGET])
        .await?;
    assert_eq!(first["status"], 200, "{first}");
    for id in ["x-request-id", "x-correlation-id"] {
        assert_eq!(first["headers"][id], first["sent"][id], "ids are echoed");
    }
    let mut answer = first["body"].clone();
    assert_eq!(answer["entry"][0]["resource"]["response"]["code"], "ok");
    let id = text(request_of(&mut answer)?, "id").to_owned();
    let record = place
        .gateway
        .client("EE123456")
        .await?
        .referral(&id)
        .await?;
    assert_eq!(record.referral_id, id, "the id is the referral's own");
    assert!(
        !answer.to_string().contains("Quillfeather"),
        "the child is not named again"
    );
    // The same pair of ids: processed once, and other content under it is a conflict.
    let same: Vec<String> = ["x-request-id", "x-correlation-id"]
        .iter()
        .flat_map(|h| {
            [
                "--header".to_owned(),
                format!("{h}={}", text(&first["sent"], h)),
            ]
        })
        .collect();
    let same: Vec<&str> = same.iter().map(String::as_str).collect();
    let again = place
        .sends(
            &school,
            "POST",
            path,
            &[&["--file", &new, "--bars", TARGET][..], &same].concat(),
        )
        .await?;
    assert_eq!(
        (
            again["status"].as_i64(),
            again["body"]["issue"][0]["code"].as_str()
        ),
        (Some(409), Some("duplicate"))
    );
    let mut other = golden("bars-new.json")?;
    request_of(&mut other)?["priority"] = json!("stat");
    let other = place.file("other.json", &other)?;
    let clash = place
        .sends(
            &school,
            "POST",
            path,
            &[&["--file", &other, "--bars", TARGET][..], &same].concat(),
        )
        .await?;
    assert_eq!(
        (
            clash["status"].as_i64(),
            clash["body"]["issue"][0]["code"].as_str()
        ),
        (Some(409), Some("conflict"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_party_may_ask_change_and_cancel_by_the_id_that_the_answer_gave() -> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let new = place.file("new.json", &golden("bars-new.json")?)?;
    let path = "/$process-message";
    let args = ["--file", &new, "--bars", TARGET];
    let mut answer = place.sends(&school, "POST", path, &args).await?["body"].clone();
    let id = text(request_of(&mut answer)?, "id").to_owned();
    // An enquiry, by a party and by a stranger.
    let enquiry = format!("/ServiceRequest/{id}");
    let found = place.sends(&school, "GET", &enquiry, &[]).await?;
    assert_eq!(
        (found["status"].as_i64(), found["body"]["status"].as_str()),
        (Some(200), Some("active"))
    );
    let stranger = Papers::of(&place.gateway, "waymark:test:agency:THER1")?;
    assert_eq!(
        place.sends(&stranger, "GET", &enquiry, &[]).await?["status"],
        404
    );
    // Update and cancel by the id that the answer gave, without the identifiers of the request.
    for (file, status) in [
        ("bars-update.json", "active"),
        ("bars-revoke.json", "revoked"),
    ] {
        let mut message = golden(file)?;
        let request = request_of(&mut message)?;
        request["id"] = json!(id);
        request
            .as_object_mut()
            .context("an object")?
            .remove("identifier");
        let written = place.file(file, &message)?;
        let said = place
            .sends(
                &school,
                "POST",
                path,
                &["--file", &written, "--bars", TARGET],
            )
            .await?;
        assert_eq!(said["status"], 200, "{said}");
        let mut answer = said["body"].clone();
        assert_eq!(request_of(&mut answer)?["status"], status);
    }
    let found = place.sends(&school, "GET", &enquiry, &[]).await?;
    assert_eq!(found["body"]["status"], "revoked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_checked_first_and_in_the_standards_order() -> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let new = place.file("new.json", &golden("bars-new.json")?)?;
    let path = "/$process-message";
    for (header, status, code) in [
        ("x-request-id=", 400, "REC_BAD_REQUEST"),
        ("x-correlation-id=not-a-uuid", 400, "REC_BAD_REQUEST"),
        ("nhsd-target-identifier=eyJ9", 400, "REC_BAD_REQUEST"),
        ("nhsd-end-user-organisation=", 400, "REC_BAD_REQUEST"),
        ("accept=application/fhir+xml", 406, "REC_NOT_ACCEPTABLE"),
    ] {
        let said = place
            .sends(
                &school,
                "POST",
                path,
                &["--file", &new, "--bars", TARGET, "--header", header],
            )
            .await?;
        let name = header.split('=').next().unwrap_or_default();
        assert_eq!(
            refusal(&said),
            (status, code.to_owned(), format!("http.{name}")),
            "{header}"
        );
    }
    let elsewhere = TARGET.replace("2000011147", "1");
    let said = place
        .sends(
            &school,
            "POST",
            path,
            &["--file", &new, "--bars", &elsewhere],
        )
        .await?;
    assert_eq!(
        refusal(&said),
        (
            404,
            "REC_NOT_FOUND".to_owned(),
            "http.nhsd-target-identifier".to_owned()
        )
    );
    Ok(())
}

type Change = Box<dyn Fn(&mut Value) -> anyhow::Result<()>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_wrong_is_refused_by_its_path() -> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let path = "/$process-message";
    let elsewhere = TARGET.replace("2000011147", "1");
    let spoilt = |change: &dyn Fn(&mut Value) -> anyhow::Result<()>| {
        let mut message = golden("bars-new.json")?;
        change(&mut message)?;
        place.file("spoilt.json", &message)
    };
    let of_header = |element: &'static str, value: Value| -> Change {
        Box::new(move |m| {
            m["entry"][0]["resource"][element] = value.clone();
            Ok(())
        })
    };
    let cases: Vec<(Change, i64, &str)> = vec![
        (
            of_header("destination", json!([{"endpoint": elsewhere}])),
            404,
            "Bundle.entry[0].resource.destination[0].endpoint",
        ),
        (
            of_header(
                "definition",
                json!("https://fhir.nhs.uk/MessageDefinition/bars-message-booking-request"),
            ),
            422,
            "Bundle.entry[0].resource.definition",
        ),
        (
            of_header("focus", json!([{"reference": "urn:uuid:0"}])),
            400,
            "Bundle.entry[0].resource.focus[0].reference",
        ),
        (
            Box::new(|m| {
                request_of(m)?["intent"] = json!("order");
                Ok(())
            }),
            400,
            "Bundle.entry[23].resource.intent",
        ),
        (
            Box::new(|m| {
                m["meta"]["security"] = json!([]);
                m["type"] = json!("transaction");
                Ok(())
            }),
            422,
            "Bundle.type",
        ),
    ];
    for (change, status, at) in cases {
        let file = spoilt(&*change)?;
        let said = place
            .sends(&school, "POST", path, &["--file", &file, "--bars", TARGET])
            .await?;
        let (got, _, path) = refusal(&said);
        assert_eq!(got, status, "{said}");
        let element = at.rsplit('.').next().unwrap_or_default();
        assert!(
            path == at || (at.contains("[23]") && path.ends_with(element)),
            "{path} for {at}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_and_every_path_answers_in_fhir() -> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let new = place.file("new.json", &golden("bars-new.json")?)?;
    let path = "/$process-message";
    // Somebody else's certificate may not speak for the school, and a stranger's for nobody.
    let therapy = Papers::of(&place.gateway, "waymark:test:agency:THER1")?;
    let said = place
        .sends(&therapy, "POST", path, &["--file", &new, "--bars", TARGET])
        .await?;
    assert_eq!(
        refusal(&said),
        (
            403,
            "REC_FORBIDDEN".to_owned(),
            "Bundle.entry[0].resource.sender".to_owned()
        )
    );
    let nobody = Papers::of(&place.gateway, "waymark:test:agency:NOBODY")?;
    let said = place
        .sends(&nobody, "POST", path, &["--file", &new, "--bars", TARGET])
        .await?;
    assert_eq!(refusal(&said).1, "REC_UNAUTHORIZED");
    for (method, path, status) in [
        ("GET", "/metadata", 200),
        ("GET", "/MessageDefinition", 200),
        ("GET", "/Slot", 404),
        ("DELETE", "/metadata", 405),
    ] {
        assert_eq!(
            place.sends(&school, method, path, &[]).await?["status"],
            status,
            "{method} {path}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_of_the_provider_moves_the_leg_and_a_subscription_brings_a_task()
-> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let (receipt, sent) = place.comes_to(340, DeliveryState::Done).await?;
    let minted = place.minted(&sent).await?;
    let record = place.peer.records()?.remove(0);
    let mut message: Value = serde_json::from_slice(&bytes(&record, "body_b64")?)?;
    // The provider answers with our request under its own id, as BaRS receivers do.
    let header = &mut message["entry"][0]["resource"];
    header["eventCoding"]["code"] = json!("servicerequest-response");
    header["definition"] = json!(
        "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-response-referral"
    );
    header["destination"][0]["endpoint"] = json!(TARGET.replace("2000011147", "2000099999"));
    header["sender"] = header["destination"][0]["receiver"].clone();
    let request = request_of(&mut message)?;
    request["id"] = json!(minted);
    request["extension"] = json!([{"url": "urn:other", "valueString": "x"}]);
    request["status"] = json!("revoked");
    request["reasonCode"] = json!([{"coding": [{"system": "https://fhir.nhs.uk/CodeSystem/rejected-reasons-bars", "code": "RRNA"}]}]);
    let file = place.file("response.json", &message)?;
    let own = TARGET.replace("2000011147", "2000099999");
    let said = place
        .sends(
            &place.papers,
            "POST",
            "/$process-message",
            &["--file", &file, "--bars", &own],
        )
        .await?;
    assert_eq!(said["status"], 200, "{said}");
    place.leg_is(&receipt, LegState::Declined).await?;

    let (receipt, sent) = place.comes_to(341, DeliveryState::Done).await?;
    let task = |version: u8, more: Value| {
        let mut task = json!({"resourceType": "Task", "id": "t-9", "meta": {"versionId": version.to_string(),
            "lastUpdated": format!("2026-03-0{version}T10:30:00Z")}, "status": "accepted", "intent": "order", "identifier": [
            {"system": "urn:waymark:id:delivery", "value": sent.wire_id}, {"system": "urn:waymark:id:reference", "value": receipt.reference}]});
        if let (Some(task), Some(more)) = (task.as_object_mut(), more.as_object()) {
            task.extend(more.clone());
        }
        task
    };
    let (ca, cert, key) = (
        place.papers.path("ca"),
        place.papers.path("cert"),
        place.papers.path("key"),
    );
    let callback = async |task: Value| -> anyhow::Result<()> {
        let (file, url) = (
            place.file("task.json", &task)?,
            place.url("/Task-callback/Task/t-9")?,
        );
        let args = [
            "PUT", &url, "--ca", &ca, "--cert", &cert, "--key", &key, "--file", &file,
        ];
        let said = run(SENDER, &args).await?;
        anyhow::ensure!(said.json()?["status"] == 200, "{}", said.out);
        Ok(())
    };
    for _ in 0..2 {
        callback(task(2, json!({}))).await?;
    }
    place.leg_is(&receipt, LegState::Accepted).await?;
    // An appointment, and the same appointment on another day: the day moves.
    let school = place.gateway.client("EE123456").await?;
    for (version, day) in [(3, "2026-05-04"), (4, "2026-05-11")] {
        let booked = json!({"businessStatus": {"coding": [{"system": "urn:waymark:codesystem:state", "code": "booked"}]},
            "restriction": {"period": {"end": day}}});
        callback(task(version, booked)).await?;
        let leg = school.leg(&receipt.referral_id).await?;
        assert_eq!(
            (leg.state(), &*leg.next_action_due),
            (LegState::Booked, day)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_of_the_exchange_and_answers_the_message_that_opened_its_referral()
-> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let message = golden("bars-new.json")?.to_string();
    let message = message.replace("EE123456", "FHR01");
    let message: Value = serde_json::from_str(&message.replace(PATHWAY, "adhd-assessment"))?;
    let file = place.file("asked.json", &message)?;
    let exchange = "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a01";
    let header = format!("x-correlation-id={exchange}");
    let args = ["--file", &file, "--bars", TARGET, "--header", &header];
    let said = place
        .sends(&place.papers, "POST", "/$process-message", &args)
        .await?;
    assert_eq!(said["status"], 200, "{said}");
    let id = text(&said["body"]["entry"][1]["resource"], "id");
    let provider = place.gateway.client("R1L").await?;
    for (version, state) in [(1, LegState::Accepted), (2, LegState::Declined)] {
        provider.status(id, version, state).await?;
    }
    let records = place.peer.has(2).await?;
    for record in &records {
        assert_eq!(record["faults"], json!([]));
        assert_eq!(record["headers"]["x-correlation-id"], exchange);
        assert_ne!(record["headers"]["x-request-id"], exchange);
        let told: Value = serde_json::from_slice(&bytes(record, "body_b64")?)?;
        let response = &told["entry"][0]["resource"]["response"];
        assert_eq!(response["identifier"], message["id"]);
        assert_eq!(response["code"], "ok");
        // Who speaks is the service's agency, and not the one that is told.
        let request = told["entry"].as_array().context("a list")?.iter();
        let mut request = request.map(|entry| &entry["resource"]);
        let request = request
            .find(|resource| resource["resourceType"] == "ServiceRequest")
            .context("the request")?;
        let performer = &request["performer"];
        assert_eq!(performer[0], told["entry"][0]["resource"]["sender"]);
        assert_eq!(performer[1]["identifier"]["value"], "paediatrics");
        let words = text(&request["note"][0], "text");
        assert_eq!(words, "From R1L, service paediatrics.");
    }
    assert_ne!(
        records[0]["headers"]["x-request-id"],
        records[1]["headers"]["x-request-id"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_names_its_referral_by_our_id_beside_a_reference_and_two_referrals_are_refused()
-> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let school = Papers::of(&place.gateway, "waymark:test:agency:EE123456")?;
    let path = "/$process-message";
    let mut ids = Vec::new();
    for reference in ["S-1", "S-2"] {
        let mut new = golden("bars-new.json")?;
        request_of(&mut new)?["identifier"] =
            json!([{"system": "https://school.example/ref", "value": reference}]);
        let file = place.file(&format!("{reference}.json"), &new)?;
        let args = ["--file", &file, "--bars", TARGET];
        let said = place.sends(&school, "POST", path, &args).await?;
        assert_eq!(said["status"], 200, "{said}");
        let mut answer = said["body"].clone();
        ids.push(text(request_of(&mut answer)?, "id").to_owned());
    }
    // What was asked, by the first one's id: a reference that nobody knows, another's, and its own.
    for (n, (reference, status)) in [("S-9", 200), ("S-2", 409), ("S-1", 200)]
        .into_iter()
        .enumerate()
    {
        let mut update = golden("bars-update.json")?;
        let request = request_of(&mut update)?;
        request["id"] = json!(ids[0]);
        request["identifier"] =
            json!([{"system": "https://school.example/ref", "value": reference}]);
        let file = place.file(&format!("update-{n}.json"), &update)?;
        let args = ["--file", &file, "--bars", TARGET];
        let said = place.sends(&school, "POST", path, &args).await?;
        assert_eq!(said["status"], status, "{reference}: {said}");
        let mut answer = said["body"].clone();
        if status == 200 {
            assert_eq!(request_of(&mut answer)?["id"], json!(ids[0]), "{reference}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_came_after_assessment_began_and_is_refused_is_told_as_that()
-> anyhow::Result<()> {
    let place = Place::new("bars", "").await?;
    let message = golden("bars-new.json")?.to_string();
    let message = message
        .replace("EE123456", "FHR01")
        .replace("share_health", "share_education");
    let message: Value = serde_json::from_str(&message.replace(PATHWAY, "specialist-teaching"))?;
    let file = place.file("asked.json", &message)?;
    let args = ["--file", &file, "--bars", TARGET];
    let said = place
        .sends(&place.papers, "POST", "/$process-message", &args)
        .await?;
    assert_eq!(said["status"], 200, "{said}");
    let id = text(&said["body"]["entry"][1]["resource"], "id");
    let [asker, team] = place.gateway.clients(["FHR01", "SPEC1"]).await?;
    let post = team.fetch_one(id).await?;
    team.acknowledge(&post).await?;
    team.status(id, 1, LegState::InAssessment).await?;
    asker.cancel("too-late", id).await?;
    let cancel = team.fetch_one(id).await?;
    let reject = v1::RejectRequest {
        delivery_id: cancel.lent.delivery_id.clone(),
        lease_token: cancel.lent.lease_token.clone(),
        reason_code: "begun".to_owned(),
        reason: "the assessment is under way".to_owned(),
        fault: v1::Fault::Sender.into(),
    };
    team.mailbox().reject(reject).await?;
    let records = place.peer.has(2).await?;
    let mut told: Value = serde_json::from_slice(&bytes(&records[1], "body_b64")?)?;
    let request = request_of(&mut told)?;
    let code = &request["reasonCode"][0]["coding"][0]["code"];
    assert_eq!(code, "cancel_refused");
    assert_eq!(request["extension"][0]["valueCode"], "in_assessment");
    let words = text(&request["note"][1], "text");
    assert!(words.starts_with("NOT CANCELLED: "), "{words}");
    Ok(())
}
