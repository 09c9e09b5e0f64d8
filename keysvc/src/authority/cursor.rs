//! Where a list goes on: opaque to whoever asks, so that what it is made of may change, and bound to its list.
//!
//! ```text
//! base64url( version 1 || length of the place, 1 byte || place || tag of list and place, 8 bytes )
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smqtt_core::crypto::equal;

use super::{Authority, Operation};
use crate::error::Error;

const VERSION: u8 = 1;
/// Most bytes of a place: an identifier, or a number.
const PLACE_BYTES_MAX: usize = 16;
const TAG_BYTES: usize = 8;
/// Most characters of a cursor.
const CURSOR_CHARS_MAX: usize = (2 + PLACE_BYTES_MAX + TAG_BYTES).div_ceil(3) * 4;

/// What a request says of the part of a list that it wants.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Most entries; as many as the list gives at once if absent.
    pub limit: Option<u64>,
    /// Where an earlier answer ended.
    pub cursor: Option<String>,
    /// Or an identifier after which to go on.
    pub after: Option<[u8; 16]>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// Its entries.
    pub entries: Vec<T>,
    /// The cursor of what follows; `None` at the end.
    pub next: Option<String>,
}

impl Authority {
    /// After which place the list of `operation` goes on for this request; empty for its beginning.
    pub(super) fn begins_after(&self, operation: Operation, page: &Page) -> Result<Vec<u8>, Error> {
        let Some(cursor) = &page.cursor else { return Ok(page.after.map(Vec::from).unwrap_or_default()) };
        let open = || {
            let bytes = (cursor.len() <= CURSOR_CHARS_MAX).then(|| URL_SAFE_NO_PAD.decode(cursor).ok())??;
            let (head, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_BYTES)?)?;
            let (&[version, length], place) = head.split_first_chunk()?;
            let whole = version == VERSION && usize::from(length) == place.len();
            (whole && equal(tag, &self.cursor_tag(operation, place))).then(|| place.to_vec())
        };
        let foreign = || {
            let hint = "go on with what the answer before named, or begin anew without one";
            Error::invalid("cursor", "this cursor is not one of this list").with_hint(hint)
        };
        open().ok_or_else(foreign)
    }

    /// How many entries to give: what is asked for, and no more than `max`.
    pub(super) fn limit(page: &Page, max: usize) -> Result<usize, Error> {
        match page.limit {
            None => Ok(max),
            Some(0) => Err(Error::invalid("limit", "a page has at least one entry")),
            Some(limit) => Ok(usize::try_from(limit).unwrap_or(max).min(max)),
        }
    }

    /// A part of the list of `operation` of at most `limit` of these, of which there is one more if the list goes on.
    pub(super) fn listed<T>(
        &self,
        operation: Operation,
        mut entries: Vec<T>,
        limit: usize,
        place: impl Fn(&T) -> Vec<u8>,
    ) -> Listed<T> {
        let goes_on = entries.len() > limit;
        entries.truncate(limit);
        let last = entries.last().filter(|_| goes_on).map(place);
        Listed { entries, next: last.map(|place| self.cursor(operation, &place)) }
    }

    fn cursor(&self, operation: Operation, place: &[u8]) -> String {
        debug_assert!(place.len() <= PLACE_BYTES_MAX);
        let tag = self.cursor_tag(operation, place);
        URL_SAFE_NO_PAD.encode([&[VERSION, place.len() as u8], place, &tag].concat())
    }

    fn cursor_tag(&self, operation: Operation, place: &[u8]) -> [u8; TAG_BYTES] {
        let tag = self.secrets.vault.tag("cursor", &[operation.name().as_bytes(), b" ", place].concat());
        tag[..TAG_BYTES].try_into().expect("8 of 32 bytes")
    }
}

impl<T> Listed<T> {
    /// The same with every entry as the API has it.
    pub(super) fn map<U>(self, api: impl Fn(T) -> U) -> Listed<U> {
        Listed { entries: self.entries.into_iter().map(api).collect(), next: self.next }
    }
}
