//! Enrolment over Secure Transport (RFC 7030), for devices that speak it already: another way to the same decisions.
//!
//! Of a signing request the key counts and nothing else, as ever. EST knows no second key to seal user secret keys to: whoever
//! enrols so gets a certificate, and keys once it renews with one (`POST /v1/renew`).

use std::sync::Arc;

use smqtt_core::api::Waiting;
use smqtt_core::crypto::sha256;
use smqtt_core::token::Token;
use zeroize::Zeroizing;

use super::enrol::{DeviceKeys, Outcome, hex16};
use super::{Authority, Caller, Operation};
use crate::cms::certs_only;
use crate::error::Error;

/// The answer to whoever enrols.
pub(crate) enum EstAnswer {
    /// A certificate, as a certs-only message.
    Certificate(Vec<u8>),
    /// A person has to approve.
    Waits(Waiting),
}

impl Authority {
    /// What to trust, as a certs-only message (section 4.1). For anyone.
    pub(crate) fn est_roots(&self) -> Vec<u8> {
        let roots = self.roots();
        certs_only(roots.iter().map(|root| &root[..]))
    }

    /// A certificate for whoever has a token (section 4.2): as the password, whatever the user is, or its id as the user and its
    /// secret, both hexadecimal, as the password.
    ///
    /// # Errors
    /// [`Error`], saying why not.
    pub(crate) async fn est_enrol(
        self: &Arc<Self>,
        caller: &Caller,
        user: &str,
        password: &str,
        csr: &[u8],
    ) -> Result<EstAnswer, Error> {
        let given = match Token::parse(password) {
            Ok(token) => Some((token.id, Zeroizing::new(token.secret))),
            Err(_) => hex16(user).zip(hex16(password).map(Zeroizing::new)),
        };
        // Nothing that looks like one is one that nobody knows: whoever sees the challenge tries whatever they have.
        let (id, secret) = given.unwrap_or_default();
        let keys = || DeviceKeys::of_request(csr);
        let outcome =
            self.present(caller, Operation::EstEnrol, (id, sha256(&[&*secret])), keys, None).await?;
        Ok(match outcome {
            Outcome::Enrolled(enrolled) => EstAnswer::Certificate(certs_only([&enrolled.certificate[..]])),
            Outcome::Waits(waiting) => EstAnswer::Waits(waiting),
        })
    }

    /// A new certificate for whoever the old one names (section 4.2.2). Its user secret keys stay sealed to the key they were.
    ///
    /// # Errors
    /// [`Error`], saying why not.
    pub(crate) async fn est_renew(self: &Arc<Self>, caller: &Caller, csr: &[u8]) -> Result<Vec<u8>, Error> {
        let keys = || DeviceKeys::of_request(csr);
        let enrolled = self.renew_with(caller, Operation::EstRenew, keys).await?;
        Ok(certs_only([&enrolled.certificate[..]]))
    }
}
