//! The command line. One file for each command; this one has the whole surface.

mod access;
mod admin;
mod audit;
mod authority;
mod backup;
mod bench;
mod bridge;
mod broker;
mod broker_explain;
mod bulk;
mod caller;
mod config;
mod custodian;
mod demo;
mod device;
mod doctor;
mod drill;
mod enrol;
mod explain;
mod failure;
mod files;
mod inspect;
mod listeners;
mod lock;
mod memory;
mod monitor;
mod password;
mod profile;
mod publish;
mod qr;
mod recovery;
mod refused_filters;
mod reload;
mod restore;
mod revocation;
mod rotate;
mod seal;
mod secret_line;
mod subscribe;
mod tls;
mod token;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use failure::Failure;
use monitor::LogFormat;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;

/// MQTT payloads that only the right devices can read.
#[derive(Parser)]
#[command(name = "smqtt", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The smart home of the SMQTT paper, end to end, in a temporary directory
    Demo(demo::DemoArgs),
    /// Run authority and broker: one command, two processes
    Up(up::UpArgs),
    /// Run the key authority alone
    Authority(authority::AuthorityArgs),
    /// Run a broker alone
    Broker(broker::BrokerArgs),
    /// Carry messages between a broker of ours and any other
    Bridge(bridge::BridgeArgs),
    /// Make, list and take back enrolment tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Set, list and remove topic rules
    #[command(subcommand)]
    Rule(admin::RuleCommand),
    /// List, show, approve, change, suspend, reset and revoke devices
    #[command(subcommand)]
    Device(admin::DeviceCommand),
    /// Show, export and check the authority's audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Make, list and end access tokens for programs
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// Set, list and remove profiles: what devices have in common
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Set, list and remove groups of devices
    #[command(subcommand)]
    Group(profile::GroupCommand),
    /// Begin a new epoch
    #[command(subcommand)]
    Epoch(admin::EpochCommand),
    /// Enrol this device with a token
    Enrol(enrol::EnrolArgs),
    /// Seal and publish
    Publish(publish::PublishArgs),
    /// Subscribe and open
    Subscribe(subscribe::SubscribeArgs),
    /// Show the public parts of an envelope
    Inspect(inspect::InspectArgs),
    /// Show why a policy holds or a message opens, or not
    Explain(explain::ExplainArgs),
    /// Look at what usually goes wrong: files, certificates, clock, disk, ports, rules
    Doctor(doctor::DoctorArgs),
    /// Measure what it costs on this machine, with a report
    Bench(bench::BenchArgs),
    /// What `bench` starts itself as
    #[command(hide = true)]
    BenchRole(bench::RoleArgs),
}

impl Command {
    fn log_format(&self) -> LogFormat {
        match self {
            Self::Up(args) => args.log.format(),
            Self::Authority(args) => args.log.format(),
            Self::Broker(args) => args.log.format(),
            _ => LogFormat::Text,
        }
    }
}

/// Where a device keeps its keys.
#[derive(Args, Clone)]
struct KeyringArgs {
    /// The device's keyring
    #[arg(long, value_name = "DIR", env = "SMQTT_DIR")]
    dir: Option<PathBuf>,
}

impl KeyringArgs {
    fn dir(&self) -> Result<PathBuf, Failure> {
        self.dir.clone().map_or_else(|| config::home("device"), Ok)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // Before there is anything to hide.
    if let Err(failure) = memory::keep_to_itself() {
        return failure.report();
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("SMQTT_LOG")
        .unwrap_or_else(|_| "warn,smqtt=info,smqtt_keysvc=info,rumqttd=off".into());
    let cli = Cli::parse();
    let quiet = !matches!(
        cli.command,
        Command::Up(_) | Command::Authority(_) | Command::Broker(_) | Command::Bridge(_)
    );
    let filter = match quiet && std::env::var_os("SMQTT_LOG").is_none() {
        true => "error".into(),
        false => filter,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.command.log_format() {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
        LogFormat::Text => {
            // Client ids and the like are whatever a client says: no line of the log may begin in the middle of one.
            let fields = debug_fn(|out, field, value| {
                let value = smqtt_client::printable(&format!("{value:?}"));
                match field.name() {
                    "message" => write!(out, "{value}"),
                    name => write!(out, "{name}={value}"),
                }
            });
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(ansi).fmt_fields(fields.delimited(" ")).init();
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new("cannot start").because(&error).report(),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(&args).await,
            Command::Up(args) => up::run(&args).await,
            Command::Authority(args) => authority::run(&args).await,
            Command::Broker(args) => broker::run(&args).await,
            Command::Bridge(args) => bridge::run(&args).await,
            Command::Token(command) => token::token(&command).await,
            Command::Rule(command) => admin::rule(&command).await,
            Command::Device(command) => admin::device(&command).await,
            Command::Profile(command) => profile::profile(&command).await,
            Command::Group(command) => profile::group(&command).await,
            Command::Epoch(command) => admin::epoch(&command).await,
            Command::Audit(command) => audit::run(&command).await,
            Command::Access(command) => access::run(&command).await,
            Command::Enrol(args) => enrol::run(&args).await,
            Command::Publish(args) => publish::run(&args).await,
            Command::Subscribe(args) => subscribe::run(&args).await,
            Command::Inspect(args) => inspect::run(&args),
            Command::Explain(args) => explain::run(&args).await,
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Bench(args) => bench::run(&args).await,
            Command::BenchRole(args) => bench::role(&args).await,
        }
    });
    // A read from the terminal may still block a thread; nothing waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints a line of data; a reader that has gone away is no error.
fn print_line(line: impl AsRef<[u8]>) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(line.as_ref()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| Failure::new("cannot write to standard output").because(&error))
}

/// Prints a line for people, of what others may have written: a name or a value must not steer their terminal, nor turn
/// round what stands before it.
fn print_text(line: impl AsRef<str>) -> Result<(), Failure> {
    print_line(smqtt_client::printable(line.as_ref()))
}

/// Seconds since 1970 as people read it.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The Gregorian calendar, eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_the_calendar_says() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(date(1_795_360_203), "2026-11-22T15:10:03Z");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
