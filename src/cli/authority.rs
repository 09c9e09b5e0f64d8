//! `smqtt authority`: the key authority alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use smqtt::admin::{Admin, Watched};
use smqtt_keysvc::{Authority, SystemClock};
use tokio::net::TcpListener;

use super::backup::{self, BackupArgs};
use super::broker::stdin_end;
use super::config::{Config, SiteArgs};
use super::custodian::CustodianArgs;
use super::failure::Failure;
use super::monitor::{AdminArgs, LogArgs};
use super::print_line;
use super::recovery::{self, RecoveryCommand};
use super::restore::{self, RestoreArgs};
use super::rotate::{self, RotateCommand};
use super::seal::{self, SealArgs};

/// Arguments of `smqtt authority`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuthorityArgs {
    #[command(subcommand)]
    command: Option<AuthorityCommand>,
    #[command(flatten)]
    site: SiteArgs,
    /// Where HTTPS listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// End when standard input does
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    custodian: CustodianArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What else there is to do with an authority.
#[derive(Subcommand)]
enum AuthorityCommand {
    /// Seal its secrets under something else: a key file, a passphrase, a systemd credential, shares. While it is stopped
    Seal(SealArgs),
    /// Write a backup of the running authority, sealed to recovery keys
    Backup(BackupArgs),
    /// Restore a backup, or try whether one can be restored
    Restore(RestoreArgs),
    /// Make, trust and list the keys that backups are sealed to
    #[command(subcommand)]
    RecoveryKey(RecoveryCommand),
    /// Put new keys in the place of old ones
    #[command(subcommand)]
    Rotate(RotateCommand),
}

/// Runs until Ctrl-C.
pub async fn run(args: &AuthorityArgs) -> Result<(), Failure> {
    match &args.command {
        Some(AuthorityCommand::Seal(args)) => return seal::run(args),
        Some(AuthorityCommand::Backup(args)) => return backup::run(args).await,
        Some(AuthorityCommand::Restore(args)) => return restore::run(args).await,
        Some(AuthorityCommand::RecoveryKey(command)) => return recovery::run(command),
        Some(AuthorityCommand::Rotate(command)) => return rotate::run(command).await,
        None => {}
    }
    let (mut config, data) = args.site.load()?;
    config.authority.listen = args.listen.unwrap_or(config.authority.listen);
    let monitor = args.admin.bind(config.authority.admin).await?;
    let (listener, authority) = open(&mut config, &data, &args.custodian).await?;
    // Not before: whoever is asked for a passphrase may still go away. Nor later: from the first line on it may be stopped.
    let stopped = stop_signal();
    let mut monitoring = monitor.serve(admin(&authority), Some(&data), "")?;
    print_line(format!("authority    {}", authority.url()))?;
    print_line(format!("fingerprint  {}", authority.fingerprint()))?;
    let stop = async {
        tokio::select! {
            () = stopped => {}
            () = stdin_end(), if args.until_stdin_ends => {}
        }
    };
    let served = smqtt_keysvc::serve(authority, listener, stop).await;
    // Its socket file goes with it.
    monitoring.shutdown().await;
    Ok(served?)
}

/// Metrics and health of an authority.
pub fn admin(authority: &Arc<Authority>) -> Admin {
    Admin::new(Watching(authority.clone(), tokio::runtime::Handle::current()))
}

struct Watching(Arc<Authority>, tokio::runtime::Handle);

impl Watched for Watching {
    fn metrics(&self) -> String {
        self.1.block_on(self.0.metrics())
    }

    fn health(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.1.block_on(self.0.ready())
    }
}

/// Binds the socket and opens the authority in `data`.
pub async fn open(
    config: &mut Config,
    data: &Path,
    custodian: &CustodianArgs,
) -> Result<(TcpListener, Arc<Authority>), Failure> {
    let listener = bind(config.authority.listen).await?;
    config.authority.listen =
        listener.local_addr().map_err(|e| cannot_listen(config.authority.listen, &e))?;
    let clock = Arc::new(SystemClock);
    let authority = Authority::open_with(data, config.authority.clone(), clock, &mut custodian.people())?;
    Ok((listener, authority))
}

/// Listens on `address`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or choose another port in the configuration"
        }
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
        _ => "give an address of this machine",
    };
    Failure::new(format!("cannot listen on {address}")).because(error).hint(hint)
}

/// Ends with Ctrl-C or SIGTERM, even if they came before anybody waited for it.
pub fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
