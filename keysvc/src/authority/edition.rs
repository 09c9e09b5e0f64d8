//! Which edition of something is there, for whoever changes it only if nobody else has (RFC 9110, sections 8.8.3 and 13.1).

use serde::Serialize;
use smqtt_core::crypto::sha256;

use super::Caller;
use crate::error::Error;

/// The entity tag of something as the API shows it: of its JSON, so that whatever changes what is shown changes it.
pub(crate) fn etag(shown: &impl Serialize) -> String {
    let hash = sha256(&[&serde_json::to_vec(shown).expect("what is shown is JSON")]);
    let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// What a request says that it expects to find.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// `If-Match`, as it came.
    pub(super) matching: Option<Box<str>>,
    /// `If-None-Match: *`.
    pub(super) nothing: bool,
}

impl Caller {
    /// The same for a request that is to be done only where one of these entity tags, as `If-Match` lists them, is that of
    /// what is there; `*` is anything.
    pub fn with_if_match(mut self, tags: &str) -> Self {
        self.expected.matching = Some(tags.into());
        self
    }

    /// The same for a request that is to be done only where there is nothing yet.
    pub fn with_nothing_expected(mut self) -> Self {
        self.expected.nothing = true;
        self
    }
}

impl Expected {
    /// Whether it is there. `None`: there is nothing.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub(super) fn check(&self, shown: Option<&impl Serialize>) -> Result<(), Error> {
        let matches = match (&self.matching, shown) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(tags), Some(shown)) => {
                let current = etag(shown);
                // A weak tag is never good enough to change something by.
                tags.split(',').map(str::trim).any(|tag| tag == "*" || tag == current)
            }
        };
        if matches && !(self.nothing && shown.is_some()) { Ok(()) } else { Err(Error::Changed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strong_tag_of_what_is_there_matches() {
        let matching = |tags: &str| Expected { matching: Some(tags.into()), nothing: false };
        let tag = etag(&"a");
        for good in [tag.clone(), "*".into(), format!("\"x\", {tag}"), format!(" {tag} ")] {
            assert!(matching(&good).check(Some(&"a")).is_ok(), "{good}");
            assert!(matching(&good).check(None::<&&str>).is_err(), "{good}");
        }
        for bad in ["", "\"\"", &format!("W/{tag}"), tag.trim_matches('"'), &etag(&"b")] {
            assert!(matching(bad).check(Some(&"a")).is_err(), "{bad}");
        }
        let nothing = Expected { matching: None, nothing: true };
        assert!(nothing.check(None::<&&str>).is_ok() && nothing.check(Some(&"a")).is_err());
        assert!(Expected::default().check(Some(&"a")).is_ok());
    }
}
