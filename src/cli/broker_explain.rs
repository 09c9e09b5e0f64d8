//! `smqtt broker explain`: whether a client may publish or subscribe, and why. The running broker answers; where none runs,
//! what it wrote down last.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use smqtt::secure::{Action, Explanation, SecurePublish, View};
use smqtt_client::keyring::SharedKeyring;

use super::broker::load;
use super::config::SiteArgs;
use super::failure::Failure;
use super::print_line;

/// Arguments of `smqtt broker explain`.
#[derive(Args)]
pub struct BrokerExplainArgs {
    /// A device's name or identifier, or a client id of its own
    client: String,
    /// What it wants to do
    action: Wanted,
    /// The topic, or the filter to subscribe to
    topic: String,
    /// The broker's keyring
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    site: SiteArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    Publish,
    Subscribe,
}

impl From<Wanted> for Action {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Publish => Self::Publish,
            Wanted::Subscribe => Self::Subscribe,
        }
    }
}

/// Prints the answer; `no` is a failure, with the code that the client would be told.
pub async fn run(args: &BrokerExplainArgs) -> Result<(), Failure> {
    let explanation = last_known(args)?;
    if args.json {
        let text = serde_json::to_string(&explanation);
        print_line(text.map_err(|error| Failure::new("cannot make JSON of it").because(&error))?)?;
    } else {
        print_line(explanation.to_string())?;
    }
    match explanation.steps.last() {
        Some(step) if !explanation.allowed => Err(Failure::new(format!("{}: {}", step.code, step.text))),
        _ => Ok(()),
    }
}

/// What the broker's keyring and directory say.
fn last_known(args: &BrokerExplainArgs) -> Result<Explanation, Failure> {
    let (config, data) = args.site.load()?;
    let dir = args.dir.clone().unwrap_or_else(|| data.join("broker"));
    let keyring = load(&dir)?;
    eprintln!("no broker answers in `{}`: this is what it knew last", dir.display());
    let view = View::new(SharedKeyring::new(keyring), smqtt_client::system_now);
    // A broker that does not run hears nothing: that is not what is asked.
    let hook = SecurePublish::new(view, config.broker.plain.is_some()).max_staleness(u64::MAX);
    Ok(hook.explain(&args.client, args.action.into(), &args.topic))
}
