//! Where results go: stdout, and the files that flags name.
//!
//! Files are opened before the work begins, so that a path that cannot be written costs no run, and
//! no two results may go to one place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result, bail};

use super::blocking::Blocking;

/// In place of a path it means stdout.
const STDOUT: &str = "-";

/// A place for a result. Writing waits for a slow reader, also where the descriptor is
/// non-blocking, as another process may have left a pipe or a terminal.
pub(super) struct Output {
    file: Blocking<File>,
    /// For errors: "to stdout", or the path.
    name: String,
    /// Stdout or stderr, which are open already and may hold something.
    is_standard: bool,
}

impl Output {
    fn stdout() -> Result<Self> {
        let file = Blocking::duplicate(io::stdout()).context("cannot use stdout")?;
        Ok(Self { file, name: "to stdout".to_owned(), is_standard: true })
    }

    fn stderr() -> Result<Self> {
        let file = Blocking::duplicate(io::stderr()).context("cannot use stderr")?;
        Ok(Self { file, name: "to stderr".to_owned(), is_standard: true })
    }

    /// Opens a file without touching its contents; creates it if there is none. A FIFO waits for
    /// its reader.
    fn file(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let name = path.display().to_string();
        let file = file.with_context(|| format!("cannot write {name}"))?;
        Ok(Self { file: Blocking(file), name, is_standard: false })
    }

    /// Its name in errors.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Empties a file for what is going to be written, as `>` does.
    pub(super) fn begin(&self) -> Result<()> {
        let empty = || match self.file.0.metadata()?.is_file() && !self.is_standard {
            true => self.file.0.set_len(0),
            false => Ok(()),
        };
        empty().with_context(|| format!("cannot write {}", self.name))
    }

    /// Writes the whole result.
    pub(super) fn put(&mut self, text: &str) -> Result<()> {
        self.begin()?;
        let written = self.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.name))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            // A reader that has left has read enough.
            Err(error) if self.is_standard && error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a result to stdout.
pub(super) fn print(text: &str) -> Result<()> {
    Output::stdout()?.put(text)
}

