//! `smqtt profile` and `smqtt group`: what several devices have in common.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use smqtt_client::files::read_bounded;
use smqtt_core::api::{Group, GroupRequest, Profile, ProfileRequest, Rule, TemplateSet};
use smqtt_core::policy::{Policy, Template};

use super::admin::{ListArgs, percent, print_json};
use super::caller::CallerArgs;
use super::failure::Failure;
use super::print_text;
use super::token::{check_attributes, seconds};

/// Most bytes of a file of rules.
const RULES_BYTES_MAX: usize = 64 << 10;

/// `smqtt profile`.
#[derive(Subcommand)]
pub enum ProfileCommand {
    /// Set a profile, all of it: what is left away it has no more. The keys of every device that has it follow
    Set(SetProfileArgs),
    /// List the profiles
    List(ListArgs),
    /// Show one
    Show(NameArgs),
    /// Remove one that nobody has
    Remove(RemoveProfileArgs),
}

/// Arguments of `smqtt profile set`.
#[derive(Args)]
pub struct SetProfileArgs {
    /// Its name
    name: String,
    /// Attributes of every device that has it, besides those of its own
    attributes: Vec<String>,
    /// The policy that the keys of those carry that have none of their own
    #[arg(long)]
    policy: Option<String>,
    /// How long certificates are valid
    #[arg(long, value_name = "DAYS")]
    certificate_days: Option<u64>,
    /// How long tokens with it are good for, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// A topic rule to set with it: messages on FILTER must be sealed under POLICY; may be repeated
    #[arg(long = "rule", num_args = 2, value_names = ["FILTER", "POLICY"])]
    rules: Vec<String>,
    /// A file of topic rules to set with it, as `smqtt rule list --json` prints them
    #[arg(long, value_name = "FILE")]
    rules_file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `show` and `remove`.
#[derive(Args)]
pub struct NameArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `smqtt profile remove`.
#[derive(Args)]
pub struct RemoveProfileArgs {
    /// The topic rules that were set with it, too
    #[arg(long)]
    rules: bool,
    #[command(flatten)]
    which: NameArgs,
}

/// `smqtt group`.
#[derive(Subcommand)]
pub enum GroupCommand {
    /// Set a group, all of it: what is left away it has no more. The keys of its members follow
    Set(SetGroupArgs),
    /// List the groups
    List(ListArgs),
    /// Show one
    Show(NameArgs),
    /// Remove one without members
    Remove(NameArgs),
}

/// Arguments of `smqtt group set`.
#[derive(Args)]
pub struct SetGroupArgs {
    /// Its name
    name: String,
    /// Attributes of its members, besides those of their own and of their profile
    attributes: Vec<String>,
    /// The profile of those members that have none of their own
    #[arg(long)]
    profile: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// `smqtt profile …`
pub async fn profile(command: &ProfileCommand) -> Result<(), Failure> {
    match command {
        ProfileCommand::Set(args) => {
            check_attributes(&args.attributes)?;
            args.policy.as_deref().map(Policy::parse).transpose()?;
            let request = ProfileRequest {
                attributes: args.attributes.clone(),
                policy: args.policy.clone(),
                certificate_days: args.certificate_days,
                token_ttl_seconds: args.ttl,
                rules: rules(args)?,
            };
            let path = format!("/v1/profiles/{}", percent(&args.name));
            tell(args.site.authority().await?.put(&path, &request).await?, args.json)
        }
        ProfileCommand::List(args) => {
            let profiles: Vec<Profile> = args.site.authority().await?.get("/v1/profiles").await?;
            if args.json {
                return print_json(&profiles);
            }
            for profile in &profiles {
                let policy = profile.policy.as_ref().map_or(String::new(), |p| format!("  policy {p}"));
                print_text(format!("{}  {}{policy}", profile.name, profile.attributes.join(", ")))?;
            }
            Ok(())
        }
        ProfileCommand::Show(args) => {
            let path = format!("/v1/profiles/{}", percent(&args.name));
            let profile: Profile = args.list.site.authority().await?.get(&path).await?;
            if args.list.json {
                return print_json(&profile);
            }
            print_text(format!("name         {}", profile.name))?;
            print_text(format!("attributes   {}", profile.attributes.join(", ")))?;
            if let Some(policy) = &profile.policy {
                print_text(format!("policy       {policy}"))?;
            }
            if let Some(days) = profile.certificate_days {
                print_text(format!("certificate  {days} days"))?;
            }
            if let Some(seconds) = profile.token_ttl_seconds {
                print_text(format!("tokens       {seconds} s"))?;
            }
            profile.filters.iter().try_for_each(|filter| print_text(format!("rule         {filter}")))
        }
        ProfileCommand::Remove(args) => {
            let which = &args.which;
            let rules = if args.rules { "?rules=true" } else { "" };
            let path = format!("/v1/profiles/{}{rules}", percent(&which.name));
            tell(which.list.site.authority().await?.delete(&path).await?, which.list.json)
        }
    }
}

/// `smqtt group …`
pub async fn group(command: &GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::Set(args) => {
            check_attributes(&args.attributes)?;
            let request = GroupRequest { profile: args.profile.clone(), attributes: args.attributes.clone() };
            let path = format!("/v1/groups/{}", percent(&args.name));
            tell(args.site.authority().await?.put(&path, &request).await?, args.json)
        }
        GroupCommand::List(args) => {
            let groups: Vec<Group> = args.site.authority().await?.get("/v1/groups").await?;
            if args.json {
                return print_json(&groups);
            }
            groups.iter().try_for_each(print_group)
        }
        GroupCommand::Show(args) => {
            let path = format!("/v1/groups/{}", percent(&args.name));
            let group: Group = args.list.site.authority().await?.get(&path).await?;
            if args.list.json { print_json(&group) } else { print_group(&group) }
        }
        GroupCommand::Remove(args) => {
            let path = format!("/v1/groups/{}", percent(&args.name));
            tell(args.list.site.authority().await?.delete(&path).await?, args.list.json)
        }
    }
}

fn print_group(group: &Group) -> Result<(), Failure> {
    let profile = group.profile.as_ref().map_or(String::new(), |name| format!("  profile {name}"));
    print_text(format!("{}{profile}  {}", group.name, group.attributes.join(", ")))
}

/// The rules in the arguments and in the file. Parsed here as well, so that a slip is shown in place.
fn rules(args: &SetProfileArgs) -> Result<Vec<Rule>, Failure> {
    let mut rules = Vec::new();
    for pair in args.rules.chunks(2) {
        let [filter, policy] = pair else { return Err(Failure::new("`--rule` takes a filter and a policy")) };
        Template::parse(policy)?;
        rules.push(Rule {
            filter: filter.clone(),
            mode: "required".into(),
            policy: Some(policy.clone()),
            labels: None,
            publishers: None,
            subscribers: None,
        });
    }
    if let Some(file) = &args.rules_file {
        let bytes = read_bounded(file, RULES_BYTES_MAX)?;
        let read: Vec<Rule> = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(format!("`{}` is not a list of rules", file.display())).because(&error)
        })?;
        rules.extend(read);
    }
    Ok(rules)
}

fn tell(done: TemplateSet, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&done);
    }
    print_text(format!("devices      {} have something else now", done.changed))?;
    if !done.raised.is_empty() {
        print_text(format!("versions     raised for {}", done.raised.join(", ")))?;
    }
    print_text(format!("bundle       {}", done.bundle))
}
