//! `smqtt device revoke` and `report`: the end of a device, and what came of it.

use clap::Args;
use serde_json::json;
use smqtt_client::authority::Authority;
use smqtt_core::api::{
    BROKER_SECONDS_MAX, BrokerState, MAX_STALENESS_SECONDS, Revocation, RevocationReport, STALENESS_FACTOR,
};

use super::admin::{or_nothing, percent, print_json};
use super::caller::CallerArgs;
use super::failure::Failure;
use super::{date, print_line, print_text};

/// Arguments of `smqtt device revoke`.
#[derive(Args)]
pub struct RevokeArgs {
    /// Its name or identifier
    device: String,
    /// Wait for brokers, 5 seconds at most, and print what was done when, and what is still open to it
    #[arg(long)]
    report: bool,
    /// Have brokers remove retained messages that it could read; may be said later, too
    #[arg(long)]
    purge_retained: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt device report`.
#[derive(Args)]
pub struct ReportArgs {
    /// Its name or identifier
    device: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// `smqtt device revoke`
pub async fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let authority = args.site.authority().await?;
    let purge = if args.purge_retained { "?purge_retained=true" } else { "" };
    let path = format!("/v1/devices/{}/revoke{purge}", percent(&args.device));
    let done: Revocation = authority.post(&path, &json!({})).await?;
    if args.report {
        // By identifier: its name may be another's by now.
        return print(&fetch(&authority, &done.id, BROKER_SECONDS_MAX).await?, args.json);
    }
    if args.json {
        return print_json(&done);
    }
    print_text(format!("revoked      {} ({}) at {}", done.name, done.id, date(done.revoked)))?;
    print_text(format!("versions     raised for {}", or_nothing(&done.raised.join(", "))))?;
    print_text(format!("bundle       {} tells brokers and publishers", done.bundle))?;
    print_line("it can still read what was sealed before; what is sealed from now on is closed to it")?;
    print_text(format!("`smqtt device report {}` says what brokers did", done.name))
}

/// `smqtt device report`
pub async fn report(args: &ReportArgs) -> Result<(), Failure> {
    print(&fetch(&args.site.authority().await?, &args.device, 0).await?, args.json)
}

async fn fetch(authority: &Authority, device: &str, wait: u64) -> Result<RevocationReport, Failure> {
    let path = format!("/v1/devices/{}/revocation?wait={wait}", percent(device));
    Ok(authority.get(&path).await?)
}

fn print(report: &RevocationReport, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(report);
    }
    lines(report).iter().try_for_each(print_text)
}

/// The report for people.
fn lines(report: &RevocationReport) -> Vec<String> {
    let mut lines = vec![
        format!(
            "revoked      {} ({}) at {} by {}",
            report.name,
            report.id,
            date(report.revoked),
            report.actor
        ),
        "keys         none and no certificate from then on; its next request is refused".to_owned(),
        format!("versions     raised for {}", or_nothing(&report.raised.join(", "))),
    ];
    if let Some(epoch) = report.epoch {
        lines.push(format!("epoch        {epoch} began, since not every version could be raised"));
    }
    lines.push(format!("bundle       {} tells brokers and publishers", report.bundle));
    for broker in &report.brokers {
        lines.push(format!("broker       {}", of_broker(broker)));
    }
    if report.brokers.is_empty() {
        lines.push("broker       none is enrolled".into());
    }
    let publishers = &report.publishers;
    lines.push(format!(
        "publishers   {} connected ones have it, {} do not yet and will by {}; what the {} others seal under older versions brokers refuse",
        publishers.told,
        publishers.behind,
        date(publishers.by),
        publishers.away
    ));
    let readable = &report.readable;
    match (readable.epochs.first(), readable.epochs.last()) {
        (Some(first), Some(last)) => {
            lines.push(format!(
                "still reads  what it or anybody recorded, for ever: sealed for its attributes before {} by whoever had bundle {}, and before {} by anybody who reaches the authority",
                date(readable.until),
                report.bundle,
                date(readable.until_at_the_latest)
            ));
            lines.push(format!(
                "             it can have keys of epochs {} to {} ({} to {}), and of all since it enrolled at {}",
                first.epoch,
                last.epoch,
                date(first.from),
                date(last.until),
                date(readable.enrolled)
            ));
        }
        _ => lines.push("still reads  nothing: the authority knows of no keys that it had".into()),
    }
    lines.push(match report.purge_ordered {
        Some(at) => format!("retained     brokers were told at {} to remove what it could read", date(at)),
        None => "retained     what it could read stays: `--purge-retained` removes it".to_owned(),
    });
    let missing: Vec<&str> = report
        .brokers
        .iter()
        .filter(|broker| broker.done.is_none() || (report.purge_ordered.is_some() && !has_purged(broker)))
        .map(|broker| broker.name.as_str())
        .collect();
    if !missing.is_empty() {
        lines.push(format!("missing      the word of {}", missing.join(", ")));
    }
    lines
}

fn has_purged(broker: &BrokerState) -> bool {
    broker.done.as_ref().is_some_and(|done| done.retained.is_some())
}

fn of_broker(broker: &BrokerState) -> String {
    let name = &broker.name;
    if let Some(done) = &broker.done {
        let retained = done.retained.map_or(String::new(), |count| format!(", {count} retained removed"));
        return format!(
            "{name} says: cut at {} under bundle {}, {} sessions, {} of them connected{retained}",
            date(done.cut_at),
            done.bundle,
            done.sessions,
            done.connections
        );
    }
    match (broker.state.as_str(), broker.admits_until, broker.serves_until) {
        ("away", Some(admits), Some(serves)) => {
            let heard = broker
                .heard
                .map_or("since the authority started".to_owned(), |at| format!("since {}", date(at)));
            format!(
                "{name} is away {heard}: if it is cut off it lets nobody in from {} and closes what must be sealed at {} ({} and {} s after it heard last, unless configured otherwise)",
                date(admits),
                date(serves),
                MAX_STALENESS_SECONDS,
                MAX_STALENESS_SECONDS * STALENESS_FACTOR
            )
        }
        ("told", ..) => format!("{name} has the bundle and has not said what it did"),
        _ => format!("{name} is connected and does not have the bundle yet"),
    }
}

#[cfg(test)]
mod tests {
    use smqtt_core::api::{Publishers, Readable, RevocationDone};

    use super::*;

    #[test]
    fn a_report_names_who_is_missing_and_until_when_a_broker_that_is_away_goes_on() {
        let broker = |name: &str, state: &str, done: Option<RevocationDone>| BrokerState {
            id: String::new(),
            name: name.into(),
            state: state.into(),
            heard: None,
            bundle: None,
            done,
            reported: None,
            admits_until: (state == "away").then_some(900),
            serves_until: (state == "away").then_some(3600),
        };
        let done = RevocationDone { bundle: 4, cut_at: 1, sessions: 2, connections: 1, retained: None };
        let mut report = RevocationReport {
            id: "00".into(),
            name: "nurse".into(),
            role: "device".into(),
            revoked: 0,
            actor: "admin".into(),
            raised: vec!["role=nurse".into()],
            epoch: None,
            bundle: 4,
            readable: Readable { enrolled: 0, epochs: Vec::new(), until: 0, until_at_the_latest: 90 },
            brokers: vec![
                broker("a", "done", Some(done)),
                broker("b", "away", None),
                broker("c", "told", None),
            ],
            publishers: Publishers { told: 1, behind: 2, away: 3, by: 90 },
            purge_ordered: None,
            complete: false,
        };
        let text = lines(&report).join("\n");
        assert!(
            text.contains(
                "a says: cut at 1970-01-01T00:00:01Z under bundle 4, 2 sessions, 1 of them connected"
            )
        );
        assert!(text.contains(
            "lets nobody in from 1970-01-01T00:15:00Z and closes what must be sealed at 1970-01-01T01:00:00Z"
        ));
        assert!(text.ends_with("missing      the word of b, c"), "{text}");
        report.purge_ordered = Some(5);
        assert!(lines(&report).join("\n").ends_with("the word of a, b, c"));
    }
}
