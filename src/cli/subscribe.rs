//! `smqtt subscribe`: what opens to standard output, what does not to standard error with the reason.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use smqtt_client::mqtt::{self, Delivery, Options, QoS};
use smqtt_client::opener::Outcome;
use smqtt_client::printable;

use super::authority::stop_signal;
use super::date;
use super::failure::Failure;
use super::publish::{CONNECT_TRIES, ConnectArgs, not_connected, tell_status};

/// Arguments of `smqtt subscribe`.
#[derive(Args)]
pub struct SubscribeArgs {
    /// A topic filter; may be repeated
    #[arg(short, long = "topic", value_name = "FILTER", required = true)]
    topics: Vec<String>,
    /// End after so many messages that opened
    #[arg(short = 'C', long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds; with `-C` that is an error
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Keep the session: what is published while away comes with the next connection under the same `-i`
    #[arg(short = 'c', long, requires = "id")]
    persistent: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How long a persistent session waits for its client.
const SESSION_SECONDS: u32 = 7 * 86_400;

/// Prints what arrives until Ctrl-C, or as many as were asked for.
pub async fn run(args: &SubscribeArgs) -> Result<(), Failure> {
    let keyring = args.connect.keyring().await?;
    let session_expiry_seconds = if args.persistent { SESSION_SECONDS } else { 0 };
    let options = Options { session_expiry_seconds, ..args.connect.options()? };
    let (client, mut inbox) = mqtt::connect(keyring, &options)?;
    let telling = tell_status(&client);
    client.connected(CONNECT_TRIES).await.map_err(not_connected)?;
    for filter in &args.topics {
        client.subscribe(filter, args.connect.qos()).await?;
        eprintln!("subscribed to {filter}");
    }
    let fresh = client.clone();
    let mut refreshing = tokio::spawn(async move { fresh.keep_fresh().await });
    let timeout = async {
        match args.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let mut timeout = std::pin::pin!(timeout);
    let mut stop = std::pin::pin!(stop_signal());
    let mut opened = 0u64;
    let result = loop {
        if args.count.is_some_and(|count| opened >= count) {
            break Ok(());
        }
        // Whatever takes long, waiting, a slow reader of our output, a broker away: Ctrl-C ends it.
        let turn = async {
            let delivery = inbox.next().await.ok_or_else(|| closed(&client))?;
            let line = show(args, &delivery);
            if let Some(line) = &line {
                write_line(line).await?;
            }
            // Only what was dealt with is acknowledged.
            inbox.acknowledge(&delivery).await?;
            Ok::<_, Failure>(line.is_some())
        };
        tokio::select! {
            done = turn => match done {
                Ok(true) => opened += 1,
                Ok(false) => {}
                Err(failure) => break Err(failure),
            },
            error = &mut refreshing => match error {
                Ok(error) => break Err(error.into()),
                Err(error) => break Err(Failure::new("cannot keep the keyring fresh").because(&error)),
            },
            () = &mut timeout => break match args.count {
                Some(count) => Err(Failure::new(format!("{opened} of {count} messages opened in time"))),
                None => Ok(()),
            },
            () = &mut stop => break Ok(()),
        }
    };
    refreshing.abort();
    telling.abort();
    client.disconnect().await;
    result
}

fn closed(client: &mqtt::Client) -> Failure {
    match &*client.status().borrow() {
        mqtt::Status::Closed { reason } | mqtt::Status::Lost { reason, .. } => Failure::new(reason.clone()),
        _ => Failure::new("the connection to the broker ended"),
    }
}

/// The line of what opened; what did not goes to standard error, with the reason.
fn show(args: &SubscribeArgs, delivery: &Delivery) -> Option<Vec<u8>> {
    match &delivery.outcome {
        Outcome::Opened(opened) => {
            let publisher = json!({ "id": opened.publisher.id.to_string(), "name": opened.publisher.name });
            let about = json!({ "sealed": true, "publisher": publisher, "signed": opened.signed, "created": opened.created });
            if delivery.retained && !args.connect.json {
                // The one mark of an old message that is served again.
                let made = date(opened.created);
                eprintln!("retained: {}: under a header of {made}", printable(&delivery.topic));
            }
            Some(payload_line(args, delivery, &opened.publisher.name, &opened.payload, about))
        }
        Outcome::Unsealed(payload) => {
            let about = json!({ "sealed": false, "publisher": null });
            Some(payload_line(args, delivery, "(unsealed)", payload, about))
        }
        // The protocol repeats by itself what it is not sure of.
        Outcome::Repeated if delivery.dup => None,
        Outcome::Repeated => refused(args, delivery, "repeated", "opened before"),
        Outcome::NotForMe(why) => refused(args, delivery, why.code(), &why.to_string()),
        Outcome::Newer => {
            let text = "sealed under a newer bundle than the authority has given this device";
            refused(args, delivery, "newer", text)
        }
        Outcome::Broken(why) => {
            let mut text = why.to_string();
            let mut source = std::error::Error::source(why);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            refused(args, delivery, why.code(), &text)
        }
    }
}

/// Says on standard error why a message did not open.
fn refused(args: &SubscribeArgs, delivery: &Delivery, code: &str, text: &str) -> Option<Vec<u8>> {
    if args.connect.json {
        let line = json!({ "topic": delivery.topic, "not_opened": code, "reason": text });
        eprintln!("{line}");
    } else {
        eprintln!("not opened: {}: {code}: {}", printable(&delivery.topic), printable(text));
    }
    None
}

fn payload_line(
    args: &SubscribeArgs,
    delivery: &Delivery,
    publisher: &str,
    payload: &[u8],
    mut line: Value,
) -> Vec<u8> {
    if !args.connect.json {
        let start = format!("{} {publisher} ", printable(&delivery.topic));
        return [start.as_bytes(), payload].concat();
    }
    line["topic"] = json!(delivery.topic);
    line["qos"] = json!(match delivery.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    });
    line["retained"] = json!(delivery.retained);
    match std::str::from_utf8(payload) {
        Ok(text) => line["payload"] = json!(text),
        Err(_) => line["payload_base64"] = json!(STANDARD.encode(payload)),
    }
    line.to_string().into_bytes()
}

/// Writes without holding up whatever else is to be noticed.
async fn write_line(line: &[u8]) -> Result<(), Failure> {
    use tokio::io::AsyncWriteExt;
    let mut out = tokio::io::stdout();
    let written = async {
        out.write_all(&[line, b"\n"].concat()).await?;
        out.flush().await
    };
    written
        .await
        .map_err(|error: std::io::Error| Failure::new("cannot write to standard output").because(&error))
}
