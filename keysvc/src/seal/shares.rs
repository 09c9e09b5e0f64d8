//! Shamir's secret sharing of a 32-byte key, byte by byte over GF(2^8): any `threshold` shares give the key, fewer say
//! nothing about it (Shamir 1979). Arithmetic without tables and branches that depend on secrets.
//!
//! Sixty lines rather than a crate: those there are bring groups, generic fields and their own encodings.
//!
//! A share is `smqtt-share1.` and the base64url of
//! `set (4) || threshold (1) || index (1) || value (32) || checksum (4)`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smqtt_core::crypto::{Secret32, equal, random, sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{Custodian, OpenError, UnsealError};

const PREFIX: &str = "smqtt-share1.";
const BYTES: usize = 4 + 1 + 1 + 32 + 4;
const CHARS_MAX: usize = 256;
/// Most shares of a key.
pub const SHARES_MAX: u8 = 32;

/// One share: as secret as its part of the key. Wiped when dropped, never printed by accident.
#[derive(Clone)]
pub struct Share {
    set: [u8; 4],
    threshold: u8,
    index: u8,
    value: [u8; 32],
}

impl Drop for Share {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({} of set {}, ..)", self.index, self.set())
    }
}

/// Why a share does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// Something else.
    #[error("not a share: one begins with `{PREFIX}`")]
    Prefix,
    /// Cut short, or a letter is wrong.
    #[error("the share is incomplete or has a wrong letter")]
    Checksum,
    /// Of another set.
    #[error("share {index} is of the set `{set}`, and this store is sealed under the set `{wanted}`")]
    OtherSet {
        /// Its number.
        index: u8,
        /// Its set.
        set: String,
        /// The store's.
        wanted: String,
    },
    /// Twice the same.
    #[error("share {index} was given already")]
    Duplicate {
        /// Its number.
        index: u8,
    },
    /// Looks like one, and is none that was handed out.
    #[error("share {index} is not the one that was handed out")]
    Wrong {
        /// Its number.
        index: u8,
    },
}

impl Share {
    /// Its number, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Which shares it goes with; not secret.
    pub fn set(&self) -> String {
        hex(&self.set)
    }

    /// The share as text: a secret.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend(self.set);
        bytes.extend([self.threshold, self.index]);
        bytes.extend(self.value);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + BYTES * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Reads what `expose` gave; white space around it does not matter.
    ///
    /// # Errors
    /// [`ShareError`], repeating nothing of it.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(ShareError::Prefix)?;
        if body.len() > CHARS_MAX {
            return Err(ShareError::Checksum);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new).map_err(|_| ShareError::Checksum)?;
        let bytes: &[u8; BYTES] = bytes.as_slice().try_into().map_err(|_| ShareError::Checksum)?;
        let (content, sum) = bytes.split_at(BYTES - 4);
        if sum != checksum(content) {
            return Err(ShareError::Checksum);
        }
        let part = |from: usize, to: usize| &content[from..to];
        Ok(Self {
            set: part(0, 4).try_into().expect("4 bytes"),
            threshold: content[4],
            index: content[5],
            value: part(6, 38).try_into().expect("32 bytes"),
        })
    }

    /// By which to know it again; of 32 random bytes it says nothing.
    pub(super) fn digest(&self) -> String {
        hex(&sha256(&[b"SMQTT-V01 share digest", &self.set, &[self.index], &self.value])[..16])
    }
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let hash = sha256(&[b"SMQTT-V01 share", content]);
    [hash[0], hash[1], hash[2], hash[3]]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Shares of `key`, numbered from 1; `None` for numbers that make no sense.
pub(super) fn split(key: &Secret32, threshold: u8, count: u8) -> Option<Vec<Share>> {
    if threshold < 2 || threshold > count || count > SHARES_MAX {
        return None;
    }
    let set = random::<4>();
    // The key's bytes are the constant terms of 32 polynomials, random otherwise.
    let coefficients: Zeroizing<Vec<[u8; 32]>> =
        Zeroizing::new((1..threshold).map(|_| random::<32>()).collect());
    let share = |index: u8| {
        let mut value = [0; 32];
        for (i, out) in value.iter_mut().enumerate() {
            // Horner, from the highest coefficient down.
            let rest = coefficients.iter().rev().fold(0, |sum, c| multiply(sum ^ c[i], index));
            *out = rest ^ key.expose()[i];
        }
        Share { set, threshold, index, value }
    };
    Some((1..=count).map(share).collect())
}

