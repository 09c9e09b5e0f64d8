//! Reports on disk: written whole or not at all, read with bounds.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::report;
use crate::result::{FORMAT, Report};

/// Everything measured, and the targets.
pub const JSON: &str = "results.json";
/// The figures, one a line.
pub const CSV: &str = "results.csv";
/// For people.
pub const HTML: &str = "report.html";

/// Most bytes of a `results.json`.
pub const JSON_BYTES_MAX: u64 = 64 << 20;
/// Most figures of one.
pub const FIGURES_MAX: usize = 100_000;
/// Most targets of one.
pub const TARGETS_MAX: usize = 10_000;

/// Why a report was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The directory has something else in it.
    #[error("`{}` is not empty and holds no report", .0.display())]
    Occupied(PathBuf),
    /// The system refused.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// `write`, `read`.
        what: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Larger than any report.
    #[error("`{}` is larger than a report can be", .0.display())]
    TooLarge(PathBuf),
    /// Not JSON, or not in the form of a report.
    #[error("`{}` is not a report of `smqtt bench`", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// JSON in the form of a report, but of another version, or with figures that nobody measured.
    #[error("`{}` is not a report of `smqtt bench`: {what}", path.display())]
    Unsound {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl FilesError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Occupied(_) => "give another directory with `--out DIR`, or empty this one",
            Self::Io { .. } => "check that it exists, its owner, permissions and free space",
            Self::TooLarge(_) | Self::Form { .. } | Self::Unsound { .. } => {
                "give a `results.json` that `smqtt bench` wrote, or its directory"
            }
        }
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FilesError {
    move |source| FilesError::Io { what, path: path.to_owned(), source }
}

/// Makes `directory` ready to be written to: there, writable, and empty or with an earlier report. Asked before the run, so that
/// nobody waits for minutes to hear it.
///
/// # Errors
/// [`FilesError::Occupied`] where it has something else in it, [`FilesError::Io`] where nothing can be written.
pub fn prepare(directory: &Path) -> Result<(), FilesError> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            let empty = entries.next().is_none();
            match empty || read(directory).is_ok() {
                true => try_out(directory),
                false => Err(FilesError::Occupied(directory.to_owned())),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(directory).map_err(io("make", directory))
        }
        Err(error) => Err(io("write to", directory)(error)),
    }
}

/// Makes a file and takes it away again.
fn try_out(directory: &Path) -> Result<(), FilesError> {
    let temporary = temporary(directory, JSON);
    let tried = fs::File::create(&temporary).and_then(|_| fs::remove_file(&temporary));
    tried.map_err(io("write to", directory))
}

/// Where a file is written before it gets its name.
fn temporary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.new"))
}

/// Writes all three files, each under another name first.
///
/// # Errors
/// [`FilesError::Io`].
pub fn write(directory: &Path, report: &Report) -> Result<(), FilesError> {
    let json = serde_json::to_string_pretty(report)
        .map_err(|source| FilesError::Form { path: directory.join(JSON), source })?;
    // The JSON last: a directory with it is a whole report.
    for (name, text) in [(CSV, report::csv(report)), (HTML, report::html(report)), (JSON, json + "\n")] {
        let path = directory.join(name);
        let temporary = temporary(directory, name);
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            // What is half written would keep the directory from being used again.
            _ = fs::remove_file(&temporary);
            return Err(io("write", &path)(error));
        }
    }
    Ok(())
}

/// Reads a `results.json`, or that of a directory, and checks everything that is relied upon later.
///
/// # Errors
/// [`FilesError`], saying what is wrong with it.
pub fn read(path: &Path) -> Result<Report, FilesError> {
    let path = if path.is_dir() { path.join(JSON) } else { path.to_owned() };
    let file = fs::File::open(&path).map_err(io("read", &path))?;
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io("read", &path))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(FilesError::TooLarge(path));
    }
    let report: Report = match serde_json::from_slice(&bytes) {
        Ok(report) => report,
        Err(source) => return Err(FilesError::Form { path, source }),
    };
    match unsound(&report) {
        Some(what) => Err(FilesError::Unsound { path, what }),
        None => Ok(report),
    }
}

fn unsound(report: &Report) -> Option<String> {
    if report.format != FORMAT {
        return Some(format!("its format is not `{FORMAT}`"));
    }
    if report.figures.len() > FIGURES_MAX || report.targets.len() > TARGETS_MAX {
        return Some("it has more figures than a run gives".to_owned());
    }
    if !report.seconds.is_finite() || report.targets.iter().any(|target| !target.measured.is_finite()) {
        return Some("a number is none".to_owned());
    }
    let bad = report.figures.iter().position(|figure| !figure.spread.is_sound() || !figure.at.is_finite());
    bad.map(|index| format!("figure {index} has a spread that measuring cannot give"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("a/b");
        prepare(&out).unwrap();
        write(&out, &sample()).unwrap();
        assert_eq!(read(&out).unwrap(), sample());
        assert_eq!(read(&out.join(JSON)).unwrap(), sample());
        prepare(&out).expect("an earlier report is written over");
        write(&out, &sample()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [HTML, CSV, JSON], "no temporary file stays");
    }

    #[test]
    fn what_cannot_be_written_is_said_and_leaves_nothing_half_written() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        write(out, &sample()).unwrap();
        fs::remove_file(out.join(HTML)).unwrap();
        fs::create_dir(out.join(HTML)).unwrap();
        assert!(matches!(write(out, &sample()), Err(FilesError::Io { what: "write", .. })));
        assert!(!temporary(out, HTML).exists());
        assert_eq!(read(out).unwrap(), sample());
        prepare(out).unwrap();
        fs::create_dir(temporary(out, JSON)).unwrap();
        assert!(matches!(prepare(out), Err(FilesError::Io { what: "write to", .. })), "before the run");
    }

    #[test]
    fn other_peoples_directories_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).expect("empty");
        fs::write(directory.path().join("letters.txt"), "dear").unwrap();
        assert!(matches!(prepare(directory.path()), Err(FilesError::Occupied(_))));
        fs::write(directory.path().join(JSON), "{}").unwrap();
        assert!(matches!(prepare(directory.path()), Err(FilesError::Occupied(_))), "a foreign results.json");
        assert!(matches!(prepare(&directory.path().join("letters.txt")), Err(FilesError::Io { .. })));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(JSON);
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).unwrap_err()
        };
        let good = serde_json::to_string(&sample()).unwrap();
        for text in ["", "{}", "[]", "null", "{\"format\": 7}", &"[".repeat(100_000), &good[..good.len() / 2]]
        {
            assert!(matches!(refused(text), FilesError::Form { .. }));
        }
        let with = |change: &dyn Fn(&mut Report)| {
            let mut report = sample();
            change(&mut report);
            serde_json::to_string(&report).unwrap()
        };
        for text in [
            with(&|r| r.format = "smqtt-bench/2".to_owned()),
            with(&|r| r.figures[0].spread.count = 0),
            with(&|r| r.figures[0].spread.p50 = r.figures[0].spread.max + 1.0),
        ] {
            assert!(matches!(refused(&text), FilesError::Unsound { .. }));
        }
        let infinite = good.replacen("\"at\":1.0", "\"at\":1e999", 1);
        assert_ne!(infinite, good);
        assert!(matches!(refused(&infinite), FilesError::Form { .. } | FilesError::Unsound { .. }));
        assert!(matches!(read(Path::new("/nowhere")), Err(FilesError::Io { .. })));
    }
}
