//! The smart home of the paper: a temperature sensor publishes; the controllers of the same home and every
//! fire alarm read; a controller of another home, an eavesdropper and the broker do not.

use std::time::{Duration, Instant};

use smqtt_client::mqtt::{Delivery, Order, QoS};
use smqtt_client::opener::Outcome;
use smqtt_client::sealer::{Outgoing, Sealer, Wish};

use super::site::{Device, Site, step};
use crate::cli::failure::Failure;
use crate::cli::{hex, print_line};

const READINGS: &str = include_str!("office-sensors.csv");
const POLICY: &str = "(role=ac-controller or role=heater-controller) and location=home-7 or role=fire-alarm";
const FILTER: &str = "home/7/temperature";
/// How many rows are shown; all are sent.
const SHOWN: usize = 8;

/// Who listens, with which attributes, and whether the policy is meant for them.
const READERS: [(&str, &[&str], bool); 5] = [
    ("air-conditioner", &["role=ac-controller", "location=home-7"], true),
    ("heater", &["role=heater-controller", "location=home-7"], true),
    ("fire-alarm", &["role=fire-alarm"], true),
    ("other-home", &["role=ac-controller", "location=home-8"], false),
    ("eavesdropper", &[], false),
];

#[derive(Default)]
struct Tally {
    messages: u64,
    opened: u64,
    refused: u64,
    plain_bytes: usize,
    wire_bytes: usize,
}

/// Runs the demo.
pub async fn run() -> Result<(), Failure> {
    let site = Site::start().await?;
    site.rule(FILTER, POLICY).await?;
    let sensor = site.device("temperature-sensor", &["role=sensor", "location=home-7"]).await?;
    let mut readers = Vec::new();
    for (name, attributes, _) in READERS {
        let device = site.device(name, attributes).await?;
        device.subscribe(FILTER).await?;
        readers.push(device);
    }
    let readings: Vec<&str> = READINGS.lines().filter(|line| !line.starts_with(['#', 'd'])).collect();
    step(&format!("publishing {} readings; the first {SHOWN} are shown", readings.len()));
    print_line("")?;
    print_line(row("temperature", READERS.map(|(name, ..)| name.to_owned()), "what the broker saw"))?;
    let mut tally = Tally::default();
    for (i, reading) in readings.iter().enumerate() {
        let seen = publish(&sensor, &mut readers, reading, &mut tally).await?;
        if i < SHOWN {
            print_line(row(temperature(reading), seen.cells, &seen.broker))?;
        }
    }
    print_line("")?;
    summary(&sensor, &tally, &readings)?;
    for device in readers.iter().chain([&sensor]) {
        device.client.disconnect().await;
    }
    site.stop().await
}

struct Seen {
    cells: [String; 5],
    broker: String,
}

/// Publishes one reading, and has every reader take it.
async fn publish(
    sensor: &Device,
    readers: &mut [Device],
    reading: &str,
    tally: &mut Tally,
) -> Result<Seen, Failure> {
    let payload = reading.as_bytes();
    let order = Order { topic: FILTER, payload, wish: Wish::Rule, qos: QoS::AtLeastOnce, retain: false };
    let published = sensor.client.publish(&order).await?;
    tally.messages += 1;
    tally.plain_bytes += payload.len();
    tally.wire_bytes += published.wire_bytes;
    let mut cells = READERS.map(|_| String::new());
    let mut broker = String::new();
    for (i, (device, (name, _, meant))) in readers.iter_mut().zip(READERS).enumerate() {
        let delivery = device.next().await?;
        let opened = cell(&delivery, reading, name, meant, &mut cells[i])?;
        tally.opened += u64::from(opened);
        tally.refused += u64::from(!opened);
        // What was delivered is what went through the broker; the sealed reading is its end.
        let bytes = &delivery.payload;
        broker = format!("{} bytes …{}", bytes.len(), hex(&bytes[bytes.len().saturating_sub(10)..]));
        if delivery.payload.windows(payload.len()).any(|window| window == payload) {
            return Err(Failure::new("the broker saw a reading in the clear"));
        }
    }
    Ok(Seen { cells, broker })
}

/// Fills a cell; an error if somebody read what was not meant for them, or could not read what was.
fn cell(
    delivery: &Delivery,
    reading: &str,
    name: &str,
    meant: bool,
    cell: &mut String,
) -> Result<bool, Failure> {
    match (&delivery.outcome, meant) {
        (Outcome::Opened(opened), true) if opened.payload == reading.as_bytes() => {
            *cell = temperature(reading).to_owned();
            Ok(true)
        }
        (Outcome::NotForMe(why), false) => {
            *cell = format!("no: {}", why.code());
            Ok(false)
        }
        (outcome, _) => Err(Failure::new(format!("{name} should not have got this: {outcome:?}"))),
    }
}

/// The second column of a reading.
fn temperature(reading: &str) -> &str {
    reading.split(',').nth(1).unwrap_or_default()
}

fn row(first: &str, cells: [String; 5], last: &str) -> String {
    let cells: String = cells.iter().map(|cell| format!("{cell:<17}")).collect();
    format!("{first:<13}{cells}{last}")
}

fn summary(sensor: &Device, tally: &Tally, readings: &[&str]) -> Result<(), Failure> {
    let added = tally.wire_bytes - tally.plain_bytes;
    let (header, message) = measure(sensor, readings)?;
    let cost = header + message * u32::try_from(readings.len()).unwrap_or(u32::MAX);
    print_line(format!(
        "messages     {} published, {} deliveries",
        tally.messages,
        tally.opened + tally.refused
    ))?;
    print_line(format!("opened       {} by the three that the policy means", tally.opened))?;
    print_line(format!("refused      {} by the two that it does not", tally.refused))?;
    print_line(format!(
        "bytes        sealing added {added} to {} of readings: {} a message, the header included",
        tally.plain_bytes,
        added / tally.messages.max(1) as usize
    ))?;
    print_line(format!(
        "time         sealing added {:.2} ms in all: {:.2} ms for the header once, {:.1} µs a message",
        cost.as_secs_f64() * 1e3,
        header.as_secs_f64() * 1e3,
        message.as_secs_f64() * 1e6
    ))
}

/// What sealing costs the sensor: a header once, then a message (the mean over all readings).
fn measure(sensor: &Device, readings: &[&str]) -> Result<(Duration, Duration), Failure> {
    let mut sealer = Sealer::new(false);
    let now = smqtt_client::system_now();
    let mut seal = |reading: &str| {
        let begin = Instant::now();
        let sealed = sensor
            .client
            .keyring()
            .with(|keyring| sealer.seal(keyring, FILTER, reading.as_bytes(), Wish::Rule, now));
        let took = begin.elapsed();
        match sealed {
            Ok(Outgoing::Sealed(_)) => Ok(took),
            Ok(Outgoing::Plain(_)) => Err(Failure::new("a reading was not sealed")),
            Err(error) => Err(Failure::new("cannot seal").because(&error)),
        }
    };
    let first = seal(readings.first().copied().unwrap_or_default())?;
    let rest = readings.iter().map(|reading| seal(reading)).sum::<Result<Duration, Failure>>()?;
    let message = rest / u32::try_from(readings.len()).unwrap_or(1).max(1);
    Ok((first.saturating_sub(message), message))
}
