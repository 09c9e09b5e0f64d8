//! The file of names and hashes.
//!
//! ```text
//! # a comment
//! alice:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH        a password, as a PHC string
//! meter-7:$sha256$HASH                                  a token: random, so one fast hash is enough
//! ```

use std::{collections::HashMap, fmt};

use argon2::{Argon2, Params, PasswordHasher, password_hash::phc::PasswordHash};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD, engine::general_purpose::URL_SAFE_NO_PAD};
use smqtt_core::crypto::{equal, random, sha256};
use zeroize::Zeroizing;

/// Size of a file.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// Length of a name.
pub const NAME_BYTES_MAX: usize = 256;
/// Memory that a hash may ask for. Whoever writes the file decides, but a slip must not stop the broker.
pub const HASH_KIBIBYTES_MAX: u32 = 64 << 10;
/// Passes over it.
pub const HASH_PASSES_MAX: u32 = 10;
/// Lanes of it.
pub const HASH_LANES_MAX: u32 = 4;

/// Memory, passes and lanes of the hashes that are made here: what OWASP asks for of Argon2id.
const HASH_COST: (u32, u32, u32) = (19_456, 2, 1);

const SHA256: &str = "$sha256$";

/// Who may come in, and with what. Holds hashes only, and shows none.
#[derive(Default, PartialEq)]
pub struct Accounts(HashMap<String, Secret>);

/// What somebody must know.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    Password(Box<PasswordHash>),
    /// SHA-256 of a token.
    Token([u8; 32]),
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct AccountsError {
    line: usize,
    what: String,
}

/// A name that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error(
    "a user name has 1 to {NAME_BYTES_MAX} bytes, without `:`, `#` at its beginning, and white space at its ends"
)]
pub struct NameError;

impl Accounts {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`AccountsError`] for the first line that is wrong: a file with a slip in it lets nobody in by mistake.
    pub fn parse(text: &str) -> Result<Self, AccountsError> {
        let mut accounts = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: String| AccountsError { line: index + 1, what };
            let (name, secret) = line.split_once(':').ok_or_else(|| wrong("not `NAME:HASH`".into()))?;
            check_name(name).map_err(|error| wrong(error.to_string()))?;
            let secret = Secret::parse(secret).map_err(wrong)?;
            if accounts.insert(name.to_owned(), secret).is_some() {
                return Err(wrong(format!("`{name}` is there twice")));
            }
        }
        Ok(Self(accounts))
    }

    /// Names in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody of this name is in it.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether somebody is in both, with another password or token.
    pub(super) fn differ_about(&self, other: &Self, name: &str) -> bool {
        matches!((self.0.get(name), other.0.get(name)), (Some(a), Some(b)) if a != b)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// What to take time with where there is no password to check, so that names cannot be told by time.
    pub(super) fn decoy(&self) -> Option<&PasswordHash> {
        self.0.values().find_map(|secret| match secret {
            Secret::Password(hash) => Some(&**hash),
            Secret::Token(_) => None,
        })
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({})", self.0.len())
    }
}

impl Secret {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(hash) = text.strip_prefix(SHA256) {
            let decoded = STANDARD_NO_PAD.decode(hash.trim_end_matches('='));
            let hash = decoded.ok().and_then(|bytes| bytes.try_into().ok());
            return hash.map(Self::Token).ok_or_else(|| "not a SHA-256 in Base64".into());
        }
        let hash = PasswordHash::new(text).map_err(|error| format!("not a hash of a password: {error}"))?;
        if hash.algorithm.as_str() != "argon2id" || hash.version != Some(19) {
            return Err("passwords are hashed with Argon2id, version 19 (`$argon2id$v=19$…`)".into());
        }
        let params = Params::try_from(&hash).map_err(|error| format!("parameters of Argon2: {error}"))?;
        if params.m_cost() > HASH_KIBIBYTES_MAX
            || params.t_cost() > HASH_PASSES_MAX
            || params.p_cost() > HASH_LANES_MAX
        {
            return Err(format!(
                "a hash of at most m={HASH_KIBIBYTES_MAX}, t={HASH_PASSES_MAX}, p={HASH_LANES_MAX} is taken"
            ));
        }
        if hash.salt.is_none() || hash.hash.as_ref().is_none_or(|output| output.len() < 16) {
            return Err("a hash of 16 bytes or more, with its salt, is needed".into());
        }
        Ok(Self::Password(Box::new(hash)))
    }
}

