//! `smqtt up`: authority and broker, one command, two processes.
//!
//! This process is the authority. The broker is a child of its own, with a directory and keys of its own, which faces the
//! network without the master secret key in reach; it ends with its parent, however that ends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use clap::Args;
use smqtt_client::enrol::enrol;
use smqtt_client::keyring::{Keyring, KeyringError};
use smqtt_core::api::{NewToken, TokenRequest};
use smqtt_core::token::Token;
use smqtt_keysvc::Authority;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::authority::{self, stop_signal};
use super::caller::administrator;
use super::config::{BrokerConfig, SiteArgs};
use super::custodian::CustodianArgs;
use super::failure::Failure;
use super::monitor::{LogArgs, Monitor};
use super::print_line;

/// Arguments of `smqtt up`.
#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Where the authority listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    authority: Option<SocketAddr>,
    /// Where the broker listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    broker: Option<SocketAddr>,
    /// Where the broker listens without TLS, for clients without a certificate; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    plain: Option<SocketAddr>,
    /// Where the broker's metrics and health are to be had over HTTP; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Where those of the authority are; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    authority_admin: Option<SocketAddr>,
    #[command(flatten)]
    custodian: CustodianArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// Runs until Ctrl-C.
pub async fn run(args: &UpArgs) -> Result<(), Failure> {
    let (mut config, data) = args.site.load()?;
    config.authority.listen = args.authority.unwrap_or(config.authority.listen);
    config.broker.listen = args.broker.unwrap_or(config.broker.listen);
    config.broker.plain = args.plain.or(config.broker.plain);
    config.broker.admin = args.admin.or(config.broker.admin);
    let monitor = Monitor::bind(args.authority_admin.or(config.authority.admin), false).await?;
    let (listener, authority) = authority::open(&mut config, &data, &args.custodian).await?;
    if config.authority.broker_url.is_none() && config.broker.listen.port() != 0 {
        authority.set_broker_url(broker_url(&config.broker, config.broker.listen));
    }
    let mut monitoring = monitor.serve(authority::admin(&authority), Some(&data), " (authority)")?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(smqtt_keysvc::serve(authority.clone(), listener, async {
        let _ = stopped.await;
    }));
    let working = async {
        enrol_broker(&data, &config.broker).await?;
        let mut broker = start_broker(&data, &config.broker, args)?;
        let addresses = wait_ready(&mut broker, &config.broker).await?;
        if config.authority.broker_url.is_none() {
            authority.set_broker_url(broker_url(&config.broker, addresses.tls));
        }
        print_summary(&authority, &addresses, &data)?;
        Ok(broker)
    };
    let result = tokio::select! {
        started = working => match started {
            Ok(broker) => watch(broker, &mut serving).await,
            Err(failure) => Err(failure),
        },
        () = stop_signal() => Ok(()),
    };
    let _ = stop.send(());
    if !serving.is_finished() {
        let _ = serving.await;
    }
    // Its socket file goes with it.
    monitoring.shutdown().await;
    result
}

/// Until Ctrl-C, or until one of the two ends by itself.
async fn watch(
    mut broker: Child,
    serving: &mut tokio::task::JoinHandle<Result<(), smqtt_keysvc::OpenError>>,
) -> Result<(), Failure> {
    // Waiting for a child closes its input; this one ends when that does.
    let lifeline = broker.stdin.take();
    tokio::select! {
        () = stop_signal() => {
            // The child reads the end of its input, and takes leave of its clients.
            drop(lifeline);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), broker.wait()).await;
            Ok(())
        }
        status = broker.wait() => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Failure::new(format!("the broker ended by itself: {status}")).hint("its last lines say why"))
        }
        served = serving => match served {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(Failure::new("the authority ended by itself")),
        },
    }
}

struct Addresses {
    tls: SocketAddr,
    /// Of all listeners, the one with TLS first.
    urls: Vec<String>,
    /// Where its metrics are.
    admin: Option<String>,
}

