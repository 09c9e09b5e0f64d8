//! `smqtt bridge`: carries messages between a broker of ours and any other.

use std::path::{Path, PathBuf};

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use smqtt::bridge::{self, BridgeError, Config, Endpoint, Route, Security};
use smqtt::mqtt::{QoS, Version, topic_is_valid};
use smqtt_client::authority::split_url;
use smqtt_client::files::read_bounded;
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_core::topic::Filter;
use zeroize::Zeroizing;

use super::authority::stop_signal;
use super::failure::Failure;
use super::{KeyringArgs, print_line};

/// Most bytes of a configuration, a password or a key.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a file of roots; that of a whole system fits.
const ROOTS_BYTES_MAX: usize = 4 << 20;
/// Where a password may stand besides a file.
const PASSWORD_VARIABLE: &str = "SMQTT_REMOTE_PASSWORD";
/// How long the brokers keep the sessions while the bridge is away: a week.
const SESSION_EXPIRY_SECONDS: u32 = 7 * 86_400;
/// Keep alive towards both.
const KEEP_ALIVE_SECONDS: u16 = 60;

/// Arguments of `smqtt bridge`.
#[derive(Args)]
pub struct BridgeArgs {
    #[command(flatten)]
    keyring: KeyringArgs,
    /// The other broker: mqtt://host:port or mqtts://host:port
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// User name there. The password comes from a file, or from the environment as SMQTT_REMOTE_PASSWORD
    #[arg(long, value_name = "NAME")]
    remote_user: Option<String>,
    /// A file that holds the password there
    #[arg(long, value_name = "FILE")]
    remote_password_file: Option<PathBuf>,
    /// Roots that vouch for it (PEM); without, a broker of the same authority is expected behind mqtts://
    #[arg(long, value_name = "FILE")]
    remote_ca: Option<PathBuf>,
    /// The certificate to show there (PEM), with `--remote-ca`
    #[arg(long, value_name = "FILE", requires_all = ["remote_key", "remote_ca"])]
    remote_certificate: Option<PathBuf>,
    /// Its key (PKCS #8, PEM)
    #[arg(long, value_name = "FILE", requires = "remote_certificate")]
    remote_key: Option<PathBuf>,
    /// What messages that were there are marked with, so that no other bridge takes them back: the same at each bridge
    /// to that broker [default: its host and port]
    #[arg(long, value_name = "NAME")]
    remote_name: Option<String>,
    /// Speak this version of MQTT there: 5 or 3.1.1 [default: 5, or else 3.1.1]
    #[arg(long, value_name = "VERSION", value_parser = ["5", "3.1.1"])]
    remote_version: Option<String>,
    /// Our broker, instead of the one that the authority names: mqtts://host:port
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Carry this topic filter from our broker to the other; may be repeated
    #[arg(long = "out", value_name = "FILTER")]
    out: Vec<String>,
    /// Carry this topic filter from the other broker to ours; may be repeated
    #[arg(long = "in", value_name = "FILTER")]
    inward: Vec<String>,
    /// Put this in front of topics that go out, such as `site-a/`. For plain messages: sealed ones keep their topic
    #[arg(long, value_name = "LEVELS")]
    out_prefix: Option<String>,
    /// Put this in front of topics that come in
    #[arg(long, value_name = "LEVELS")]
    in_prefix: Option<String>,
    /// Quality of service, 0 or 1, of filters given here. QoS 2 is carried as QoS 1
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Client id at both brokers; of ours it must be the bridge's name, a slash and anything
    #[arg(short = 'i', long, value_name = "ID")]
    id: Option<String>,
    /// A configuration file (TOML), which can say all of this
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The configuration file; unknown keys are refused. Paths are relative to it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    dir: Option<PathBuf>,
    remote: Option<String>,
    remote_user: Option<String>,
    remote_password_file: Option<PathBuf>,
    remote_ca: Option<PathBuf>,
    remote_certificate: Option<PathBuf>,
    remote_key: Option<PathBuf>,
    remote_name: Option<String>,
    remote_version: Option<String>,
    broker: Option<String>,
    id: Option<String>,
    session_expiry_seconds: Option<u32>,
    keep_alive_seconds: Option<u16>,
    out: Vec<FileRoute>,
    #[serde(rename = "in")]
    inward: Vec<FileRoute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRoute {
    filter: String,
    #[serde(default)]
    prefix: String,
    #[serde(default = "one")]
    qos: u8,
}

fn one() -> u8 {
    1
}

impl From<BridgeError> for Failure {
    fn from(error: BridgeError) -> Self {
        let failure = Self::new(error.to_string()).because(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Runs until Ctrl-C.
pub async fn run(args: &BridgeArgs) -> Result<(), Failure> {
    let file = match &args.config {
        None => File::default(),
        Some(path) => read_file(path)?,
    };
    let dir = match (&args.keyring.dir, &file.dir) {
        (None, Some(dir)) => dir.clone(),
        _ => args.keyring.dir()?,
    };
    let keyring = Keyring::load(&dir)?;
    if keyring.place().role != "bridge" {
        let hint = "make a token with `smqtt token new NAME --bridge`, and enrol with it";
        return Err(Failure::new(format!("`{}` is not a bridge's keyring", dir.display())).hint(hint));
    }
    let config = config(args, file, &keyring)?;
    let (local, remote) = (&config.local, &config.remote);
    let stopped = stop_signal();
    print_line(format!("bridge       {}", keyring.place().name))?;
    print_line(format!("local        {}:{} as {}", local.host, local.port, local.client_id))?;
    print_line(format!("remote       {}:{} as {}", remote.host, remote.port, remote.client_id))?;
    for (word, routes) in [("out", &config.out), ("in", &config.inward)] {
        for route in routes {
            print_line(format!("{word:<12} {} -> {}{}", route.filter, route.prefix, route.filter))?;
        }
    }
    Ok(bridge::run(config, SharedKeyring::new(keyring), stopped).await?)
}

fn read_file(path: &Path) -> Result<File, Failure> {
    let bad = |error: &dyn std::error::Error| {
        Failure::new(format!("`{}` is not the configuration of a bridge", path.display())).because(error)
    };
    let text = String::from_utf8(read_bounded(path, FILE_BYTES_MAX)?).map_err(|error| bad(&error))?;
    let mut file: File = toml::from_str(&text).map_err(|error| bad(&error))?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let File { dir, remote_password_file, remote_ca, remote_certificate, remote_key, .. } = &mut file;
    for path in [dir, remote_password_file, remote_ca, remote_certificate, remote_key].into_iter().flatten() {
        *path = beside.join(&*path);
    }
    Ok(file)
}

fn config(args: &BridgeArgs, file: File, keyring: &Keyring) -> Result<Config, Failure> {
    let or = |given: &Option<String>, written: Option<String>| given.clone().or(written);
    let or_path = |given: &Option<PathBuf>, written: Option<PathBuf>| given.clone().or(written);
    let place = keyring.place();
    let ours = or(&args.broker, file.broker).or(place.broker.clone()).ok_or_else(|| {
        Failure::new("the authority does not know where our broker is")
            .hint("give `--broker mqtts://host:port`")
    })?;
    let theirs = or(&args.remote, file.remote).ok_or_else(|| {
        Failure::new("nobody said where the other broker is").hint("give `--remote mqtt://host:port`")
    })?;
    let (local_host, local_port, encrypted) = split(&ours)?;
    if !encrypted {
        let hint = "the bridge shows its certificate there: give `--broker mqtts://host:port`";
        return Err(Failure::new("our broker must be reached over TLS").hint(hint));
    }
    let (host, port, encrypted) = split(&theirs)?;
    let remote_name = or(&args.remote_name, file.remote_name).unwrap_or_else(|| format!("{host}:{port}"));
    let ca = or_path(&args.remote_ca, file.remote_ca);
    let certificate = or_path(&args.remote_certificate, file.remote_certificate);
    let key = or_path(&args.remote_key, file.remote_key);
    let security = match (encrypted, ca) {
        (false, None) => Security::None,
        (false, Some(_)) => {
            return Err(Failure::new("`--remote-ca` without TLS").hint("give `--remote mqtts://host:port`"));
        }
        (true, None) => Security::Keyring,
        (true, Some(ca)) => Security::Roots(roots(&ca)?, certificate.zip(key).map(identity).transpose()?),
    };
    let version = match or(&args.remote_version, file.remote_version).as_deref() {
        None => None,
        Some("5") => Some(Version::V5),
        Some("3.1.1") => Some(Version::V3),
        Some(other) => {
            return Err(Failure::new(format!("`{other}` is not a version of MQTT")).hint("it is 5 or 3.1.1"));
        }
    };
    let user_name = or(&args.remote_user, file.remote_user);
    let password = password(or_path(&args.remote_password_file, file.remote_password_file).as_deref())?;
    if password.is_some() && user_name.is_none() {
        return Err(Failure::new("a password without a user name").hint("give `--remote-user NAME`"));
    }
    let client_id =
        or(&args.id, file.id).unwrap_or_else(|| format!("{}/{}", place.name, remote_name.replace('/', "-")));
    let local = Endpoint {
        host: local_host,
        port: local_port,
        security: Security::Keyring,
        client_id: client_id.clone(),
        user_name: None,
        password: None,
        version: Some(Version::V5),
        session_expiry_seconds: file.session_expiry_seconds.unwrap_or(SESSION_EXPIRY_SECONDS),
        keep_alive_seconds: file.keep_alive_seconds.unwrap_or(KEEP_ALIVE_SECONDS),
    };
    let remote = Endpoint { host, port, security, user_name, password, version, ..local.clone() };
    let given = |filters: &[String], prefix: &Option<String>| -> Vec<FileRoute> {
        let route = |filter: &String| FileRoute {
            filter: filter.clone(),
            prefix: prefix.clone().unwrap_or_default(),
            qos: args.qos,
        };
        filters.iter().map(route).collect()
    };
    let routes = |written: Vec<FileRoute>, given: Vec<FileRoute>| {
        written.into_iter().chain(given).map(route).collect::<Result<Vec<_>, _>>()
    };
    Ok(Config {
        local,
        remote,
        out: routes(file.out, given(&args.out, &args.out_prefix))?,
        inward: routes(file.inward, given(&args.inward, &args.in_prefix))?,
        remote_name,
    })
}

/// Host, port and whether it is TLS.
fn split(url: &str) -> Result<(String, u16, bool), Failure> {
    let tls = split_url(url, "mqtts://", 8883).map(|(host, port)| (host, port, true));
    let plain = || split_url(url, "mqtt://", 1883).map(|(host, port)| (host, port, false));
    tls.or_else(plain).ok_or_else(|| {
        Failure::new(format!("`{url}` is not the address of a broker")).hint("it looks like mqtt://host:port")
    })
}

fn route(written: FileRoute) -> Result<Route, Failure> {
    let FileRoute { filter, prefix, qos } = written;
    let bad = |why: &str| Failure::new(format!("`{filter}`: {why}"));
    let parsed: Filter = filter.parse().map_err(|error| bad("not a topic filter").because(&error))?;
    if filter.starts_with("$share/") {
        return Err(bad("a bridge does not share its subscriptions").hint("leave `$share/GROUP/` away"));
    }
    let levels = topic_is_valid(&prefix) && prefix.ends_with('/');
    if !prefix.is_empty() && !levels {
        return Err(bad("a prefix is one or more levels and ends with a slash").hint("such as `site-a/`"));
    }
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => return Err(bad("a bridge carries QoS 0 or 1").hint("QoS 2 is carried as QoS 1: say `qos = 1`")),
    };
    Ok(Route { filter: parsed, prefix, qos })
}

/// From a file, of which it is the first line, or else from the environment.
fn password(file: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let Some(file) = file else {
        let set = std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty());
        return Ok(set.map(|password| Zeroizing::new(password.into_bytes())));
    };
    let bytes = Zeroizing::new(read_bounded(file, FILE_BYTES_MAX)?);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::new(format!("`{}` holds no password", file.display())));
    }
    Ok(Some(Zeroizing::new(line.to_vec())))
}

fn roots(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let none = || Failure::new(format!("`{}` holds no certificate", path.display()));
    let pem = read_bounded(path, ROOTS_BYTES_MAX)?;
    let ders = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|_| none())?;
    if ders.is_empty() {
        return Err(none());
    }
    Ok(ders.into_iter().map(|der| der.to_vec()).collect())
}

fn identity((certificate, key): (PathBuf, PathBuf)) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Failure> {
    let der = roots(&certificate)?.swap_remove(0);
    let pem = Zeroizing::new(read_bounded(&key, FILE_BYTES_MAX)?);
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(PrivateKeyDer::Pkcs8(key)) => Ok((der, Zeroizing::new(key.secret_pkcs8_der().to_vec()))),
        _ => Err(Failure::new(format!("`{}` holds no key", key.display()))
            .hint("PKCS #8 is needed: it begins with `BEGIN PRIVATE KEY`")),
    }
}
