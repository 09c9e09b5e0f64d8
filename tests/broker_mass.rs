//! Masses of clients that connect and do not go on: all are closed when their time is over, and meanwhile an honest one is
//! served at once.
//!
//! The broker's clock stands still until a test moves it, sockets do not: so the default times hold, nothing waits for
//! them, and that a client was served before is certain. `SMQTT_MASS_REAL=1` lets the clock run.

mod broker_support;
mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use broker_support::*;
use common::skipped;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use smqtt::{
    broker::{Broker, BrokerHandle, Config, TlsSettings},
    mqtt::*,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsConnector;

const SILENT: usize = 5_000;
const HALF_HANDSHAKES: usize = 1_000;
const WITHOUT_CONNECT: usize = 1_000;

/// A broker in threads of its own, whose clock moves when it is told.
struct Massive {
    plain: SocketAddr,
    tls: SocketAddr,
    root: CertificateDer<'static>,
    handle: BrokerHandle,
    /// Moves its clock, and ends it with the last of these.
    advance: mpsc::UnboundedSender<Duration>,
    /// Whether the clock runs by itself.
    real: bool,
}

impl Massive {
    fn start() -> Self {
        let real = std::env::var_os("SMQTT_MASS_REAL").is_some();
        let (tell, told) = std::sync::mpsc::channel();
        let (advance, advanced) = mpsc::unbounded_channel::<Duration>();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(!real).build().unwrap();
            runtime.block_on(Self::serve(tell, advanced, real));
        });
        let (plain, tls, root, handle) = told.recv().unwrap();
        Self { plain, tls, root, handle, advance, real }
    }

    async fn serve(
        tell: std::sync::mpsc::Sender<(SocketAddr, SocketAddr, CertificateDer<'static>, BrokerHandle)>,
        mut advanced: mpsc::UnboundedReceiver<Duration>,
        real: bool,
    ) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let root = certificate.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![root.clone()], key).unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
        let mut broker = Broker::new(Config::default(), vec![]).unwrap();
        broker.listen_tcp(plain);
        broker.listen_tls(tls, TlsSettings::from(Arc::new(config)));
        tell.send((addresses.0, addresses.1, root, broker.handle())).unwrap();
        // While this waits, tokio does not move a clock that stands still.
        let (_end, ended) = std::sync::mpsc::channel::<()>();
        let standing = tokio::task::spawn_blocking(move || ended.recv());
        let moving = async {
            while let Some(duration) = advanced.recv().await {
                if !real {
                    tokio::time::advance(duration).await;
                }
            }
            drop(_end);
            let _ = standing.await;
        };
        broker.run(moving).await;
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    /// Connects both ways, subscribes, publishes and hears it, while all the others wait. Gives how long each took until
    /// CONNACK.
    async fn honest(&self) -> [Duration; 2] {
        let mut took = [Duration::ZERO; 2];
        for (time, over_tls) in took.iter_mut().zip([false, true]) {
            let begun = Instant::now();
            let address = if over_tls { self.tls } else { self.plain };
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut client = match over_tls {
                false => Client::over(stream),
                true => {
                    let name = "localhost".try_into().unwrap();
                    Client::over(
                        TlsConnector::from(self.client_config()).connect(name, stream).await.unwrap(),
                    )
                }
            };
            client.send(Packet::Connect(Box::new(connect(Version::V5, "honest")))).await;
            assert_eq!(client.connack().await.reason, ReasonCode::Success);
            *time = begun.elapsed();
            client.subscribe("a", QoS::AtLeastOnce).await;
            client.publish(message("a", "x", QoS::AtMostOnce)).await;
            assert_eq!(client.payload().await, "x");
            client.disconnect().await;
        }
        took
    }

    /// All of them are there, an honest client is served, and then their time is over and they are closed.
    async fn wait_out(&self, what: &str, held: Vec<TcpStream>, time: Duration) {
        let count = held.len();
        // Where the clock runs, the time of the first may be over before the last is there.
        until(|| self.real || self.handle.connections() == count).await;
        // Who came before these two was looked at before: its time runs.
        self.honest().await;
        self.honest().await;
        let moment = Duration::from_millis(1);
        if !self.real {
            self.advance.send(time - moment).unwrap();
        }
        let [plain, tls] = self.honest().await;
        println!("beside {count} {what}: CONNACK after {plain:?}, with TLS after {tls:?}");
        if !self.real {
            // The honest one was served while each of them had time left.
            until(|| self.handle.connections() == count).await;
            self.advance.send(2 * moment).unwrap();
        }
        let begun = Instant::now();
        let closed = tokio::task::spawn_blocking(move || {
            for mut stream in held {
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut rest = [0; 4096];
                loop {
                    match stream.read(&mut rest) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                        Err(error) => panic!("it stays open: {error}"),
                    }
                }
            }
        });
        closed.await.unwrap();
        until(|| self.handle.connections() == 0).await;
        println!("all closed after another {:?}", begun.elapsed());
        self.honest().await;
    }
}

