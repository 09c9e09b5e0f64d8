//! Directories and files that only the authority's user may read, written so that a crash leaves the old or the new.
//!
//! What root makes in somebody else's directory is theirs: a command that an operator runs as root must not keep the service out.

use std::fs::{DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::OpenError;

/// Makes a directory with mode 0700, and closes one that is there to everybody else.
pub(crate) fn make_dir(path: &Path) -> Result<(), OpenError> {
    let make = || {
        make_missing(path)?;
        let mode = std::fs::metadata(path)?.permissions().mode();
        match mode & 0o077 {
            0 => Ok(()),
            _ => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)),
        }
    };
    make().map_err(|source| OpenError::File { verb: "make the directory", path: path.to_owned(), source })
}

/// Makes a directory and those above it, as far as they are not there.
fn make_missing(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    if !parent.exists() {
        make_missing(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // By somebody else, since we looked.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => {
            made?;
            let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
            let made = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            give_to_owner_of(parent, &made);
            Ok(())
        }
    }
}

/// Gives a file that was just made to whom its directory belongs, if we are root and it is somebody else. It is for new files alone:
/// at the name of an old one there may be a link that somebody laid.
fn give_to_owner_of(dir: &Path, made: &File) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let given = std::fs::metadata(dir).and_then(|theirs| {
        let is_ours = theirs.uid() == made.metadata()?.uid();
        if is_ours { Ok(()) } else { fchown(made, Some(theirs.uid()), Some(theirs.gid())) }
    });
    if let Err(error) = given {
        // It was good for whoever is root here, as in a container without this right.
        tracing::warn!(%error, dir = %dir.display(), "what was made in the directory stays root's");
    }
}

/// What there is in the directory of an authority, and of a site.
const OF_AN_AUTHORITY: [&str; 11] = [
    "admin",
    "admin.sock",
    "audit-export",
    "authority",
    "backups",
    "bridge",
    "broker",
    "recovery",
    "revocations",
    "seal",
    "smqtt.toml",
];

/// The same for the directory of all that an authority has. One in which there are other things as well is `/tmp` or somebody's
/// home, named by mistake, perhaps: to close it would keep everybody else out of what is theirs. All that is made in it is closed.
pub(crate) fn make_data_dir(path: &Path) -> Result<(), OpenError> {
    let ours = |entry: std::io::Result<DirEntry>| {
        entry.is_ok_and(|entry| OF_AN_AUTHORITY.iter().any(|name| entry.file_name() == *name))
    };
    let is_ours = std::fs::read_dir(path).map_or(true, |mut entries| entries.all(ours));
    if is_ours { make_dir(path) } else { Ok(()) }
}

/// Shows that files can be written in a directory, before somebody needs it.
pub(crate) fn prove_writable(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(".probe");
    let probe = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(b"SMQTT")?;
        file.sync_all()?;
        std::fs::remove_file(&path)
    };
    let _ = std::fs::remove_file(&path);
    probe().map_err(|source| OpenError::File { verb: "write in the directory", path: dir.to_owned(), source })
}

/// Makes an empty file with mode 0600, unless it is there.
pub(crate) fn touch(path: &Path) -> Result<File, OpenError> {
    let opened = match create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
        }
        made => made,
    };
    opened.map_err(|source| OpenError::File { verb: "write", path: path.to_owned(), source })
}

/// A file with mode 0600 that was not there.
fn create_new(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    give_to_owner_of(parent(path), &file);
    Ok(file)
}

/// Writes a file with mode 0600, all of it or nothing, synced.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let write = || {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = Path::new(&temporary);
        match std::fs::remove_file(temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_new(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|source| OpenError::File { verb: "write", path: path.to_owned(), source })
}

/// Renames a file, synced: a crash leaves it under one name or the other.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    let renamed = std::fs::rename(from, to).and_then(|()| sync_parent(to));
    renamed.map_err(|source| OpenError::File { verb: "rename", path: from.to_owned(), source })
}

/// Removes a file, synced.
pub(crate) fn remove(path: &Path) -> Result<(), OpenError> {
    let removed = std::fs::remove_file(path).and_then(|()| sync_parent(path));
    removed.map_err(|source| OpenError::File { verb: "remove", path: path.to_owned(), source })
}

pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::File { verb: "read", path: path.to_owned(), source }),
    }
}

/// Says so in the log where others than the owner can read a secret.
pub(crate) fn warn_if_others_read(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "others can read a secret file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_open_to_others_is_closed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        make_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_root_makes_in_the_directory_of_somebody_else_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            // Past the runner, which keeps what a test says that passes.
            let _ = writeln!(io::stderr(), "SKIPPED: what root makes in a service's directory: needs root");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let owner = |path: &Path| {
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        std::os::unix::fs::chown(parent.path(), Some(4711), Some(4712)).unwrap();
        let [data, secret, lock] = ["a/b", "a/b/secret", "a/b/lock"].map(|name| parent.path().join(name));
        make_dir(&data).unwrap();
        write_secret(&secret, b"secret").unwrap();
        drop(touch(&lock).unwrap());
        for path in [&parent.path().join("a"), &data, &secret, &lock] {
            assert_eq!(owner(path), (4711, 4712), "{}", path.display());
        }
        // What was there stays whose it is, also behind a link that they laid.
        let roots = tempfile::tempdir().unwrap();
        let (file, dir) = (roots.path().join("file"), roots.path().join("dir"));
        std::fs::write(&file, b"").unwrap();
        std::fs::create_dir(&dir).unwrap();
        for (target, name) in [(&file, "link"), (&dir, "dir-link")] {
            std::os::unix::fs::symlink(target, data.join(name)).unwrap();
        }
        drop(touch(&data.join("link")).unwrap());
        make_dir(&data.join("dir-link")).unwrap();
        assert_eq!((owner(&file), owner(&dir)), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_directory_of_other_things_stays_open_to_those_whose_they_are() {
        let parent = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::create_dir(parent.path().join("authority")).unwrap();
        std::fs::write(parent.path().join("letter.txt"), b"").unwrap();
        make_data_dir(parent.path()).unwrap();
        assert_eq!(mode(parent.path()), 0o777);
        std::fs::remove_file(parent.path().join("letter.txt")).unwrap();
        make_data_dir(parent.path()).unwrap();
        assert_eq!(mode(parent.path()), 0o700);
        // One that is not there is made.
        make_data_dir(&parent.path().join("a/b")).unwrap();
        assert_eq!(mode(&parent.path().join("a/b")), 0o700);
    }
}
