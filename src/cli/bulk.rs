//! `smqtt token bulk`: a token for each line of a CSV file.
//!
//! Each token is written to the output, and synced, before the next is made. A run that broke off goes on where it was: names that
//! are in the output are passed over, and a token that was made and not written is taken back by the one that replaces it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use smqtt_client::authority::Authority;
use smqtt_client::files::{read_bounded, read_if_any};
use smqtt_core::api::{Group, NewToken, Profile, TokenRequest};
use smqtt_core::policy::Policy;
use zeroize::Zeroizing;

use super::caller::CallerArgs;
use super::failure::Failure;
use super::lock::lock;
use super::print_line;
use super::token::{check_attributes, seconds};

const FILE_BYTES_MAX: usize = 64 << 20;
const COLUMNS: &str = "name, role, profile, group, attributes, policy, serial";
/// The first line of the output.
const HEAD: &str = "name,token,expires\n";

/// Arguments of `smqtt token bulk`.
#[derive(Args)]
pub struct BulkArgs {
    /// A CSV file whose first line names columns: name, and any of role, profile, group, attributes (separated by `;`), policy, serial
    file: PathBuf,
    /// Where the tokens are written, readable by you alone: name, token, expires. What is there already is passed over
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long the tokens are good for, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    #[command(flatten)]
    site: CallerArgs,
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    profile: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    attributes: String,
    #[serde(default)]
    policy: String,
    #[serde(default)]
    serial: String,
}

/// Makes the tokens. Nothing is made before the whole file makes sense.
pub async fn run(args: &BulkArgs) -> Result<(), Failure> {
    let bytes = read_bounded(&args.file, FILE_BYTES_MAX)?;
    let requests = requests(&bytes, args)?;
    let authority = args.site.authority().await?;
    check_known(&authority, &requests, args).await?;
    let (mut out, done) = open(&args.out)?;
    let todo: Vec<_> = requests.into_iter().filter(|(_, request)| !done.contains(&request.name)).collect();
    let mut progress = Progress::new(todo.len());
    for (line, request) in &todo {
        let made: NewToken = authority
            .create("/v1/tokens", request)
            .await
            .map_err(|error| Failure::from(error).within(&format!("{}:{line}", args.file.display())))?;
        // A name has no character that CSV would quote, and neither has a token.
        let row = Zeroizing::new(format!("{},{},{}\n", request.name, made.token, made.expires));
        out.write_all(row.as_bytes())
            .and_then(|()| out.sync_data())
            .map_err(|error| unwritable(&args.out, &error))?;
        progress.one();
    }
    progress.end();
    let before = if done.is_empty() { String::new() } else { format!(", {} were there already", done.len()) };
    print_line(format!("{} tokens in {}{before}", todo.len(), args.out.display()))
}

/// All there are at `path`; `None` for an access token that may make tokens and not look.
async fn listed<T: DeserializeOwned>(authority: &Authority, path: &str) -> Result<Option<Vec<T>>, Failure> {
    match authority.get(path).await {
        Ok(all) => Ok(Some(all)),
        Err(error) if error.code() == Some("scope") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the authority has all profiles and groups that are named.
async fn check_known(
    authority: &Authority,
    requests: &[(u64, TokenRequest)],
    args: &BulkArgs,
) -> Result<(), Failure> {
    let (mut profiles, mut groups) = (None, None);
    if requests.iter().any(|(_, request)| request.profile.is_some()) {
        let all: Option<Vec<Profile>> = listed(authority, "/v1/profiles").await?;
        profiles = all.map(|all| all.into_iter().map(|profile| profile.name).collect::<BTreeSet<_>>());
    }
    if requests.iter().any(|(_, request)| request.group.is_some()) {
        let all: Option<Vec<Group>> = listed(authority, "/v1/groups").await?;
        groups = all.map(|all| all.into_iter().map(|group| group.name).collect::<BTreeSet<_>>());
    }
    for (line, request) in requests {
        let named = [("profile", &request.profile, &profiles), ("group", &request.group, &groups)];
        for (what, name, known) in named {
            let Some(known) = known else { continue };
            if let Some(name) = name.as_ref().filter(|name| !known.contains(*name)) {
                return Err(at(args, *line, &format!("there is no {what} `{name}`")));
            }
        }
    }
    Ok(())
}

/// Each line as a request, with its number. The first that makes no sense is named.
fn requests(bytes: &[u8], args: &BulkArgs) -> Result<Vec<(u64, TokenRequest)>, Failure> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers().cloned();
    let headers = headers.map_err(|error| at(args, 1, &error.to_string()))?;
    let (mut requests, mut names) = (Vec::new(), BTreeSet::new());
    let mut record = csv::StringRecord::new();
    let mut lines = LineNumbers { bytes, line: 1 };
    loop {
        let number = lines.next(bytes.len() - usize::try_from(reader.position().byte()).unwrap_or(0));
        let more = reader.read_record(&mut record).map_err(|error| at(args, number, &what(&error)))?;
        if !more {
            return Ok(requests);
        }
        let line: Line = record
            .deserialize(Some(&headers))
            .map_err(|error| at(args, number, &what(&error)).hint(format!("the columns are {COLUMNS}")))?;
        let request = request(line, args)
            .map_err(|failure| failure.within(&format!("{}:{number}", args.file.display())))?;
        if !names.insert(request.name.clone()) {
            return Err(at(args, number, &format!("`{}` is there twice", request.name)));
        }
        requests.push((number, request));
    }
}

/// Counts lines as editors do. The reader's own count is of one less after a line that ends with CR and LF.
struct LineNumbers<'a> {
    /// What was not counted yet.
    bytes: &'a [u8],
    line: u64,
}

