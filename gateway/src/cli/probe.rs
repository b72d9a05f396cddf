//! `waymark probe`: tries from the gateway whether an endpoint's far side can be reached.

use std::process::ExitCode;

use clap::Args;
use waymark_proto::v1;
use waymark_proto::v1::admin_service_client::AdminServiceClient;

use super::client::{ClientArgs, ClientDuty};
use super::failure::Refusal;
use super::output::{self, word};

/// Tries whether an endpoint's far side can be reached, stage by stage.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark probe r1l-mllp --as admin
  waymark probe r1l-mllp --output json

The gateway itself tries: name, TCP, TLS, the identity that the peer proves, the application. No message is sent; that
it was tried stands in the delivery log. One endpoint can be tried every 5 seconds.

Exit codes: 0 no stage failed or there is nothing to try (a mailbox), 1 one did.")]
pub(super) struct Options {
    /// The endpoint, by its id in the directory.
    endpoint: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl Options {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let channel = self.client.connect(ClientDuty::Admin).await?;
        let ask = v1::ProbeEndpointRequest {
            endpoint_id: self.endpoint,
        };
        let answer = AdminServiceClient::new(channel).probe_endpoint(ask).await;
        let answer = answer.map_err(Refusal::from)?.into_inner();
        output::show(&answer, text)?;
        Ok(if answer.reachable {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn text(answer: &v1::ProbeEndpointResponse) -> String {
    let mut table = output::table(["stage", "result", "detail"]);
    for stage in &answer.stages {
        let result = word(stage.result().as_str_name(), "PROBE_RESULT_").replace('_', " ");
        table.add_row([&stage.stage, &result, &stage.detail]);
    }
    let tried = |stage: &v1::ProbeStage| stage.result() != v1::ProbeResult::NotTried;
    let verdict = if !answer.stages.iter().any(tried) {
        "was not tried"
    } else if answer.reachable {
        "can be reached"
    } else {
        "cannot be reached"
    };
    let (id, took) = (&answer.endpoint_id, answer.took_ms);
    format!(
        "{table}\n{id} {verdict} (release {}, {took} ms)",
        answer.directory_release
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(stage: &str, result: v1::ProbeResult, detail: &str) -> v1::ProbeStage {
        v1::ProbeStage {
            stage: stage.to_owned(),
            result: result.into(),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn where_there_is_nothing_to_try_nobody_reads_that_it_can_be_reached() {
        let fetched = |name| stage(name, v1::ProbeResult::NotTried, "fetched");
        let mut answer = v1::ProbeEndpointResponse {
            endpoint_id: "spec1-mailbox".to_owned(),
            directory_release: 4,
            reachable: true,
            stages: ["name", "tcp"].map(fetched).into(),
            took_ms: 0,
        };
        assert!(text(&answer).ends_with("\nspec1-mailbox was not tried (release 4, 0 ms)"));
        answer
            .stages
            .push(stage("tls", v1::ProbeResult::Passed, "passed"));
        assert!(text(&answer).contains("spec1-mailbox can be reached"));
    }

    #[test]
    fn people_read_stage_result_and_detail() {
        let answer = v1::ProbeEndpointResponse {
            endpoint_id: "r1l-mllp".to_owned(),
            directory_release: 4,
            reachable: false,
            stages: vec![
                stage("name", v1::ProbeResult::Passed, "passed"),
                stage(
                    "tcp",
                    v1::ProbeResult::Failed,
                    "no connection: connection refused",
                ),
                stage("tls", v1::ProbeResult::NotTried, "not tried"),
            ],
            took_ms: 12,
        };
        let shown = text(&answer);
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
         stage  result     detail
         name   passed     passed
         tcp    failed     no connection: connection refused
         tls    not tried  not tried
        r1l-mllp cannot be reached (release 4, 12 ms)
        ");
    }
}
