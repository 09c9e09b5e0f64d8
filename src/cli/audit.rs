//! `smqtt audit`: the authority's audit log, shown, written to a file, and checked without trusting who keeps it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use smqtt_client::authority::Authority;
use smqtt_client::files::read_bounded;
use smqtt_client::{printable, system_now};
use smqtt_core::api::{AuditLine, AuditRecord, Checkpoint};
use smqtt_core::audit::{AuditFault, Verified, Verifier};
use smqtt_core::identity::fingerprint;

use super::admin::print_json;
use super::caller::{CallerArgs, certificates as certificates_in};
use super::failure::Failure;
use super::lock::lock;
use super::{date, hex, print_line};

/// How often `--follow` asks.
const FOLLOW: Duration = Duration::from_secs(1);
/// Most bytes of a line of an exported log.
const LINE_BYTES_MAX: usize = 16 << 10;

/// `smqtt audit`.
#[derive(Subcommand)]
pub enum AuditCommand {
    /// Show the log
    List(ListArgs),
    /// Append what is new to a file, one JSON object a line, checkpoints included
    Export(ExportArgs),
    /// Check the log: any edit, deletion or reordering shows, and any end that is missing of what was signed for
    Verify(VerifyArgs),
}

/// Arguments of `smqtt audit list`.
#[derive(Args)]
pub struct ListArgs {
    /// Only what comes after this row
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Go on with what is written from now on
    #[arg(long)]
    follow: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt audit export`.
#[derive(Args)]
pub struct ExportArgs {
    /// The file; one that is there is gone on with
    file: PathBuf,
    #[command(flatten)]
    site: CallerArgs,
}

/// Arguments of `smqtt audit verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// A file that `smqtt audit export` or the authority's `audit_file` wrote; those rotated from it, FILE.1 and so on, are read
    /// before it [default: the log that the authority shows]
    file: Option<PathBuf>,
    /// The file is a part of the log, since older files were removed: what was before its first row is not looked for
    #[arg(long, requires = "file")]
    part: bool,
    /// The authority's root certificate (PEM), for a file; of one that was exchanged also those before [default: those that
    /// the administrator or `--as` knows]
    #[arg(long, value_name = "FILE", requires = "file")]
    root: Option<PathBuf>,
    /// Remember in this file how far the log came, and complain the next time if it has less or something else there
    #[arg(long, value_name = "FILE")]
    remember: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: CallerArgs,
}

/// `smqtt audit …`
pub async fn run(command: &AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(args).await,
        AuditCommand::Export(args) => export(args).await,
        AuditCommand::Verify(args) => verify(args).await,
    }
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let authority = args.site.authority().await?;
    let mut after = args.after;
    loop {
        let page = rows(&authority, after).await?;
        for row in &page {
            let line = match args.json {
                true => serde_json::to_string(row).unwrap_or_default(),
                false => printable(&format!(
                    "{}  {}  {}  {}  {}",
                    row.number,
                    date(row.at),
                    row.actor,
                    row.action,
                    row.subject
                )),
            };
            print_line(line)?;
        }
        match page.last() {
            Some(last) => after = last.number,
            None if args.follow => tokio::time::sleep(FOLLOW).await,
            None => return Ok(()),
        }
    }
}

/// The checkpoints after the one at row `after`. Asking has the authority sign for the rows that there are.
async fn checkpoints(authority: &Authority, mut after: u64) -> Result<Vec<Checkpoint>, Failure> {
    let mut all: Vec<Checkpoint> = Vec::new();
    loop {
        let page: Vec<Checkpoint> = authority.get(&format!("/v1/audit/checkpoints?after={after}")).await?;
        let Some(last) = page.last() else { return Ok(all) };
        // One alone may have been signed for this question: to ask until there is none would be to ask for ever.
        let is_end = page.len() == 1;
        after = last.number;
        all.extend(page);
        if is_end {
            return Ok(all);
        }
    }
}

async fn rows(authority: &Authority, after: u64) -> Result<Vec<AuditRecord>, Failure> {
    Ok(authority.get(&format!("/v1/audit?after={after}")).await?)
}

async fn export(args: &ExportArgs) -> Result<(), Failure> {
    let authority = args.site.authority().await?;
    let mut exported = Exported::open(&args.file)?;
    // It ends where the authority has just signed, not with rows that came since: `verify` believes those for minutes only.
    let pending = checkpoints(&authority, exported.signed).await?;
    if let Some(end) = pending.last().map(|checkpoint| checkpoint.number) {
        exported.fetch(&authority, pending, end).await?;
    }
    let more = !rows(&authority, exported.row).await?.is_empty();
    if more && checkpoints(&authority, exported.signed).await?.is_empty() {
        let after = exported.row;
        exported.fetch(&authority, Vec::new(), u64::MAX).await?;
        eprintln!(
            "warning: the authority does not sign: no checkpoint covers rows {} to {}; export again when it does",
            after + 1,
            exported.row
        );
    }
    exported.end()
}