/// The broker's keys are made in its own directory; the token goes through memory alone.
async fn enrol_broker(data: &Path, config: &BrokerConfig) -> Result<(), Failure> {
    let dir = data.join("broker");
    match Keyring::load(&dir) {
        Ok(_) => return Ok(()),
        Err(KeyringError::NotEnrolled(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let request = TokenRequest {
        name: "broker".into(),
        role: "broker".into(),
        ttl_seconds: Some(600),
        hosts: config.hosts.clone(),
        ..TokenRequest::default()
    };
    let answer: NewToken = administrator(data)?.create("/v1/tokens", &request).await?;
    let token = Token::parse(&answer.token).map_err(|e| Failure::new("the authority's token").because(&e))?;
    enrol(&token, &dir, smqtt_client::system_now()).await?;
    Ok(())
}

fn start_broker(data: &Path, config: &BrokerConfig, args: &UpArgs) -> Result<Child, Failure> {
    let failed = |error: &std::io::Error| Failure::new("cannot start the broker's process").because(error);
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let mut command = Command::new(program);
    command.arg("broker").arg("--dir").arg(data.join("broker"));
    command.arg("--listen").arg(config.listen.to_string()).arg("--until-stdin-ends");
    let listeners =
        [("--plain", config.plain), ("--wss", config.wss), ("--ws", config.ws), ("--admin", config.admin)];
    for (option, address) in listeners {
        if let Some(address) = address {
            command.arg(option).arg(address.to_string());
        }
    }
    for origin in &config.ws_origins {
        command.arg(format!("--ws-origin={origin}"));
    }
    if let Some(passwords) = &config.passwords {
        command.arg("--passwords").arg(passwords);
    }
    if config.plain_anywhere {
        command.arg("--plain-anywhere");
    }
    if config.bridge_unsigned {
        command.arg("--bridge-unsigned");
    }
    if let Some(file) = &args.site.config {
        // What has no argument: limits.
        command.arg("--config").arg(file);
    }
    command.arg(args.log.argument());
    // A Ctrl-C in the terminal is for the parent, which then tells the child.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map_err(|e| failed(&e))
}

/// Reads the child's addresses off its output.
async fn wait_ready(broker: &mut Child, config: &BrokerConfig) -> Result<Addresses, Failure> {
    let ended = || Failure::new("the broker did not start");
    let stdout = broker.stdout.take().ok_or_else(ended)?;
    let mut lines = BufReader::new(stdout).lines();
    let count = 1 + [config.plain, config.wss, config.ws].iter().flatten().count();
    let (mut urls, mut admin) = (Vec::new(), None);
    while urls.len() < count {
        let line = lines.next_line().await.ok().flatten().ok_or_else(ended)?;
        let url = line.strip_prefix("broker ").and_then(|rest| rest.split_whitespace().next());
        urls.extend(url.map(str::to_owned));
        if let Some(url) = line.strip_prefix("admin ") {
            admin = Some(url.trim().to_owned());
        }
    }
    let tls = urls[0].strip_prefix("mqtts://").and_then(|address| address.parse().ok());
    Ok(Addresses { tls: tls.ok_or_else(ended)?, urls, admin })
}

/// Where clients find the broker: its first name, else its address.
fn broker_url(config: &BrokerConfig, listen: SocketAddr) -> String {
    match config.hosts.first() {
        Some(host) if host.contains(':') => format!("mqtts://[{host}]:{}", listen.port()),
        Some(host) => format!("mqtts://{host}:{}", listen.port()),
        None if listen.ip().is_unspecified() => format!("mqtts://localhost:{}", listen.port()),
        None => format!("mqtts://{listen}"),
    }
}

fn print_summary(authority: &Arc<Authority>, broker: &Addresses, data: &Path) -> Result<(), Failure> {
    let state = if authority.first_start() { "set up" } else { "opened" };
    print_line(format!("data         {} ({state})", data.display()))?;
    print_line(format!("authority    {}", authority.url()))?;
    for url in &broker.urls {
        let note = if url.starts_with("mqtt://") || url.starts_with("ws://") {
            " (no TLS, no identities)"
        } else {
            ""
        };
        print_line(format!("broker       {url}{note}"))?;
    }
    if let Some(url) = &broker.admin {
        print_line(format!("admin        {url}"))?;
    }
    print_line(format!("fingerprint  {}", authority.fingerprint()))?;
    let data = data.display();
    print_line("next:")?;
    print_line(format!(
        "  smqtt rule set 'ward/+/temperature' --mode required --policy 'role=nurse and ward=$1' --data {data}"
    ))?;
    print_line(format!(
        "  smqtt token new nurse-1 role=nurse ward=3 --data {data} | tail -1 | smqtt enrol --dir nurse-1"
    ))?;
    print_line("  smqtt subscribe -t 'ward/+/temperature' --dir nurse-1")
}
