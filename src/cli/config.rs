//! The configuration file of authority and broker, and where things are by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use smqtt::broker::EngineKind;
use smqtt::secure::MAX_STALENESS_SECONDS;
use smqtt_client::files::read_bounded;

use super::failure::Failure;

const CONFIG_BYTES_MAX: usize = 1 << 20;
/// A broker that has nothing new to hear is told so every half minute.
const STALENESS_SECONDS_MIN: u64 = 60;

/// Everything that a configuration file can say; unknown keys are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data directory; relative to the file.
    pub data: Option<PathBuf>,
    /// The key authority.
    pub authority: smqtt_keysvc::Config,
    /// The broker.
    pub broker: BrokerConfig,
}

/// The broker's part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Where MQTT over TLS listens.
    pub listen: SocketAddr,
    /// Where MQTT without TLS listens, for clients without a certificate.
    pub plain: Option<SocketAddr>,
    /// Where MQTT over WebSocket with TLS listens.
    pub wss: Option<SocketAddr>,
    /// Where MQTT over WebSocket without TLS listens.
    pub ws: Option<SocketAddr>,
    /// Web pages that may come in over WebSocket besides the broker's own and, on loopback, this machine's.
    pub ws_origins: Vec<String>,
    /// Who may come in without a certificate, and with what; relative to the file.
    pub passwords: Option<PathBuf>,
    /// Whether listeners without TLS may be reached from other machines.
    pub plain_anywhere: bool,
    /// Where metrics and health are to be had over HTTP.
    pub admin: Option<SocketAddr>,
    /// Bounds on what clients can make the broker do or keep.
    pub limits: smqtt::broker::Limits,
    /// Names and addresses of the broker's certificate, besides this machine's own.
    pub hosts: Vec<String>,
    /// What fans messages out.
    pub engine: EngineName,
    /// Whether what bridges bring passes although its publishers did not sign it.
    pub bridge_unsigned: bool,
    /// How often statistics under `$SYS/` are published; 0 for none.
    pub sys_interval_seconds: u64,
    /// How long clients are let in while the authority cannot be reached; at least 60. After four times as long the
    /// sessions on topics that must be sealed are closed as well.
    pub max_staleness_seconds: u64,
}

/// What fans messages out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// The task of whoever publishes
    #[default]
    Direct,
    /// rumqttd's router, embedded
    Rumqttd,
}

impl EngineName {
    /// As the broker calls it.
    pub fn kind(self) -> EngineKind {
        match self {
            Self::Direct => EngineKind::Direct,
            Self::Rumqttd => EngineKind::Rumqttd,
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8883).into(),
            plain: None,
            wss: None,
            ws: None,
            ws_origins: Vec::new(),
            passwords: None,
            plain_anywhere: false,
            admin: None,
            limits: Default::default(),
            hosts: Vec::new(),
            engine: EngineName::default(),
            bridge_unsigned: false,
            sys_interval_seconds: 10,
            max_staleness_seconds: MAX_STALENESS_SECONDS,
        }
    }
}

/// Where data and configuration are.
#[derive(Args, Clone)]
pub struct SiteArgs {
    /// The data directory
    #[arg(long, value_name = "DIR", env = "SMQTT_DATA")]
    pub data: Option<PathBuf>,
    /// A configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SiteArgs {
    /// The configuration and the data directory.
    pub fn load(&self) -> Result<(Config, PathBuf), Failure> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => read(path)?,
        };
        let beside = |dir: &PathBuf| match &self.config {
            Some(file) => file.parent().unwrap_or(Path::new(".")).join(dir),
            None => dir.clone(),
        };
        config.broker.passwords = config.broker.passwords.as_ref().map(beside);
        config.authority.audit_file = config.authority.audit_file.as_ref().map(beside);
        let data = match (&self.data, &config.data) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => beside(dir),
            (None, None) => home("site")?,
        };
        // Without a slash at its end: names of directories beside it are made of it.
        Ok((config, data.components().collect()))
    }
}

fn read(path: &Path) -> Result<Config, Failure> {
    let bytes = read_bounded(path, CONFIG_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::new(format!("`{}` is not a configuration", path.display())).because(&error)
    })?;
    let config: Config = toml::from_str(&text).map_err(|error| {
        Failure::new(format!("`{}` is not a configuration", path.display())).because(&error)
    })?;
    if config.broker.max_staleness_seconds < STALENESS_SECONDS_MIN {
        return Err(Failure::new(format!("`{}` is not a configuration", path.display())).hint(format!(
            "`max_staleness_seconds` is at least {STALENESS_SECONDS_MIN}: a broker hears from its authority twice a minute"
        )));
    }
    Ok(config)
}

/// `~/.local/share/smqtt/NAME`, or below `XDG_DATA_HOME`.
pub fn home(name: &str) -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("smqtt").join(name))
        .ok_or_else(|| Failure::new("neither HOME nor XDG_DATA_HOME is set").hint("give `--data` or `--dir`"))
}