/// Whether this process may have so many files open; raises the limit if it can.
fn files_suffice(count: usize) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = count as u64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    let enough = raised >= wanted;
    if !enough {
        skipped(&format!("{wanted} open files are needed, {raised} are allowed: raise the hard limit"));
    }
    enough
}

/// Both ends are in this process, and the tests run side by side.
const FILES: usize = 2 * (SILENT + HALF_HANDSHAKES + WITHOUT_CONNECT) + 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn five_thousand_silent_connections_are_closed_and_keep_nobody_waiting() {
    if !files_suffice(FILES) {
        return;
    }
    let broker = Massive::start();
    // Of both kinds: who says nothing to a TLS listener is in its handshake.
    let silent =
        |n: usize| TcpStream::connect(if n.is_multiple_of(2) { broker.plain } else { broker.tls }).unwrap();
    let held = (0..SILENT).map(silent).collect();
    broker.wait_out("silent connections", held, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_half_handshakes_are_closed_and_keep_nobody_waiting() {
    if !files_suffice(FILES) {
        return;
    }
    let broker = Massive::start();
    let config = broker.client_config();
    let half = |n: usize| {
        let mut hello = Vec::new();
        let mut client = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        client.write_tls(&mut hello).unwrap();
        // Half of them do not finish the first message, the other half never answer the server's.
        let end = if n.is_multiple_of(2) { 1 + n % (hello.len() - 1) } else { hello.len() };
        let mut stream = TcpStream::connect(broker.tls).unwrap();
        stream.write_all(&hello[..end]).unwrap();
        stream
    };
    let held = (0..HALF_HANDSHAKES).map(half).collect();
    broker.wait_out("half handshakes", held, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_without_connect_are_closed_and_keep_nobody_waiting() {
    if !files_suffice(FILES) {
        return;
    }
    let broker = Massive::start();
    let mut connect_bytes = bytes::BytesMut::new();
    let mut hello = connect(Version::V5, "half");
    hello.password = Some(vec![b'x'; 2_000].into());
    Packet::Connect(Box::new(hello)).encode(Version::V5, &mut connect_bytes).unwrap();
    // Nothing, or some of a CONNECT.
    let half = |n: usize| {
        let mut stream = TcpStream::connect(broker.plain).unwrap();
        stream.write_all(&connect_bytes[..n * 7 % connect_bytes.len()]).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..WITHOUT_CONNECT).map(half).collect();
    // Also after a handshake.
    for n in 0..100 {
        let mut client =
            ClientConnection::new(broker.client_config(), "localhost".try_into().unwrap()).unwrap();
        let mut stream = TcpStream::connect(broker.tls).unwrap();
        while client.is_handshaking() {
            client.complete_io(&mut stream).unwrap();
        }
        client.writer().write_all(&connect_bytes[..n]).unwrap();
        client.complete_io(&mut stream).unwrap();
        held.push(stream);
    }
    broker.wait_out("connections without CONNECT", held, Duration::from_secs(10)).await;
}
