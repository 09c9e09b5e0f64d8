//! `smqtt broker`: a broker alone, of an authority or of nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use smqtt::admin::Admin;
use smqtt::broker::{Broker, BrokerError, BrokerHandle, Hook, TlsSettings};
use smqtt::passwords::Passwords;
use smqtt::secure::{HeaderLimits, SecurePublish, View};
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::tls::provider;
use tokio::io::AsyncReadExt;

use super::authority::stop_signal;
use super::broker_explain::{self, BrokerExplainArgs};
use super::config::{BrokerConfig, EngineName, SiteArgs};
use super::failure::Failure;
use super::files;
use super::listeners::ListenerArgs;
use super::monitor::{AdminArgs, LogArgs};
use super::password::{self, PasswordArgs};
use super::refused_filters::RefusedFiltersArgs;
use super::reload::{Watched, watch};
use super::tls::TlsArgs;

/// How long a broker that starts waits for the authority's news: who was revoked meanwhile is to leave nothing behind.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(3);

/// Keep alive that an open broker tells MQTT 5.0 clients which ask for a longer one, if its configuration names none. Clients of
/// a broker with an authority keep what they ask for: some run on batteries.
const OPEN_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// [`smqtt_client::system_now`] as of the system's last tick, some milliseconds ago at most: it is asked for every sealed
/// message, and costs a tenth.
fn coarse_now() -> u64 {
    #[cfg(target_os = "linux")]
    return u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec)
        .unwrap_or(0);
    #[cfg(not(target_os = "linux"))]
    smqtt_client::system_now()
}

/// Arguments of `smqtt broker`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BrokerArgs {
    #[command(subcommand)]
    command: Option<BrokerCommand>,
    #[command(flatten)]
    site: SiteArgs,
    /// The broker's keyring, from `smqtt enrol` with a token made with `--broker`
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    listeners: ListenerArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Clients without a certificate need a name and a password or token of this file; see `smqtt broker password --help`
    #[arg(long, value_name = "FILE")]
    passwords: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
    /// An ordinary broker: no authority, no rules, whoever connects is let in. It listens only where it is told to, and
    /// forgets everything at its end without `--data`
    #[arg(long, conflicts_with = "dir")]
    open: bool,
    #[command(flatten)]
    refused_filters: RefusedFiltersArgs,
    /// What fans messages out [default: direct]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineName>,
    /// Time between statistics under `$SYS`; 0 for none [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    sys_interval: Option<u64>,
    /// Let pass what bridges bring and its publishers did not sign: whoever reads it on the other side can then forge it
    #[arg(long, conflicts_with = "open")]
    bridge_unsigned: bool,
    /// End when standard input does
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// What else there is to do for a broker.
#[derive(Subcommand)]
enum BrokerCommand {
    /// Make or change a line of the file that `--passwords` lets in
    Password(PasswordArgs),
    /// Say whether a client may publish or subscribe, and why
    Explain(BrokerExplainArgs),
}

/// Runs until Ctrl-C.
pub async fn run(args: &BrokerArgs) -> Result<(), Failure> {
    match &args.command {
        Some(BrokerCommand::Password(args)) => return password::run(args),
        Some(BrokerCommand::Explain(args)) => return broker_explain::run(args).await,
        None => {}
    }
    let (config, data) = args.site.load()?;
    files::raise_max(config.broker.limits.connections_max);
    let stop = async {
        tokio::select! {
            () = stop_signal() => {}
            () = stdin_end(), if args.until_stdin_ends => {}
        }
    };
    if args.open {
        return run_open(args, &config.broker, stop).await;
    }
    let dir = args.dir.clone().unwrap_or_else(|| data.join("broker"));
    let keyring = SharedKeyring::new(load(&dir)?);
    let listeners = args.listeners.bind(&config.broker, true).await?;
    let monitor = args.admin.bind(config.broker.admin).await?;
    let view = View::new(keyring.clone(), coarse_now);
    let unsigned = args.bridge_unsigned || config.broker.bridge_unsigned;
    let hook = SecurePublish::new(view, listeners.without_certificates())
        .header_limits(HeaderLimits::from(&config.broker.limits))
        .unsigned_over_bridges(unsigned)
        .max_staleness(config.broker.max_staleness_seconds);
    hook.catch_up(CATCH_UP_PATIENCE).await;
    let tls = TlsSettings::from(tls_config(&keyring)?);
    let passwords = passwords(args, &config.broker)?;
    let mut hooks: Vec<Box<dyn Hook>> = vec![Box::new(hook.clone())];
    hooks.extend(passwords.iter().map(|(_, hook)| Box::new(hook.clone()) as Box<dyn Hook>));
    let mut broker = start(args, &config.broker, hooks, Some(dir.join("state")))?;
    let watched = passwords.map(|passwords| watch_passwords(passwords, &broker.handle()));
    let admin = hook.shown_on(Admin::new(broker.handle()), &broker.handle());
    let _monitoring = monitor.serve(admin, Some(&dir), "")?;
    listeners.serve(&mut broker, Some(&tls))?;

    let renewed = move || match tls_config(&keyring) {
        Ok(config) => tls.replace(config),
        Err(failure) => drop(failure.report()),
    };
    let following = tokio::spawn(hook.follow(broker.handle(), renewed));
    let watching = tokio::spawn(watch(watched.into_iter().collect()));
    broker.run(stop).await;
    following.abort();
    watching.abort();
    Ok(())
}

