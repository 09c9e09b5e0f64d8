//! What both demos stand on: authority and broker as `smqtt up` runs them, and devices enrolled over HTTPS.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use smqtt_client::authority::Authority;
use smqtt_client::enrol::enrol;
use smqtt_client::keyring::SharedKeyring;
use smqtt_client::mqtt::{self, Client, Delivery, Inbox, Options, QoS};
use smqtt_core::api::{NewToken, Rule, RuleSet, TokenRequest};
use smqtt_core::token::Token;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::caller::administrator;
use crate::cli::failure::Failure;
use crate::cli::publish::{CONNECT_TRIES, not_connected};

/// How long a message may take from publisher to reader.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// A running authority and broker in a temporary directory that goes when this does.
pub struct Site {
    dir: PathBuf,
    up: Child,
    authority: Authority,
}

/// A device that is enrolled and connected.
pub struct Device {
    pub name: String,
    pub client: Client,
    pub inbox: Inbox,
}

/// Says what is going on.
pub fn step(text: &str) {
    eprintln!("· {text}");
}

impl Site {
    /// Starts `smqtt up` on free loopback ports.
    pub async fn start() -> Result<Self, Failure> {
        let random: [u8; 8] = smqtt_core::crypto::random();
        let name = format!("smqtt-demo-{:016x}", u64::from_be_bytes(random));
        let dir = std::env::temp_dir().join(name);
        smqtt_client::files::private_dir(&dir)?;
        step(&format!("starting authority and broker in {}", dir.display()));
        let failed = |error: &std::io::Error| Failure::new("cannot start `smqtt up`").because(error);
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        let data = dir.join("site");
        let mut up = Command::new(program)
            .args(["up", "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0", "--data"])
            .arg(&data)
            .env("SMQTT_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(&e))?;
        let ended = || Failure::new("`smqtt up` did not start");
        let mut lines = BufReader::new(up.stdout.take().ok_or_else(ended)?).lines();
        loop {
            let line = lines.next_line().await.ok().flatten().ok_or_else(ended)?;
            let line = line.trim_end();
            if line.starts_with("authority") || line.starts_with("broker") || line.starts_with("fingerprint")
            {
                step(line);
            }
            if line.starts_with("next:") {
                break;
            }
        }
        // The rest of its output has nowhere else to go.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let authority = administrator(&data)?;
        Ok(Self { dir, up, authority })
    }

    /// Requires messages on `filter` to be sealed under `policy`.
    pub async fn rule(&self, filter: &str, policy: &str) -> Result<(), Failure> {
        let rule = Rule {
            filter: filter.into(),
            mode: "required".into(),
            policy: Some(policy.into()),
            labels: None,
            publishers: None,
            subscribers: None,
        };
        let _: RuleSet = self.authority.put("/v1/rules", &rule).await?;
        step(&format!("rule: what is published on {filter} must be sealed under {policy}"));
        Ok(())
    }

    /// Makes a token, enrols with it over HTTPS, connects over TLS.
    pub async fn device(&self, name: &str, attributes: &[&str]) -> Result<Device, Failure> {
        let request = TokenRequest {
            name: name.into(),
            attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
            ttl_seconds: Some(300),
            ..TokenRequest::default()
        };
        let token: NewToken = self.authority.post("/v1/tokens", &request).await?;
        let token = Token::parse(&token.token).map_err(|e| Failure::new("the token").because(&e))?;
        let keyring = enrol(&token, &self.dir.join(name), smqtt_client::system_now()).await?;
        let listed = if attributes.is_empty() { "no attributes".into() } else { attributes.join(", ") };
        step(&format!("enrolled {name} over HTTPS: {listed}"));
        let options = Options { client_id: Some(name.into()), ..Options::default() };
        let (client, inbox) = mqtt::connect(SharedKeyring::new(keyring), &options)?;
        client.connected(CONNECT_TRIES).await.map_err(not_connected)?;
        Ok(Device { name: name.into(), client, inbox })
    }

    /// Stops both processes and takes the directory away.
    pub async fn stop(mut self) -> Result<(), Failure> {
        step("stopping");
        let failed = |error: &dyn std::error::Error| Failure::new("cannot stop `smqtt up`").because(error);
        // Gone, the parent takes the broker with it; nothing here is worth keeping.
        self.up.kill().await.map_err(|e| failed(&e))?;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.up.start_kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Device {
    /// Subscribes to `filter`.
    pub async fn subscribe(&self, filter: &str) -> Result<(), Failure> {
        Ok(self.client.subscribe(filter, QoS::AtLeastOnce).await?)
    }

    /// The next message, opened or not.
    pub async fn next(&mut self) -> Result<Delivery, Failure> {
        let late = || Failure::new(format!("{} waited in vain for a message", self.name));
        let delivery = tokio::time::timeout(DELIVERY_TIMEOUT, self.inbox.next()).await;
        let delivery = delivery.ok().flatten().ok_or_else(late)?;
        self.inbox.acknowledge(&delivery).await?;
        Ok(delivery)
    }
}
