//! Certificates and bundles.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use smqtt_client::enrol::validity;
use smqtt_client::keyring::{Keyring, KeyringError};

use super::super::{date, failure::Failure};
use super::Finding;

/// A keyring that does not load.
pub(super) fn unusable(dir: &Path, error: &KeyringError) -> Finding {
    let failure = Failure::new(format!("`{}`", dir.display())).because(error);
    let hint = error.hint().unwrap_or("restore it, or enrol again with a new token");
    Finding::fail("keyring", failure.sentence(), hint)
}

/// Own certificate and root.
pub(super) fn certificates(keyring: &Keyring, now: u64) -> Vec<Finding> {
    let signer = keyring.signer();
    let name = format!("of `{}`", signer.identity().name);
    // It renews itself from two thirds of its life on: one that is nearly over could not.
    let hint = "it renews itself while its process runs and reaches the authority: see what its log says";
    let mut findings = vec![judge(&name, signer.certificate(), now, hint)];
    let hint = "an administrator exchanges it in time: `smqtt authority rotate certificate prepare`";
    findings.extend(keyring.roots().iter().map(|root| judge("of the root", root, now, hint)));
    findings
}

/// The administrator's certificate.
pub(super) fn administrator(dir: &Path, now: u64) -> Vec<Finding> {
    let hint = "the authority makes a new one at its next start";
    match CertificateDer::from_pem_file(dir.join("cert.pem")) {
        Ok(der) => vec![judge("of the administrator", &der, now, hint)],
        Err(_) => vec![Finding::fail("certificate", "the administrator's cannot be read", hint)],
    }
}

fn judge(whose: &str, certificate: &[u8], now: u64, hint: &str) -> Finding {
    let Some((from, to)) = validity(certificate) else {
        return Finding::fail("certificate", format!("{whose} cannot be read"), hint);
    };
    judge_life(whose, from, to, now, hint)
}

fn judge_life(whose: &str, from: u64, to: u64, now: u64, hint: &str) -> Finding {
    let text = format!("{whose} is valid until {}", date(to));
    if now >= to {
        return Finding::fail("certificate", format!("{whose} expired on {}", date(to)), hint);
    }
    if now < from {
        let text = format!("{whose} is valid only from {}", date(from));
        return Finding::fail("certificate", text, "set this machine's clock");
    }
    // A quarter of its life: twelve hours more than half of what is left when renewal begins, of 30 days.
    match (to - now) < (to - from) / 4 {
        true => Finding::warn("certificate", text, hint),
        false => Finding::ok("certificate", text),
    }
}

/// What the authority said last.
pub(super) fn bundle(keyring: &Keyring, now: u64) -> Finding {
    let bundle = keyring.bundle();
    let text = format!(
        "number {}, epoch {}, good until {}",
        bundle.number,
        bundle.epoch.number,
        date(bundle.expires)
    );
    match bundle.is_expired(now) {
        true => Finding::fail("bundle", text, "nobody seals under it any more: reach the authority"),
        false => Finding::ok("bundle", text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_what_is_left_of_its_life() {
        let level = |now| judge_life("x", 1_000, 2_000, now, "").level;
        assert_eq!(level(999), Level::Fail);
        assert_eq!(level(1_000), Level::Ok);
        assert_eq!(level(1_749), Level::Ok);
        assert_eq!(level(1_751), Level::Warn);
        assert_eq!(level(2_000), Level::Fail);
    }
}
