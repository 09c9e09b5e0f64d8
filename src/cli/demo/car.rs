//! The driverless car of the paper: any node is publisher and subscriber. The car publishes where it is, a server
//! computes where to go and publishes that, the car reads it; each is readable by the other and by nobody else.

use smqtt_client::mqtt::{Order, QoS};
use smqtt_client::opener::Outcome;
use smqtt_client::sealer::Wish;

use super::site::{Device, Site, step};
use crate::cli::failure::Failure;
use crate::cli::print_line;

const LOCATION: &str = "car/42/CurrentLocation";
const DIRECTION: &str = "car/42/Direction";
/// Where the car is to go, in metres east and north.
const GOAL: (i32, i32) = (120, 80);
/// How far it gets between two messages.
const STEP_METRES: i32 = 20;

/// Runs the demo.
pub async fn run() -> Result<(), Failure> {
    let site = Site::start().await?;
    site.rule("car/+/CurrentLocation", "role=navigator").await?;
    site.rule("car/+/Direction", "role=car and plate=$1").await?;
    let mut car = site.device("car", &["role=car", "plate=42"]).await?;
    let mut server = site.device("navigation-server", &["role=navigator"]).await?;
    let mut other_car = site.device("other-car", &["role=car", "plate=43"]).await?;
    server.subscribe(LOCATION).await?;
    car.subscribe(DIRECTION).await?;
    for filter in [LOCATION, DIRECTION] {
        other_car.subscribe(filter).await?;
    }
    step(&format!("driving to {GOAL:?}"));
    print_line("")?;
    print_line(format!("{:<22}{:<22}{:<22}other car", "car publishes", "server reads", "car reads"))?;
    let (mut at, mut legs, mut refused) = ((0, 0), 0, 0);
    while at != GOAL {
        let location = format!("{},{}", at.0, at.1);
        publish(&car, LOCATION, &location).await?;
        let read = open(&mut server, "car").await?;
        publish(&server, DIRECTION, &direction(&read)?).await?;
        let direction = open(&mut car, "navigation-server").await?;
        for _ in 0..2 {
            refused += not_opened(&mut other_car).await?;
        }
        print_line(format!("{location:<22}{read:<22}{direction:<22}neither"))?;
        at = drive(at, &direction)?;
        legs += 1;
    }
    print_line("")?;
    print_line(format!("arrived at {at:?} after {legs} legs"))?;
    print_line(format!("messages     {} published", 2 * legs))?;
    print_line(format!("opened       {} by the one each was for", 2 * legs))?;
    print_line(format!("refused      {refused} by the other car"))?;
    for device in [&car, &server, &other_car] {
        device.client.disconnect().await;
    }
    site.stop().await
}

async fn publish(device: &Device, topic: &str, payload: &str) -> Result<(), Failure> {
    let payload = payload.as_bytes();
    let order = Order { topic, payload, wish: Wish::Rule, qos: QoS::AtLeastOnce, retain: false };
    device.client.publish(&order).await?;
    Ok(())
}

/// The next message, which must open and be by `publisher`.
async fn open(device: &mut Device, publisher: &str) -> Result<String, Failure> {
    let delivery = device.next().await?;
    match delivery.outcome {
        Outcome::Opened(opened) if opened.publisher.name == publisher => {
            String::from_utf8(opened.payload).map_err(|_| Failure::new("a payload is no text"))
        }
        outcome => Err(Failure::new(format!("{} could not read a message: {outcome:?}", device.name))),
    }
}

async fn not_opened(device: &mut Device) -> Result<u32, Failure> {
    match device.next().await?.outcome {
        Outcome::NotForMe(_) => Ok(1),
        outcome => Err(Failure::new(format!("{} should not have got this: {outcome:?}", device.name))),
    }
}

/// What the server computes: first east or west, then north or south.
fn direction(location: &str) -> Result<String, Failure> {
    let (x, y) = pair(location)?;
    let (east, north) = (GOAL.0 - x, GOAL.1 - y);
    let way = |metres: i32, ahead: &str, back: &str| {
        format!("{} {}", if metres > 0 { ahead } else { back }, metres.abs().min(STEP_METRES))
    };
    Ok(if east != 0 { way(east, "east", "west") } else { way(north, "north", "south") })
}

fn drive((x, y): (i32, i32), direction: &str) -> Result<(i32, i32), Failure> {
    let nonsense = || Failure::new(format!("`{direction}` is no direction"));
    let (way, metres) = direction.split_once(' ').ok_or_else(nonsense)?;
    let metres: i32 = metres.parse().map_err(|_| nonsense())?;
    match way {
        "east" => Ok((x + metres, y)),
        "west" => Ok((x - metres, y)),
        "north" => Ok((x, y + metres)),
        "south" => Ok((x, y - metres)),
        _ => Err(nonsense()),
    }
}

fn pair(text: &str) -> Result<(i32, i32), Failure> {
    let nonsense = || Failure::new(format!("`{text}` is no location"));
    let (x, y) = text.split_once(',').ok_or_else(nonsense)?;
    Ok((x.parse().map_err(|_| nonsense())?, y.parse().map_err(|_| nonsense())?))
}
