//! rumqttd's router, embedded, as the bus.
//!
//! One link publishes to one topic and subscribes to it, all at QoS 0, so the router sees one filter and one topic for
//! ever: it scans filters linearly, keeps every topic it has seen, and panics on topics that are not ASCII. Payloads
//! pass through the router; what it cannot carry (receivers, attachments) waits here under the offset that the router's
//! log gives the message. A jump in the offsets is a message that the log's ring overwrote; a closed link is a router
//! that died. Either way what waits here is delivered without the router, in order, and a new router is started.

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttd::{
    Notification, Router, RouterConfig,
    local::{LinkBuilder, LinkError, LinkRx, LinkTx},
    protocol::{Packet, Publish},
};
use tokio::{sync::Notify, task::JoinHandle};

use super::{Engine, Sink};
use crate::broker::fanout::Routed;

/// The only topic that the router ever sees.
const TOPIC: &str = "smqtt/node";
/// Messages under way beyond which publishers wait.
const UNDERWAY_MESSAGES_MAX: usize = 8_192;
/// Payload bytes under way beyond which publishers wait.
const UNDERWAY_BYTES_MAX: usize = 2 << 20;
/// The router's ring. It keeps payloads until it is overwritten, so it is no larger than what is under way needs.
const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 8;
/// Pause before another attempt after a router could not be started.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Rumqttd {
    shared: Arc<Shared>,
    pump: JoinHandle<()>,
}

struct Shared {
    way: Mutex<Way>,
    room: Notify,
    sink: Sink,
    restarts: AtomicU64,
}

/// What was handed to the router and has not come back.
struct Way {
    /// `None` while there is no router; the sink is then used directly.
    link: Option<LinkTx>,
    /// Offset that the router will give to the next message.
    next_offset: u64,
    underway: VecDeque<Routed>,
    underway_bytes: usize,
    /// A batch came back and is being delivered.
    delivering: bool,
}

impl Rumqttd {
    /// Starts a router and the task that takes back what it gives. Needs a tokio runtime.
    pub(crate) fn start(sink: Sink) -> Result<Self, Box<LinkError>> {
        let (link, rx) = start_router()?;
        let way = Way {
            link: Some(link),
            next_offset: 0,
            underway: VecDeque::new(),
            underway_bytes: 0,
            delivering: false,
        };
        let shared =
            Arc::new(Shared { way: Mutex::new(way), room: Notify::new(), sink, restarts: AtomicU64::new(0) });
        let pump = tokio::spawn(pump(shared.clone(), rx));
        Ok(Self { shared, pump })
    }
}

impl Drop for Rumqttd {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Engine for Rumqttd {
    fn submit(&self, batch: Vec<Routed>) {
        let mut way = self.shared.way.lock();
        let way = &mut *way;
        let Some(link) = &mut way.link else { return (self.shared.sink)(batch) };
        let mut packets: Vec<Packet> = Vec::with_capacity(batch.len());
        for routed in batch {
            let payload = routed.message.payload.clone();
            packets.push(Packet::Publish(
                Publish::new(Bytes::from_static(TOPIC.as_bytes()), payload, false),
                None,
            ));
            way.underway_bytes += routed.message.payload.len();
            way.next_offset += 1;
            way.underway.push_back(routed);
        }
        let Some(last) = packets.pop() else { return };
        let mut buffer = link.buffer();
        if !buffer.is_empty() {
            // The router has been told and has not looked yet: it will find these too.
            buffer.extend(packets);
            buffer.push_back(last);
            return;
        }
        buffer.extend(packets);
        drop(buffer);
        // It never waits: at most one event is in the router's queue of a thousand. An error is a dead router, which
        // `pump` notices too; what is under way stays until then.
        let _ = now(link.send(last));
    }

    fn is_full(&self) -> bool {
        self.shared.way.lock().is_full()
    }

    fn is_idle(&self) -> bool {
        let way = self.shared.way.lock();
        way.underway.is_empty() && !way.delivering
    }

    fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Acquire)
    }

    fn break_down(&self) {
        // A topic that does not begin with an ASCII character panics rumqttd 0.20.
        let poison = Publish::new(Bytes::from_static("é".as_bytes()), Bytes::new(), false);
        if let Some(link) = &mut self.shared.way.lock().link {
            let _ = now(link.send(Packet::Publish(poison, None)));
        }
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            loop {
                let notified = self.shared.room.notified();
                if !self.is_full() {
                    return;
                }
                notified.await;
            }
        })
    }
}

impl Way {
    fn is_full(&self) -> bool {
        self.underway.len() >= UNDERWAY_MESSAGES_MAX || self.underway_bytes >= UNDERWAY_BYTES_MAX
    }

    /// Everything up to and including the message with this offset.
    fn take_until(&mut self, offset: u64) -> Vec<Routed> {
        let first = self.next_offset - self.underway.len() as u64;
        let count = (offset + 1).saturating_sub(first).min(self.underway.len() as u64);
        let taken: Vec<Routed> = self.underway.drain(..count as usize).collect();
        self.underway_bytes -= taken.iter().map(|routed| routed.message.payload.len()).sum::<usize>();
        taken
    }

    fn take_all(&mut self) -> Vec<Routed> {
        self.underway_bytes = 0;
        self.underway.drain(..).collect()
    }
}

