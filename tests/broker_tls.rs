//! TLS: client certificates reach the hooks, a stalled handshake stops nobody, certificates can be replaced.

mod broker_support;

use std::sync::{Arc, Mutex};

use broker_support::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use smqtt::{
    broker::{Broker, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture, Limit, Origins, TlsSettings},
    mqtt::*,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

struct Authority(CertifiedIssuer<'static, KeyPair>);

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn server(&self, (chain, key): Credentials) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(self.roots()).allow_unauthenticated().build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }

    async fn client(&self, address: std::net::SocketAddr, credentials: Option<Credentials>) -> Client {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let config = match credentials {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        Client::over(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }
}

/// Leaf certificates that came with each CONNECT.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Option<Vec<u8>>>>>);

impl Hook for Seen {
    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        let leaf = request.certificates.as_ref().map(|chain| chain[0].to_vec());
        self.0.lock().unwrap().push(leaf);
        Box::pin(std::future::ready(ConnectVerdict::Defer))
    }
}

#[tokio::test]
async fn certificates_reach_the_hooks_and_nobody_waits_for_a_silent_handshake() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (authority, seen) = (Authority::new(), Seen::default());
    let server = authority.issue("localhost");
    let first_leaf = server.0[0].clone();
    let settings = TlsSettings::from(authority.server(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut broker = Broker::new(Config::default(), vec![Box::new(seen.clone())]).unwrap();
    broker.listen_tls(listener, settings.clone());
    tokio::spawn(broker.run(std::future::pending()));

    // Connected first, says nothing.
    let _silent = TcpStream::connect(address).await.unwrap();
    let device = authority.issue("device");
    let leaf = device.0[0].to_vec();
    for credentials in [None, Some(device)] {
        let mut client = authority.client(address, credentials).await;
        client.send(Packet::Connect(Box::new(connect(Version::V5, "device")))).await;
        assert_eq!(client.connack().await.reason, ReasonCode::Success);
        client.subscribe("a", QoS::AtMostOnce).await;
        client.publish(message("a", "sealed in transit", QoS::AtMostOnce)).await;
        assert_eq!(client.payload().await, "sealed in transit");
    }
    assert_eq!(*seen.0.lock().unwrap(), [None, Some(leaf)]);

    let renewed = authority.issue("localhost");
    let second_leaf = renewed.0[0].clone();
    assert_ne!(first_leaf, second_leaf);
    settings.replace(authority.server(renewed));
    let builder = ClientConfig::builder().with_root_certificates(authority.roots()).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let stream =
        TlsConnector::from(Arc::new(builder)).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], second_leaf);
}

#[tokio::test]
async fn half_handshakes_are_ended_and_hold_nobody_up() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = Authority::new();
    let settings = TlsSettings::from(authority.server(authority.issue("localhost")));
    let mut broker = Broker::new(Config::default(), vec![]).unwrap();
    let mut addresses = Vec::new();
    for websocket in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        match websocket {
            false => broker.listen_tls(listener, settings.clone()),
            true => broker.listen_websocket(listener, Some(settings.clone()), Origins::default()),
        }
    }
    let handle = broker.handle();
    tokio::spawn(broker.run(std::future::pending()));
    let mut half = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(addresses[number % 2]).await.unwrap();
        // The beginning of a ClientHello.
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..number % 12]).await.unwrap();
        half.push(stream);
    }
    let mut honest = authority.client(addresses[0], None).await;
    honest.send(Packet::Connect(Box::new(connect(Version::V5, "honest")))).await;
    assert_eq!(honest.connack().await.reason, ReasonCode::Success);
    // One that is through with TLS, and then says nothing of HTTP.
    let _silent = authority.client(addresses[1], None).await;
    until(|| handle.connections() == half.len() + 2).await;
    // Sockets need the real clock until here; now the time of all of them runs out.
    tokio::time::pause();
    tokio::time::advance(Config::default().limits.handshake_timeout).await;
    tokio::time::resume();
    for mut stream in half {
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it is ended");
    }
    until(|| handle.connections() == 1).await;
    assert_eq!(honest.until_ping().await, []);
    let metrics = handle.metrics().render();
    let hits = format!("smqtt_limit_hits_total{{limit=\"{}\"}} 101\n", Limit::HandshakeTimeout.name());
    assert!(metrics.contains(&hits), "{metrics}");
}
