//! How an authority is set up. Every key has a default; unknown keys are refused.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pki::Host;
use crate::sink::Address;

const DAY: u64 = 86_400;
/// Longest epoch and longest life of a certificate or token.
const SECONDS_MAX: u64 = 3660 * DAY;
/// Most past epochs whose keys a device can be given.
const HISTORY_EPOCHS_MAX: u64 = 366;
/// Most files of an exported audit log.
const AUDIT_FILES_MAX: u64 = 1000;
/// Most names of the server's certificate, or of one broker's.
pub(crate) const HOSTS_MAX: usize = 32;

/// How an authority is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where HTTPS listens. The caller binds; this makes the default of `public_url`.
    pub listen: SocketAddr,
    /// Where metrics and health are to be had over HTTP. The caller binds and serves it.
    pub admin: Option<SocketAddr>,
    /// The address in tokens, `https://host:port`; `https://` and `listen` if absent.
    pub public_url: Option<String>,
    /// Names and addresses of the server's certificate, besides this machine's own.
    pub hosts: Vec<String>,
    /// Where the broker is, `mqtts://host:port`: told to whoever enrols.
    pub broker_url: Option<String>,
    /// How long an epoch lasts.
    pub epoch_seconds: u64,
    /// The keys of how many past epochs a device is given.
    pub history_epochs: u64,
    /// How long brokers go on accepting what was sealed in the previous epoch.
    pub grace_seconds: u64,
    /// How long a bundle is valid; twice the epoch, and at least a day, if absent.
    pub bundle_seconds: Option<u64>,
    /// How long certificates of devices and brokers are valid.
    pub certificate_days: u64,
    /// For how long after its expiry a certificate can still be renewed, for the same key.
    pub renewal_window_days: u64,
    /// How long a token is good for, if its maker does not say.
    pub token_ttl_seconds: u64,
    /// For how many days rows of the audit log are kept; for ever if absent.
    pub audit_days: Option<u64>,
    /// Where the audit log is exported to, and rotated; the caller makes it absolute.
    pub audit_file: Option<PathBuf>,
    /// With so many bytes it is rotated, at the next checkpoint.
    pub audit_file_bytes_max: u64,
    /// How many files there are of it at most.
    pub audit_files_max: u64,
    /// The syslog to which the audit log is sent: `unix:/dev/log`, `udp:HOST:PORT` or `tcp:HOST:PORT`.
    pub audit_syslog: Option<String>,
    /// With fewer bytes free on the disk every change is refused but for revocations and the like; 0 for never.
    pub free_bytes_min: u64,
    /// With fewer these are refused, too; not where `free_bytes_min` is 0.
    pub free_bytes_revoke_min: u64,
    /// What a connection may take.
    pub limits: Limits,
    /// How often anybody may ask.
    pub rates: Rates,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            admin: None,
            public_url: None,
            hosts: Vec::new(),
            broker_url: None,
            epoch_seconds: DAY,
            history_epochs: 7,
            grace_seconds: 600,
            bundle_seconds: None,
            certificate_days: 30,
            renewal_window_days: 30,
            token_ttl_seconds: DAY,
            audit_days: None,
            audit_file: None,
            audit_file_bytes_max: 64 << 20,
            audit_files_max: 16,
            audit_syslog: None,
            free_bytes_min: 64 << 20,
            free_bytes_revoke_min: 8 << 20,
            limits: Limits::default(),
            rates: Rates::default(),
        }
    }
}

/// What a connection may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections at a time.
    pub connections_max: usize,
    /// For the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// For the head of a request, counted from the end of the one before: also how long a connection may be silent.
    pub header_timeout_ms: u64,
    /// For the body of a request.
    pub body_timeout_ms: u64,
    /// For the work on a request, a wait for the next bundle not counted.
    pub request_timeout_ms: u64,
    /// For a peer that takes no more of an answer.
    pub write_timeout_ms: u64,
    /// For open requests when the authority stops.
    pub shutdown_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 8192,
            handshake_timeout_ms: 8_000,
            header_timeout_ms: 8_000,
            body_timeout_ms: 8_000,
            request_timeout_ms: 20_000,
            write_timeout_ms: 8_000,
            shutdown_timeout_ms: 2_000,
        }
    }
}

