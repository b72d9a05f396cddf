//! Bearer tokens: fetched by a signed assertion, kept, and fetched anew when they are refused.

use super::*;

/// One RSA key under one name.
struct OneKey(Vec<u8>);

impl Secrets for OneKey {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        (name == "bars-key").then(|| Zeroizing::new(self.0.clone()))
    }
}

/// The adapter with a key, the endpoint that asks for tokens, and the key.
pub(super) fn with_token(pki: &Pki, far: &Far) -> (Arc<dyn Adapter>, Endpoint, KeyPair) {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let lines = STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n");
    let mut context = pki.context();
    context.secrets = Arc::new(OneKey(pem.into_bytes()));
    let adapter = crate::Adapters::new(&context)
        .unwrap()
        .adapter(AdapterKind::Fhir);
    let mut endpoint = far_side::with(&far.endpoint(), "auth", Some("oauth2".into())).0;
    let token = format!(
        "url = \"https://{}/token\"\nclient_id = \"waymark\"\nkey = \"secret:bars-key\"\nkey_id = \"k1\"",
        far.address
    );
    endpoint.settings.insert(
        "token".to_owned(),
        toml::Value::Table(token.parse().unwrap()),
    );
    (adapter, endpoint, key)
}

#[tokio::test]
async fn a_token_that_is_not_given_now_is_asked_for_later_and_nothing_is_parked() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let (adapter, endpoint, _) = with_token(&pki, &far);
    for status in [400, 401, 403, 429, 500, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        *far.play.no_tokens.lock().unwrap() = Some(status);
        let outcome = attempt(&*adapter, &endpoint, Kind::New, 1).await;
        let Outcome::Retry { after, why } = outcome else {
            panic!("{status}: {outcome:?}")
        };
        assert_eq!(after, Some(Duration::from_secs(7)), "{status}");
        assert_eq!(why.code, "fhir.token_refused");
    }
    *far.play.no_tokens.lock().unwrap() = None;
    let outcome = attempt(&*adapter, &endpoint, Kind::New, 1).await;
    assert_eq!(outcome.word(), "delivered");
    // A token that the application refuses is not shown again, and one more is asked for at once.
    let refused = (403, "SEND_FORBIDDEN", "forbidden");
    for (refusals, expected) in [(vec![refused; 2], "retry"), (vec![refused], "delivered")] {
        let before = far.play.tokens.load(Ordering::Relaxed);
        let number = u32::try_from(refusals.len()).unwrap();
        *far.play.answers.lock().unwrap() = refusals.into();
        let outcome = attempt(&*adapter, &endpoint, Kind::New, 1).await;
        assert_eq!(outcome.word(), expected);
        let fetched = far.play.tokens.load(Ordering::Relaxed) - before;
        assert_eq!(fetched, 1, "{number} refusals");
    }
    let before = far.play.tokens.load(Ordering::Relaxed);
    *far.play.answers.lock().unwrap() = [(403, "REC_FORBIDDEN", "security")].into();
    let outcome = attempt(&*adapter, &endpoint, Kind::New, 1).await;
    assert_eq!(
        outcome.word(),
        "park",
        "the receiver's own refusal is of no token"
    );
    assert_eq!(far.play.tokens.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_token_is_fetched_by_a_signed_assertion_kept_and_fetched_anew_once_when_it_is_refused() {
    let pki = Pki::new();
    let far = Far::start(&pki, "bars").await;
    let (adapter, endpoint, key) = with_token(&pki, &far);
    assert_eq!(adapter.validate(&endpoint), []);
    for _ in 0..2 {
        assert_eq!(
            attempt(&*adapter, &endpoint, Kind::New, 1).await.word(),
            "delivered"
        );
    }
    assert_eq!(
        far.play.tokens.load(Ordering::Relaxed),
        1,
        "the token is kept"
    );
    // The far side lets the token go before its time.
    *far.play.token.lock().unwrap() = Some("another".to_owned());
    assert_eq!(
        attempt(&*adapter, &endpoint, Kind::New, 1).await.word(),
        "delivered"
    );
    assert_eq!(
        far.play.tokens.load(Ordering::Relaxed),
        2,
        "and fetched anew once"
    );
    let assertion = far.play.assertions.lock().unwrap()[0].clone();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA512, key.public_key().as_ref());
    public
        .verify(
            signed.as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .unwrap();
    let part = |nth: usize| -> Value {
        serde_json::from_slice(
            &URL_SAFE_NO_PAD
                .decode(signed.split('.').nth(nth).unwrap())
                .unwrap(),
        )
        .unwrap()
    };
    assert_eq!(part(0), json!({"alg": "RS512", "typ": "JWT", "kid": "k1"}));
    assert_eq!(
        (part(1)["iss"].as_str(), part(1)["sub"].as_str()),
        (Some("waymark"), Some("waymark"))
    );
    assert_eq!(part(1)["exp"], far_side::NOW.as_ms() / 1_000 + 300);
}