impl LineNumbers<'_> {
    /// The number of the line of the record that begins where so many bytes are `left`, or after empty lines there.
    fn next(&mut self, left: usize) -> u64 {
        let is_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let passed = self.bytes.len() - left;
        let passed = passed + self.bytes[passed..].iter().take_while(is_end).count();
        let (passed, left) = self.bytes.split_at(passed);
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.bytes = left;
        self.line
    }
}

/// What is wrong with a record, without the place: that is ours to say.
fn what(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
        csv::ErrorKind::Utf8 { err, .. } => err.to_string(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} columns, and the first line {expected_len}")
        }
        _ => error.to_string(),
    }
}

fn request(line: Line, args: &BulkArgs) -> Result<TokenRequest, Failure> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    smqtt_core::identity::check_new_name(&line.name).map_err(|error| Failure::new(error.to_string()))?;
    let parts = line.attributes.split(';').map(str::trim).filter(|part| !part.is_empty());
    let attributes: Vec<String> = parts.map(str::to_owned).collect();
    check_attributes(&attributes)?;
    let policy = given(line.policy);
    policy.as_deref().map(Policy::parse).transpose()?;
    let default = TokenRequest::default();
    Ok(TokenRequest {
        name: line.name,
        role: given(line.role).unwrap_or(default.role),
        attributes,
        policy,
        ttl_seconds: args.ttl,
        serials: given(line.serial).into_iter().collect(),
        profile: given(line.profile),
        group: given(line.group),
        // One that an earlier run made and could not write.
        replace: true,
        ..TokenRequest::default()
    })
}

fn at(args: &BulkArgs, line: u64, what: &str) -> Failure {
    Failure::new(format!("{}:{line}: {what}", args.file.display()))
}

/// The output, to be appended to, and the names in it. A last line that was cut off is taken away.
fn open(path: &Path) -> Result<(File, BTreeSet<String>), Failure> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = file.map_err(|error| unwritable(path, &error))?;
    lock(&file, path, "another `smqtt token bulk`")?;
    let text = read_if_any(path, FILE_BYTES_MAX)?.map(Zeroizing::new);
    let text = text.as_ref().map_or(Ok(""), |bytes| std::str::from_utf8(bytes));
    let ours = text.ok().filter(|text| text.is_empty() || text.starts_with(HEAD));
    let text = ours.ok_or_else(|| {
        let hint = "name another file with `--out`, or move that one away";
        Failure::new(format!("`{}` is not a file of tokens", path.display())).hint(hint)
    })?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let names = text[..whole].lines().skip(1).filter_map(|line| line.split(',').next());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let prepare = |mut file: &File| {
        // Also where somebody made it before.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.set_len(whole as u64)?;
        if whole == 0 { file.write_all(HEAD.as_bytes()) } else { Ok(()) }
    };
    prepare(&file).map_err(|error| unwritable(path, &error))?;
    Ok((file, names))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write `{}`", path.display())).because(error)
}

/// How far it is: a line that changes on a terminal, a line for each percent elsewhere.
struct Progress {
    all: usize,
    done: usize,
    shown: usize,
    terminal: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, done: 0, shown: 0, terminal: std::io::stderr().is_terminal() }
    }

    fn one(&mut self) {
        self.done += 1;
        let percent = self.done * 100 / self.all.max(1);
        if self.terminal {
            eprint!("\r{} of {}, {percent}%", self.done, self.all);
        } else if percent > self.shown {
            eprintln!("{percent}%");
        }
        self.shown = percent;
    }

    fn end(&self) {
        if self.terminal && self.all > 0 {
            eprintln!();
        }
    }
}