fn start_router() -> Result<(LinkTx, LinkRx), Box<LinkError>> {
    let config = RouterConfig {
        max_connections: 8,
        max_outgoing_packet_count: 1_000,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        custom_segment: None,
        initialized_filters: None,
        ..RouterConfig::default()
    };
    let (mut tx, rx, _) = LinkBuilder::new("front", Router::new(0, config).spawn()).build()?;
    tx.subscribe(TOPIC)?;
    Ok((tx, rx))
}

/// Takes back what the router gives, and replaces the router when it dies.
async fn pump(shared: Arc<Shared>, mut rx: LinkRx) {
    loop {
        take_back(&shared, &mut rx).await;
        tracing::error!("the router died; starting another");
        {
            let mut way = shared.way.lock();
            way.link = None;
            let left = way.take_all();
            // Under the lock, so that nothing newer overtakes it.
            (shared.sink)(left);
        }
        shared.room.notify_waiters();
        rx = loop {
            match tokio::task::spawn_blocking(start_router).await {
                Ok(Ok((tx, rx))) => {
                    let mut way = shared.way.lock();
                    way.next_offset = 0;
                    way.link = Some(tx);
                    shared.restarts.fetch_add(1, Ordering::Release);
                    break rx;
                }
                _ => tokio::time::sleep(RESTART_PAUSE).await,
            }
        };
    }
}

/// Returns when the router is gone.
async fn take_back(shared: &Shared, rx: &mut LinkRx) {
    loop {
        let mut notification = rx.next().await;
        let mut newest = None;
        let mut count = 0u64;
        let mut wake = false;
        // Whatever else is there already makes one batch.
        loop {
            match notification {
                Ok(Some(Notification::Forward(forward))) => {
                    newest = forward.cursor.map(|(_, offset)| offset).or(newest);
                    count += 1;
                }
                Ok(Some(Notification::Unschedule)) => wake = true,
                Ok(Some(Notification::Disconnect(..))) | Err(_) => return,
                Ok(_) => {}
            }
            match now(rx.next()) {
                Some(next) => notification = next,
                None => break,
            }
        }
        if let Some(newest) = newest {
            let batch = {
                let mut way = shared.way.lock();
                way.delivering = true;
                way.take_until(newest)
            };
            if batch.len() as u64 != count {
                tracing::warn!(missing = batch.len() as i64 - count as i64, "the router skipped messages");
            }
            (shared.sink)(batch);
            shared.way.lock().delivering = false;
            shared.room.notify_waiters();
        }
        if wake && rx.wake().await.is_err() {
            return;
        }
    }
}

/// Polls once: what the future gives without waiting.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{
            message::{Message, Publication},
            trie::Targets,
        },
        mqtt::QoS,
    };

    fn routed(payload: String) -> Routed {
        let message = Message::new("a".into(), payload.into(), QoS::AtMostOnce, false);
        let (message, _) = Publication::internal(message).accept();
        Routed { message, targets: Arc::new(Targets::default()), from: 0, ack: None, will_of: None }
    }

    type Seen = Arc<Mutex<Vec<String>>>;

    fn sink() -> (Sink, Seen) {
        let seen = Seen::default();
        let sink = {
            let seen = seen.clone();
            Arc::new(move |batch: Vec<Routed>| {
                let payload = |routed: Routed| String::from_utf8_lossy(&routed.message.payload).into_owned();
                seen.lock().extend(batch.into_iter().map(payload));
            })
        };
        (sink, seen)
    }

    async fn expect(seen: &Seen, count: usize) {
        let all = async {
            while seen.lock().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("all messages come back");
        let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(*seen.lock(), expected);
    }

    #[tokio::test]
    async fn messages_come_back_once_and_in_order() {
        let (sink, seen) = sink();
        let engine = Rumqttd::start(sink).expect("a router starts");
        for first in (0..10_000).step_by(10) {
            engine.submit((first..first + 10).map(|number| routed(number.to_string())).collect());
            engine.room().await;
        }
        expect(&seen, 10_000).await;
        assert_eq!(engine.shared.way.lock().underway_bytes, 0);
    }

    #[tokio::test]
    async fn a_router_that_dies_loses_nothing_and_is_replaced() {
        let (sink, seen) = sink();
        let engine = Rumqttd::start(sink).expect("a router starts");
        engine.submit(vec![routed("0".into())]);
        expect(&seen, 1).await;
        engine.break_down();
        for number in 1..100 {
            engine.submit(vec![routed(number.to_string())]);
        }
        expect(&seen, 100).await;
        let replaced = async {
            while engine.restarts() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), replaced).await.expect("a new router starts");
        engine.submit(vec![routed("100".into())]);
        expect(&seen, 101).await;
    }

    #[test]
    fn what_the_router_skips_is_delivered_all_the_same() {
        let underway = (0..5).map(|number| routed(number.to_string())).collect();
        let mut way = Way { link: None, next_offset: 12, underway, underway_bytes: 5, delivering: false };
        assert_eq!(way.take_until(6).len(), 0);
        assert_eq!(way.take_until(9).len(), 3);
        assert_eq!(way.take_until(9).len(), 0);
        assert_eq!(way.take_until(99).len(), 2);
        assert_eq!(way.underway_bytes, 0);
    }
}