/// An ordinary broker.
async fn run_open(
    args: &BrokerArgs,
    config: &BrokerConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let listeners = args.listeners.bind(config, false).await?;
    let monitor = args.admin.bind(config.admin).await?;
    let mut watched = Vec::new();
    let tls = match args.tls.files() {
        Some(files) => {
            let settings = TlsSettings::from(files.load()?);
            let current = settings.clone();
            watched.push(Watched::new(files.paths(), move || {
                current.replace(files.load()?);
                Ok(())
            }));
            Some(settings)
        }
        None if listeners.with_tls() => {
            return Err(Failure::new("TLS needs a certificate")
                .hint("say `--certificate FILE --key FILE`, or leave `--tls` and `--wss` away")
                .code(2));
        }
        None => None,
    };
    let passwords = passwords(args, config)?;
    if passwords.is_none() && listeners.let_strangers_in(args.tls.wants_client_certificate()) {
        tracing::warn!("WHOEVER REACHES THIS BROKER MAY PUBLISH AND READ EVERYTHING: see `--passwords`");
    }
    let passwords_hook = passwords.iter().map(|(_, hook)| Box::new(hook.clone()) as Box<dyn Hook>);
    let hooks = passwords_hook.chain(args.refused_filters.hook());
    let data = args.site.data.as_deref();
    let mut broker = start(args, config, hooks.collect(), data.map(|data| data.join("state")))?;
    watched.extend(passwords.map(|passwords| watch_passwords(passwords, &broker.handle())));
    // An open broker is often one of many that come and go: it is looked into only where that is asked for.
    let dir = data.filter(|_| monitor.is_there());
    let _monitoring = monitor.serve(Admin::new(broker.handle()), dir, "")?;
    listeners.serve(&mut broker, tls.as_ref())?;
    let watching = tokio::spawn(watch(watched));
    broker.run(stop).await;
    watching.abort();
    Ok(())
}

/// The file of names and passwords, and the hook that lets them in.
fn passwords(args: &BrokerArgs, config: &BrokerConfig) -> Result<Option<(PathBuf, Passwords)>, Failure> {
    let Some(file) = args.passwords.clone().or(config.passwords.clone()) else { return Ok(None) };
    let passwords = Passwords::with_limits(password::load(&file)?, &config.limits);
    Ok(Some((file, passwords)))
}

/// Has the file read again when it changes. Whoever went while no broker ran is forgotten now.
fn watch_passwords((file, passwords): (PathBuf, Passwords), broker: &BrokerHandle) -> Watched {
    passwords.forget_strangers(broker);
    let broker = broker.clone();
    Watched::new(vec![file.clone()], move || {
        passwords.replace(password::load(&file)?, &broker);
        Ok(())
    })
}

fn start(
    args: &BrokerArgs,
    site: &BrokerConfig,
    hooks: Vec<Box<dyn Hook>>,
    data: Option<PathBuf>,
) -> Result<Broker, Failure> {
    let mut config = smqtt::broker::Config::default();
    config.limits = site.limits.clone();
    if args.open {
        config.limits.server_keep_alive.get_or_insert(OPEN_KEEP_ALIVE);
    }
    if data.is_none() {
        tracing::warn!("without `--data`, sessions and retained messages end with the process");
    }
    config.data = data;
    config.engine = args.engine.unwrap_or(site.engine).kind();
    let sys_interval = Duration::from_secs(args.sys_interval.unwrap_or(site.sys_interval_seconds));
    config.sys_interval = (!sys_interval.is_zero()).then_some(sys_interval);
    Broker::new(config, hooks).map_err(|error| {
        let failure = Failure::new("cannot start the broker").because(&error);
        match &error {
            BrokerError::Store(error) => failure.hint(error.hint()),
            _ => failure,
        }
    })
}

/// A broker's keyring.
pub fn load(dir: &Path) -> Result<Keyring, Failure> {
    let keyring = Keyring::load(dir)?;
    if keyring.place().role != "broker" {
        let hint = "make a token with `smqtt token new NAME --broker`, and enrol with it";
        return Err(Failure::new(format!("`{}` is a device's keyring", dir.display())).hint(hint));
    }
    Ok(keyring)
}

/// TLS as the broker of this keyring: clients need a certificate of the authority.
fn tls_config(keyring: &SharedKeyring) -> Result<Arc<ServerConfig>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new("cannot set up TLS").because(error);
    let (certificate, key, trusted, rest) = keyring.with(|k| {
        let signer = k.signer();
        let key = signer.key().expose_pkcs8().to_vec();
        (signer.certificate().to_vec(), key, k.roots().to_vec(), k.chain())
    });
    let mut roots = rustls::RootCertStore::empty();
    for root in trusted {
        roots.add(CertificateDer::from(root)).map_err(|e| failed(&e))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    // Whoever knows but an older root follows the links.
    let chain = std::iter::once(certificate).chain(rest).map(CertificateDer::from).collect();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed(&e))?;
    Ok(Arc::new(config))
}

/// Ends when standard input does: the parent is gone.
pub async fn stdin_end() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}
