//! What must never be undone, apart from the store: revocations, raised versions, epochs. Appended and synced before the
//! transaction that does it is committed, so that an older copy of the store, put back, learns what it forgot.
//!
//! ```text
//! NUMBER AT ROW WHAT MAC\n    WHAT is  revoked ID ROLE NAME  |  suspended ID ROLE NAME  |  resumed ID
//!                             |  changed ID ATTRIBUTES POLICY  |  version ATTRIBUTE NUMBER  |  epoch NUMBER
//!                             |  given ID ATTRIBUTES POLICY PROFILE GROUP  |  group NAME [ATTRIBUTES PROFILE]
//!                             |  profile NAME [ATTRIBUTES POLICY DAYS SECONDS FILTERS]
//!                             |  root-issues FINGERPRINT  |  root-retired FINGERPRINT  |  mark
//! MAC = HMAC-SHA-256(key, MAC before || NUMBER AT ROW WHAT), the first 16 bytes
//! ```
//!
//! ROW is the last row of the audit log before the transaction: a store whose log is shorter is an older one, or its log was cut.
//! `mark` tells nothing else.
//!
//! The key is in the store, sealed: lines cannot be made up, altered or left out in between. That lines at the end are
//! missing shows in the store, as long as that is not older.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use smqtt_core::attribute::{Attribute, Attributes};
use smqtt_core::crypto::{Prk, Secret32};
use smqtt_core::identity::{DeviceId, Fingerprint, Role, check_name};
use smqtt_core::policy::Policy;

use super::tx::{GivenRow, GroupRow, ProfileRow};
use super::{StoreError, Tx};
use crate::error::OpenError;
use crate::files;

/// The file in its directory.
pub(crate) const FILE: &str = "journal";
/// Most bytes of a journal that are read: some eight million lines.
const BYTES_MAX: u64 = 1 << 30;
/// From here on a journal is written anew from the store, which takes fewer lines.
const LONG_BYTES: u64 = 64 << 20;
/// The file that a journal was in before it was written anew.
const BEFORE: &str = "before";

/// What is not to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A device is nobody's any more.
    Revoked { id: DeviceId, role: Role, name: String },
    /// A device is shut out for a while.
    Suspended { id: DeviceId, role: Role, name: String },
    /// It is let in again.
    Resumed { id: DeviceId },
    /// A device has these from now on.
    Changed { id: DeviceId, attributes: Attributes, policy: Option<Policy> },
    /// A device was given these itself, and has the rest by profile and group.
    Given { id: DeviceId, given: GivenRow },
    /// A profile is this from now on; `None`: there is none of the name.
    Profile { name: String, profile: Option<ProfileRow> },
    /// The same of a group.
    Group { name: String, group: Option<GroupRow> },
    /// An attribute is at this version.
    Version { attribute: Attribute, version: u32 },
    /// An epoch began.
    Epoch { number: u64 },
    /// Certificates are issued from this root from now on.
    RootIssues { root: Fingerprint },
    /// This root is trusted no more.
    RootRetired { root: Fingerprint },
    /// Nothing but how far the audit log has come.
    Mark,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) at: u64,
    /// The last row of the audit log before the transaction that did it.
    pub(crate) row: u64,
    pub(crate) deed: Deed,
}