/// The key of shares with different numbers, as many as it takes: Lagrange's polynomial at 0.
fn combine(shares: &[Share]) -> Secret32 {
    let mut key = Zeroizing::new([0u8; 32]);
    for a in shares {
        let others = shares.iter().filter(|b| b.index != a.index);
        let weight =
            others.fold(1, |product, b| multiply(product, multiply(b.index, inverse(a.index ^ b.index))));
        for (out, value) in key.iter_mut().zip(a.value) {
            *out ^= multiply(value, weight);
        }
    }
    Secret32::new(*key)
}

/// The product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
fn multiply(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & ((b >> bit) & 1).wrapping_neg();
        a = (a << 1) ^ (0x1b & (a >> 7).wrapping_neg());
    }
    product
}

/// `a^254`, the inverse of all but 0.
fn inverse(a: u8) -> u8 {
    // 254 = 2 + 4 + ... + 128
    let (mut power, mut result) = (a, 1);
    for _ in 0..7 {
        power = multiply(power, power);
        result = multiply(result, power);
    }
    result
}

/// Asks for shares one by one until there are enough.
pub(super) fn gather(
    custodian: &mut dyn Custodian,
    set: &str,
    threshold: u8,
    digests: &[String],
) -> Result<Secret32, OpenError> {
    let mut shares: Vec<Share> = Vec::new();
    while shares.len() < usize::from(threshold) {
        let text = custodian.share(shares.len(), threshold).map_err(UnsealError::Read)?;
        let text = text.ok_or(UnsealError::TooFewShares { threshold, have: shares.len() })?;
        match check(&text, set, digests, &shares) {
            Ok(share) => shares.push(share),
            Err(error) if custodian.refused(&error) => {}
            Err(error) => return Err(UnsealError::from(error).into()),
        }
    }
    Ok(combine(&shares))
}

fn check(text: &str, set: &str, digests: &[String], before: &[Share]) -> Result<Share, ShareError> {
    let share = Share::parse(text)?;
    let index = share.index;
    if share.set() != set {
        return Err(ShareError::OtherSet { index, set: share.set(), wanted: set.to_owned() });
    }
    let known = usize::from(index).checked_sub(1).and_then(|at| digests.get(at));
    if !known.is_some_and(|known| equal(known.as_bytes(), share.digest().as_bytes())) {
        return Err(ShareError::Wrong { index });
    }
    match before.iter().any(|other| other.index == index) {
        true => Err(ShareError::Duplicate { index }),
        false => Ok(share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_that_of_fips_197() {
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1);
        }
        for (a, b, c) in [(3, 7, 250), (255, 254, 2), (0, 9, 9)] {
            assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
        }
    }

    #[test]
    fn any_threshold_of_them_give_the_key_and_fewer_do_not() {
        let key = Secret32::random();
        let shares = split(&key, 3, 5).unwrap();
        for a in 0..5 {
            for b in a + 1..5 {
                let two = [shares[a].clone(), shares[b].clone()];
                assert_ne!(combine(&two), key);
                for c in b + 1..5 {
                    assert_eq!(combine(&[shares[c].clone(), shares[a].clone(), shares[b].clone()]), key);
                }
            }
        }
        let all = split(&key, SHARES_MAX, SHARES_MAX).unwrap();
        assert_eq!(combine(&all), key);
        assert_ne!(combine(&all[1..]), key);
        for (threshold, count) in [(1, 3), (0, 0), (4, 3), (2, SHARES_MAX + 1)] {
            assert!(split(&key, threshold, count).is_none());
        }
    }

    #[test]
    fn with_one_share_less_every_key_is_possible() {
        // Two of two: for each share and each byte of a key there is one other share that gives it.
        let share = &split(&Secret32::random(), 2, 2).unwrap()[0];
        let mut other = share.clone();
        other.index = 2;
        let mut seen = [false; 256];
        for byte in 0..=255 {
            other.value[0] = byte;
            seen[usize::from(combine(&[share.clone(), other.clone()]).expose()[0])] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn text_round_trips_and_every_wrong_letter_is_found() {
        let share = &split(&Secret32::random(), 2, 3).unwrap()[1];
        let text = share.expose();
        assert_eq!(*Share::parse(&format!(" {}\n", *text)).unwrap().expose(), *text);
        assert_eq!(text.len(), PREFIX.len() + 56);
        assert!(!format!("{share:?}").contains(&text[30..]));
        for at in PREFIX.len()..text.len() {
            let mut wrong: Vec<u8> = text.bytes().collect();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(Share::parse(&wrong).err(), Some(ShareError::Checksum));
            assert!(Share::parse(&text[..at]).is_err());
        }
        assert_eq!(Share::parse("hello").err(), Some(ShareError::Prefix));
        assert!(Share::parse(&format!("{PREFIX}{}", "A".repeat(10_000))).is_err());
    }
}
