//! `smqtt authority backup`: a backup of a running authority, on its own machine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use smqtt_core::api::{BackupMade, BackupRequest};
use smqtt_core::crypto::sha256;

use super::caller::administrator;
use super::config::SiteArgs;
use super::failure::Failure;
use super::{date, hex, print_line, recovery};

/// Arguments of `smqtt authority backup`.
#[derive(Args)]
pub struct BackupArgs {
    /// The recovery key to seal it to; may be repeated. Without it those that the authority trusts
    #[arg(long, value_name = "PUBKEY")]
    to: Vec<String>,
    /// Where to put it; must not be there. Without it it stays in DIR/backups
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Has the authority write it, and takes it where it is wanted.
pub async fn run(args: &BackupArgs) -> Result<(), Failure> {
    let (_, data) = args.site.load()?;
    for text in &args.to {
        // Whoever may write into the authority's directory may say so.
        recovery::public(text)?.trust(&data)?;
    }
    if let Some(out) = args.out.as_ref().filter(|out| out.exists()) {
        return Err(Failure::new(format!("`{}` is there already", out.display())).hint("name another file"));
    }
    let request = BackupRequest { to: args.to.clone() };
    let made: BackupMade = administrator(&data)?.post("/v1/backup", &request).await?;
    let mut place = data.join("backups").join(&made.file);
    if let Some(out) = &args.out {
        let moved = copy(&place, out).and_then(|()| read_hash(out));
        let failed = |error: io::Error| {
            Failure::new(format!("cannot write `{}`", out.display()))
                .because(&error)
                .hint(format!("the backup is in `{}`", place.display()))
        };
        if moved.map_err(failed)? != made.sha256 {
            return Err(Failure::new(format!("`{}` is not what was written to it", out.display()))
                .hint(format!("the backup is in `{}`", place.display())));
        }
        let _ = std::fs::remove_file(&place);
        place.clone_from(out);
    }
    if args.json {
        let mut json = serde_json::to_value(&made).unwrap_or_default();
        json["file"] = place.display().to_string().into();
        return print_line(json.to_string());
    }
    print_line(format!("backup       {} ({} bytes)", place.display(), made.bytes))?;
    print_line(format!("made         {}, opened again and read", date(made.created)))?;
    print_line(format!(
        "holds        bundle {}, epoch {}, {} audit records",
        made.bundle, made.epoch, made.audit
    ))?;
    print_line(format!("opens with   the recovery keys {}", made.recovery_keys.join(", ")))?;
    eprintln!(
        "keep `{}` current elsewhere as well: it says who was revoked since",
        data.join("revocations/journal").display()
    );
    Ok(())
}

/// Copies to a new file for its owner alone, synced.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut out)?;
    out.sync_all()
}

fn read_hash(file: &Path) -> io::Result<String> {
    Ok(hex(&sha256(&[&std::fs::read(file)?])))
}
