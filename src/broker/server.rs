//! A broker as a whole: hooks, listeners, start and end.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinSet};

use super::{
    config::{Config, DefaultVerdict, EngineKind},
    core::Core,
    counts::{self, Counts},
    engine::{Direct, Engine, Rumqttd, Sink},
    fanout,
    handle::BrokerHandle,
    hook::Hook,
    hooks::Hooks,
    limits::LimitError,
    listener::{self, Listening, TlsSettings},
    metrics::Metrics,
    session::held::Total,
    store::{self, Disk, StoreError},
    timers,
    websocket::Origins,
};
use crate::mqtt::ReasonCode;

/// How often the end of a broker looks whether its connections are gone.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The embedded router did not come up.
    #[error("the engine does not start")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A limit with which no broker could work.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// What outlived the last process cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An MQTT broker. The caller binds the sockets and says when to stop.
///
/// ```no_run
/// # use smqtt::broker::{Broker, Config};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut broker = Broker::new(Config::default(), vec![])?;
/// broker.listen_tcp(tokio::net::TcpListener::bind("127.0.0.1:1883").await?);
/// broker.run(std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
pub struct Broker {
    core: Arc<Core>,
    listeners: Vec<Listening>,
}

impl Broker {
    /// Makes a broker with hooks, which are asked in this order. Must be called inside a tokio runtime.
    ///
    /// What the directory [`Config::data`] holds is there again when this returns.
    ///
    /// # Errors
    /// The engine does not start, or the stored state cannot be used.
    pub fn new(config: Config, hooks: Vec<Box<dyn Hook>>) -> Result<Self, BrokerError> {
        config.limits.check()?;
        let disk = config.data.as_deref().map(store::open).transpose()?;
        Self::over(disk, config, hooks)
    }

    /// [`new`](Self::new) over a store that is open already.
    pub(crate) fn over(
        disk: Option<Disk>,
        config: Config,
        hooks: Vec<Box<dyn Hook>>,
    ) -> Result<Self, BrokerError> {
        let allow_by_default = config.default_verdict == DefaultVerdict::Allow;
        let kind = config.engine;
        let limits = config.limits.clone();
        let metrics = Metrics::default();
        let counts = Counts::new(&metrics);
        let hooks = Hooks::new(hooks, allow_by_default, &metrics, counts.clone());
        let held = Total::default();
        let (store, restored) = match disk {
            Some(disk) => store::restore(disk, &hooks, &held)?,
            None => Default::default(),
        };
        let core = Arc::new(Core::new(config, hooks.clone(), store.clone(), metrics, counts, held));
        let sink: Sink = Arc::new(move |batch| fanout::fan_out(batch, &limits, &store, &hooks));
        let engine: Box<dyn Engine> = match kind {
            EngineKind::Direct => Box::new(Direct::new(sink)),
            EngineKind::Rumqttd => {
                Box::new(Rumqttd::start(sink).map_err(|error| BrokerError::Engine(error))?)
            }
        };
        let _ = core.engine.set(engine);
        counts::register_readings(&core);
        core.adopt(restored);
        Ok(Self { core, listeners: Vec::new() })
    }

    /// Serves plain TCP on a bound socket.
    pub fn listen_tcp(&mut self, listener: TcpListener) {
        self.listeners.push(Listening { listener, tls: None, websocket: None });
    }

    /// Serves TLS on a bound socket. Keep a clone of the settings to replace them later.
    pub fn listen_tls(&mut self, listener: TcpListener, tls: impl Into<TlsSettings>) {
        self.listeners.push(Listening { listener, tls: Some(tls.into()), websocket: None });
    }

    /// Serves MQTT over WebSocket on a bound socket, at `/mqtt` and `/`; over TLS if there are settings for it. `origins`
    /// are the web pages that may come in besides the broker's own.
    pub fn listen_websocket(&mut self, listener: TcpListener, tls: Option<TlsSettings>, origins: Origins) {
        self.listeners.push(Listening { listener, tls, websocket: Some(Arc::new(origins)) });
    }

    /// Controls the broker from elsewhere.
    pub fn handle(&self) -> BrokerHandle {
        BrokerHandle { core: self.core.clone() }
    }

    /// Serves until `shutdown` completes, then ends every connection: MQTT 5.0 clients are told that the broker shuts
    /// down, and each gets [`Limits::close_timeout`](super::Limits::close_timeout) to take what is still to be written.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(timers::run(self.core.clone()));
        for listening in self.listeners {
            tasks.spawn(listener::run(self.core.clone(), listening));
        }
        self.core.serving.store(true, Ordering::SeqCst);
        shutdown.await;
        self.core.serving.store(false, Ordering::SeqCst);
        tasks.shutdown().await;
        let handle = BrokerHandle { core: self.core.clone() };
        let grace = self.core.config.limits.close_timeout + Duration::from_millis(100);
        let drained = async {
            while handle.connections() > 0 {
                // Also those who were let in meanwhile.
                handle.disconnect_all(ReasonCode::ServerShuttingDown, "the broker shuts down");
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(grace, drained).await;
        // Wills, for one, that went out last.
        let delivered = async {
            while self.core.engine.get().is_some_and(|engine| !engine.is_idle()) {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(grace, delivered).await;
        let store = self.core.store.clone();
        if store.is_there() {
            // It waits for the disk.
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
    }
}
