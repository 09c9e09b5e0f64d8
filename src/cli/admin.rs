//! `smqtt rule`, `device`, `epoch`: administration, over HTTPS like anybody.

use clap::{Args, Subcommand};
use serde::Serialize;
use smqtt_core::api::{Device, Rotation, Rule, RuleSet};
use smqtt_core::policy::{Labelling, Policy, Template};
use smqtt_core::rule::Mode;
use smqtt_core::topic::Filter;

use super::caller::CallerArgs;
use super::failure::Failure;
use super::{date, device, print_line, print_text, revocation};

/// `smqtt rule`.
#[derive(Subcommand)]
pub enum RuleCommand {
    /// Set the rule of a topic filter
    Set(SetRuleArgs),
    /// List the rules
    List(ListArgs),
    /// Remove the rule of a topic filter
    Remove(RemoveRuleArgs),
}

/// Arguments of `smqtt rule set`.
#[derive(Args)]
pub struct SetRuleArgs {
    /// The topic filter
    filter: String,
    /// Whether messages must be sealed: open, warn or required [default: required if there is a policy or labels]
    #[arg(long, value_parser = ["open", "warn", "required"])]
    mode: Option<String>,
    /// Who can read: `$1` stands for the level that the first `+` matches
    #[arg(long)]
    policy: Option<String>,
    /// Or what messages are labelled with, for keys that carry a policy: `kind=reading, ward=$1`
    #[arg(long, value_name = "LIST", conflicts_with = "policy")]
    labels: Option<String>,
    /// Who may publish
    #[arg(long, value_name = "POLICY")]
    publishers: Option<String>,
    /// Who may subscribe
    #[arg(long, value_name = "POLICY")]
    subscribers: Option<String>,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt rule remove`.
#[derive(Args)]
pub struct RemoveRuleArgs {
    /// The topic filter
    filter: String,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of every `list`.
#[derive(Args)]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub site: CallerArgs,
}

/// `smqtt device`.
#[derive(Subcommand)]
pub enum DeviceCommand {
    /// List devices and brokers
    List(ListArgs),
    /// Show one
    Show(ShowArgs),
    /// List those who wait for approval, with what to compare of their keys
    Waiting(ListArgs),
    /// Approve the enrolment of whoever waits under this name
    Approve(device::NameArgs),
    /// Deny it
    Deny(device::NameArgs),
    /// Change attributes or policy of one: its keys follow by themselves
    Set(device::SetArgs),
    /// Suspend one until it is resumed: no keys, no certificate, live session cut, versions of its attributes raised
    Suspend(ShowArgs),
    /// Let a suspended one in again
    Resume(ShowArgs),
    /// End one as `revoke` does, and make a token to enrol it anew under its name: the last line of standard output
    Reset(device::ResetArgs),
    /// Revoke one, for good: no new keys or certificates, live session cut, versions of its attributes raised, and of
    /// those that its policy names
    Revoke(revocation::RevokeArgs),
    /// What a revocation did, and what is still open to the device
    Report(revocation::ReportArgs),
}

/// Arguments of `smqtt device show`, `revoke` and the like.
#[derive(Args)]
pub struct ShowArgs {
    /// Its name or identifier
    pub device: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub site: CallerArgs,
}

/// `smqtt epoch`.
#[derive(Subcommand)]
pub enum EpochCommand {
    /// Begin a new epoch now
    Rotate(ListArgs),
}

/// `smqtt rule …`
pub async fn rule(command: &RuleCommand) -> Result<(), Failure> {
    match command {
        RuleCommand::Set(args) => set_rule(args).await,
        RuleCommand::List(args) => {
            let rules: Vec<Rule> = args.site.authority().await?.get("/v1/rules").await?;
            if args.json {
                return print_json(&rules);
            }
            for rule in &rules {
                let part = |name: &str, text: &Option<String>| {
                    text.as_ref().map_or(String::new(), |text| format!("  {name} {text}"))
                };
                print_text(format!(
                    "{}  {}{}{}{}{}",
                    rule.filter,
                    rule.mode,
                    part("policy", &rule.policy),
                    part("labels", &rule.labels),
                    part("publishers", &rule.publishers),
                    part("subscribers", &rule.subscribers)
                ))?;
            }
            Ok(())
        }
        RuleCommand::Remove(args) => {
            let path = format!("/v1/rules?filter={}", percent(&args.filter));
            let answer: RuleSet = args.site.authority().await?.delete(&path).await?;
            eprintln!("removed; bundle {} tells everyone", answer.bundle);
            Ok(())
        }
    }
}

async fn set_rule(args: &SetRuleArgs) -> Result<(), Failure> {
    // Parsed here as well, so that a slip is shown in place.
    args.filter
        .parse::<Filter>()
        .map_err(|error| Failure::new(format!("`{}` is not a topic filter", args.filter)).because(&error))?;
    args.policy.as_deref().map(Template::parse).transpose()?;
    args.labels.as_deref().map(Labelling::parse).transpose()?;
    for policy in [&args.publishers, &args.subscribers].into_iter().flatten() {
        Policy::parse(policy)?;
    }
    let seals = args.policy.is_some() || args.labels.is_some();
    let default = if seals { Mode::Required } else { Mode::Open };
    let rule = Rule {
        filter: args.filter.clone(),
        mode: args.mode.clone().unwrap_or_else(|| default.name().to_owned()),
        policy: args.policy.clone(),
        labels: args.labels.clone(),
        publishers: args.publishers.clone(),
        subscribers: args.subscribers.clone(),
    };
    let answer: RuleSet = args.site.authority().await?.put("/v1/rules", &rule).await?;
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
    eprintln!("set; bundle {} tells everyone", answer.bundle);
    Ok(())
}

/// `smqtt device …`
pub async fn device(command: &DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List(args) => {
            let devices: Vec<Device> = args.site.authority().await?.list("/v1/devices").await?;
            if args.json {
                return print_json(&devices);
            }
            for device in &devices {
                let policy = device.policy.as_ref().map_or(String::new(), |p| format!("  policy {p}"));
                print_text(format!(
                    "{}  {}  {}  {}  {}{policy}",
                    device.name,
                    device.role,
                    device.status,
                    device.id,
                    device.attributes.join(", ")
                ))?;
            }
            Ok(())
        }
        DeviceCommand::Show(args) => {
            let path = format!("/v1/devices/{}", percent(&args.device));
            let device: Device = args.site.authority().await?.get(&path).await?;
            if args.json {
                return print_json(&device);
            }
            print_text(format!("name         {}", device.name))?;
            print_text(format!("id           {}", device.id))?;
            print_text(format!("role         {}", device.role))?;
            print_text(format!("status       {}", device.status))?;
            if let Some(serial) = &device.serial {
                print_text(format!("serial       {serial}"))?;
            }
            print_text(format!("attributes   {}", device.attributes.join(", ")))?;
            if let Some(policy) = &device.policy {
                print_text(format!("policy       {policy}"))?;
            }
            for (what, name) in [("profile", &device.profile), ("group", &device.group)] {
                if let Some(name) = name {
                    print_text(format!("{what:<12} {name}"))?;
                }
            }
            print_text(format!("enrolled     {}", date(device.enrolled)))?;
            print_text(format!("certificate  until {}", date(device.certificate_expires)))?;
            if let Some(at) = device.suspended {
                print_text(format!("suspended    {}", date(at)))?;
            }
            device.revoked.map_or(Ok(()), |at| print_text(format!("revoked      {}", date(at))))
        }
        DeviceCommand::Waiting(args) => device::waiting(args).await,
        DeviceCommand::Approve(args) => device::approve(args).await,
        DeviceCommand::Deny(args) => device::deny(args).await,
        DeviceCommand::Set(args) => device::set(args).await,
        DeviceCommand::Suspend(args) => device::suspend(args).await,
        DeviceCommand::Resume(args) => device::resume(args).await,
        DeviceCommand::Reset(args) => device::reset(args).await,
        DeviceCommand::Revoke(args) => revocation::revoke(args).await,
        DeviceCommand::Report(args) => revocation::report(args).await,
    }
}

pub fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "nothing: it had neither attributes nor a policy" } else { text }
}

/// `smqtt epoch …`
pub async fn epoch(command: &EpochCommand) -> Result<(), Failure> {
    let EpochCommand::Rotate(args) = command;
    let done: Rotation =
        args.site.authority().await?.create("/v1/epoch/rotate", &serde_json::json!({})).await?;
    if args.json {
        return print_json(&done);
    }
    print_text(format!("epoch {} has begun; bundle {} tells everyone", done.epoch, done.bundle))
}

pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value);
    print_line(json.map_err(|error| Failure::new("cannot print").because(&error))?)
}

/// Percent-encoding for a path segment or a query's value (RFC 3986, section 2.1).
pub fn percent(text: &str) -> String {
    let encode = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_a_url() {
        assert_eq!(percent("ward/+/a b#"), "ward%2F%2B%2Fa%20b%23");
    }
}
