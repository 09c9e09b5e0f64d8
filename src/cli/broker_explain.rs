//! `smqtt broker explain`: whether a client may publish or subscribe, and why. The running broker answers; where none runs,
//! what it wrote down last.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use smqtt::admin::{HEAD_BYTES_MAX, SOCKET_NAME};
use smqtt::secure::{Action, Explanation, SecurePublish, View};
use smqtt_client::keyring::SharedKeyring;
use tokio::net::UnixStream;

use super::broker::load;
use super::config::{Config, SiteArgs};
use super::failure::Failure;
use super::monitor;
use super::print_line;

/// Bytes of a request besides the question, generously.
const REQUEST_BYTES_MAX: usize = 256;

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
    let (config, data) = args.site.load()?;
    let dir = args.dir.clone().unwrap_or_else(|| data.join("broker"));
    let socket = dir.join(SOCKET_NAME);
    let explanation = match UnixStream::connect(&socket).await {
        Ok(broker) => ask(broker, args).await?,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let hint = "ask as the user that the broker runs as";
            return Err(Failure::new(format!("`{}` is not yours", socket.display())).hint(hint));
        }
        Err(error) => {
            let explanation = last_known(&dir, &config, args)?;
            eprintln!("no broker answers at `{}` ({error}): this is what it knew last", socket.display());
            explanation
        }
    };
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

/// What the broker says that runs: by the rules and the directory in force.
async fn ask(broker: UnixStream, args: &BrokerExplainArgs) -> Result<Explanation, Failure> {
    let question = form_urlencoded::Serializer::new(String::new())
        .append_pair("client", &args.client)
        .append_pair("action", Action::from(args.action).name())
        .append_pair("topic", &args.topic)
        .finish();
    if question.len() > HEAD_BYTES_MAX - REQUEST_BYTES_MAX {
        return Err(Failure::new("client and topic are too long to ask about"));
    }
    let answer = monitor::ask(broker, &format!("/explain?{question}")).await;
    let (status, body) =
        answer.map_err(|error| Failure::new("the broker does not answer").because(&error))?;
    if status != 200 {
        let text = format!("the broker does not say: {status} {}", body.trim().escape_debug());
        return Err(Failure::new(text).hint("is it of the same version as this program?"));
    }
    serde_json::from_str(&body).map_err(|error| Failure::new("the broker's answer is none").because(&error))
}

/// What the broker's keyring and directory say.
fn last_known(dir: &Path, config: &Config, args: &BrokerExplainArgs) -> Result<Explanation, Failure> {
    let keyring = load(dir)?;
    let view = View::new(SharedKeyring::new(keyring), smqtt_client::system_now);
    // A broker that does not run hears nothing: that is not what is asked.
    let hook = SecurePublish::new(view, config.broker.plain.is_some()).max_staleness(u64::MAX);
    Ok(hook.explain(&args.client, args.action.into(), &args.topic))
}
