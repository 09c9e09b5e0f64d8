//! The connection itself: the event loop that keeps on connecting.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Packet, Publish};
use rumqttc::{ConnectionError, Event, EventLoop, StateError};
use smqtt_core::header::Kid;
use tokio::sync::{mpsc, watch};

use crate::mqtt::{READER_PROPERTY, Status};
use crate::printable;

/// Longest pause between two tries.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What is true of the present connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Whether the broker carries headers.
    pub smqtt: bool,
    /// Content keys whose header went out on this connection.
    pub introduced: HashSet<Kid>,
    /// Filters that the broker has in this session, or is being asked for.
    pub subscribed: HashSet<String>,
}

impl Link {
    /// Another connection, in the same session or a new one.
    fn begin(&mut self, smqtt: bool, resumed: bool) {
        self.smqtt = smqtt;
        self.introduced.clear();
        if !resumed {
            self.subscribed.clear();
        }
    }
}

/// Locks; a panic elsewhere while it was held changes nothing.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most QoS 1 and 2 messages that the broker may send without an acknowledgement (MQTT 5.0, section 3.1.2.11.3).
pub const RECEIVE_MAX: u16 = 64;
/// Most messages that wait for their reader: room for those that are acknowledged, the rest for QoS 0.
pub const ARRIVALS_MAX: usize = 1024;

/// Hands a message to its reader. Never waits: the event loop must turn, or acknowledgements would not go out. QoS 1 and 2
/// are bounded by the receive maximum; of QoS 0 what finds no room is lost, as QoS 0 may be.
fn take(arrived: &mpsc::Sender<Publish>, publish: Publish) {
    let room = if publish.qos == QoS::AtMostOnce { usize::from(RECEIVE_MAX) } else { 0 };
    if arrived.capacity() <= room || arrived.try_send(publish).is_err() {
        tracing::debug!("nobody takes the messages that arrive: dropped one");
    }
}

/// Turns the event loop; ends when nobody listens any more or the broker refuses for good.
pub async fn drive(
    mut events: EventLoop,
    arrived: mpsc::Sender<Publish>,
    status: watch::Sender<Status>,
    link: Arc<Mutex<Link>>,
) {
    let mut failures = 0;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                failures = 0;
                let property = |(k, v): &(String, String)| (k.as_str(), v.as_str()) == READER_PROPERTY;
                let resumed = connack.session_present;
                let smqtt = connack.properties.is_some_and(|p| p.user_properties.iter().any(property));
                lock(&link).begin(smqtt, resumed);
                status.send_replace(Status::Connected { smqtt });
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                take(&arrived, publish);
            }
            Ok(_) => {}
            Err(ConnectionError::RequestsDone) => {
                status.send_replace(Status::Closed { reason: "closed".into() });
                return;
            }
            Err(error) => {
                let reason = describe(&error);
                if is_final(&error) {
                    status.send_replace(Status::Closed { reason });
                    return;
                }
                failures += 1;
                lock(&link).begin(false, true);
                tracing::debug!(%reason, failures, "broker lost");
                status.send_replace(Status::Lost { reason, failures });
                let pause = Duration::from_millis(100) * 2u32.saturating_pow(failures.min(9) - 1);
                tokio::time::sleep(pause.min(BACKOFF_MAX)).await;
            }
        }
    }
}

/// What happened, in words for people.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => format!("connection refused: {code:?}"),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            match reason_string {
                Some(text) => format!("the broker disconnected: {} ({reason_code:?})", printable(text)),
                None => format!("the broker disconnected: {reason_code:?}"),
            }
        }
        ConnectionError::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Whether trying again would only get the same answer.
fn is_final(error: &ConnectionError) -> bool {
    use rumqttc::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode};
    match error {
        ConnectionError::ConnectionRefused(code) => matches!(
            code,
            ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::Banned
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::ClientIdentifierNotValid
                | ConnectReturnCode::UnsupportedProtocolVersion
        ),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => matches!(
            reason_code,
            DisconnectReasonCode::NotAuthorized | DisconnectReasonCode::SessionTakenOver
        ),
        _ => false,
    }
}
