//! Where the broker is to be reached, and by whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use smqtt_client::keyring::Keyring;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::super::config::BrokerConfig;
use super::Finding;

/// A listener on this machine answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Every listener of the configuration; without one, where a broker listens by default.
pub(super) async fn broker(config: Option<&BrokerConfig>, keyring: &Keyring) -> Vec<Finding> {
    let ours = broker_tls(keyring);
    let Some(config) = config else {
        let address = BrokerConfig::default().listen;
        return vec![by_default(address, who_listens(address, ours).await)];
    };
    let mut findings = vec![configured("mqtts", config.listen, who_listens(config.listen, ours).await)];
    if let Some(plain) = config.plain {
        findings.push(configured("mqtt", plain, who_listens(plain, None).await));
        findings.extend(exposed("mqtt", plain));
    }
    findings
}

/// Who answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Nobody,
    /// Somebody, as far as can be told without TLS.
    Somebody,
    /// It has a certificate of the site's authority.
    Ours,
    /// It has none.
    Stranger,
}

/// TLS with what has a certificate of this authority, as the holder of `keyring`.
fn broker_tls(keyring: &Keyring) -> Option<Arc<ClientConfig>> {
    let signer = keyring.signer();
    let own = (signer.certificate(), signer.key().expose_pkcs8());
    smqtt_client::tls::client_config(keyring.roots(), Some(own)).ok()
}

/// Connects, and looks at the certificate where there is TLS.
async fn who_listens(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Listener {
    // An unspecified address is every address of this machine.
    let mut there = address;
    if address.ip().is_unspecified() {
        there.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let Ok(Ok(tcp)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(there)).await else {
        return Listener::Nobody;
    };
    let Some(tls) = tls else { return Listener::Somebody };
    let handshake = TlsConnector::from(tls).connect(ServerName::from(there.ip()), tcp);
    match timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(_)) => Listener::Ours,
        Ok(Err(error)) if is_about_the_name(&error) => Listener::Ours,
        _ => Listener::Stranger,
    }
}

/// Clients may know the broker by another name than the address that it listens at.
fn is_about_the_name(error: &std::io::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })))
}

/// Where the configuration says that the broker is.
fn configured(scheme: &str, address: SocketAddr, found: Listener) -> Finding {
    match found {
        Listener::Ours => Finding::ok("port", format!("the broker listens at {scheme}://{address}")),
        Listener::Somebody => Finding::ok("port", format!("{scheme}://{address} is open")),
        Listener::Nobody => {
            let hint = "start the broker with `smqtt up` or `smqtt broker`, or correct its addresses in the configuration";
            Finding::fail("port", format!("nobody listens at {scheme}://{address}"), hint)
        }
        Listener::Stranger => {
            let hint = "stop the other program, or correct the broker's addresses in the configuration";
            let text = format!("what listens at {scheme}://{address} has no certificate of this authority");
            Finding::fail("port", text, hint)
        }
    }
}

/// Nobody has said where the broker is: it may well be elsewhere.
fn by_default(address: SocketAddr, found: Listener) -> Finding {
    let hint = "where the broker listens is not known without its configuration: give `--config`";
    match found {
        Listener::Ours => {
            Finding::ok("port", format!("the broker listens at mqtts://{address}, the default"))
        }
        Listener::Nobody => {
            Finding::warn("port", format!("nobody listens at mqtts://{address}, the default"), hint)
        }
        Listener::Somebody | Listener::Stranger => {
            let text = format!("what listens at mqtts://{address}, the default, is not this site's broker");
            Finding::warn("port", text, hint)
        }
    }
}

/// Without TLS, other machines should not reach it.
fn exposed(scheme: &str, address: SocketAddr) -> Option<Finding> {
    let text = format!("{scheme}://{address} has no TLS and is open to other machines");
    let hint = "whoever is in between reads passwords and topics: listen on 127.0.0.1, or use TLS";
    (!address.ip().is_loopback()).then(|| Finding::warn("port", text, hint))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[tokio::test]
    async fn an_open_port_is_told_from_one_where_nobody_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(who_listens(address, None).await, Listener::Somebody);
        assert_eq!(who_listens(([0, 0, 0, 0], address.port()).into(), None).await, Listener::Somebody);
        drop(listener);
        assert_eq!(who_listens(address, None).await, Listener::Nobody);
        assert!(exposed("mqtt", address).is_none());
        assert_eq!(exposed("mqtt", ([0, 0, 0, 0], 1883).into()).unwrap().level, Level::Warn);
    }

    /// One certificate at two addresses, seen by who trusts it and by who does not; and what speaks no TLS.
    #[tokio::test]
    async fn a_stranger_is_told_from_the_broker() {
        let issued = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (by_name, other) = (issued("broker.example"), issued("127.0.0.1"));
        let trusts = |issued: &rcgen::CertifiedKey<rcgen::KeyPair>| {
            smqtt_client::tls::client_config(&[issued.cert.der().to_vec()], None).ok()
        };
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(by_name.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(smqtt_client::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![by_name.cert.der().clone()], key.into())
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = acceptor.accept(tcp).await;
            }
        });
        assert_eq!(who_listens(address, trusts(&by_name)).await, Listener::Ours);
        assert_eq!(who_listens(address, trusts(&other)).await, Listener::Stranger);
        let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = plain.local_addr().unwrap();
        tokio::spawn(async move { while plain.accept().await.is_ok() {} });
        assert_eq!(who_listens(address, trusts(&by_name)).await, Listener::Stranger);
        assert_eq!(configured("mqtts", address, Listener::Stranger).level, Level::Fail);
    }

    #[test]
    fn without_a_configuration_it_says_where_it_looked_and_blames_nobody() {
        let address = ([127, 0, 0, 1], 8883).into();
        for found in [Listener::Nobody, Listener::Somebody, Listener::Ours, Listener::Stranger] {
            let finding = by_default(address, found);
            assert!(finding.text.contains("mqtts://127.0.0.1:8883, the default"), "{}", finding.text);
            let level = if found == Listener::Ours { Level::Ok } else { Level::Warn };
            assert_eq!(finding.level, level);
            assert_eq!(finding.hint.is_some_and(|hint| hint.contains("`--config`")), level == Level::Warn);
        }
    }
}