/// All failures as one, if there are any: one output that cannot be written keeps no other back.
pub(super) fn all(written: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let failures = written.into_iter().filter_map(Result::err);
    let failures: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Says something on stderr, without its colors unless it is a terminal. If it cannot be said,
/// there is no place left to say so.
pub(super) fn say(text: &str) {
    let stderr = io::stderr();
    let plain = AutoStream::choice(&stderr) == ColorChoice::Never;
    let plain = plain.then(|| anstream::adapter::strip_str(text).to_string());
    let text = plain.as_deref().unwrap_or(text).as_bytes();
    let _ = Blocking::duplicate(stderr).and_then(|mut stderr| stderr.write_all(text));
}

/// Whether help and version, which go to stdout, may have colors.
pub(super) fn has_colors() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// The outputs of a command.
pub(super) struct Outputs<const N: usize> {
    /// Where the report goes: stdout, or stderr where a flag has taken stdout for itself.
    pub(super) report: Output,
    /// What the flags name.
    pub(super) named: [Option<Output>; N],
}

impl<const N: usize> Outputs<N> {
    /// Opens what the flags name; `-` is stdout. Nothing is overwritten yet. `json` tells that the
    /// report is for a program, which wants it on stdout and nowhere else.
    ///
    /// # Errors
    /// If a file cannot be written, or if two outputs, or an output and an input, are one file. It
    /// may be named by links, or through /dev/fd.
    pub(super) fn open(
        flags: [(&'static str, Option<&PathBuf>); N],
        inputs: &[&Path],
        json: bool,
    ) -> Result<Self> {
        let mut places = Places::default();
        for input in inputs {
            // One that cannot be read is reported by its reader.
            if let Ok(metadata) = fs::metadata(input) {
                places.known.extend(place_of(&metadata, input.display().to_string()));
            }
        }
        let taken = flags.iter().find(|(_, path)| path.is_some_and(|path| is_stdout(path)));
        let taken = taken.map(|(flag, _)| *flag);
        if let Some(flag) = taken.filter(|_| json) {
            bail!("--json and {flag} - both write to stdout: give {flag} a file");
        }
        places.standard(taken)?;
        let mut open = |(flag, path): (&'static str, Option<&PathBuf>)| match path {
            None => Ok(None),
            Some(path) if is_stdout(path) && taken == Some(flag) => Output::stdout().map(Some),
            Some(path) if is_stdout(path) => {
                bail!("{} - and {flag} - both write to stdout", taken.unwrap_or_default())
            }
            Some(path) => places.open(flag, path).map(Some),
        };
        let mut named = [const { None }; N];
        for (place, flag) in named.iter_mut().zip(flags) {
            match open(flag) {
                Ok(output) => *place = output,
                Err(error) => {
                    places.remove_created();
                    return Err(error);
                }
            }
        }
        let report = if taken.is_some() { Output::stderr() } else { Output::stdout() };
        Ok(Self { report: report?, named })
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == STDOUT
}

/// A file by its device and number, and its name for errors.
struct Place {
    file: (u64, u64),
    name: String,
}

/// The place of a file; `None` for devices, which may be written to by many: they keep nothing.
fn place_of(metadata: &fs::Metadata, name: String) -> Option<Place> {
    let is_device = metadata.file_type().is_char_device();
    (!is_device).then(|| Place { file: (metadata.dev(), metadata.ino()), name })
}

/// The places that are in use already.
#[derive(Default)]
struct Places {
    known: Vec<Place>,
    /// Files that were not there before.
    created: Vec<PathBuf>,
}

impl Places {
    /// Adds stdout, which is the report's or that flag's, and stderr.
    fn standard(&mut self, taken: Option<&'static str>) -> Result<()> {
        let name = taken.map_or_else(|| "stdout".to_owned(), |flag| format!("{flag} -"));
        let stdout = Blocking::duplicate(io::stdout()).and_then(|file| file.0.metadata());
        self.known.extend(place_of(&stdout.context("cannot use stdout")?, name));
        let stderr = Blocking::duplicate(io::stderr()).and_then(|file| file.0.metadata());
        let stderr = stderr.context("cannot use stderr")?;
        // A pipe keeps lines apart; in a file two writers overwrite each other.
        if stderr.is_file() {
            self.known.extend(place_of(&stderr, "stderr".to_owned()));
        }
        Ok(())
    }

    fn open(&mut self, flag: &'static str, path: &Path) -> Result<Output> {
        // Looking first spares waiting for the reader of a FIFO; looking again finds a file that
        // has just been created under another name.
        if let Ok(metadata) = fs::metadata(path) {
            self.object_to(flag, path, &metadata)?;
        }
        let is_new = fs::symlink_metadata(path).is_err();
        let output = Output::file(path)?;
        if is_new {
            self.created.push(path.to_owned());
        }
        let metadata = output.file.0.metadata();
        let metadata = metadata.with_context(|| format!("cannot examine {}", path.display()))?;
        self.object_to(flag, path, &metadata)?;
        self.known.extend(place_of(&metadata, format!("{flag} {}", path.display())));
        Ok(output)
    }

    fn object_to(&self, flag: &str, path: &Path, metadata: &fs::Metadata) -> Result<()> {
        let file = (metadata.dev(), metadata.ino());
        match self.known.iter().find(|known| known.file == file) {
            None => Ok(()),
            Some(Place { name, .. }) => bail!(
                "{flag} {} and {name} are the same file, and two cannot share one: choose another",
                path.display()
            ),
        }
    }

    /// Nothing is left of outputs that were refused.
    fn remove_created(&self) {
        for path in &self.created {
            // The error that is about to be reported is the one that counts.
            let _ = fs::remove_file(path);
        }
    }
}
