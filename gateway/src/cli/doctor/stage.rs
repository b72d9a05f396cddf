//! The stages that need no database, and their order.

use std::path::Path;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use waymark_core::time::Clock as _;
use waymark_store::{Keyring, Mode, Schema};
use waymark_tlog::note::VerifierKey;

use super::{Health, Stage, log, store};
use crate::app::open_store;
use crate::clock::SystemClock;
use crate::config::{Config, load_log_key};
use crate::tls::{Peer, ServerTls, days_between};

/// Days before a certificate's end from which on somebody should look.
const CERTIFICATE_DAYS_WARN: i64 = 30;
/// The longest that one stage at the database may take.
const STAGE_TIMEOUT: Duration = Duration::from_mins(1);

/// The stages at the database, in order.
const DATABASE: [&str; 6] = [
    "directory",
    "secrets",
    "log",
    "outbox",
    "conservation",
    "alarms",
];

/// Looks at everything.
pub(super) async fn look(path: &Path) -> Vec<Stage> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let mut stages = vec![Stage::fail("configuration", causes(&error))];
            stages.extend(["keyring", "log key", "certificates", "database"].map(Stage::skipped));
            stages.extend(DATABASE.map(Stage::skipped));
            return stages;
        }
    };
    let environment = config.gateway.environment.as_str();
    let mut stages = vec![Stage::ok(
        "configuration",
        format!("{}, environment {environment}", path.display()),
    )];
    stages.push(match Keyring::load(&config.keys.keyring) {
        Ok(_) => Stage::ok("keyring", config.keys.keyring.display().to_string()),
        Err(error) => Stage::fail("keyring", causes(&error)),
    });
    private(&config.keys.keyring, &mut stages);
    let key = load_log_key(&config.keys.log);
    stages.push(match &key {
        Ok(key) => Stage::ok("log key", key.vkey()),
        Err(error) => Stage::fail("log key", causes(error)),
    });
    private(&config.keys.log, &mut stages);
    stages.push(certificates(&config));
    let key = key.ok().map(|key| key.verifier());
    stages.extend(Box::pin(database(&config, key.as_ref())).await);
    stages
}

/// A file that others may read holds no secret any more.
fn private(path: &Path, stages: &mut [Stage]) {
    #[cfg(unix)]
    if let (Ok(about), Some(stage)) = (std::fs::metadata(path), stages.last_mut()) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions());
        if mode & 0o077 != 0 {
            stage.add(
                Health::Warn,
                format!(
                    "others may read it (mode {:o}): chmod 600 {}",
                    mode & 0o777,
                    path.display()
                ),
            );
        }
    }
}

fn certificates(config: &Config) -> Stage {
    let mut stage = match ServerTls::load((&config.tls).into(), config.gateway.environment) {
        Ok(tls) => {
            let mut stage = Stage {
                name: "certificates",
                health: Health::Ok,
                details: Vec::new(),
            };
            let days = tls.days_left(SystemClock.now());
            stage.add(
                of_days(days),
                format!("{}: {days} days left", config.tls.cert.display()),
            );
            stage
        }
        Err(error) => Stage::fail("certificates", causes(&error)),
    };
    for path in [
        &config.tls.client_ca,
        &config.outbound.cert,
        &config.outbound.roots,
    ] {
        match days_left(path) {
            Ok(days) => stage.add(
                of_days(days),
                format!("{}: {days} days left", path.display()),
            ),
            Err(why) => stage.add(Health::Fail, format!("{}: {why}", path.display())),
        }
    }
    if let Err(error) = std::fs::File::open(&config.outbound.key) {
        stage.add(
            Health::Fail,
            format!("{}: {error}", config.outbound.key.display()),
        );
    }
    stage
}

fn of_days(days: i64) -> Health {
    match days {
        ..0 => Health::Fail,
        0..CERTIFICATE_DAYS_WARN => Health::Warn,
        CERTIFICATE_DAYS_WARN.. => Health::Ok,
    }
}

/// Days until the first certificate of a file ends.
fn days_left(path: &Path) -> Result<i64, String> {
    let pem = std::fs::read(path).map_err(|e| e.to_string())?;
    let ends = CertificateDer::pem_slice_iter(&pem).map(|der| {
        let der = der.map_err(|_| "is not PEM".to_owned())?;
        Ok(Peer::parse(&der).map_err(|e| e.to_string())?.not_after)
    });
    let ends = ends.collect::<Result<Vec<_>, String>>()?;
    let first = ends.into_iter().min().ok_or("holds no certificate")?;
    Ok(days_between(SystemClock.now(), first))
}

async fn database(config: &Config, key: Option<&VerifierKey>) -> Vec<Stage> {
    let opened = Box::pin(within(open_store(config, Mode::ReadOnly, Schema::Expect))).await;
    let store = match opened {
        Ok(store) => store,
        Err(why) => {
            let mut stages = vec![Stage::fail("database", why)];
            stages.extend(DATABASE.map(Stage::skipped));
            return stages;
        }
    };
    let mut stages = vec![match within(async { Ok(store.ping().await?) }).await {
        Ok(()) => Stage::ok("database", config.database.url.to_string()),
        Err(why) => Stage::fail("database", why),
    }];
    let (directory, secrets) = match within(store::directory(&*store, config)).await {
        Ok(both) => both,
        Err(why) => (Stage::fail("directory", why), Stage::skipped("secrets")),
    };
    stages.extend([directory, secrets]);
    let of = |name: &'static str, found: Result<Stage, String>| {
        found.unwrap_or_else(|why| Stage::fail(name, why))
    };
    stages.push(of("log", within(log::check(&*store, key)).await));
    stages.push(store::disk(&*store));
    stages.push(of("outbox", within(store::outbox(&*store)).await));
    // It reads every referral: it takes as long as it takes.
    stages.push(of(
        "conservation",
        store::conservation(&*store)
            .await
            .map_err(|e| format!("{e:#}")),
    ));
    stages.push(of("alarms", within(store::alarms(&*store)).await));
    stages
}

/// Runs one look at the database, with a deadline, and says what went wrong in one line.
async fn within<T>(look: impl Future<Output = anyhow::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(STAGE_TIMEOUT, look).await {
        Ok(found) => found.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!(
            "no answer within {} seconds",
            STAGE_TIMEOUT.as_secs()
        )),
    }
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    crate::telemetry::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_warns_from_thirty_days_on_and_fails_once_it_has_ended() {
        assert_eq!(of_days(CERTIFICATE_DAYS_WARN), Health::Ok);
        assert_eq!(of_days(CERTIFICATE_DAYS_WARN - 1), Health::Warn);
        assert_eq!(of_days(0), Health::Warn);
        assert_eq!(of_days(-1), Health::Fail);
    }
}
