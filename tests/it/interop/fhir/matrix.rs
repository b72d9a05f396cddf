//! Every way in by every way out: what keeps a child safe, and what documents say, arrives, whichever two a referral
//! takes (scenario 18).

use prost::Message as _;

use super::super::{Bodies, changed, strict};
use super::*;

mod answers;
mod documents;
mod everybody;
mod kinds;
mod outage;
mod refusals;
mod told;
mod withdrawal;

use everybody::{Everybody, Paper, WAYS};

waymark_tests::both_engines! {
    what_keeps_a_child_safe_arrives_whichever_way_in_and_out,
}

const EVERYWHERE: &str = "everywhere";
/// What every wire must hold of the sample referral: a flag's code and text, an adjustment, how the parent reads.
const WORDS: [&str; 4] = [
    "836881000000105",
    "stays at grandmother's flat since january",
    "requiresinformationineasyread",
    "easy read",
];
/// The endpoints of the area, each of another protocol.
const ENDPOINTS: [&str; 7] = [
    "cam01-grpc",
    "comm1-mesh",
    "fhr-fhir",
    "r1l-mllp",
    "sens1-files",
    "spec1-mailbox",
    "therapy-webhook",
];
/// What a wire says, as far as words go.
fn said(endpoint: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let text = match endpoint {
        "cam01-grpc" | "spec1-mailbox" => {
            let dispatch = v1::Dispatch::decode(bytes)?;
            serde_json::to_string(&dispatch.referral.context("its referral")?)?
        }
        _ => String::from_utf8(bytes.to_vec())?,
    };
    Ok(text.to_lowercase().replace('_', " "))
}

async fn what_keeps_a_child_safe_arrives_whichever_way_in_and_out(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let (mut known, mut bodies) = (Vec::new(), Bodies::new());
    let store = everybody.gateway.store()?;
    for (n, way) in (240..).zip(WAYS) {
        everybody.sends(way, n, None).await?.taken()?;
        let (id, deliveries, _) = everybody
            .delivered(&known)
            .await
            .with_context(|| format!("by {way}"))?;
        known.push(id);
        let mut to: Vec<&str> = deliveries.iter().map(|d| d.endpoint_id.as_str()).collect();
        to.sort_unstable();
        assert_eq!(to, ENDPOINTS, "by {way}");
        for delivery in &deliveries {
            let bytes = bodies.of(store, &delivery.wire_id).await?;
            let text = said(&delivery.endpoint_id, &bytes)?;
            for word in WORDS {
                let to = &delivery.endpoint_id;
                assert!(text.contains(word), "{word:?} by {way} to {to}: {text}");
            }
        }
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}
