//! `smqtt authority restore`: an authority out of a backup, or a drill.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use smqtt_client::files::read_bounded;
use smqtt_core::bundle::BUNDLE_BYTES_MAX;
use smqtt_keysvc::{Restore, Restored, Since, SystemClock, restore};

use super::config::SiteArgs;
use super::drill::Drill;
use super::failure::Failure;
use super::{date, print_line, recovery};

/// Arguments of `smqtt authority restore`.
#[derive(Args)]
pub struct RestoreArgs {
    /// The backup
    backup: PathBuf,
    /// The file with the secret half of a recovery key it is sealed to
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The journal of the lost authority, `DIR/revocations/journal`: who was revoked since the backup
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// The journal is lost: whoever was revoked since has to be revoked again
    #[arg(long, conflicts_with = "journal")]
    journal_lost: bool,
    /// A bundle that a broker or device kept, `bundle.cose` of its keyring: it tells who was revoked. May be repeated
    #[arg(long = "bundle", value_name = "FILE")]
    bundles: Vec<PathBuf>,
    /// Only try it, in a directory that is removed again
    #[arg(long)]
    check: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Restores into the data directory, which must be empty, or beside it for a drill.
pub async fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let (config, data) = args.site.load()?;
    let key = recovery::secret(&args.key)?;
    let since = match (&args.journal, args.journal_lost) {
        (Some(path), _) => Since::Journal(path.clone()),
        (None, true) => Since::Lost,
        // A drill need not know who was revoked since.
        (None, false) if args.check => Since::Lost,
        (None, false) => {
            return Err(Failure::new("who was revoked since the backup?").hint(
                "give `--journal FILE`, the lost authority's DIR/revocations/journal; if there is no copy, `--journal-lost`, and `--bundle FILE` from brokers and devices",
            ));
        }
    };
    let bundles = args.bundles.iter().map(|file| Ok(read_bounded(file, BUNDLE_BYTES_MAX)?));
    let bundles = bundles.collect::<Result<Vec<_>, Failure>>()?;
    let lost = matches!(since, Since::Lost);
    let what = Restore { backup: &args.backup, key: &key, since, bundles };
    let drill = args.check.then(|| Drill::beside(&data)).transpose()?;
    let target = drill.as_ref().map_or_else(|| data.clone(), Drill::data);
    let restored = restore(what, &target, &config.authority, Arc::new(SystemClock)).await;
    drop(drill);
    let restored = restored?;
    if args.json {
        return print_line(json(&restored, args.check).to_string());
    }
    print_line(format!("authority    {}", restored.authority))?;
    print_line(format!(
        "backup of    {}, {} audit records, all in order",
        date(restored.created),
        restored.audit
    ))?;
    print_line(format!(
        "epoch        {} begins; bundles go on above every number that was ever seen",
        restored.epoch
    ))?;
    print_line(format!("shut out     {} since the backup, and again now", or_nobody(&restored.shut_out)))?;
    if restored.tokens_voided + restored.access_voided > 0 {
        print_line(format!(
            "void         {} unused enrolment tokens, {} access tokens: they may have been used or withdrawn since",
            restored.tokens_voided, restored.access_voided
        ))?;
    }
    if args.check {
        return print_line("a drill: nothing was kept");
    }
    print_line(format!("data         {}", data.display()))?;
    print_line(
        "sealed       under a new key file; the administrator's certificate is new, the old one is revoked",
    )?;
    if lost {
        warn(&restored);
    }
    eprintln!("whoever enrolled after the backup is not known and enrols again");
    Ok(())
}

/// What it means that the journal is lost.
fn warn(restored: &Restored) {
    eprintln!("WARNING: THE JOURNAL IS LOST.");
    match restored.known_until {
        Some(until) => eprintln!(
            "WARNING: the bundles tell who was revoked until {}; WHOEVER WAS REVOKED LATER IS NOT.",
            date(until)
        ),
        None => eprintln!(
            "WARNING: WHOEVER WAS REVOKED OR SUSPENDED AFTER {} IS NOT, and gets keys again.",
            date(restored.created)
        ),
    }
    eprintln!(
        "WARNING: revoke them again before you start a broker: `smqtt device revoke NAME`; what they lost, `smqtt device set NAME --remove …`."
    );
}

fn or_nobody(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

fn json(restored: &Restored, check: bool) -> serde_json::Value {
    serde_json::json!({
        "authority": restored.authority,
        "created": restored.created,
        "shut_out": restored.shut_out,
        "known_until": restored.known_until,
        "epoch": restored.epoch,
        "tokens_voided": restored.tokens_voided,
        "access_voided": restored.access_voided,
        "audit": restored.audit,
        "drill": check,
    })
}