/// Whether this is the token of that hash, in constant time.
pub(super) fn is_token(hash: &[u8; 32], token: &[u8]) -> bool {
    equal(hash, &sha256(&[token]))
}

/// The line of a password. Takes some 20 ms, and the memory of one hash.
///
/// # Errors
/// [`NameError`].
pub fn password_line(name: &str, password: &[u8]) -> Result<String, NameError> {
    check_name(name)?;
    let (memory, passes, lanes) = HASH_COST;
    let params = Params::new(memory, passes, lanes, None).expect("the costs are within their bounds");
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt: [u8; 16] = random();
    let hash = argon2.hash_password_with_salt(password, &salt).expect("salt and output have a usual size");
    Ok(format!("{name}:{hash}"))
}

/// A new token of 256 bits, and its line.
///
/// # Errors
/// [`NameError`].
pub fn token_line(name: &str) -> Result<(Zeroizing<String>, String), NameError> {
    check_name(name)?;
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(random());
    let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    let line = format!("{name}:{SHA256}{}", STANDARD_NO_PAD.encode(sha256(&[token.as_bytes()])));
    Ok((token, line))
}

/// The text with `line` in place of the one of `name`, or at its end; without one, `name` is removed. All else stays as it
/// is.
pub fn with_line(text: &str, name: &str, line: Option<&str>) -> String {
    let is_of_name = |old: &&str| old.trim().split_once(':').is_some_and(|(of, _)| of == name);
    let at = text.lines().position(|old| is_of_name(&old));
    let mut lines: Vec<&str> = text.lines().filter(|old| !is_of_name(old)).collect();
    if let Some(line) = line {
        lines.insert(at.unwrap_or(lines.len()).min(lines.len()), line);
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn check_name(name: &str) -> Result<(), NameError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    let plain = !name.contains(|c: char| c == ':' || c.is_control());
    let apart = name.trim() == name && !name.starts_with('#');
    if fits && plain && apart { Ok(()) } else { Err(NameError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_made_are_read_and_hold_no_secret() {
        let password = password_line("alice", b"wonderland").unwrap();
        let (token, line) = token_line("meter-7").unwrap();
        assert!(!password.contains("wonderland") && !line.contains(&**token) && token.len() >= 43);
        let accounts = Accounts::parse(&format!("# people\n{password}\n\n  {line}\n")).unwrap();
        assert_eq!(accounts.len(), 2);
        let Some(Secret::Token(hash)) = accounts.get("meter-7") else { panic!("a token") };
        assert!(is_token(hash, token.as_bytes()) && !is_token(hash, b"another"));
        assert!(matches!(accounts.get("alice"), Some(Secret::Password(_))));
        assert_ne!(password, password_line("alice", b"wonderland").unwrap(), "a salt of its own");
        assert_eq!(format!("{accounts:?}"), "Accounts(2)");
    }

    #[test]
    fn a_file_with_a_slip_is_refused_as_a_whole() {
        let good = password_line("alice", b"wonderland").unwrap();
        let hash = good.split_once(':').unwrap().1;
        for (line, what) in [
            ("alice", "not `NAME:HASH`"),
            (":x", "a user name has"),
            (&format!("{}:{hash}", "n".repeat(257)), "a user name has"),
            ("bob:wonderland", "not a hash"),
            ("bob:$sha256$short", "not a SHA-256"),
            ("bob:$6$salt$hash", "hash"),
            (&good.replace("argon2id", "argon2i"), "Argon2id"),
            (&good.replace("m=19456", "m=4194304"), "at most"),
            (&good.replace("t=2", "t=1000000"), "at most"),
            (&good.replace("p=1", "p=200"), "at most"),
            (&format!("bob:{}", &hash[..hash.rfind('$').unwrap()]), "with its salt"),
            (&format!("{good}\n{good}"), "there twice"),
        ] {
            let error = Accounts::parse(line).unwrap_err().to_string();
            assert!(error.contains(what), "{line}: {error}");
        }
    }

    #[test]
    fn one_line_is_changed_and_the_rest_stays() {
        let text = "# people\nalice:1\nbob:2\n";
        assert_eq!(with_line(text, "alice", Some("alice:3")), "# people\nalice:3\nbob:2\n");
        assert_eq!(with_line(text, "carol", Some("carol:3")), "# people\nalice:1\nbob:2\ncarol:3\n");
        assert_eq!(with_line(text, "alice", None), "# people\nbob:2\n");
        assert_eq!(with_line("", "alice", Some("alice:3")), "alice:3\n");
    }
}
