//! A hook of your own: logs every publish to stdout and refuses the topics below `forbidden/`.
//!
//! ```text
//! cargo run --example hook_audit -- 127.0.0.1:1883
//! mosquitto_pub -p 1883 -t greeting -m hello
//! mosquitto_pub -p 1883 -V 5 -q 1 -t forbidden/door -m open
//! ```

use std::error::Error;

use smqtt::{
    broker::{Broker, Client, Config, Hook, Origin, Publication, Verdict},
    mqtt::{ReasonCode, filter_matches},
};
use tokio::net::TcpListener;

struct Audit;

impl Hook for Audit {
    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        let message = publication.message();
        if filter_matches("forbidden/#", message.topic()) {
            println!("{} refused on {}", client.client_id, message.topic());
            return Verdict::deny(ReasonCode::NotAuthorized, "nobody publishes there");
        }
        // A will is judged when its client connects, and published later or never.
        if publication.origin() != Origin::WillAtConnect {
            println!(
                "{} published {} bytes to {}",
                client.client_id,
                message.payload().len(),
                message.topic()
            );
        }
        Verdict::Defer
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1883".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut broker = Broker::new(Config::default(), vec![Box::new(Audit)])?;
    broker.listen_tcp(listener);
    broker
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    Ok(())
}
