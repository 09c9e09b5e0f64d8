//! `smqtt inspect`: what everybody can see of an envelope, the broker included.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smqtt_client::files::read_bounded;
use smqtt_client::printable;
use smqtt_core::envelope::{Envelope, EnvelopeError};
use smqtt_core::header::Header;
use smqtt_core::identity::read_certificate;
use smqtt_core::target::Target;

use super::failure::Failure;
use super::{date, hex, print_line};

const ENVELOPE_BYTES_MAX: usize = 64 << 20;

/// Arguments of `smqtt inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// A file with a payload, as `mosquitto_sub -C 1 -N` writes it; standard input if absent or `-`
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Reads a file or standard input.
pub fn read(file: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
    match file.filter(|path| path.as_os_str() != "-") {
        Some(path) => Ok(read_bounded(path, ENVELOPE_BYTES_MAX)?),
        None => {
            use std::io::Read;
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(ENVELOPE_BYTES_MAX as u64).read_to_end(&mut bytes);
            read.map_err(|error| Failure::new("cannot read standard input").because(&error))?;
            Ok(bytes)
        }
    }
}

/// Takes an envelope apart, with the errors that people need.
pub fn parse(bytes: &[u8]) -> Result<Envelope<'_>, Failure> {
    let parsed = Envelope::parse(bytes).or_else(|error| match bytes.strip_suffix(b"\n") {
        // `mosquitto_sub` ends every message with a line feed unless told not to.
        Some(shorter) => Envelope::parse(shorter),
        None => Err(error),
    });
    parsed.map_err(|error| {
        let failure = Failure::new(error.to_string());
        match error {
            EnvelopeError::NotSealed => failure.hint("sealed payloads begin with the bytes da 53 4d 51 54"),
            _ => failure.hint("it was cut or altered; take it with `mosquitto_sub -C 1 -N -t TOPIC > FILE`"),
        }
    })
}

/// Prints the public parts. Nothing is verified here: `smqtt explain` does.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let bytes = read(args.file.as_ref())?;
    let envelope = parse(&bytes)?;
    let message = envelope.message;
    let header = envelope.header.map(Header::parse).transpose();
    let header = header.map_err(|error| Failure::new("the header is broken").because(&error))?;
    let mut shown = json!({
        "form": if header.is_some() { "full" } else { "compact" },
        "kid": message.kid().to_string(),
        "counter": message.counter(),
        "signed": message.is_signed(),
        "payload_bytes": message.payload_bytes(),
        "envelope_bytes": bytes.len(),
    });
    if let Some(header) = &header {
        let name = read_certificate(header.certificate()).map(|c| c.identity.name).unwrap_or_default();
        let versions: Vec<String> =
            header.versions().iter().map(|(key, version)| format!("{key} v{version}")).collect();
        let labels = header.target().as_labels();
        let labels = labels.map(|labels| labels.iter().map(ToString::to_string).collect::<Vec<_>>());
        shown["header"] = json!({
            "publisher": { "id": header.publisher().to_string(), "name": name, "verified": false },
            "policy": header.target().as_policy().map(ToString::to_string),
            "labels": labels,
            "topics": header.filter().to_string(),
            "suite": header.suite().name(),
            "params": hex(header.params_id()),
            "epoch": header.epoch(),
            "versions": versions,
            "created": header.created(),
            "expires": header.expires(),
            "header_bytes": header.as_bytes().len(),
            "encapsulation_bytes": header.encapsulation().len(),
            "certificate_bytes": header.certificate().len(),
        });
    }
    if args.json {
        let json = serde_json::to_string_pretty(&shown);
        return print_line(json.map_err(|error| Failure::new("cannot print").because(&error))?);
    }
    print_line(format!(
        "form         {}, {} bytes",
        shown["form"].as_str().unwrap_or_default(),
        bytes.len()
    ))?;
    print_line(format!("kid          {}", message.kid()))?;
    print_line(format!("counter      {}", message.counter()))?;
    print_line(format!("signed       {}", if message.is_signed() { "yes" } else { "no" }))?;
    print_line(format!("payload      {} bytes, sealed", message.payload_bytes()))?;
    let Some(header) = header else {
        return print_line("header       not in here: a compact envelope belongs to a header sent before");
    };
    let versions = shown["header"]["versions"].as_array().map_or(0, Vec::len);
    let name = shown["header"]["publisher"]["name"].as_str().unwrap_or_default();
    print_line(format!("publisher    {} ({name}), not verified here", header.publisher()))?;
    match header.target() {
        Target::Policy(policy) => print_line(format!("policy       {policy}"))?,
        Target::Labels(labels) => print_line(format!("labels       {labels}"))?,
    }
    print_line(format!("topics       {}", printable(&header.filter().to_string())))?;
    print_line(format!("suite        {}, parameters {}", header.suite(), hex(header.params_id())))?;
    print_line(format!("epoch        {}", header.epoch()))?;
    if versions > 0 {
        let list: Vec<String> = header.versions().iter().map(|(k, v)| format!("{k} v{v}")).collect();
        print_line(format!("versions     {}", list.join(", ")))?;
    }
    print_line(format!("created      {}", date(header.created())))?;
    print_line(format!("expires      {}", date(header.expires())))?;
    print_line(format!(
        "bytes        header {}: encapsulation {}, certificate {}",
        header.as_bytes().len(),
        header.encapsulation().len(),
        header.certificate().len()
    ))
}
