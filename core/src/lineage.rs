//! The roots of an authority that has exchanged its issuing certificate, and what ties each to the one before.
//!
//! A new root has the name of the first and the same tenant, which it says itself: `smqtt://TENANT/root`. A **link** is the
//! new root's key, certified by the old root (RFC 4210, section 4.4: "new with old"): with it whoever knows the old root alone
//! follows to the new one, in a bundle as in TLS.

use crate::identity::{CERTIFICATE_BYTES_MAX, TenantId, tenant_of_root};

/// Most roots of a lineage: the verifier follows six links from a certificate to a root.
pub const ROOTS_MAX: usize = 7;

/// Two roots or more, oldest first: those that were retired, then those in trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    roots: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
    retired: usize,
    issuing: usize,
}

impl Lineage {
    /// The lineage of these roots, the first `retired` of them out of trust; `links[n]` certifies `roots[n + 1]` by
    /// `roots[n]`, and `roots[issuing]` issues certificates. `None` where that cannot be: fewer than two or more than
    /// [`ROOTS_MAX`], links missing, one that issues and is not in trust.
    pub fn new(roots: Vec<Vec<u8>>, links: Vec<Vec<u8>>, retired: usize, issuing: usize) -> Option<Self> {
        let fits = (2..=ROOTS_MAX).contains(&roots.len())
            && links.len() + 1 == roots.len()
            && (retired..roots.len()).contains(&issuing)
            && roots.iter().chain(&links).all(|der| der.len() <= CERTIFICATE_BYTES_MAX);
        fits.then_some(Self { roots, links, retired, issuing })
    }

    /// All roots, oldest first (DER).
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// The links between them, oldest first (DER).
    pub fn links(&self) -> &[Vec<u8>] {
        &self.links
    }

    /// How many of the roots are retired, from the oldest on.
    pub fn retired(&self) -> usize {
        self.retired
    }

    /// Which of the roots issues.
    pub fn issuing(&self) -> usize {
        self.issuing
    }

    /// The root that issues (DER).
    pub fn issuing_root(&self) -> &Vec<u8> {
        &self.roots[self.issuing]
    }

    /// The roots that vouch for everyone.
    pub fn in_trust(&self) -> &[Vec<u8>] {
        &self.roots[self.retired..]
    }

    /// The roots that did, for what was signed while they did: the audit log.
    pub fn past(&self) -> &[Vec<u8>] {
        &self.roots[..self.retired]
    }

    /// What a TLS server sends after its own certificate: the links, newest first, then the roots in trust, for whoever
    /// knows nothing but the fingerprint of one.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.links.iter().rev().chain(self.in_trust().iter().rev()).map(Vec::as_slice)
    }

    /// Whether every root stands for this tenant.
    pub(crate) fn is_of(&self, tenant: TenantId) -> bool {
        self.roots.iter().all(|root| tenant_of_root(root) == Ok(tenant))
    }
}
