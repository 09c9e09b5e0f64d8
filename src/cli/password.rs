//! `smqtt broker password`: the file of names and hashes that `--passwords` lets in.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use smqtt::passwords::{Accounts, FILE_BYTES_MAX, password_line, token_line, with_line};
use smqtt_client::files::{FileError, read_secret, write_private};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::{print_line, secret_line};

/// Longest password that is taken.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Arguments of `smqtt broker password`.
#[derive(Args)]
pub struct PasswordArgs {
    /// The user name
    name: String,
    /// The file to change; made if it is not there. Without it the line for it is printed
    #[arg(long, value_name = "FILE")]
    passwords: Option<PathBuf>,
    /// Make a random token, and print it once, instead of reading a password. For devices: it costs the broker next to
    /// nothing to check
    #[arg(long, requires = "passwords")]
    token: bool,
    /// Remove the user
    #[arg(long, requires = "passwords", conflicts_with = "token")]
    remove: bool,
}

/// Makes one line, and prints it or puts it into the file.
pub fn run(args: &PasswordArgs) -> Result<(), Failure> {
    let name = &args.name;
    let no_name = |error: smqtt::passwords::NameError| Failure::new(error.to_string());
    if args.remove {
        return change(args.passwords.as_deref(), name, None);
    }
    if args.token {
        let (token, line) = token_line(name).map_err(no_name)?;
        change(args.passwords.as_deref(), name, Some(&line))?;
        return print_line(token.as_bytes());
    }
    let line = password_line(name, &read_password()?).map_err(no_name)?;
    match &args.passwords {
        Some(_) => change(args.passwords.as_deref(), name, Some(&line)),
        None => print_line(line),
    }
}

/// The first line of standard input. (Never an argument: those show in process lists.)
fn read_password() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let password = secret_line::read("password", PASSWORD_BYTES_MAX)?.unwrap_or_default();
    if password.is_empty() {
        return Err(Failure::new("no password").hint("give it on standard input, or make a `--token`"));
    }
    Ok(password)
}

fn change(file: Option<&Path>, name: &str, line: Option<&str>) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    let text = match read(file) {
        Err(error) if error.is_missing() && line.is_some() => String::new(),
        read => text(file, read?)?,
    };
    let accounts = parse(file, &text)?;
    if line.is_none() && !accounts.contains(name) {
        return Err(Failure::new(format!("`{name}` is not in `{}`", file.display())));
    }
    let before = std::fs::metadata(file).ok();
    write_private(file, with_line(&text, name, line).as_bytes())?;
    if let Some(before) = before {
        // Whoever administers is not always whom the broker runs as.
        std::os::unix::fs::chown(file, Some(before.uid()), Some(before.gid()))
            .and_then(|()| std::fs::set_permissions(file, before.permissions()))
            .map_err(|error| FileError::new("keep the owner of", file, error))?;
    }
    eprintln!("`{}` is changed; a broker that uses it reads it again by itself", file.display());
    Ok(())
}

/// Reads a file of names and hashes.
pub fn load(file: &Path) -> Result<Accounts, Failure> {
    parse(file, &text(file, read(file)?)?)
}

fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    read_secret(file, FILE_BYTES_MAX)
}

fn text(file: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| unusable(file).because(&error))
}

fn parse(file: &Path, text: &str) -> Result<Accounts, Failure> {
    Accounts::parse(text).map_err(|error| unusable(file).because(&error))
}

fn unusable(file: &Path) -> Failure {
    Failure::new(format!("cannot use `{}`", file.display()))
        .hint("each line is `NAME:HASH`, as `smqtt broker password NAME` makes it")
}
