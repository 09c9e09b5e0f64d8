//! `smqtt access`: access tokens for programs, made, listed and ended.

use clap::{Args, Subcommand};
use smqtt_core::api::{Access, AccessRequest, NewAccess};
use zeroize::Zeroizing;

use super::admin::{percent, print_json};
use super::caller::CallerArgs;
use super::failure::Failure;
use super::token::seconds;
use super::{date, print_line, print_text};

/// `smqtt access`.
#[derive(Subcommand)]
pub enum AccessCommand {
    /// Make an access token: the last line of standard output
    New(NewAccessArgs),
    /// List those that have not expired
    List(ListArgs),
    /// End one
    Remove(RemoveArgs),
}

/// Arguments of `smqtt access new`.
#[derive(Args)]
pub struct NewAccessArgs {
    /// What the audit log will call whoever uses it
    name: String,
    /// What it may do at most
    #[arg(long, value_parser = ["admin", "enroller", "auditor"])]
    role: String,
    /// How long it is good for, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: u64,
    /// An operation it is for, such as `read-audit`; may be repeated [default: whatever the role may]
    #[arg(long = "operation", value_name = "NAME")]
    operations: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt access list`.
#[derive(Args)]
pub struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt access remove`.
#[derive(Args)]
pub struct RemoveArgs {
    /// Its identifier
    id: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// `smqtt access …`
pub async fn run(command: &AccessCommand) -> Result<(), Failure> {
    match command {
        AccessCommand::New(args) => {
            let request = AccessRequest {
                name: args.name.clone(),
                role: args.role.clone(),
                operations: args.operations.clone(),
                ttl_seconds: args.ttl,
            };
            let made: NewAccess = args.site.authority().await?.create("/v1/access", &request).await?;
            if args.json {
                return print_json(&made);
            }
            eprintln!("access token {} for `{}`, good until {}", made.id, args.name, date(made.expires));
            print_line(Zeroizing::new(made.access_token).as_bytes())
        }
        AccessCommand::List(args) => {
            let all: Vec<Access> = args.site.authority().await?.list("/v1/access").await?;
            if args.json {
                return print_json(&all);
            }
            for access in &all {
                let operations = match access.operations.as_slice() {
                    [] => "whatever the role may".to_owned(),
                    some => some.join(", "),
                };
                print_text(format!(
                    "{}  {}  {}  until {}  {operations}",
                    access.id,
                    access.name,
                    access.role,
                    date(access.expires)
                ))?;
            }
            Ok(())
        }
        AccessCommand::Remove(args) => {
            let path = format!("/v1/access/{}", percent(&args.id));
            let ended: Access = args.site.authority().await?.delete(&path).await?;
            if args.json {
                return print_json(&ended);
            }
            eprintln!("ended the access token of `{}`", ended.name);
            Ok(())
        }
    }
}
