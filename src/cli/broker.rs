//! `smqtt broker`: a broker alone, of an authority or of nobody.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use smqtt::broker::{Broker, Stored, TlsSettings, Whom};
use smqtt::mqtt::ReasonCode;
use smqtt::secure::{SecurePublish, View, follow};
use smqtt_client::keyring::{Keyring, SharedKeyring};
use smqtt_client::tls::provider;
use tokio::io::AsyncReadExt;

use super::authority::{bind, stop_signal};
use super::config::SiteArgs;
use super::failure::Failure;
use super::print_line;

/// Arguments of `smqtt broker`.
#[derive(Args)]
pub struct BrokerArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// The broker's keyring, from `smqtt enrol` with a token made with `--broker`
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where MQTT over TLS listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where MQTT without TLS listens, for clients without a certificate; loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    plain: Option<SocketAddr>,
    /// An ordinary broker: no authority, no rules, whoever connects is let in. Needs `--plain`. Without `--data` it
    /// forgets everything at its end
    #[arg(long, requires = "plain", conflicts_with_all = ["dir", "listen"])]
    open: bool,
    /// End when standard input does
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Runs until Ctrl-C.
pub async fn run(args: &BrokerArgs) -> Result<(), Failure> {
    let (config, data) = args.site.load()?;
    let plain = args.plain.or(config.broker.plain);
    if let Some(address) = plain.filter(|address| !address.ip().is_loopback()) {
        return Err(Failure::new(format!("{address} is not a loopback address"))
            .hint("MQTT without TLS is for this machine alone: say `127.0.0.1`"));
    }
    let stop = async {
        tokio::select! {
            () = stop_signal() => {}
            () = stdin_end(), if args.until_stdin_ends => {}
        }
    };
    if args.open {
        let mut broker = start(Vec::new(), args.site.data.as_ref().map(|data| data.join("state")))?;
        listen_plain(&mut broker, plain).await?;
        broker.run(stop).await;
        return Ok(());
    }
    let dir = args.dir.clone().unwrap_or_else(|| data.join("broker"));
    let keyring = SharedKeyring::new(load(&dir)?);
    let listener = bind(args.listen.unwrap_or(config.broker.listen)).await?;
    let address = listener.local_addr().map_err(|error| Failure::new("cannot listen").because(&error))?;
    let tls = TlsSettings::from(tls_config(&keyring)?);
    let view = View::new(keyring.clone(), smqtt_client::system_now);
    let hook = SecurePublish::new(view.clone(), plain.is_some());
    let mut broker = start(vec![Box::new(hook)], Some(dir.join("state")))?;
    broker.listen_tls(listener, tls.clone());
    print_line(format!("broker       mqtts://{address}"))?;
    listen_plain(&mut broker, plain).await?;

    let handle = broker.handle();
    let revoked = move |devices: &[smqtt_core::identity::DeviceId]| {
        for device in devices {
            let id = device.to_string();
            let text = "revoked: this device was revoked";
            handle.disconnect(Whom::Identity(&id), ReasonCode::NotAuthorized, text, Stored::Discard);
        }
    };
    let renewed = move || match tls_config(&keyring) {
        Ok(config) => tls.replace(config),
        Err(failure) => drop(failure.report()),
    };
    let following = tokio::spawn(follow(view, revoked, renewed));
    broker.run(stop).await;
    following.abort();
    Ok(())
}

fn start(hooks: Vec<Box<dyn smqtt::broker::Hook>>, data: Option<PathBuf>) -> Result<Broker, Failure> {
    let mut config = smqtt::broker::Config::default();
    if data.is_none() {
        tracing::warn!("without `--data`, sessions and retained messages end with the process");
    }
    config.data = data;
    Broker::new(config, hooks).map_err(|error| Failure::new("cannot start the broker").because(&error))
}

async fn listen_plain(broker: &mut Broker, address: Option<SocketAddr>) -> Result<(), Failure> {
    if let Some(address) = address {
        let listener = bind(address).await?;
        let bound = listener.local_addr().unwrap_or(address);
        broker.listen_tcp(listener);
        print_line(format!("broker       mqtt://{bound}"))?;
    }
    Ok(())
}

fn load(dir: &Path) -> Result<Keyring, Failure> {
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
    let (certificate, key, root) = keyring.with(|k| {
        let signer = k.signer();
        let root = k.roots().first().cloned().unwrap_or_default();
        (signer.certificate().to_vec(), signer.key().expose_pkcs8().to_vec(), root)
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(root.clone())).map_err(|e| failed(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let chain = vec![CertificateDer::from(certificate), CertificateDer::from(root)];
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed(&e))?;
    Ok(Arc::new(config))
}

/// Ends when standard input does: the parent is gone.
async fn stdin_end() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}
