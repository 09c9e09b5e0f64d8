//! Files that hold secrets: only the owner reads them, and a crash leaves the old or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file or directory that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} `{}`", path.display())]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    /// Wraps what the system said about `path`.
    pub fn new(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self { verb, path: path.to_owned(), source }
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Makes `dir` with mode 0700, its parents as usual; an existing one must not be open to others.
///
/// # Errors
/// [`FileError`] where it cannot be made, or where others may enter an existing one and that
/// cannot be changed.
pub fn private_dir(dir: &Path) -> Result<(), FileError> {
    let made = (|| {
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {
                let mode = fs::metadata(dir)?.permissions().mode();
                if mode & 0o077 == 0 {
                    return Ok(());
                }
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            }
            other => other,
        }
    })();
    made.map_err(|error| FileError::new("make the directory", dir, error))
}

/// Writes `bytes` to `path`, mode 0600, by way of a synced temporary file in the same directory.
///
/// # Errors
/// [`FileError`]; the old file is then untouched.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let written = (|| {
        // The parent of a bare name is the empty path, which cannot be opened.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.{}", std::process::id()));
        // Never into a file that is there, which somebody else may have open, or may be a link to theirs.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    written.map_err(|error| FileError::new("write", path, error))
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// [`FileError`], also for a larger file.
pub fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let read = (|| {
        use std::io::Read;
        let mut bytes = Vec::new();
        File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max} bytes")));
        }
        Ok(bytes)
    })();
    read.map_err(|error| FileError::new("read", path, error))
}

/// Reads a file of at most `max` bytes that only its owner, and maybe its group, may read, and that only its owner may write.
///
/// # Errors
/// As [`read_bounded`], and where others may do more.
pub fn read_secret(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let check = (|| {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o027 != 0 {
            let text = format!("others may use it (mode {:03o}): say `chmod 600`", mode & 0o777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    })();
    check.map_err(|error| FileError::new("read", path, error))?;
    read_bounded(path, max)
}

/// Reads a file of at most `max` bytes; `None` if there is none.
///
/// # Errors
/// As [`read_bounded`], but for a missing file.
pub fn read_if_any(path: &Path, max: usize) -> Result<Option<Vec<u8>>, FileError> {
    match read_bounded(path, max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_written_through_what_somebody_left_in_its_way() {
        let dir = std::env::temp_dir().join(format!("smqtt-files-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, theirs) = (dir.join("key"), dir.join("theirs"));
        fs::write(&theirs, b"").unwrap();
        std::os::unix::fs::symlink(&theirs, dir.join(format!(".key.{}", std::process::id()))).unwrap();
        write_private(&path, b"secret").unwrap();
        let (read, leaked) = (fs::read(&path).unwrap(), fs::read(&theirs).unwrap());
        let link = fs::symlink_metadata(&path).unwrap().is_symlink();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((read.as_slice(), leaked.as_slice(), link), (&b"secret"[..], &b""[..], false));
    }

    #[test]
    fn a_bare_name_is_written_in_the_current_directory() {
        let name = format!("bare-name.{}", std::process::id());
        let path = Path::new(&name);
        let written = write_private(path, b"secret");
        let read = fs::read(path);
        let removed = fs::remove_file(path);
        written.unwrap();
        assert_eq!(read.unwrap(), b"secret");
        removed.unwrap();
    }
}