/// How often anybody may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// An address, of IPv6 a network of 64 bits, for requests without a credential that holds. A fleet behind one address
    /// that enrols at once comes in at this pace.
    pub address: Rate,
    /// The certificate of a device or a bridge.
    pub device: Rate,
    /// Every other certificate, and each access token: brokers, and people and programs who look after devices.
    pub trusted: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            address: Rate { per_second: 50, burst: 1000 },
            device: Rate { per_second: 5, burst: 200 },
            trusted: Rate { per_second: 200, burst: 2000 },
        }
    }
}

impl Rates {
    /// Without a limit.
    pub fn unlimited() -> Self {
        let rate = Rate { per_second: 0, burst: 1 };
        Self { address: rate, device: rate, trusted: rate }
    }
}

/// So many requests at once, and so many more with every second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What comes back in a second; 0 for no limit.
    pub per_second: u32,
    /// What can be saved up.
    pub burst: u32,
}

/// A setting that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct ConfigError {
    /// Which setting.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Config {
    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`ConfigError`] for the first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let seconds = |key, value: u64, min: u64| match value {
            value if value < min => Err(ConfigError { key, problem: format!("is {value}, less than {min}") }),
            value if value > SECONDS_MAX => {
                Err(ConfigError { key, problem: format!("is {value}, more than {SECONDS_MAX}") })
            }
            _ => Ok(()),
        };
        seconds("epoch_seconds", self.epoch_seconds, 1)?;
        seconds("grace_seconds", self.grace_seconds, 0)?;
        seconds("bundle_seconds", self.bundle_seconds(), 2)?;
        seconds("token_ttl_seconds", self.token_ttl_seconds, 1)?;
        let days = |key, days: u64, min: u64| {
            let problem = format!("is {days}: from {min} to {} is possible", SECONDS_MAX / DAY);
            if (min..=SECONDS_MAX / DAY).contains(&days) { Ok(()) } else { Err(ConfigError { key, problem }) }
        };
        days("certificate_days", self.certificate_days, 1)?;
        days("renewal_window_days", self.renewal_window_days, 0)?;
        if self.history_epochs > HISTORY_EPOCHS_MAX {
            let problem = format!("is {}, more than {HISTORY_EPOCHS_MAX}", self.history_epochs);
            return Err(ConfigError { key: "history_epochs", problem });
        }
        if !(2..=AUDIT_FILES_MAX).contains(&self.audit_files_max) {
            let problem = format!("is {}: from 2 to {AUDIT_FILES_MAX} is possible", self.audit_files_max);
            return Err(ConfigError { key: "audit_files_max", problem });
        }
        if let Some(text) = &self.audit_syslog
            && text.parse::<Address>().is_err()
        {
            let problem = format!("is `{text}`, not `unix:/PATH`, `udp:HOST:PORT` or `tcp:HOST:PORT`");
            return Err(ConfigError { key: "audit_syslog", problem });
        }
        if self.free_bytes_min > 0 && self.free_bytes_revoke_min > self.free_bytes_min {
            let problem = format!("is {}, more than `free_bytes_min`", self.free_bytes_revoke_min);
            return Err(ConfigError { key: "free_bytes_revoke_min", problem });
        }
        if self.limits.connections_max == 0 {
            return Err(ConfigError { key: "limits.connections_max", problem: "is 0".into() });
        }
        let rates = [&self.rates.address, &self.rates.device, &self.rates.trusted];
        if rates.iter().any(|rate| rate.burst == 0) {
            let problem = "has a `burst` of 0, which lets nobody in: for no limit set `per_second` to 0";
            return Err(ConfigError { key: "rates", problem: problem.into() });
        }
        if self.hosts.len() > HOSTS_MAX {
            return Err(ConfigError { key: "hosts", problem: format!("has more than {HOSTS_MAX} entries") });
        }
        for host in &self.hosts {
            Host::parse(host).ok_or_else(|| ConfigError {
                key: "hosts",
                problem: format!("has `{host}`, which is neither a host's name nor an address"),
            })?;
        }
        if let Some(url) = &self.public_url {
            check_url("public_url", url, "https://")?;
        }
        if let Some(url) = &self.broker_url {
            check_url("broker_url", url, "mqtts://")?;
        }
        Ok(())
    }

    /// The address in tokens.
    pub fn url(&self) -> String {
        let port = self.listen.port();
        match (&self.public_url, self.hosts.first()) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(host)) if self.listen.ip().is_unspecified() => match host.contains(':') {
                true => format!("https://[{host}]:{port}"),
                false => format!("https://{host}:{port}"),
            },
            (None, None) if self.listen.ip().is_unspecified() => format!("https://localhost:{port}"),
            (None, _) => format!("https://{}", self.listen),
        }
    }

    pub(crate) fn bundle_seconds(&self) -> u64 {
        self.bundle_seconds.unwrap_or_else(|| self.epoch_seconds.saturating_mul(2).clamp(DAY, SECONDS_MAX))
    }

    pub(crate) fn certificate_seconds(&self) -> u64 {
        self.certificate_days * DAY
    }

    pub(crate) fn renewal_window_seconds(&self) -> u64 {
        self.renewal_window_days * DAY
    }
}

