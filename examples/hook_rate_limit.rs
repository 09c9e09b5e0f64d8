//! A hook of your own: each client may publish so many messages a second, and some more at once after a pause.
//!
//! ```text
//! cargo run --example hook_rate_limit -- 5 10 127.0.0.1:1883      # 5 a second, 10 at once
//! seq 20 | mosquitto_pub -p 1883 -V 5 -i meter -q 1 -t count -l   # the last ten: "Quota exceeded"
//! seq 20 | mosquitto_pub -p 1883 -V 5 -i meter -q 0 -t count -l   # cut off
//! ```
//!
//! QoS 1 and 2 are refused in their acknowledgement. QoS 0 has none, so who floods with it is cut off, as is everybody who
//! speaks MQTT 3.1.1, which knows no refusal. A client that comes back at once finds its bucket as empty as it left it.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use smqtt::{
    broker::{
        Broker, Client, Config, ConnectRequest, ConnectVerdict, Denial, Disconnection, Hook, HookFuture,
        Point, Publication, Verdict,
    },
    mqtt::{QoS, ReasonCode, Text},
};
use tokio::{net::TcpListener, time::Instant};

/// Clients that are remembered, those included that left before their bucket was full again.
const CLIENTS_MAX: usize = 100_000;

/// The hook.
pub struct RateLimit {
    rate: Rate,
    clients_max: usize,
    /// By identity, or client id where nobody found out an identity.
    buckets: RwLock<HashMap<Text, Arc<Mutex<Bucket>>>>,
}

#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    /// Messages at once.
    burst: f64,
}

/// Tokens, one for a message. They come back with time.
struct Bucket {
    tokens: f64,
    counted_at: Instant,
    connections: usize,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { tokens: rate.burst, counted_at: Instant::now(), connections: 0 }
    }

    fn fill(&mut self, rate: Rate) {
        let now = Instant::now();
        let gained = rate.per_second * (now - self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + gained).min(rate.burst);
        self.counted_at = now;
    }

    fn take(&mut self, rate: Rate) -> bool {
        self.fill(rate);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// Whether a new one would be the same.
    fn is_as_new(&mut self, rate: Rate) -> bool {
        self.fill(rate);
        self.connections == 0 && self.tokens >= rate.burst
    }
}

impl RateLimit {
    /// Lets each client publish `per_second` messages, and `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::for_clients(per_second, burst, CLIENTS_MAX)
    }

    /// The same, and remembers at most so many of them.
    pub fn for_clients(per_second: u32, burst: u32, clients_max: usize) -> Self {
        let rate = Rate { per_second: per_second.into(), burst: burst.into() };
        Self { rate, clients_max, buckets: RwLock::default() }
    }

    fn bucket(&self, client: &Client) -> Option<Arc<Mutex<Bucket>>> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(who(client)).cloned()
    }
}

impl Hook for RateLimit {
    fn points(&self) -> &'static [Point] {
        &[Point::Publish]
    }

    fn connect<'a>(&'a self, _: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.clients_max {
            buckets.retain(|_, bucket| !lock(bucket).is_as_new(self.rate));
        }
        let verdict = if buckets.len() >= self.clients_max {
            ConnectVerdict::Deny(Denial::new(ReasonCode::ServerBusy, "too many clients to keep count of"))
        } else {
            ConnectVerdict::Defer
        };
        Box::pin(std::future::ready(verdict))
    }

    fn connected(&self, client: &Client) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry(who(client).clone()).or_insert_with(|| Arc::new(Bucket::new(self.rate).into()));
        lock(bucket).connections += 1;
    }

    fn disconnected(&self, client: &Client, _: Disconnection) {
        if let Some(bucket) = self.bucket(client) {
            lock(&bucket).connections -= 1;
        }
    }

    fn publish(&self, client: &Client, publication: &mut Publication) -> Verdict {
        // Nobody publishes who was not connected.
        let Some(bucket) = self.bucket(client) else { return Verdict::Defer };
        if lock(&bucket).take(self.rate) {
            return Verdict::Defer;
        }
        let Rate { per_second, .. } = self.rate;
        let text = format!("more than {per_second} messages a second");
        Verdict::Deny(match publication.message().qos() {
            QoS::AtMostOnce => Denial::new(ReasonCode::MessageRateTooHigh, text).disconnecting(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => Denial::new(ReasonCode::QuotaExceeded, text),
        })
    }

    /// A will is one message for a connection: how often those come is limited elsewhere.
    fn will(&self, _: &Client, _: &mut Publication) -> Verdict {
        Verdict::Defer
    }
}

fn who(client: &Client) -> &Text {
    client.identity.as_ref().unwrap_or(&client.client_id)
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let per_second = args.next().map_or(Ok(5), |arg| arg.parse())?;
    let burst = args.next().map_or(Ok(10), |arg| arg.parse())?;
    let listener = TcpListener::bind(args.next().as_deref().unwrap_or("127.0.0.1:1883")).await?;
    println!("listening on {}, {per_second} messages a second, {burst} at once", listener.local_addr()?);
    let mut broker = Broker::new(Config::default(), vec![Box::new(RateLimit::new(per_second, burst))])?;
    broker.listen_tcp(listener);
    broker
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    Ok(())
}
