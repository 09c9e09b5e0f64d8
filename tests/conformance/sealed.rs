//! A site of authority and broker where what the scripts publish must be sealed, and a device that seals and opens it.

use std::sync::{Arc, Mutex};

use smqtt_client::keyring::Keyring;
use smqtt_client::opener::{Opener, Outcome};
use smqtt_client::replay::Replay;
use smqtt_client::sealer::{Outgoing, Sealer, Wish};
use smqtt_client::{system_now, tls};

use super::brokers::{ours, over};
use super::run::{Sealing, TOPIC_ROOT, Target};
use crate::common::TempDir;
use crate::common::site::{Site, address};

/// `smqtt up` with a rule on all topics of the scripts, and one device that all clients are.
pub struct Sealed {
    site: Site,
    device: Arc<Device>,
}

struct Device {
    keyring: Keyring,
    sealer: Mutex<Sealer>,
    opener: Mutex<Opener>,
}

impl Sealed {
    pub fn start() -> Self {
        let dir = TempDir::new();
        let config = dir.path().join("site.toml");
        // A broker with an authority names no keep alive of its own, unless it is told to.
        let text = "[broker]\nwss = \"127.0.0.1:0\"\n[broker.limits]\nserver_keep_alive_seconds = 60\n";
        std::fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let site =
            Site::with(&["--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--config", &config]);
        site.rule_set(&format!("{TOPIC_ROOT}#"), &["--policy", "role=conform"]);
        let device = site.enrol("conform", &["role=conform"]);
        let keyring = Keyring::load(&device.dir).unwrap();
        let opener = Opener::with(Replay::in_memory());
        let device = Device { keyring, sealer: Mutex::default(), opener: Mutex::new(opener) };
        Self { site, device: Arc::new(device) }
    }

    /// Over TLS, with the device's certificate.
    pub fn over_tls(&self) -> Target {
        self.target("ours, sealed, over TLS", address(&self.site.up.broker), false)
    }

    /// Over WebSocket with TLS.
    pub fn over_websocket(&self) -> Target {
        let line = self.site.up.running.out.line(" wss://");
        let url = line.split_whitespace().nth(1).unwrap();
        self.target("ours, sealed, over WebSocket", address(url).trim_end_matches("/mqtt"), true)
    }

    fn target(&self, name: &'static str, address: &str, websocket: bool) -> Target {
        let signer = self.device.keyring.signer();
        let (certificate, key) = (signer.certificate(), signer.key().expose_pkcs8());
        let config = tls::client_config(self.device.keyring.roots(), Some((certificate, key))).unwrap();
        let mut target = ours(name, over(address.parse().unwrap(), Some(config), websocket));
        target.places.push("sealed");
        target.sealing = Some(self.device.clone());
        target
    }
}

impl Sealing for Device {
    fn seal(&self, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        // What is no topic is not let through, sealed or not.
        let Ok(topic) = std::str::from_utf8(topic) else { return payload.to_vec() };
        let mut sealer = self.sealer.lock().unwrap();
        match sealer.seal(&self.keyring, topic, payload, Wish::Rule, system_now()) {
            Ok(Outgoing::Sealed(sealed)) => sealed.full(),
            Ok(Outgoing::Plain(_)) => panic!("the rule is to be on {topic}"),
            Err(_) => payload.to_vec(),
        }
    }

    /// As often as it comes: scripts say what may come twice.
    fn open(&self, topic: &[u8], payload: &[u8]) -> Result<Vec<u8>, String> {
        let topic = std::str::from_utf8(topic).map_err(|error| error.to_string())?;
        let mut opener = self.opener.lock().unwrap();
        match opener.open(&self.keyring, topic, payload, true, system_now()) {
            Outcome::Opened(opened) => Ok(opened.payload),
            other => Err(format!("what came on {topic} does not open: {other:?}")),
        }
    }
}
