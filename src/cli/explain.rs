//! `smqtt explain`: a policy as a tree with a tick or a cross at each leaf, and why a message opens or not.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use smqtt_client::keyring::Keyring;
use smqtt_client::opener::{Opener, Outcome, why_not};
use smqtt_client::replay::Replay;
use smqtt_core::api::Device;
use smqtt_core::attribute::{Attribute, Attributes};
use smqtt_core::header::Header;
use smqtt_core::policy::Policy;

use super::admin::{administrator, percent};
use super::config::SiteArgs;
use super::failure::Failure;
use super::{KeyringArgs, inspect, print_line};

/// Arguments of `smqtt explain`.
#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).args(["policy", "file"]))]
pub struct ExplainArgs {
    /// A policy
    #[arg(long)]
    policy: Option<String>,
    /// A file with a sealed payload in full form; `-` is standard input
    file: Option<PathBuf>,
    /// The topic it came on: then the message itself is opened, too
    #[arg(short, long)]
    topic: Option<String>,
    /// For these attributes, comma-separated, instead of the keyring's
    #[arg(long, value_name = "LIST", conflicts_with = "device")]
    attributes: Option<String>,
    /// For this device, as the authority knows it; takes `--data`
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    keyring: KeyringArgs,
    #[command(flatten)]
    site: SiteArgs,
}

/// Exit code 0 if it is for the device, 1 if not.
pub async fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let bytes = match &args.policy {
        Some(_) => None,
        None => Some(inspect::read(args.file.as_ref())?),
    };
    let policy = args.policy.as_deref().map(Policy::parse).transpose()?;
    let given = given_attributes(args).await?;
    let keyring = match &given {
        Some(_) => None,
        None => Some(Keyring::load(&args.keyring.dir()?)?),
    };
    let attributes = match (&given, &keyring) {
        (Some(attributes), _) => attributes.clone(),
        (None, Some(keyring)) => attributes_of(keyring),
        (None, None) => Attributes::default(),
    };
    let (policy, header) = match (policy, &bytes) {
        (Some(policy), _) => (policy, None),
        (None, Some(bytes)) => {
            let Some(header) = inspect::parse(bytes)?.header else {
                return Err(Failure::new("a compact envelope does not say for whom it is")
                    .hint("take it in full form: subscribe with a stock MQTT client"));
            };
            let header =
                Header::parse(header).map_err(|e| Failure::new("the header is broken").because(&e))?;
            (header.policy().clone(), Some(header))
        }
        (None, None) => unreachable!("the arguments require one of the two"),
    };
    print_line(format!(
        "attributes   {}",
        if attributes.is_empty() { "none".into() } else { attributes.to_string() }
    ))?;
    print_line(policy.explain(&attributes).to_string().trim_end())?;
    let satisfied = policy.satisfied_by(&attributes);
    match (header, keyring, bytes) {
        (Some(header), Some(keyring), Some(bytes)) => explain_message(args, &header, &keyring, &bytes),
        _ if satisfied => print_line("satisfied"),
        _ => Err(Failure::new("not satisfied")),
    }
}

async fn given_attributes(args: &ExplainArgs) -> Result<Option<Attributes>, Failure> {
    let wrong = |error: &dyn std::error::Error| Failure::new("these are not attributes").because(error);
    match (&args.attributes, &args.device) {
        (Some(list), _) => list.parse().map(Some).map_err(|e| wrong(&e)),
        (None, Some(name)) => {
            let authority = administrator(&args.site.load()?.1)?;
            let device: Device = authority.get(&format!("/v1/devices/{}", percent(name))).await?;
            Attributes::parse(&device.attributes).map(Some).map_err(|e| wrong(&e))
        }
        (None, None) => Ok(None),
    }
}

/// What the keyring's newest keys were issued for.
fn attributes_of(keyring: &Keyring) -> Attributes {
    let newest = keyring.keys().iter().map(|key| key.epoch()).max();
    let keys = keyring.keys().iter().filter(|key| Some(key.epoch()) == newest);
    let labels = keys.flat_map(|key| key.labels());
    let attributes: std::collections::BTreeSet<Attribute> =
        labels.filter_map(|label| label.to_attribute().map(|(attribute, _)| attribute)).collect();
    Attributes::new(attributes).unwrap_or_default()
}

/// Everything that a reader checks, in its order.
fn explain_message(
    args: &ExplainArgs,
    header: &Header,
    keyring: &Keyring,
    bytes: &[u8],
) -> Result<(), Failure> {
    let current = &keyring.bundle().epoch;
    print_line(format!("epoch        sealed in {}, now {}", header.epoch(), current.number))?;
    for (key, version) in header.versions().iter() {
        print_line(format!("version      {key} v{version}, now v{}", keyring.bundle().versions.get(key)))?;
    }
    if keyring.bundle().is_revoked(keyring.id()) {
        print_line("revoked      this device was: it gets no newer keys")?;
    }
    match header.verify(keyring.roots()) {
        Ok(publisher) => print_line(format!("publisher    {} ✓ verified", publisher.identity.name))?,
        Err(error) => return Err(Failure::new("publisher not verified").because(&error)),
    }
    if keyring.bundle().is_revoked(header.publisher()) {
        return Err(Failure::new("revoked: the publisher was revoked"));
    }
    let Some(topic) = &args.topic else {
        let opens = keyring
            .params_of(header)
            .is_some_and(|params| keyring.keys().iter().any(|key| header.open(params, key).is_ok()));
        return match opens {
            true => print_line("the header opens; give `--topic` to open the message as well"),
            false => {
                let why = if keyring.params_of(header).is_none() {
                    smqtt_client::opener::NotForMe::Params
                } else {
                    why_not(header, keyring)
                };
                Err(Failure::new(format!("{}: {why}", why.code())))
            }
        };
    };
    let mut opener = Opener::with(Replay::in_memory());
    let payload = bytes.strip_suffix(b"\n").filter(|_| smqtt_core::envelope::Envelope::parse(bytes).is_err());
    match opener.open(keyring, topic, payload.unwrap_or(bytes), true, smqtt_client::system_now()) {
        Outcome::Opened(opened) => {
            print_line(format!("opens        {} bytes by {}", opened.payload.len(), opened.publisher.name))
        }
        Outcome::NotForMe(why) => Err(Failure::new(format!("{}: {why}", why.code()))),
        Outcome::Broken(why) => Err(Failure::new(format!("{}: {why}", why.code())).because(&why)),
        Outcome::Newer => Err(Failure::new("newer: sealed under a newer bundle than this keyring has")
            .hint("`smqtt subscribe` fetches it")),
        Outcome::Repeated | Outcome::Unsealed(_) => Err(Failure::new("not sealed")),
    }
}
