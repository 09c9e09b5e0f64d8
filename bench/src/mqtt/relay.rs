//! A relay in between that counts bytes, for runs that are not timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// For how long nothing may pass before all is said to have passed.
const QUIET: Duration = Duration::from_millis(12);
/// How often in a row that must be seen.
const QUIET_TIMES: u32 = 2;

/// What passed between a client and the broker: bytes of TCP's payload, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From the client to the broker.
    pub to_broker: u64,
    /// From the broker to the client.
    pub from_broker: u64,
}

#[derive(Debug, Default)]
struct Counters {
    to_broker: AtomicU64,
    from_broker: AtomicU64,
}

/// Relays of one client's connections; they end with it.
#[derive(Debug, Default)]
pub struct Relays {
    counters: Arc<Counters>,
    listening: JoinSet<()>,
}

impl Relays {
    /// Listens on a free loopback port for connections that go on to `target`; the same counters for all.
    ///
    /// # Errors
    /// Where no port is to be had.
    pub async fn to(&mut self, target: SocketAddr) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counters = self.counters.clone();
        self.listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(relay(near, target, counters.clone()));
            }
        });
        Ok(address)
    }

    /// What passed so far.
    pub fn passed(&self) -> Passed {
        Passed {
            to_broker: self.counters.to_broker.load(Ordering::Relaxed),
            from_broker: self.counters.from_broker.load(Ordering::Relaxed),
        }
    }
}

/// What passed on both sides, once nothing more passes.
pub async fn settled(publisher: &Relays, subscriber: &Relays) -> (Passed, Passed) {
    let mut last = (publisher.passed(), subscriber.passed());
    let mut quiet = 0;
    while quiet < QUIET_TIMES {
        tokio::time::sleep(QUIET).await;
        let now = (publisher.passed(), subscriber.passed());
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    last
}

async fn relay(near: TcpStream, target: SocketAddr, counters: Arc<Counters>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    // As the client does: what is written is to go at once.
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(copy(near_in, far_out, &counters.to_broker), copy(far_in, near_out, &counters.from_broker));
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_byte_passes_and_is_counted_in_its_direction() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut relays = Relays::default();
        let address = relays.to(server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"question").await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut question = [0; 8];
        served.read_exact(&mut question).await.unwrap();
        served.write_all(b"yes").await.unwrap();
        drop(served);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((&question, answer.as_str()), (b"question", "yes"));
        let (passed, other) = settled(&relays, &Relays::default()).await;
        assert_eq!(passed, Passed { to_broker: 8, from_broker: 3 });
        assert_eq!(other, Passed::default());
    }
}
