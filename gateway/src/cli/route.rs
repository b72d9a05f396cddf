//! `waymark route explain`: where a referral goes, which rule fired, and why each other one did not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::civil::Date;
use waymark_adapters::grpc::convert::referral_to_proto;
use waymark_core::directory::Directory;
use waymark_core::id::AgencyId;
use waymark_core::referral::Referral;
use waymark_core::routing::{Explanation, Facts, explain};
use waymark_core::time::Clock as _;
use waymark_proto::v1;
use waymark_proto::v1::explain_route_request::Subject;
use waymark_proto::v1::referral_key::Key;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;

use super::client::{ClientArgs, ClientDuty};
use super::directory::load_folder;
use super::failure::{Failure, Refusal};
use super::output;
use crate::clock::SystemClock;

/// Says where a referral goes, and why.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark route explain referral.json --as EE123456
  waymark route explain --reference WM-ABCDE-FGHJK-LMNPQ --as EE123456
  waymark route explain referral.json --directory area/ --sender EE123456
  waymark route explain facts.json --directory area/

With --directory nothing is asked of a gateway. There the file may also hold only what routing sees:
  {\"pathway\":\"autism-assessment\",\"age\":9,\"needs\":[\"ASD\"],\"sender\":\"EE123456\",
   \"consent_status\":\"given\",\"consent\":[\"referral\",\"share_health\"]}")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Explains a referral that need not have been sent, or one that was.
    Explain(Box<Explain>),
}

#[derive(Args, Debug)]
struct Explain {
    /// A referral as JSON; with --directory, facts as well.
    #[arg(required_unless_present = "reference")]
    file: Option<PathBuf>,
    /// A referral already accepted, by its short reference.
    #[arg(long, conflicts_with_all = ["file", "directory"])]
    reference: Option<String>,
    /// A directory folder, in place of the gateway's release in force.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Who would send it; with --directory and a referral.
    #[arg(long, value_name = "AGENCY", requires = "directory")]
    sender: Option<AgencyId>,
    /// The release to explain by, in place of the one in force.
    #[arg(long, value_name = "NUMBER", conflicts_with = "directory")]
    release: Option<u64>,
    /// The day to explain for.
    #[arg(long, value_name = "YYYY-MM-DD")]
    on: Option<Date>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Options {
    /// Runs.
    ///
    /// # Errors
    /// When the file or directory cannot be read, or the gateway refuses.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Explain(options) = self.command;
        match &options.directory {
            Some(folder) => options.offline(folder),
            None => options.online().await,
        }
    }
}

