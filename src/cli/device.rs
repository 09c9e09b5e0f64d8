//! `smqtt device approve`, `set`, `suspend`, `resume` and `reset`: what becomes of a device, short of the end.

use std::io::IsTerminal;

use clap::Args;
use serde_json::json;
use smqtt_client::authority::Authority;
use smqtt_core::api::{Applicant, Device, DeviceChange, DeviceChanged, Reset, Resumption, Suspension};
use smqtt_core::policy::Policy;
use zeroize::Zeroizing;

use super::admin::{ListArgs, ShowArgs, or_nothing, percent, print_json};
use super::caller::CallerArgs;
use super::failure::Failure;
use super::token::{check_attributes, seconds};
use super::{date, print_line, print_text};

/// Arguments of `smqtt device set`.
#[derive(Args)]
pub struct SetArgs {
    /// Its name or identifier
    device: String,
    /// Attributes, `name=value`, in place of all it has of the same names
    attributes: Vec<String>,
    /// An attribute that it has besides those of the same name; may be repeated
    #[arg(long, value_name = "ATTRIBUTE")]
    add: Vec<String>,
    /// An attribute that it has no more, `name=value`, or a name for all of that name; may be repeated
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// The policy that its keys carry
    #[arg(long)]
    policy: Option<String>,
    /// No policy of its own any more
    #[arg(long, conflicts_with = "policy")]
    no_policy: bool,
    /// Its profile
    #[arg(long)]
    profile: Option<String>,
    /// No profile of its own any more
    #[arg(long, conflicts_with = "profile")]
    no_profile: bool,
    /// Its group
    #[arg(long)]
    group: Option<String>,
    /// In no group any more
    #[arg(long, conflicts_with = "group")]
    no_group: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt device reset`.
#[derive(Args)]
pub struct ResetArgs {
    /// Its name or identifier
    device: String,
    /// How long the token is good for, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt device approve` and `deny`.
#[derive(Args)]
pub struct NameArgs {
    /// The name under which it waits
    name: String,
    /// The digits of its key, as the device shows them: nobody else is meant
    key: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// `smqtt device waiting`
pub async fn waiting(args: &ListArgs) -> Result<(), Failure> {
    let waiting: Vec<Applicant> = args.site.authority().await?.get("/v1/enrolments").await?;
    if args.json {
        return print_json(&waiting);
    }
    for one in &waiting {
        let serial = one.serial.as_ref().map_or(String::new(), |serial| format!("  serial {serial}"));
        let policy = one.policy.as_ref().map_or(String::new(), |policy| format!("  policy {policy}"));
        print_text(format!(
            "{}  key {}  {}  since {}  from {}{serial}  {}{policy}",
            one.name,
            grouped(&one.key),
            one.role,
            date(one.asked),
            one.address,
            one.attributes.join(", "),
        ))?;
    }
    Ok(())
}

/// Four digits at a time, for people who compare.
pub fn grouped(key: &str) -> String {
    let digits: Vec<char> = key.chars().collect();
    digits.chunks(4).map(|four| four.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// `smqtt device approve`
pub async fn approve(args: &NameArgs) -> Result<(), Failure> {
    let authority = args.site.authority().await?;
    let path = answer_path(&authority, args, "approve").await?;
    let device: Device = authority.post(&path, &json!({})).await?;
    if args.json {
        return print_json(&device);
    }
    print_text(format!("approved     {} ({}), {}", device.name, device.id, device.attributes.join(", ")))
}

/// `smqtt device deny`
pub async fn deny(args: &NameArgs) -> Result<(), Failure> {
    let authority = args.site.authority().await?;
    let path = answer_path(&authority, args, "deny").await?;
    let done: Applicant = authority.post(&path, &json!({})).await?;
    if args.json {
        return print_json(&done);
    }
    print_text(format!("denied       {}, key {}", done.name, grouped(&done.key)))
}

/// The request that answers whoever has the key that was compared. Who does not say which is shown it and asked.
async fn answer_path(authority: &Authority, args: &NameArgs, verb: &str) -> Result<String, Failure> {
    let path = format!("/v1/enrolments/{}/{verb}", percent(&args.name));
    let mut key = args.key.as_ref().map(|key| key.to_ascii_lowercase().replace('-', ""));
    if key.is_none() && std::io::stdin().is_terminal() {
        let waiting: Vec<Applicant> = authority.get("/v1/enrolments").await?;
        if let Some(one) = waiting.into_iter().find(|one| one.name == args.name) {
            eprint!("{verb} `{}` with the key {}? [y/N] ", one.name, grouped(&one.key));
            let mut answer = String::new();
            let read = std::io::stdin().read_line(&mut answer);
            if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
                return Err(Failure::new("nothing was done"));
            }
            key = Some(one.key);
        }
    }
    Ok(key.map_or(path.clone(), |key| format!("{path}?key={}", percent(&key))))
}

/// `smqtt device set`
pub async fn set(args: &SetArgs) -> Result<(), Failure> {
    for attributes in [&args.attributes, &args.add, &args.remove] {
        check_attributes(attributes)?;
    }
    args.policy.as_deref().map(Policy::parse).transpose()?;
    let change = DeviceChange {
        set: args.attributes.clone(),
        add: args.add.clone(),
        remove: args.remove.clone(),
        policy: changed(args.no_policy, &args.policy),
        profile: changed(args.no_profile, &args.profile),
        group: changed(args.no_group, &args.group),
    };
    if change == DeviceChange::default() {
        return Err(
            Failure::new("nothing to change").hint("name an attribute, `--remove NAME`, or `--policy`")
        );
    }
    let path = format!("/v1/devices/{}", percent(&args.device));
    let done: DeviceChanged = args.site.authority().await?.patch(&path, &change).await?;
    if args.json {
        return print_json(&done);
    }
    print_text(format!("attributes   {}", done.device.attributes.join(", ")))?;
    if let Some(policy) = &done.device.policy {
        print_text(format!("policy       {policy}"))?;
    }
    if !done.raised.is_empty() {
        print_text(format!("versions     raised for {}", done.raised.join(", ")))?;
    }
    print_text(format!("bundle       {}; its keys follow when it sees that", done.bundle))
}

/// `null` for none any more, or something, or nothing said.
fn changed(none: bool, other: &Option<String>) -> Option<Option<String>> {
    if none { Some(None) } else { other.clone().map(Some) }
}

/// `smqtt device suspend`
pub async fn suspend(args: &ShowArgs) -> Result<(), Failure> {
    let path = format!("/v1/devices/{}/suspend", percent(&args.device));
    let done: Suspension = args.site.authority().await?.post(&path, &json!({})).await?;
    if args.json {
        return print_json(&done);
    }
    print_text(format!("suspended    {} ({}) at {}", done.name, done.id, date(done.suspended)))?;
    print_text(format!("versions     raised for {}", or_nothing(&done.raised.join(", "))))?;
    print_text(format!("bundle       {} tells brokers and publishers", done.bundle))?;
    print_text(format!("`smqtt device resume {}` lets it in again", done.name))
}

/// `smqtt device resume`
pub async fn resume(args: &ShowArgs) -> Result<(), Failure> {
    let path = format!("/v1/devices/{}/resume", percent(&args.device));
    let done: Resumption = args.site.authority().await?.post(&path, &json!({})).await?;
    if args.json {
        return print_json(&done);
    }
    print_text(format!("active       {} ({})", done.name, done.id))?;
    print_text(format!("bundle       {} tells brokers and publishers", done.bundle))
}

/// `smqtt device reset`
pub async fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let path = format!("/v1/devices/{}/reset", percent(&args.device));
    let request = smqtt_core::api::ResetRequest { ttl_seconds: args.ttl };
    let done: Reset = args.site.authority().await?.create(&path, &request).await?;
    if args.json {
        return print_json(&done);
    }
    eprintln!("ended        {} ({}) at {}", done.name, done.id, date(done.revoked));
    eprintln!("versions     raised for {}", or_nothing(&done.raised.join(", ")));
    eprintln!("bundle       {} tells brokers and publishers", done.bundle);
    eprintln!("token for `{}`, good for one enrolment until {}", done.name, date(done.expires));
    print_line(Zeroizing::new(done.token.clone()).as_bytes())
}
