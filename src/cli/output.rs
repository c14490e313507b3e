//! Destinations of results: stdout, and the files that flags name.
//!
//! Files are opened before the work starts, so that a path that cannot be written does not cost a
//! run. Two results must not go to the same place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result, bail};

use super::blocking::Blocking;

/// The path that means stdout.
const STDOUT: &str = "-";

/// A destination for a result. Writing waits for a slow reader, even if another process left the
/// pipe or terminal non-blocking.
pub(super) struct Output {
    file: Blocking<File>,
    /// Name for errors: "to stdout", or the path.
    name: String,
    /// Whether it is stdout or stderr, which are open already and may have contents.
    is_standard: bool,
}

impl Output {
    /// Standard output, for a result that is written as it comes.
    pub(super) fn stdout() -> Result<Self> {
        let file = Blocking::duplicate(io::stdout()).context("cannot use stdout")?;
        Ok(Self { file, name: "to stdout".to_owned(), is_standard: true })
    }

    fn stderr() -> Result<Self> {
        let file = Blocking::duplicate(io::stderr()).context("cannot use stderr")?;
        Ok(Self { file, name: "to stderr".to_owned(), is_standard: true })
    }

    /// Opens a file without changing its contents, or creates it. Waits for the reader of a FIFO.
    fn file(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let name = path.display().to_string();
        let file = file.with_context(|| format!("cannot write {name}"))?;
        Ok(Self { file: Blocking(file), name, is_standard: false })
    }

    /// The name for errors.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Truncates a file before it is written, as `>` does.
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
            // A reader that has left wants no more.
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

/// Joins all failures into one, so that an output that cannot be written does not hide another.
pub(super) fn all(written: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let failures = written.into_iter().filter_map(Result::err);
    let failures: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Prints to stderr, with colors only on a terminal. A failure has nowhere to be reported.
pub(super) fn print_error(text: &str) {
    let stderr = io::stderr();
    let plain = AutoStream::choice(&stderr) == ColorChoice::Never;
    let plain = plain.then(|| anstream::adapter::strip_str(text).to_string());
    let text = plain.as_deref().unwrap_or(text).as_bytes();
    let _ = Blocking::duplicate(stderr).and_then(|mut stderr| stderr.write_all(text));
}

/// Returns whether help and version, which go to stdout, may have colors.
pub(super) fn has_colors() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// The outputs of a command.
pub(super) struct Outputs<const N: usize> {
    /// Destination of the report: stdout, or stderr if a flag has taken stdout.
    pub(super) report: Output,
    /// Destinations that the flags name.
    pub(super) named: [Option<Output>; N],
}

impl<const N: usize> Outputs<N> {
    /// Opens what the flags name; `-` is stdout. Nothing is overwritten yet. With `json` the report
    /// has to go to stdout.
    ///
    /// # Errors
    /// If a file cannot be written, or if two outputs, or an output and an input, are the same file,
    /// also through links or /dev/fd.
    pub(super) fn open(
        flags: [(&'static str, Option<&PathBuf>); N],
        inputs: &[&Path],
        json: bool,
    ) -> Result<Self> {
        let mut places = Places::default();
        for input in inputs {
            // Reading it reports the error, if there is one.
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

/// A file by its device and inode, and its name for errors.
struct Place {
    file: (u64, u64),
    name: String,
}

/// Identifies a file; `None` for a character device, which several outputs may share.
fn place_of(metadata: &fs::Metadata, name: String) -> Option<Place> {
    let is_device = metadata.file_type().is_char_device();
    (!is_device).then(|| Place { file: (metadata.dev(), metadata.ino()), name })
}

/// The files that are in use already.
#[derive(Default)]
struct Places {
    known: Vec<Place>,
    /// Files that did not exist before.
    created: Vec<PathBuf>,
}

impl Places {
    /// Adds stdout, for the report or for the flag that has taken it, and stderr.
    fn standard(&mut self, taken: Option<&'static str>) -> Result<()> {
        let name = taken.map_or_else(|| "stdout".to_owned(), |flag| format!("{flag} -"));
        let stdout = Blocking::duplicate(io::stdout()).and_then(|file| file.0.metadata());
        self.known.extend(place_of(&stdout.context("cannot use stdout")?, name));
        let stderr = Blocking::duplicate(io::stderr()).and_then(|file| file.0.metadata());
        let stderr = stderr.context("cannot use stderr")?;
        // In a file two writers overwrite each other; a pipe keeps their lines apart.
        if stderr.is_file() {
            self.known.extend(place_of(&stderr, "stderr".to_owned()));
        }
        Ok(())
    }

    fn open(&mut self, flag: &'static str, path: &Path) -> Result<Output> {
        // The first check avoids waiting for the reader of a FIFO; the second one finds a file
        // that was just created under another name.
        if let Ok(metadata) = fs::metadata(path) {
            self.refuse_known(flag, path, &metadata)?;
        }
        let is_new = fs::symlink_metadata(path).is_err();
        let output = Output::file(path)?;
        if is_new {
            self.created.push(path.to_owned());
        }
        let metadata = output.file.0.metadata();
        let metadata = metadata.with_context(|| format!("cannot stat {}", path.display()))?;
        self.refuse_known(flag, path, &metadata)?;
        self.known.extend(place_of(&metadata, format!("{flag} {}", path.display())));
        Ok(output)
    }

    fn refuse_known(&self, flag: &str, path: &Path, metadata: &fs::Metadata) -> Result<()> {
        let file = (metadata.dev(), metadata.ino());
        match self.known.iter().find(|known| known.file == file) {
            None => Ok(()),
            Some(Place { name, .. }) => {
                bail!("{flag} {} and {name} are the same file: choose another", path.display())
            }
        }
    }

    /// Removes the files that this created, after an error.
    fn remove_created(&self) {
        for path in &self.created {
            // The error that led here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}
