//! `smqtt token`: leave to enrol, for one device or a batch.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use smqtt_client::files::read_bounded;
use smqtt_core::api::{NewToken, TokenInfo, TokenRequest};
use smqtt_core::attribute::{Attribute, AttributeError, Attributes};
use smqtt_core::policy::Policy;
use zeroize::Zeroizing;

use super::admin::{ListArgs, percent, print_json};
use super::caller::CallerArgs;
use super::failure::Failure;
use super::{bulk, date, print_line, print_text, qr};

/// Most bytes of a file of serials.
const SERIALS_BYTES_MAX: usize = 1 << 20;

/// `smqtt token`.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token for one device, or with `--count` or serials for several: the last line of standard output
    New(NewTokenArgs),
    /// Make a token for each line of a CSV file
    Bulk(bulk::BulkArgs),
    /// List tokens that can still be used
    List(ListTokensArgs),
    /// Show one, its serials, and who presented it
    Show(TokenArgs),
    /// Take one back: nobody enrols with it any more
    Remove(TokenArgs),
}

/// Arguments of `smqtt token new`.
#[derive(Args)]
pub struct NewTokenArgs {
    /// The name it will have. Of several, names are NAME-SERIAL, or NAME-1, NAME-2 where there are no serials
    name: String,
    /// Its attributes, `name=value`
    attributes: Vec<String>,
    /// The policy that its keys carry, besides or instead of attributes: it opens what is labelled so that this holds
    #[arg(long)]
    policy: Option<String>,
    /// For a broker, not a device
    #[arg(long, conflicts_with_all = ["attributes", "policy"])]
    broker: bool,
    /// For a bridge to another broker, not a device: its attributes say what it may bring and take; it has no keys
    #[arg(long, conflicts_with_all = ["broker", "policy"])]
    bridge: bool,
    /// For a person who lets devices enrol, with `--as` the directory that `smqtt enrol` makes
    #[arg(long, conflicts_with_all = ["attributes", "policy", "broker", "bridge"])]
    enroller: bool,
    /// For a person who reads devices, rules and the audit log, and changes nothing
    #[arg(long, conflicts_with_all = ["attributes", "policy", "broker", "bridge", "enroller"])]
    auditor: bool,
    /// A name or address under which clients reach that broker; may be repeated
    #[arg(long = "host", value_name = "HOST", requires = "broker")]
    hosts: Vec<String>,
    /// How long the token is good for, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// For so many devices
    #[arg(long, value_name = "NUMBER")]
    count: Option<u32>,
    /// A serial that it is for; may be repeated. A device then says which is its own, and each works once
    #[arg(long = "serial", value_name = "SERIAL")]
    serials: Vec<String>,
    /// A file of serials, one a line
    #[arg(long, value_name = "FILE")]
    serials_file: Option<PathBuf>,
    /// The profile it will have
    #[arg(long)]
    profile: Option<String>,
    /// The group it will be in
    #[arg(long)]
    group: Option<String>,
    /// A person has to approve each device: `smqtt device approve`
    #[arg(long)]
    approval: bool,
    /// Take back other tokens for this name that nobody used
    #[arg(long)]
    replace: bool,
    /// Show it as a QR code, too
    #[arg(long, conflicts_with = "json")]
    qr: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt token list`.
#[derive(Args)]
pub struct ListTokensArgs {
    /// Those that are used up, expired or taken back, too, as long as they are remembered
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Arguments of `smqtt token show` and `remove`.
#[derive(Args)]
pub struct TokenArgs {
    /// Its id, as `smqtt token list` shows it
    id: String,
    #[command(flatten)]
    list: ListArgs,
}

/// `smqtt token …`
pub async fn token(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::New(args) => new(args).await,
        TokenCommand::Bulk(args) => bulk::run(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Show(args) => show(args).await,
        TokenCommand::Remove(args) => {
            let path = format!("/v1/tokens/{}", percent(&args.id));
            let done: TokenInfo = args.list.site.authority().await?.delete(&path).await?;
            if args.list.json {
                return print_json(&done);
            }
            eprintln!("took back the token for `{}`; {} enrolled with it", done.name, enrolled(&done));
            Ok(())
        }
    }
}

async fn new(args: &NewTokenArgs) -> Result<(), Failure> {
    check_attributes(&args.attributes)?;
    args.policy.as_deref().map(Policy::parse).transpose()?;
    let request = TokenRequest {
        name: args.name.clone(),
        role: role(args).into(),
        attributes: args.attributes.clone(),
        policy: args.policy.clone(),
        ttl_seconds: args.ttl,
        hosts: args.hosts.clone(),
        count: args.count,
        serials: serials(args)?,
        profile: args.profile.clone(),
        group: args.group.clone(),
        approval: args.approval,
        replace: args.replace,
    };
    let answer: NewToken = args.site.authority().await?.create("/v1/tokens", &request).await?;
    if args.json {
        return print_json(&answer);
    }
    let count = request.count.unwrap_or(request.serials.len().max(1) as u32);
    let good = if count == 1 { "one enrolment".to_owned() } else { format!("{count} enrolments") };
    let approval = if args.approval { ", each to be approved," } else { "" };
    eprintln!("token for `{}`, good for {good}{approval} until {}", args.name, date(answer.expires));
    eprintln!("its id is {}, to take it back with", answer.id);
    let token = Zeroizing::new(answer.token.clone());
    if args.qr {
        print_line(qr::text(&token, std::io::stdout().is_terminal())?.as_bytes())?;
    }
    print_line(token.as_bytes())
}

/// The serials in the arguments and in the file, each once.
fn serials(args: &NewTokenArgs) -> Result<Vec<String>, Failure> {
    let mut serials: BTreeSet<String> = args.serials.iter().cloned().collect();
    if let Some(file) = &args.serials_file {
        let bytes = read_bounded(file, SERIALS_BYTES_MAX)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::new(format!("`{}` is not text", file.display())))?;
        serials.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        if serials.is_empty() {
            // A token for anybody is not what somebody with a list means.
            return Err(Failure::new(format!("there is no serial in `{}`", file.display())));
        }
    }
    Ok(serials.into_iter().collect())
}

async fn list(args: &ListTokensArgs) -> Result<(), Failure> {
    let mut tokens: Vec<TokenInfo> = args.list.site.authority().await?.list("/v1/tokens").await?;
    tokens.retain(|token| args.all || token.status == "open");
    tokens.sort_by(|a, b| (a.made, &a.name).cmp(&(b.made, &b.name)));
    if args.list.json {
        return print_json(&tokens);
    }
    for token in &tokens {
        let policy = token.policy.as_ref().map_or(String::new(), |p| format!("  policy {p}"));
        let profile = token.profile.as_ref().map_or(String::new(), |name| format!("  profile {name}"));
        let group = token.group.as_ref().map_or(String::new(), |name| format!("  group {name}"));
        let approval = if token.approval { "  to be approved" } else { "" };
        print_text(format!(
            "{}  {}  {}  {}  {} of {}  until {}  {}{policy}{profile}{group}{approval}",
            token.id,
            token.name,
            token.role,
            token.status,
            token.used,
            token.count,
            date(token.expires),
            token.attributes.join(", "),
        ))?;
    }
    Ok(())
}

async fn show(args: &TokenArgs) -> Result<(), Failure> {
    let path = format!("/v1/tokens/{}", percent(&args.id));
    let token: TokenInfo = args.list.site.authority().await?.get(&path).await?;
    if args.list.json {
        return print_json(&token);
    }
    print_text(format!("id           {}", token.id))?;
    print_text(format!("name         {}", token.name))?;
    print_text(format!("role         {}", token.role))?;
    print_text(format!("status       {}", token.status))?;
    print_text(format!("attributes   {}", token.attributes.join(", ")))?;
    if let Some(policy) = &token.policy {
        print_text(format!("policy       {policy}"))?;
    }
    if let Some(profile) = &token.profile {
        print_text(format!("profile      {profile}"))?;
    }
    if let Some(group) = &token.group {
        print_text(format!("group        {group}"))?;
    }
    print_text(format!("used         {} of {}", token.used, token.count))?;
    if token.approval {
        print_line("approval     by a person")?;
    }
    print_text(format!("made         {}", date(token.made)))?;
    print_text(format!("expires      {}", date(token.expires)))?;
    if !token.serials.is_empty() {
        print_text(format!("serials      {}", token.serials.join(", ")))?;
    }
    for one in &token.uses {
        print_text(format!("{:<12} {} at {}", one.status, one.name, date(one.asked)))?;
    }
    Ok(())
}

fn enrolled(token: &TokenInfo) -> String {
    match token.used {
        0 => "nobody".to_owned(),
        used => used.to_string(),
    }
}

fn role(args: &NewTokenArgs) -> &'static str {
    let asked = [
        (args.broker, "broker"),
        (args.bridge, "bridge"),
        (args.enroller, "enroller"),
        (args.auditor, "auditor"),
    ];
    asked.iter().find(|(asked, _)| *asked).map_or("device", |(_, role)| role)
}

/// Parsed here as well as by the authority, so that a slip is shown in place.
pub fn check_attributes(texts: &[String]) -> Result<(), Failure> {
    let failure = |text: String, error: &AttributeError| match error.hint() {
        Some(hint) => Failure::new(text).hint(hint),
        None => Failure::new(text),
    };
    for text in texts {
        text.parse::<Attribute>().map_err(|e| failure(format!("attribute `{text}`: {e}"), &e))?;
    }
    Attributes::parse(texts).map(drop).map_err(|e| failure(e.to_string(), &e))
}

/// `90`, `90s`, `30m`, `24h`, `7d` as seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        number if number.len() + 1 >= text.len() => (number, &text[number.len()..]),
        _ => return Err("a number and s, m, h or d, such as 24h".into()),
    };
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a number and s, m, h or d, such as 24h".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number and s, m, h or d, such as 24h".to_owned())?;
    number.checked_mul(factor).filter(|s| *s > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("90"), Ok(90));
        for bad in ["", "h", "1w", "-1h", "0", "1hh", "99999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