impl Explain {
    fn read(&self) -> anyhow::Result<Vec<u8>> {
        let path = self
            .file
            .as_deref()
            .ok_or_else(|| Failure::usage("name a file"))?;
        std::fs::read(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
    }

    fn offline(&self, folder: &Path) -> anyhow::Result<ExitCode> {
        let directory = load_folder(folder)?;
        let today = self.on.unwrap_or_else(|| SystemClock.now().london_date());
        let explanation = explained(&directory, &self.read()?, self.sender.as_ref(), today)?;
        let refused = explanation.refused.is_some();
        output::show(&explanation, ToString::to_string)?;
        Ok(if refused {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    async fn online(&self) -> anyhow::Result<ExitCode> {
        let subject = match &self.reference {
            Some(reference) => Subject::Key(v1::ReferralKey {
                key: Some(Key::Reference(reference.clone())),
            }),
            None => {
                let referral = Referral::from_canonical(&self.read()?).map_err(|e| {
                    Failure::usage(format!("not a referral (facts need --directory): {e}"))
                })?;
                Subject::Referral(referral_to_proto(&referral))
            }
        };
        let ask = v1::ExplainRouteRequest {
            subject: Some(subject),
            directory_release: self.release.unwrap_or_default(),
            on_date: self.on.map(|day| day.to_string()).unwrap_or_default(),
        };
        let channel = self.client.connect(ClientDuty::Agency).await?;
        let answer = ReferralServiceClient::new(channel)
            .explain_route(ask)
            .await
            .map_err(Refusal::from)?;
        output::show(&answer.into_inner(), text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn explained(
    directory: &Directory,
    json: &[u8],
    sender: Option<&AgencyId>,
    today: Date,
) -> anyhow::Result<Explanation> {
    let facts = match (Referral::from_canonical(json), sender) {
        (Ok(referral), Some(sender)) => Facts::of(&referral, sender, today),
        (Ok(_), None) => return Err(Failure::usage("say who would send it: --sender AGENCY")),
        (Err(no_referral), _) => {
            serde_json::from_slice(json).map_err(|no_facts: serde_json::Error| {
                // Whoever wrote facts wants to hear of those; the words of the other reading would only mislead.
                let looks_like_facts = serde_json::from_slice::<Aged>(json).is_ok();
                let why = if looks_like_facts {
                    no_facts
                } else {
                    no_referral
                };
                Failure::usage(format!("neither a referral nor facts: {why}"))
            })?
        }
    };
    Ok(explain(directory, &facts, today))
}

/// What only facts have.
#[derive(serde::Deserialize)]
struct Aged {
    #[serde(rename = "age")]
    _age: serde::de::IgnoredAny,
}

fn text(answer: &v1::ExplainRouteResponse) -> String {
    let mut lines = vec![format!("directory release {}", answer.directory_release)];
    for to in &answer.destinations {
        let rule = if to.rule_id.is_empty() {
            String::new()
        } else {
            format!(", by rule {}", to.rule_id)
        };
        lines.push(format!(
            "to {} of {} through {}{rule}",
            to.service_id, to.agency_id, to.endpoint_id
        ));
    }
    if answer.destinations.is_empty() {
        let owner = answer.triage_owner.as_ref();
        lines.push(owner.map_or_else(
            || "nowhere".to_owned(),
            |o| format!("parked for {} ({}) to decide", o.role, o.agency_id),
        ));
    }
    lines.push("rules, in the order in which they are tried:".to_owned());
    for (rule, number) in answer.rules.iter().zip(1..) {
        let verdict = match (rule.fired, rule.skipped.is_empty()) {
            (true, _) => "fired".to_owned(),
            (false, false) => rule.skipped.clone(),
            (false, true) => {
                let missed = rule.predicates.iter().filter(|p| !p.held);
                let why = missed
                    .map(|p| format!("{} is {}, the rule asks for {}", p.name, p.found, p.wanted));
                why.collect::<Vec<_>>().join("; ")
            }
        };
        lines.push(format!(
            "  {number}. {} ({}): {verdict}",
            rule.rule_id, rule.location
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::{InitOptions, init_deployment};

    const TODAY: Date = jiff::civil::date(2026, 3, 2);

    fn sample() -> Directory {
        let root = tempfile::tempdir().unwrap();
        let made = init_deployment(&root.path().join("area"), &InitOptions::default()).unwrap();
        load_folder(&made.dir.join("directory")).unwrap()
    }

    #[test]
    fn facts_and_referrals_are_explained_offline() {
        let directory = sample();
        let facts = br#"{"pathway":"autism-assessment","age":9,"sender":"EE123456","consent_status":"given",
            "consent":["referral","share_health"]}"#;
        let by_facts = explained(&directory, facts, None, TODAY).unwrap();
        assert!(
            by_facts.to_string().contains("by rule autism-5-to-17"),
            "{by_facts}"
        );
        let example = include_bytes!("send/example.json");
        let sender: AgencyId = "EE123456".parse().unwrap();
        let by_referral = explained(&directory, example, Some(&sender), TODAY).unwrap();
        assert_eq!(
            by_referral.decision.unwrap().rule,
            by_facts.decision.unwrap().rule
        );
    }

    #[test]
    fn a_referral_needs_a_sender_and_anything_else_is_named() {
        let directory = sample();
        let say = |json: &[u8]| {
            explained(&directory, json, None, TODAY)
                .unwrap_err()
                .to_string()
        };
        assert!(say(include_bytes!("send/example.json")).contains("--sender"));
        assert!(say(br#"{"age":9,"pathwy":"x"}"#).contains("pathwy"));
        assert!(say(b"{}").contains("neither a referral nor facts"));
    }
}
