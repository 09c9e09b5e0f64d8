//! `smqtt explain`: a policy as a tree with a tick or a cross at each leaf, against a device's attributes or a message's
//! labels, and why a message opens or not.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use smqtt_client::keyring::Keyring;
use smqtt_client::opener::{Opener, Outcome, why_not};
use smqtt_client::replay::Replay;
use smqtt_core::api::Device;
use smqtt_core::attribute::{Attribute, AttributeError, Attributes};
use smqtt_core::header::Header;
use smqtt_core::policy::Policy;
use smqtt_core::suite::SuiteId;
use smqtt_core::target::Target;

use super::admin::percent;
use super::caller::CallerArgs;
use super::failure::Failure;
use super::publish::labels;
use super::{KeyringArgs, inspect, print_line};

/// Arguments of `smqtt explain`.
#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["policy", "labels", "file"]))]
pub struct ExplainArgs {
    /// A policy; with `--label` the one that a key carries
    #[arg(long)]
    policy: Option<String>,
    /// A label that something is sealed under, `ward=3`; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", conflicts_with = "attributes")]
    labels: Vec<String>,
    /// A file with a sealed payload in full form; `-` is standard input
    #[arg(conflicts_with_all = ["policy", "labels"])]
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
    site: CallerArgs,
}

/// What a device opens with.
struct Holder {
    attributes: Attributes,
    /// Of its key-policy keys.
    policy: Option<Policy>,
    keyring: Option<Keyring>,
}

/// Exit code 0 if it is for the device, 1 if not.
pub async fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let policy = args.policy.as_deref().map(Policy::parse).transpose()?;
    if policy.is_some() && !args.labels.is_empty() && args.device.is_some() {
        return Err(Failure::new("labels can be held against one policy at a time")
            .hint("give `--policy`, or `--device` for the policy of its keys"));
    }
    let bytes = match (&policy, args.labels.is_empty()) {
        (None, true) => Some(inspect::read(args.file.as_ref())?),
        _ => None,
    };
    let header = bytes.as_deref().map(header_of).transpose()?;
    let (target, of_key) = match (&header, policy) {
        (Some(header), _) => (header.target().clone(), None),
        (None, policy) if !args.labels.is_empty() => (labels(&args.labels)?, policy),
        (None, Some(policy)) => (Target::Policy(policy), None),
        (None, None) => unreachable!("the arguments require one of the three"),
    };
    let holder = holder(args, &target, of_key).await?;
    let satisfied = match &target {
        Target::Policy(policy) => {
            let attributes = &holder.attributes;
            let list = if attributes.is_empty() { "none".into() } else { attributes.to_string() };
            print_line(format!("attributes   {list}"))?;
            print_line(policy.explain(attributes).to_string().trim_end())?;
            policy.satisfied_by(attributes)
        }
        Target::Labels(labels) => {
            print_line(format!("labels       {labels}"))?;
            match &holder.policy {
                None => print_line("policy       none: only a key with a policy opens labels")?,
                Some(policy) => {
                    print_line(format!("policy       {policy}"))?;
                    print_line(policy.explain(labels).to_string().trim_end())?;
                }
            }
            holder.policy.as_ref().is_some_and(|policy| policy.satisfied_by(labels))
        }
    };
    match (header, &holder.keyring, bytes) {
        (Some(header), Some(keyring), Some(bytes)) => explain_message(args, &header, keyring, &bytes),
        _ if satisfied => print_line("satisfied"),
        _ => Err(Failure::new("not satisfied")),
    }
}

fn header_of(bytes: &[u8]) -> Result<Header, Failure> {
    let Some(header) = inspect::parse(bytes)?.header else {
        return Err(Failure::new("a compact envelope does not say for whom it is")
            .hint("take it in full form: subscribe with a stock MQTT client"));
    };
    Header::parse(header).map_err(|error| Failure::new("the header is broken").because(&error))
}

/// Who is asked about: as given, as the authority knows a device, or the keyring's.
async fn holder(args: &ExplainArgs, target: &Target, of_key: Option<Policy>) -> Result<Holder, Failure> {
    let wrong = |error: &dyn std::error::Error| Failure::new("these are not attributes").because(error);
    if let Some(policy) = of_key {
        return Ok(Holder { attributes: Attributes::default(), policy: Some(policy), keyring: None });
    }
    match (&args.attributes, &args.device) {
        (Some(_), _) if target.as_labels().is_some() => {
            Err(Failure::new("it is sealed under labels: a key's policy counts, attributes do not")
                .hint("leave `--attributes` away, or give `--device` for the policy of its keys"))
        }
        (Some(list), _) => {
            let attributes = list.parse().map_err(|error: AttributeError| wrong(&error))?;
            Ok(Holder { attributes, policy: None, keyring: None })
        }
        (None, Some(name)) => {
            let authority = args.site.authority().await?;
            let device: Device = authority.get(&format!("/v1/devices/{}", percent(name))).await?;
            let attributes = Attributes::parse(&device.attributes).map_err(|error| wrong(&error))?;
            let policy = device.policy.as_deref().map(Policy::parse).transpose()?;
            Ok(Holder { attributes, policy, keyring: None })
        }
        (None, None) => {
            let keyring = Keyring::load(&args.keyring.dir()?)?;
            let (attributes, policy) = (attributes_of(&keyring), keyring.policy().cloned());
            Ok(Holder { attributes, policy, keyring: Some(keyring) })
        }
    }
}

/// What the keyring's newest keys were issued for.
fn attributes_of(keyring: &Keyring) -> Attributes {
    // Of the suite that has attributes in its keys: a policy's are not the device's.
    let with_attributes = || keyring.keys().iter().filter(|key| key.suite() == SuiteId::FabeoCp);
    let newest = with_attributes().map(|key| key.epoch()).max();
    let keys = with_attributes().filter(|key| Some(key.epoch()) == newest);
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
