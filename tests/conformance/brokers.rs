//! The brokers that the suite is held against.

use std::fs::Permissions;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use smqtt_client::tls;

use super::client::Route;
use super::run::Target;
use crate::common::peers::Mosquitto;
use crate::common::process::Running;
use crate::common::{TempDir, site, skipped};

/// A process of ours with every listener.
pub struct Ours {
    running: Running,
    tls: Arc<ClientConfig>,
    _home: TempDir,
}

impl Ours {
    pub fn start(arguments: &[&str]) -> Self {
        let home = TempDir::new();
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let file = |name: &str| home.path().join(name).display().to_string();
        std::fs::write(file("cert.pem"), own.cert.pem()).unwrap();
        std::fs::write(file("key.pem"), own.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(file("key.pem"), Permissions::from_mode(0o600)).unwrap();
        let mut command = site::smqtt(home.path());
        command.args(["broker", "--open", "--certificate", &file("cert.pem"), "--key", &file("key.pem")]);
        for listener in ["--plain", "--tls", "--ws", "--wss"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        let running = Running::spawn(command.args(arguments));
        running.out.line(" ws://");
        let tls = tls::client_config(&[own.cert.der().to_vec()], None).unwrap();
        Self { running, tls, _home: home }
    }

    fn address(&self, scheme: &str) -> SocketAddr {
        let line = self.running.out.line(&format!(" {scheme}://"));
        let url = line.split_once("://").unwrap().1;
        url.trim_end_matches("/mqtt").trim().parse().unwrap()
    }

    fn target(&self, name: &'static str, scheme: &str, with_tls: bool, websocket: bool) -> Target {
        let tls = with_tls.then(|| self.tls.clone());
        ours(name, over(self.address(scheme), tls, websocket))
    }

    pub fn over_tcp(&self, name: &'static str) -> Target {
        self.target(name, "mqtt", false, false)
    }

    pub fn over_tls(&self, name: &'static str) -> Target {
        self.target(name, "mqtts", true, false)
    }

    pub fn over_websocket(&self, name: &'static str) -> Target {
        self.target(name, "ws", false, true)
    }
}

pub fn over(address: SocketAddr, tls: Option<Arc<ClientConfig>>, websocket: bool) -> Route {
    Route { address, tls, websocket }
}

/// A broker of ours.
pub fn ours(name: &'static str, route: Route) -> Target {
    let mut places = vec![];
    places.extend(route.tls.is_some().then_some("tls"));
    places.extend(route.websocket.then_some("websocket"));
    Target { strict: true, patience: Duration::from_secs(20), places, ..target(name, route) }
}

fn target(name: &'static str, route: Route) -> Target {
    Target { name, route, places: Vec::new(), strict: false, patience: Duration::from_secs(6), sealing: None }
}

/// The version whose results are checked in.
const CONTROL: &str = "2.0.11";

pub fn mosquitto() -> Option<(Mosquitto, Target)> {
    let mosquitto = Mosquitto::with(|_| {
        "allow_anonymous true\npersistence false\nmax_queued_messages 0\nmax_keepalive 65535\n".into()
    })?;
    let log = mosquitto.log();
    if !log.contains(&format!("version {CONTROL} ")) {
        skipped(&format!("the control's results are those of mosquitto {CONTROL}"));
        return None;
    }
    let mut target = target("mosquitto", over(([127, 0, 0, 1], mosquitto.port).into(), None, false));
    target.places.extend(["foreign", "mosquitto"]);
    Some((mosquitto, target))
}

pub fn at(address: &str) -> Target {
    let address = address.to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = address.expect("CONFORM_BROKER is host:port");
    let mut target = target("the broker at CONFORM_BROKER", over(address, None, false));
    target.places.push("foreign");
    target
}
