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
    broker::{Broker, Config, ConnectRequest, ConnectVerdict, Hook, HookFuture, TlsSettings},
    mqtt::*,
};
use tokio::net::{TcpListener, TcpStream};
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