/// A file that a log is exported to, and how far it came.
struct Exported {
    path: PathBuf,
    file: File,
    /// The last row in it.
    row: u64,
    /// The row of the last checkpoint in it.
    signed: u64,
    /// How many rows were added.
    count: u64,
}

impl Exported {
    /// Nobody else writes to the file as long as this lives. Half a line at its end, as a full disk leaves it, is taken away:
    /// its row comes again.
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|error| unwritable(path, &error))?;
        lock(&file, path, "another export")?;
        let mut exported = Self { path: path.to_owned(), file, row: 0, signed: 0, count: 0 };
        let (mut lines, mut whole) = (Lines::of(path)?, 0);
        loop {
            let line = lines.bytes()?;
            if is_cut(&line) {
                break;
            }
            exported.reached(&lines.parse(&line)?);
            whole += line.len() as u64;
        }
        let cut = || {
            let is_more = exported.file.metadata()?.len() > whole;
            if is_more { exported.file.set_len(whole) } else { Ok(()) }
        };
        cut().map_err(|error| unwritable(path, &error))?;
        Ok(exported)
    }

    fn reached(&mut self, line: &AuditLine) {
        match line {
            AuditLine::Record(row) => self.row = row.number,
            AuditLine::Checkpoint(checkpoint) => self.signed = checkpoint.number,
        }
    }

    /// Adds the rows up to `end`, each checkpoint after its row.
    async fn fetch(
        &mut self,
        authority: &Authority,
        pending: Vec<Checkpoint>,
        end: u64,
    ) -> Result<(), Failure> {
        let mut pending = pending.into_iter().peekable();
        while self.row < end {
            let page = rows(authority, self.row).await?;
            let before = self.row;
            for row in page.into_iter().take_while(|row| row.number <= end) {
                // One over rows that were pruned comes before the first that is left.
                while let Some(checkpoint) = pending.next_if(|checkpoint| checkpoint.number < row.number) {
                    self.write(&AuditLine::Checkpoint(checkpoint))?;
                }
                self.write(&AuditLine::Record(row))?;
            }
            if self.row == before {
                break;
            }
        }
        for checkpoint in pending.take_while(|checkpoint| checkpoint.number <= end) {
            self.write(&AuditLine::Checkpoint(checkpoint))?;
        }
        Ok(())
    }

    fn write(&mut self, line: &AuditLine) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        self.file.write_all(&text).map_err(|error| unwritable(&self.path, &error))?;
        self.count += u64::from(matches!(line, AuditLine::Record(_)));
        self.reached(line);
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| unwritable(&self.path, &error))?;
        eprintln!("{} rows, up to row {}", self.count, self.row);
        Ok(())
    }
}

/// Whether this is a line that was not written to its end, or nothing, and not what somebody else wrote.
fn is_cut(line: &[u8]) -> bool {
    let ended = line.last() == Some(&b'\n') || line.len() == LINE_BYTES_MAX;
    let begins = |head: &[u8]| line.iter().zip(head).all(|(is, should)| is == should);
    !ended && (begins(b"{\"record\":{") || begins(b"{\"checkpoint\":{"))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write `{}`", path.display())).because(error)
}

/// The lines of an exported log.
struct Lines {
    reader: BufReader<File>,
    name: String,
    number: u64,
}

impl Lines {
    fn of(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let file = File::open(path)
            .map_err(|error| Failure::new(format!("cannot read `{name}`")).because(&error))?;
        Ok(Self { reader: BufReader::new(file), name, number: 0 })
    }

    /// The next line as it is, with its end if it has one; empty where there is none.
    fn bytes(&mut self) -> Result<Vec<u8>, Failure> {
        self.number += 1;
        let mut line = Vec::new();
        let read = std::io::Read::take(&mut self.reader, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
        read.map_err(|error| Failure::new(format!("cannot read `{}`", self.name)).because(&error))?;
        Ok(line)
    }

    /// What a line says, the one that was read last.
    fn parse(&self, line: &[u8]) -> Result<AuditLine, Failure> {
        serde_json::from_slice(line).map_err(|error| {
            let text = format!("line {} of `{}` is no part of an audit log", self.number, self.name);
            Failure::new(text).because(&error)
        })
    }
}

impl Iterator for Lines {
    type Item = Result<AuditLine, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.bytes() {
            Ok(line) if line.is_empty() => None,
            line => Some(line.and_then(|line| self.parse(&line))),
        }
    }
}

/// How far a log came.
#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered {
    number: u64,
    hash: String,
}

async fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let remembered = match &args.remember {
        Some(path) if path.exists() => Some(remembered(path)?),
        _ => None,
    };
    let mut seen = false;
    let mut look = |row: &AuditRecord| match &remembered {
        Some(known) if known.number == row.number => {
            seen = true;
            if known.hash == row.hash { Ok(()) } else { Err(AuditFault::Rewritten(row.number)) }
        }
        _ => Ok(()),
    };
    let verified = match &args.file {
        Some(path) => verify_file(path, args.part, &roots(args)?, &mut look),
        None => verify_shown(&args.site.authority().await?, &roots(args)?, &mut look).await,
    }?;
    verified.check_young(system_now()).map_err(|fault| does_not_hold(&fault))?;
    if let Some(known) = &remembered
        && !seen
        && verified.first <= known.number
    {
        return Err(does_not_hold(&AuditFault::Truncated { last: verified.last, signed: known.number }));
    }
    if let Some(path) = &args.remember {
        let now = Remembered { number: verified.last, hash: hex(&verified.hash) };
        let json = serde_json::to_vec(&now).unwrap_or_default();
        smqtt_client::files::write_private(path, &json)?;
    }
    if args.json {
        return print_json(&serde_json::json!({
            "first": verified.first, "last": verified.last, "hash": hex(&verified.hash),
            "checkpoints": verified.checkpoints, "signed": verified.signed,
            "unsigned_since": verified.unsigned_since,
        }));
    }
    print_line(format!("holds        rows {} to {}", verified.first, verified.last))?;
    print_line(format!("signed for   up to row {}, {} checkpoints", verified.signed, verified.checkpoints))?;
    if let Some((first, last)) = verified.unsigned() {
        print_line(format!("by its chain rows {first} to {last} alone: they are too young for a signature"))?;
    }
    print_line(format!("last hash    {}", hex(&verified.hash)))
}

/// An exported log: what was rotated from it, the oldest first, then itself.
fn with_rotated(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |error| Failure::new(format!("cannot read `{}`", dir.display())).because(&error);
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let number =
            entry.file_name().to_str().and_then(|there| there.strip_prefix(&name)?.parse::<u64>().ok());
        rotated.extend(number.map(|number| (number, entry.path())));
    }
    rotated.sort_unstable_by_key(|one| std::cmp::Reverse(one.0));
    Ok(rotated.into_iter().map(|(_, path)| path).chain([path.to_owned()]).collect())
}

fn verify_file(
    path: &Path,
    part: bool,
    roots: &[Vec<u8>],
    look: &mut impl FnMut(&AuditRecord) -> Result<(), AuditFault>,
) -> Result<Verified, Failure> {
    // Twice through the files: checkpoints are few, rows are many.
    let (files, mut checkpoints) = (with_rotated(path)?, Vec::new());
    for file in &files {
        for line in Lines::of(file)? {
            if let AuditLine::Checkpoint(checkpoint) = line? {
                checkpoints.push(checkpoint);
            }
        }
    }
    let mut verifier = Verifier::new(&checkpoints, roots).map_err(|fault| does_not_hold(&fault))?;
    if part {
        verifier = verifier.of_part();
    }
    for file in &files {
        for line in Lines::of(file)? {
            if let AuditLine::Record(row) = line? {
                verifier.row(&row).and_then(|()| look(&row)).map_err(|fault| does_not_hold(&fault))?;
            }
        }
    }
    verifier.finish().map_err(|fault| does_not_hold(&fault))
}

async fn verify_shown(
    authority: &Authority,
    roots: &[Vec<u8>],
    look: &mut impl FnMut(&AuditRecord) -> Result<(), AuditFault>,
) -> Result<Verified, Failure> {
    let signed = checkpoints(authority, 0).await?;
    let mut verifier = Verifier::new(&signed, roots).map_err(|fault| does_not_hold(&fault))?;
    let mut after = 0;
    loop {
        let page = rows(authority, after).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for row in &page {
            verifier.row(row).and_then(|()| look(row)).map_err(|fault| does_not_hold(&fault))?;
        }
    }
    verifier.finish().map_err(|fault| does_not_hold(&fault))
}

fn does_not_hold(fault: &AuditFault) -> Failure {
    let hint = match fault {
        AuditFault::CutOff(_) => {
            "keep this copy; say `--part` if it is a file whose older ones were removed on purpose"
        }
        AuditFault::Unsigned { .. } => {
            "export again: the authority signs for what is exported, and within a minute for what its `audit_file` gets; if these \
             rows still have no signature then, the checkpoints that covered them were removed: believe no word of them"
        }
        AuditFault::Empty => {
            "a log has rows from the authority's first start on: these were removed, or never exported"
        }
        _ => "keep this copy, and compare it with an earlier export",
    };
    Failure::new("the audit log does not hold").because(fault).hint(hint)
}

fn remembered(path: &Path) -> Result<Remembered, Failure> {
    let bytes = read_bounded(path, 4096)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(format!("`{}` is not what `--remember` wrote", path.display())).because(&error)
    })
}

/// The roots by which checkpoints are checked: never any that the log brings along.
fn roots(args: &VerifyArgs) -> Result<Vec<Vec<u8>>, Failure> {
    let Some(path) = &args.root else { return args.site.roots_of_record() };
    let roots = certificates_in(path)?;
    match roots.iter().all(|root| fingerprint(root).is_ok()) {
        true => Ok(roots),
        false => Err(Failure::new(format!("`{}` is no root certificate", path.display()))),
    }
}