impl Deed {
    fn text(&self) -> String {
        match self {
            Self::Revoked { id, role, name } => format!("revoked {id} {} {name}", role.name()),
            Self::Suspended { id, role, name } => format!("suspended {id} {} {name}", role.name()),
            Self::Resumed { id } => format!("resumed {id}"),
            Self::Changed { id, attributes, policy } => {
                format!("changed {id} {} {}", hex(&attributes.encode()), policy_text(policy.as_ref()))
            }
            Self::Given { id, given } => {
                let GivenRow { attributes, policy, profile, group } = given;
                let (profile, group) = (or_dash(profile.as_ref()), or_dash(group.as_ref()));
                let policy = policy_text(policy.as_ref());
                format!("given {id} {} {policy} {profile} {group}", hex(&attributes.encode()))
            }
            Self::Profile { name, profile: None } => format!("profile {name}"),
            Self::Profile { name, profile: Some(row) } => {
                let (days, seconds) = (or_dash(row.certificate_days), or_dash(row.token_ttl_seconds));
                let filters = serde_json::to_vec(&row.filters).expect("strings are JSON");
                let (attributes, policy) = (hex(&row.attributes.encode()), policy_text(row.policy.as_ref()));
                format!("profile {name} {attributes} {policy} {days} {seconds} {}", hex(&filters))
            }
            Self::Group { name, group: None } => format!("group {name}"),
            Self::Group { name, group: Some(row) } => {
                let profile = or_dash(row.profile.as_ref());
                format!("group {name} {} {profile}", hex(&row.attributes.encode()))
            }
            Self::Version { attribute, version } => {
                format!("version {} {version}", hex(&attribute.encode()))
            }
            Self::Epoch { number } => format!("epoch {number}"),
            Self::RootIssues { root } => format!("root-issues {root}"),
            Self::RootRetired { root } => format!("root-retired {root}"),
            Self::Mark => "mark".to_owned(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let deed = match words.next()? {
            kind @ ("revoked" | "suspended") => {
                let (id, role) = (words.next()?.parse().ok()?, Role::from_name(words.next()?)?);
                let name = words.next()?.to_owned();
                check_name(&name).ok()?;
                match kind {
                    "revoked" => Self::Revoked { id, role, name },
                    _ => Self::Suspended { id, role, name },
                }
            }
            "resumed" => Self::Resumed { id: words.next()?.parse().ok()? },
            "changed" => {
                let id = words.next()?.parse().ok()?;
                let (attributes, policy) = (attributes(words.next()?)?, policy(words.next()?)?);
                Self::Changed { id, attributes, policy }
            }
            "given" => {
                let id = words.next()?.parse().ok()?;
                let (attributes, policy) = (attributes(words.next()?)?, policy(words.next()?)?);
                let (profile, group) = (given_name(words.next()?)?, given_name(words.next()?)?);
                Self::Given { id, given: GivenRow { attributes, policy, profile, group } }
            }
            "profile" => {
                let name = given_name(words.next()?)??;
                let Some(text) = words.next() else { return Some(Self::Profile { name, profile: None }) };
                let (attributes, policy) = (attributes(text)?, policy(words.next()?)?);
                let (days, seconds) = (number(words.next()?)?, number(words.next()?)?);
                let profile = ProfileRow {
                    name: name.clone(),
                    attributes,
                    policy,
                    certificate_days: days,
                    token_ttl_seconds: seconds,
                    filters: serde_json::from_slice(&unhex(words.next()?)?).ok()?,
                };
                Self::Profile { name, profile: Some(profile) }
            }
            "group" => {
                let name = given_name(words.next()?)??;
                let Some(text) = words.next() else { return Some(Self::Group { name, group: None }) };
                let (attributes, profile) = (attributes(text)?, given_name(words.next()?)?);
                let group = Some(GroupRow { name: name.clone(), profile, attributes });
                Self::Group { name, group }
            }
            "version" => {
                let bytes = unhex(words.next()?)?;
                let attribute = Attribute::decode(&bytes).ok()?;
                Self::Version { attribute, version: words.next()?.parse().ok()? }
            }
            "epoch" => Self::Epoch { number: words.next()?.parse().ok()? },
            "root-issues" => Self::RootIssues { root: words.next()?.parse().ok()? },
            "root-retired" => Self::RootRetired { root: words.next()?.parse().ok()? },
            "mark" => Self::Mark,
            _ => return None,
        };
        words.next().is_none().then_some(deed)
    }
}

fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn policy_text(policy: Option<&Policy>) -> String {
    or_dash(policy.map(|policy| hex(&policy.encode())))
}

fn attributes(text: &str) -> Option<Attributes> {
    Attributes::decode(&unhex(text)?).ok()
}

/// What `policy_text` wrote; the outer `None` for what it did not.
fn policy(text: &str) -> Option<Option<Policy>> {
    if text == "-" { Some(None) } else { Some(Some(Policy::decode(&unhex(text)?).ok()?)) }
}

fn given_name(text: &str) -> Option<Option<String>> {
    if text == "-" { Some(None) } else { check_name(text).ok().map(|()| Some(text.to_owned())) }
}

fn number(text: &str) -> Option<Option<u64>> {
    if text == "-" { Some(None) } else { text.parse().ok().map(Some) }
}

/// Why a journal is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the journal was altered, or a line before it is missing")]
pub(crate) struct Damaged {
    pub(crate) line: usize,
    /// What is certain all the same: the lines before, and those after that fit the line before them. Who was let in again is
    /// only of the lines before: what shut them out once more may be what is missing.
    pub(crate) certain: Vec<Entry>,
}

/// A journal as it was read: whole lines; one that a crash cut short is not counted.
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    chain: Chain,
    bytes: u64,
}

impl Read {
    /// The number of the last line; 0 where there is none.
    pub(crate) fn last(&self) -> u64 {
        self.chain.number
    }
}

/// The number and MAC of the last line.
#[derive(Clone, Copy, Default)]
struct Chain {
    number: u64,
    mac: [u8; 16],
}

impl Chain {
    fn next(&self, key: &Secret32, body: &str) -> [u8; 16] {
        let message = [&self.mac[..], body.as_bytes()].concat();
        Prk::extract(key.expose(), &message).expand(&[b"SMQTT-V01 journal"])
    }

