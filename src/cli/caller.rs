//! As whom a command turns to the authority: the administrator of a site, or whoever enrolled in a directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use smqtt_client::authority::Authority;
use smqtt_client::enrol::{authority_of, refresh, validity};
use smqtt_client::files::read_bounded;
use smqtt_client::keyring::{Keyring, SharedKeyring, certificates_of};
use smqtt_client::tls;
use zeroize::Zeroizing;

use super::config::SiteArgs;
use super::failure::Failure;

const FILE_BYTES_MAX: usize = 64 << 10;

/// As whom to turn to the authority.
#[derive(Args, Clone)]
pub struct CallerArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// The directory in which an enroller or auditor enrolled, to act as them instead of as the administrator
    #[arg(long = "as", value_name = "DIR", env = "SMQTT_AS")]
    own: Option<PathBuf>,
}

impl CallerArgs {
    /// The root certificates that the caller knows the authority by (DER), also those that were retired: what was signed
    /// while they were not is still theirs.
    pub fn roots_of_record(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let dir = match &self.own {
            Some(dir) => dir.clone(),
            None => self.site.load()?.1,
        };
        if self.own.is_some() || is_keyring(&dir) {
            let keyring = Keyring::load(&dir)?;
            return Ok([keyring.past_roots(), keyring.roots()].concat());
        }
        let mut roots = certificates(&dir.join("admin/root.pem"))?;
        let past = dir.join("admin/past-roots.pem");
        if std::fs::metadata(&past).is_ok_and(|file| file.len() > 0) {
            roots.extend(certificates(&past)?);
        }
        Ok(roots)
    }

    /// The authority. The certificate of an enroller or auditor is renewed where it is time.
    pub async fn authority(&self) -> Result<Authority, Failure> {
        let dir = match &self.own {
            Some(dir) => dir.clone(),
            None => self.site.load()?.1,
        };
        if !is_keyring(&dir) && self.own.is_none() {
            return administrator(&dir);
        }
        let (keyring, now) = (Keyring::load(&dir)?, smqtt_client::system_now());
        let Some((from, until)) = validity(keyring.signer().certificate()) else {
            return Ok(authority_of(&keyring, now)?);
        };
        if now < from + until.saturating_sub(from) / 3 * 2 {
            return Ok(authority_of(&keyring, now)?);
        }
        let keyring = SharedKeyring::new(keyring);
        refresh(&keyring, now, Duration::ZERO).await?;
        Ok(keyring.with(|keyring| authority_of(keyring, now))?)
    }
}

/// The certificates of a PEM file (DER), one at least.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    certificates_of(&bytes)
        .ok_or_else(|| Failure::new(format!("`{}` is no root certificate", path.display())))
}

/// Whether somebody enrolled in `dir`, instead of running an authority there.
fn is_keyring(dir: &Path) -> bool {
    dir.join("identity.json").exists()
}

/// The authority whose administrator's certificate is in `data`.
pub fn administrator(data: &Path) -> Result<Authority, Failure> {
    #[derive(Deserialize)]
    struct Where {
        url: String,
    }
    let dir = data.join("admin");
    let read = |name: &str| {
        read_bounded(&dir.join(name), FILE_BYTES_MAX).map_err(|error| {
            let hint = format!(
                "`--data` names the directory of `smqtt up`, `--as` that of `smqtt enrol`; is it `{}`?",
                data.display()
            );
            Failure::new("cannot act as administrator").because(&error).hint(hint)
        })
    };
    let damaged = |name: &str| Failure::new(format!("`{}` is damaged", dir.join(name).display()));
    let place: Where =
        serde_json::from_slice(&read("authority.json")?).map_err(|_| damaged("authority.json"))?;
    let certificate = |name: &str| {
        CertificateDer::from_pem_slice(&read(name)?).map(|der| der.to_vec()).map_err(|_| damaged(name))
    };
    let own = certificate("cert.pem")?;
    let roots = certificates_of(&read("root.pem")?).ok_or_else(|| damaged("root.pem"))?;
    let key = Zeroizing::new(read("key.pem")?);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key).map_err(|_| damaged("key.pem"))?;
    let tls = tls::authority_config(&roots, (&own, key.secret_pkcs8_der()))
        .map_err(|error| Failure::new("cannot set up TLS").because(&error))?;
    Ok(Authority::new(&place.url, tls)?)
}