/// Milliseconds as a duration.
pub(crate) fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn check_url(key: &'static str, url: &str, scheme: &str) -> Result<(), ConfigError> {
    let host = url.strip_prefix(scheme).map(|rest| rest.trim_end_matches('/'));
    match host {
        Some(host) if !host.is_empty() && host.len() < 256 && !host.contains(['/', '?', '#', '@', ' ']) => {
            Ok(())
        }
        _ => Err(ConfigError { key, problem: format!("is `{url}`, not `{scheme}host:port`") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let bad = [
            Config { epoch_seconds: 0, ..Config::default() },
            Config { certificate_days: 0, ..Config::default() },
            Config { history_epochs: 367, ..Config::default() },
            Config {
                rates: Rates { device: Rate { per_second: 1, burst: 0 }, ..Rates::default() },
                ..Config::default()
            },
            Config { free_bytes_min: 1, ..Config::default() },
            Config { audit_files_max: 1, ..Config::default() },
            Config { audit_syslog: Some("/dev/log".into()), ..Config::default() },
            Config { hosts: vec!["a b".into()], ..Config::default() },
            Config { public_url: Some("http://a".into()), ..Config::default() },
            Config { broker_url: Some("mqtts://".into()), ..Config::default() },
        ];
        for config in bad {
            assert!(config.check().is_err(), "{config:?}");
        }
    }

    #[test]
    fn without_a_least_of_free_space_there_is_none_for_revocations_either() {
        assert_eq!(Config { free_bytes_min: 0, ..Config::default() }.check(), Ok(()));
    }

    #[test]
    fn the_url_never_says_any_address() {
        let any = Config { listen: ([0, 0, 0, 0], 1).into(), ..Config::default() };
        assert_eq!(any.url(), "https://localhost:1");
        assert_eq!(Config { hosts: vec!["a.example".into()], ..any.clone() }.url(), "https://a.example:1");
        assert_eq!(Config { hosts: vec!["fd00::1".into()], ..any.clone() }.url(), "https://[fd00::1]:1");
        assert_eq!(Config { public_url: Some("https://b/".into()), ..any }.url(), "https://b");
        assert_eq!(Config::default().url(), "https://127.0.0.1:8443");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Config>("{}").is_ok_and(|config| config == Config::default()));
        assert!(serde_json::from_str::<Config>(r#"{"epoch": 5}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"limits": {"timeout": 5}}"#).is_err());
    }
}
