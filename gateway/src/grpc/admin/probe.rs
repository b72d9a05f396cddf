//! Trying an endpoint.

use waymark_core::access::Principal;
use waymark_core::id::EndpointId;
use waymark_core::port::ProbeStage;
use waymark_proto::v1;

use super::super::referral::required;
use super::Admin;
use crate::service::ServiceError;

impl Admin {
    pub(super) async fn probed(
        &self,
        principal: &Principal,
        ask: &v1::ProbeEndpointRequest,
    ) -> Result<v1::ProbeEndpointResponse, ServiceError> {
        // Whoever may not act is told so, whatever the endpoint.
        self.face.service.may_operate(principal)?;
        let id: EndpointId = required("endpoint_id", &ask.endpoint_id)?;
        let probed = self.face.service.probe(principal, &id).await?;
        let stages: Vec<v1::ProbeStage> = probed.probe.stages.into_iter().map(stage).collect();
        let failed = |stage: &v1::ProbeStage| stage.result() == v1::ProbeResult::Failed;
        Ok(v1::ProbeEndpointResponse {
            endpoint_id: id.to_string(),
            directory_release: probed.release,
            reachable: !stages.iter().any(failed),
            stages,
            took_ms: u32::try_from(probed.took.as_millis()).unwrap_or(u32::MAX),
        })
    }
}

fn stage(stage: ProbeStage) -> v1::ProbeStage {
    let result = match stage.passed {
        Some(true) => v1::ProbeResult::Passed,
        Some(false) => v1::ProbeResult::Failed,
        None => v1::ProbeResult::NotTried,
    };
    v1::ProbeStage {
        stage: stage.stage.to_owned(),
        result: result.into(),
        detail: stage.detail,
    }
}
