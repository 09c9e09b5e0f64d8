//! Where the broker is to be reached, and by whom.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::super::config::BrokerConfig;
use super::Finding;

/// A listener on this machine answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Every listener of the configuration.
pub(super) async fn broker(config: &BrokerConfig) -> Vec<Finding> {
    let mut findings = vec![listens("mqtts", config.listen).await];
    if let Some(plain) = config.plain {
        findings.push(listens("mqtt", plain).await);
        findings.extend(exposed("mqtt", plain));
    }
    findings
}

async fn listens(scheme: &str, address: SocketAddr) -> Finding {
    // An unspecified address is every address of this machine.
    let mut there = address;
    if address.ip().is_unspecified() {
        there.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(there)).await {
        Ok(Ok(_)) => Finding::ok("port", format!("{scheme}://{address} is open")),
        _ => {
            let hint =
                "start the broker with `smqtt up` or `smqtt broker`, or give `--config` with its addresses";
            Finding::fail("port", format!("nobody listens at {scheme}://{address}"), hint)
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
        assert_eq!(listens("mqtts", address).await.level, Level::Ok);
        assert_eq!(listens("mqtts", ([0, 0, 0, 0], address.port()).into()).await.level, Level::Ok);
        drop(listener);
        assert_eq!(listens("mqtts", address).await.level, Level::Fail);
        assert!(exposed("mqtt", address).is_none());
        assert_eq!(exposed("mqtt", ([0, 0, 0, 0], 1883).into()).unwrap().level, Level::Warn);
    }
}