    /// What a line says, and where the chain is after it; `None` if it is not the line after this one.
    fn follow(&self, key: &Secret32, line: &[u8]) -> Option<(Self, Entry)> {
        let (body, mac) = std::str::from_utf8(line).ok()?.trim_end_matches('\n').rsplit_once(' ')?;
        let expected = self.next(key, body);
        (hex(&expected) == mac).then_some(())?;
        let (number, rest) = body.split_once(' ')?;
        let (when, rest) = rest.split_once(' ')?;
        let (row, what) = rest.split_once(' ')?;
        let (number, at, row) = (number.parse().ok()?, when.parse().ok()?, row.parse().ok()?);
        let entry = Entry { number, at, row, deed: Deed::parse(what)? };
        Some((Self { number, mac: expected }, entry))
    }

    /// The chain after a line, if that is what it says.
    fn claimed(line: &[u8]) -> Option<Self> {
        let (_, mac) = std::str::from_utf8(line).ok()?.trim_end_matches('\n').rsplit_once(' ')?;
        Some(Self { number: 0, mac: unhex(mac)?.try_into().ok()? })
    }
}

/// Reads the journal in `path`; empty where there is none.
///
/// # Errors
/// A file error, or [`Damaged`].
pub(crate) fn read(path: &Path, key: &Secret32) -> Result<Result<Read, Damaged>, OpenError> {
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size > BYTES_MAX {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {BYTES_MAX} bytes"));
        return Err(OpenError::File { verb: "read", path: path.to_owned(), source });
    }
    let bytes = files::read(path)?.unwrap_or_default();
    Ok(parse(&bytes, key))
}

fn parse(bytes: &[u8], key: &Secret32) -> Result<Read, Damaged> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut read = Read { entries: Vec::new(), chain: Chain::default(), bytes: whole as u64 };
    let lines: Vec<&[u8]> = bytes[..whole].split_inclusive(|byte| *byte == b'\n').collect();
    for (at, line) in lines.iter().enumerate() {
        match read.chain.follow(key, line) {
            Some((chain, entry)) => {
                read.chain = chain;
                read.entries.push(entry);
            }
            None => {
                let mut certain = read.entries;
                certain.extend(salvage(&lines[at..], key));
                return Err(Damaged { line: at + 1, certain });
            }
        }
    }
    Ok(read)
}

