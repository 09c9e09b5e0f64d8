//! `smqtt doctor`: looks at what usually goes wrong before it does.
//!
//! It changes nothing. Each finding is a line: how bad, about what, what it is, and what to do about it.

mod keyrings;
mod machine;
mod ports;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use smqtt::admin::SOCKET_NAME;
use smqtt::broker::Limits;
use smqtt_client::authority::Authority;
use smqtt_client::enrol::authority_of;
use smqtt_client::keyring::Keyring;
use smqtt_core::api::Health;
use tokio::net::UnixStream;

use super::caller::administrator;
use super::config::{BrokerConfig, SiteArgs};
use super::failure::Failure;
use super::monitor;
use super::print_line;

/// Arguments of `smqtt doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Look at this keyring, of a device or of a broker on a machine of its own, instead of a site
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Will go wrong, or is perhaps not meant.
    Warn,
    /// Does not work, or is not safe.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    subject: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, text: text.into(), hint: None }
    }

    fn warn(subject: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warn, hint: Some(hint.into()), ..Self::ok(subject, text) }
    }

    fn fail(subject: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(subject, text, hint) }
    }
}

/// Prints what it finds; exit code 1 if anything fails.
pub async fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = match &args.dir {
        Some(dir) => keyring(dir).await,
        None => {
            let (config, data) = args.site.load()?;
            let broker = args.site.config.is_some().then_some(&config.broker);
            site(broker, &data).await
        }
    };
    for finding in &findings {
        if args.json {
            let line = serde_json::to_string(finding);
            print_line(line.map_err(|error| Failure::new("cannot print it").because(&error))?)?;
            continue;
        }
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        print_line(format!("{level:<5} {:<12} {}", finding.subject, finding.text))?;
        if let Some(hint) = &finding.hint {
            print_line(format!("{:18} hint: {hint}", ""))?;
        }
    }
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err(Failure::new("1 thing is wrong")),
        count => Err(Failure::new(format!("{count} things are wrong"))),
    }
}

/// A device, or a broker alone.
async fn keyring(dir: &Path) -> Vec<Finding> {
    let now = smqtt_client::system_now();
    let mut findings = machine::permissions(dir);
    findings.extend(machine::disk(dir));
    match Keyring::load(dir) {
        Err(error) => findings.push(keyrings::unusable(dir, &error)),
        Ok(keyring) => {
            findings.extend(keyrings::certificates(&keyring, now));
            findings.push(keyrings::bundle(&keyring, now));
            if keyring.place().role == "broker" {
                findings.extend(machine::descriptors(Limits::default().connections_max));
                findings.extend(rules::look(&keyring.bundle().rules));
            }
            findings.extend(authority(authority_of(&keyring, now).map_err(Failure::from), now).await);
        }
    }
    findings
}

/// Everything of a data directory that is there; `config` if somebody has written one.
async fn site(config: Option<&BrokerConfig>, data: &Path) -> Vec<Finding> {
    let now = smqtt_client::system_now();
    if !data.join("authority").is_dir() {
        let hint = "`--data` names the directory of `smqtt up`, `--dir` a keyring";
        return vec![Finding::fail("files", format!("`{}` holds no authority", data.display()), hint)];
    }
    let mut findings = machine::permissions(data);
    findings.extend(machine::disk(data));
    let limits = config.map_or_else(Limits::default, |config| config.limits.clone());
    findings.extend(machine::descriptors(limits.connections_max));
    findings.extend(keyrings::administrator(&data.join("admin"), now));
    let broker = data.join("broker");
    match Keyring::load(&broker) {
        // On another machine, then.
        Err(smqtt_client::keyring::KeyringError::NotEnrolled(_)) => {}
        Err(error) => findings.push(keyrings::unusable(&broker, &error)),
        Ok(keyring) => {
            findings.extend(keyrings::certificates(&keyring, now));
            findings.push(keyrings::bundle(&keyring, now));
            findings.extend(rules::look(&keyring.bundle().rules));
            findings.extend(ports::broker(config, &keyring).await);
        }
    }
    findings.extend(authority(administrator(data), now).await);
    findings.extend(readiness(data).await);
    findings
}

/// What a running authority says of itself.
async fn readiness(data: &Path) -> Vec<Finding> {
    let Ok(socket) = UnixStream::connect(data.join(SOCKET_NAME)).await else { return Vec::new() };
    let answer = monitor::ask(socket, "/health/ready").await;
    let answer = answer.and_then(|(_, body)| Ok(serde_json::from_str::<Readiness>(&body)?));
    let hint = "the authority's log says more; see docs/AUTHORITY.md";
    let Ok(answer) = answer else {
        return vec![Finding::fail("ready", "the authority does not say whether it is ready", hint)];
    };
    let wrong: Vec<_> = answer.checks.into_iter().filter(|(_, said)| said != "ok").collect();
    if wrong.is_empty() {
        return vec![Finding::ok("ready", "the authority can do all that it is there for")];
    }
    wrong
        .iter()
        .map(|(part, said)| Finding::fail("ready", format!("authority, {part}: {said}"), hint))
        .collect()
}

/// The answer of `/health/ready`.
#[derive(Deserialize)]
struct Readiness {
    checks: BTreeMap<String, String>,
}

/// Whether the authority answers, and what time it has.
async fn authority(authority: Result<Authority, Failure>, now: u64) -> Vec<Finding> {
    let health = match authority {
        Err(failure) => Err(failure),
        Ok(authority) => match authority.get::<Health>("/v1/health").await {
            Err(error) => Err(error.into()),
            Ok(health) => Ok((authority.url().to_owned(), health)),
        },
    };
    match health {
        Err(failure) => {
            let hint = failure.advice().unwrap_or("start it with `smqtt up` or `smqtt authority`");
            vec![Finding::fail("authority", failure.sentence(), hint)]
        }
        Ok((url, health)) => {
            vec![Finding::ok("authority", format!("answers at {url}")), machine::clock(now, health.time)]
        }
    }
}