/// Of lines of which the first is not what was written: those that fit the one before them.
fn salvage<'a>(lines: &'a [&'a [u8]], key: &'a Secret32) -> impl Iterator<Item = Entry> + 'a {
    let pairs = lines.iter().zip(lines.iter().skip(1));
    let found = pairs.filter_map(|(before, line)| Some(Chain::claimed(before)?.follow(key, line)?.1));
    found.filter(|entry| !matches!(entry.deed, Deed::Resumed { .. }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Writes down all that a journal that begins anew has to tell.
pub(crate) type State = fn(&Tx<'_>) -> Result<(), StoreError>;

/// A journal that is being written.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    key: Secret32,
    chain: Chain,
    bytes: u64,
    /// Where it ended before the last lines.
    before: Option<(Chain, u64)>,
    /// At this length it is written anew, from this.
    long: u64,
    state: Option<State>,
    now: Box<dyn Fn() -> u64 + Send>,
}

impl Journal {
    /// Goes on where `read` ended; a line that was cut short goes.
    pub(crate) fn resume(
        path: &Path,
        key: Secret32,
        read: &Read,
        now: Box<dyn Fn() -> u64 + Send>,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { verb: "write", path: path.to_owned(), source };
        let open = || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
            file.set_len(read.bytes)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = open().map_err(failed)?;
        files::sync_parent(path).map_err(failed)?;
        let (path, chain, bytes) = (path.to_owned(), read.chain, read.bytes);
        Ok(Self { path, file, key, chain, bytes, before: None, long: LONG_BYTES, state: None, now })
    }

    /// A new journal, the first line with the number after `number`; what was there is kept beside it.
    pub(crate) fn restart(
        path: &Path,
        key: Secret32,
        number: u64,
        now: Box<dyn Fn() -> u64 + Send>,
    ) -> Result<Self, OpenError> {
        if files::read(path)?.is_some_and(|bytes| !bytes.is_empty()) {
            let kept = path.with_extension(format!("damaged-{}", now()));
            files::rename(path, &kept)?;
        }
        let read = Read { entries: Vec::new(), chain: Chain { number, mac: [0; 16] }, bytes: 0 };
        Self::resume(path, key, &read, now)
    }

    /// Appends lines and syncs them; gives the last line's number. `row` is the last row of the audit log that was committed.
    ///
    /// # Errors
    /// The file could not be written: nothing counts, and the file is as it was, or has a line cut short at its end.
    pub(crate) fn append(&mut self, row: u64, deeds: &[Deed]) -> io::Result<u64> {
        use std::io::{Seek, SeekFrom};
        let (lines, chain) = self.lines(self.chain, row, deeds);
        // Over whatever a write that failed has left.
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.set_len(self.bytes)?;
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()?;
        self.before = Some((self.chain, self.bytes));
        self.chain = chain;
        self.bytes += lines.len() as u64;
        Ok(chain.number)
    }

    /// What these deeds look like after `chain`, and where it is then.
    fn lines(&self, mut chain: Chain, row: u64, deeds: &[Deed]) -> (String, Chain) {
        let (at, mut lines) = ((self.now)(), String::new());
        for deed in deeds {
            let body = format!("{} {at} {row} {}", chain.number + 1, deed.text());
            let mac = chain.next(&self.key, &body);
            lines.push_str(&format!("{body} {}\n", hex(&mac)));
            chain = Chain { number: chain.number + 1, mac };
        }
        (lines, chain)
    }

    /// When it has become long it is written anew from this.
    pub(crate) fn anew_from(self, state: State) -> Self {
        Self { state: Some(state), ..self }
    }

    #[cfg(test)]
    pub(crate) fn long_from(self, long: u64) -> Self {
        Self { long, ..self }
    }

    /// What to write it anew from, if it is so long that it should be.
    pub(crate) fn is_long(&self) -> Option<State> {
        self.state.filter(|_| self.bytes > self.long)
    }

    /// Not until it is twice as long.
    pub(crate) fn wait_longer(&mut self) {
        self.long = LONG_BYTES.max(self.bytes.saturating_mul(2));
    }

    /// Begins anew with these deeds, which are all there is; the numbers go on. What was there before is kept beside it.
    pub(crate) fn rewrite(&mut self, row: u64, deeds: &[Deed]) -> io::Result<u64> {
        let number = self.chain.number;
        let (lines, chain) = self.lines(Chain { number, mac: [0; 16] }, row, deeds);
        let (new, kept) = (self.path.with_extension("new"), self.path.with_extension(BEFORE));
        for old in [&new, &kept] {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        // There is a journal at every moment.
        std::fs::hard_link(&self.path, &kept)?;
        std::fs::rename(&new, &self.path)?;
        // From here on that is the journal, whatever comes.
        (self.file, self.chain, self.bytes, self.before) = (file, chain, lines.len() as u64, None);
        self.wait_longer();
        files::sync_parent(&self.path)?;
        Ok(chain.number)
    }

    /// Takes the last lines back: what they tell was not committed, and whoever asked for it was told so. If they cannot be
    /// removed, the next lines are written over them. If it was committed after all, as a disk that fails may have it, the next
    /// start finds the store ahead of its journal.
    pub(crate) fn take_back(&mut self) {
        let Some((chain, bytes)) = self.before.take() else { return };
        (self.chain, self.bytes) = (chain, bytes);
        if let Err(error) = self.file.set_len(bytes).and_then(|()| self.file.sync_data()) {
            tracing::error!(%error, "lines of the journal that were not committed could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deeds() -> Vec<Deed> {
        vec![
            Deed::Revoked { id: DeviceId([7; 16]), role: Role::Device, name: "nurse-1".into() },
            Deed::Version { attribute: "role=nurse".parse::<Attribute>().unwrap().version_key(), version: 3 },
            Deed::Suspended { id: DeviceId([8; 16]), role: Role::Bridge, name: "b".into() },
            Deed::Resumed { id: DeviceId([8; 16]) },
            Deed::Changed {
                id: DeviceId([9; 16]),
                attributes: Attributes::parse(["ward=4", "role=nurse"]).unwrap(),
                policy: Some(Policy::parse("a and b").unwrap()),
            },
            Deed::Changed { id: DeviceId([9; 16]), attributes: Attributes::default(), policy: None },
            Deed::Epoch { number: 42 },
            Deed::Given {
                id: DeviceId([9; 16]),
                given: GivenRow { profile: Some("p".into()), ..GivenRow::default() },
            },
            Deed::Profile {
                name: "p".into(),
                profile: Some(ProfileRow {
                    name: "p".into(),
                    attributes: Attributes::parse(["x"]).unwrap(),
                    policy: Some(Policy::parse("a and b").unwrap()),
                    certificate_days: Some(90),
                    token_ttl_seconds: None,
                    filters: vec!["a b/+".into()],
                }),
            },
            Deed::Profile { name: "p".into(), profile: None },
            Deed::Group {
                name: "g".into(),
                group: Some(GroupRow { name: "g".into(), profile: None, attributes: Attributes::default() }),
            },
            Deed::Group { name: "g".into(), group: None },
            Deed::RootIssues { root: Fingerprint([1; 32]) },
            Deed::RootRetired { root: Fingerprint([2; 32]) },
            Deed::Mark,
        ]
    }

    fn written(path: &Path, key: &Secret32) -> Vec<u8> {
        let empty = read(path, key).unwrap().unwrap();
        let mut journal = Journal::resume(path, key.clone(), &empty, Box::new(|| 1_800_000_000)).unwrap();
        assert_eq!(journal.append(0, &deeds()[..1]).unwrap(), 1);
        assert_eq!(journal.append(7, &deeds()[1..]).unwrap(), deeds().len() as u64);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn lines_come_back_and_a_cut_one_is_not_counted() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(FILE), Secret32::random());
        let bytes = written(&path, &key);
        let back = read(&path, &key).unwrap().unwrap();
        assert_eq!(back.entries.iter().map(|entry| entry.deed.clone()).collect::<Vec<_>>(), deeds());
        let numbers = back.entries.iter().map(|entry| entry.number);
        assert!(numbers.eq(1..=deeds().len() as u64));
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let back = read(&path, &key).unwrap().unwrap();
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(back.entries.len(), whole);
        }
        // What was cut goes, and the chain goes on.
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let back = read(&path, &key).unwrap().unwrap();
        let mut journal = Journal::resume(&path, key.clone(), &back, Box::new(|| 9)).unwrap();
        let all = deeds().len();
        assert_eq!(journal.append(7, &[Deed::Epoch { number: 43 }]).unwrap(), all as u64);
        assert_eq!(read(&path, &key).unwrap().unwrap().entries.len(), all);
    }

    #[test]
    fn every_edit_and_every_line_left_out_is_found() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(FILE), Secret32::random());
        let bytes = written(&path, &key);
        let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
        for at in 0..bytes.len() - 1 {
            let mut edited = bytes.clone();
            edited[at] ^= 1;
            // A line end that goes joins two lines, one that comes splits one.
            assert!(parse(&edited, &key).is_err(), "byte {at}, the last line begins at {last}");
        }
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let line = |parsed: Result<Read, Damaged>| parsed.err().map(|damaged| damaged.line);
        assert_eq!(line(parse(&[lines[0], lines[2]].concat(), &key)), Some(2));
        assert_eq!(line(parse(&[lines[1], lines[0]].concat(), &key)), Some(1));
        assert!(parse(&bytes, &Secret32::random()).err().unwrap().certain.is_empty());
    }

    #[test]
    fn of_a_damaged_journal_all_is_certain_but_what_was_hit() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(FILE), Secret32::random());
        let bytes = written(&path, &key);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for hit in 0..lines.len() {
            let mut edited: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
            edited[hit][3] ^= 1;
            let certain = parse(&edited.concat(), &key).err().unwrap().certain;
            let numbers: Vec<u64> = certain.iter().map(|entry| entry.number).collect();
            // The fourth line lets somebody in again.
            let all = (1..=lines.len()).filter(|n| *n != hit + 1 && (*n != 4 || hit > 3));
            assert_eq!(numbers, all.map(|n| n as u64).collect::<Vec<_>>(), "line {}", hit + 1);
        }
        // A line that is copied to another place does not fit there.
        let copied = [lines[0], lines[6], lines[1]].concat();
        let certain = parse(&copied, &key).err().unwrap().certain;
        assert_eq!(certain.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1]);
    }

    /// As on a full disk: what is in no line of the journal is not done, and the rest goes on.
    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_done() {
        use crate::counts::Counts;
        use crate::error::Error;
        use crate::store::{Opening, StoreError};
        let dir = tempfile::TempDir::new().unwrap();
        let (path, key) = (dir.path().join(FILE), Secret32::random());
        let empty = read(&path, &key).unwrap().unwrap();
        let mut journal = Journal::resume(&path, key.clone(), &empty, Box::new(|| 1)).unwrap();
        journal.file = File::open(&path).unwrap();
        let opening = Opening::new(dir.path()).unwrap();
        opening.keep_journal(journal);
        let store = opening.start(&std::sync::Arc::new(Counts::new("file"))).unwrap();
        let refused = store.write(|tx| {
            tx.write_down(Deed::Epoch { number: 7 });
            Ok(tx.bump("revision")?)
        });
        assert!(matches!(refused.await, Err(Error::Store(StoreError::Journal(_)))));
        assert_eq!(store.write(|tx| Ok(tx.bump("revision")?)).await.unwrap(), 1);
        assert!(read(&path, &key).unwrap().unwrap().entries.is_empty());
    }
}
