//! The forms of an entry: a line for people, for the journal, or for programs.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::SystemTime;

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use saltecho::load::report::Visible;
use serde::Serialize;

use super::{ERROR, RESET, WARNING};

/// The value of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LogFormat {
    /// What fits stderr: `text` for a terminal or a file; for the journal, and for a pipe, lines
    /// without a time, which their readers add
    Auto,
    /// Lines with a time, in UTC
    Text,
    /// An object per line; their schema is schemas/log.schema.json
    Json,
}

/// The form of all entries of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `saltecho: text`, the form of a program's messages.
    Plain { colors: bool },
    /// `2026-11-26T09:41:24.123Z text`.
    Timed { colors: bool },
    /// `<4>text`, with the priority that journald takes from a line (sd-daemon(3)). It knows the time
    /// and the program.
    Journal,
    /// An object of `schemas/log.schema.json`.
    Json,
}

impl Format {
    /// The form for stderr.
    pub(super) fn for_stderr(wanted: LogFormat) -> Self {
        let stderr = io::stderr();
        let colors = AutoStream::choice(&stderr) != ColorChoice::Never;
        match wanted {
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Timed { colors },
            LogFormat::Auto if is_journal(&stderr) => Self::Journal,
            LogFormat::Auto if stderr.is_terminal() || is_file(&stderr) => Self::Timed { colors },
            LogFormat::Auto => Self::Plain { colors },
        }
    }
}

/// Returns whether journald reads this stream: it says which one it reads in JOURNAL_STREAM, and a
/// child process may have inherited the variable with another stderr (systemd.exec(5)).
fn is_journal(stream: impl AsFd) -> bool {
    let named = std::env::var("JOURNAL_STREAM");
    named.is_ok_and(|named| rustix::fs::fstat(stream).is_ok_and(|stat| names(&named, &stat)))
}

/// Returns whether `DEVICE:INODE` is this file.
fn names(named: &str, stat: &rustix::fs::Stat) -> bool {
    let (device, inode) = named.split_once(':').unwrap_or_default();
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

fn is_file(stream: impl AsFd) -> bool {
    let stat = rustix::fs::fstat(stream);
    stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
}

/// The weight of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Severity {
    Info,
    Warning,
    Error,
}

/// One entry: a text for people and the same in fields for programs.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Entry<T, F = ()> {
    severity: Severity,
    /// The event as a word.
    event: &'static str,
    text: T,
    fields: F,
}

impl<T: Display> Entry<T> {
    pub(in crate::cli) const fn new(severity: Severity, event: &'static str, text: T) -> Self {
        Self { severity, event, text, fields: () }
    }

    pub(in crate::cli) fn with<F: Serialize>(self, fields: F) -> Entry<T, F> {
        let Self { severity, event, text, .. } = self;
        Entry { severity, event, text, fields }
    }
}

/// The line of an entry, without its end.
pub(super) struct Line<'a, T, F> {
    pub(super) format: Format,
    pub(super) time: SystemTime,
    pub(super) entry: &'a Entry<T, F>,
}

#[derive(Serialize)]
struct Object<'a, F> {
    schema: &'static str,
    time: String,
    level: Severity,
    event: &'static str,
    message: String,
    #[serde(flatten)]
    fields: &'a F,
}

impl<T: Display, F: Serialize> Line<'_, T, F> {
    fn to_json(&self) -> serde_json::Result<String> {
        let Entry { severity, event, text, fields } = self.entry;
        serde_json::to_string(&Object {
            schema: "saltecho-log/1",
            time: humantime::format_rfc3339_millis(self.time).to_string(),
            level: *severity,
            event,
            message: Visible(text).to_string(),
            fields,
        })
    }
}

impl<T: Display, F: Serialize> Display for Line<'_, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, time, entry: Entry { severity, text, .. } } = self;
        let colors = match format {
            Format::Json => return f.write_str(&self.to_json().map_err(|_| fmt::Error)?),
            Format::Journal => {
                f.write_str(match severity {
                    Severity::Info => "",
                    Severity::Warning => "<4>",
                    Severity::Error => "<3>",
                })?;
                false
            }
            Format::Timed { colors } => {
                write!(f, "{} ", humantime::format_rfc3339_millis(*time))?;
                *colors
            }
            Format::Plain { colors } => {
                f.write_str("saltecho: ")?;
                *colors
            }
        };
        match (severity, colors) {
            (Severity::Info, _) => {}
            (Severity::Warning, true) => write!(f, "{WARNING}warning:{RESET} ")?,
            (Severity::Warning, false) => f.write_str("warning: ")?,
            (Severity::Error, true) => write!(f, "{ERROR}error:{RESET} ")?,
            (Severity::Error, false) => f.write_str("error: ")?,
        }
        write!(f, "{}", Visible(text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(format: Format, severity: Severity) -> String {
        let entry =
            Entry::new(severity, "message", "a\n\x1b[2J").with(serde_json::json!({ "n": 7 }));
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        Line { format, time, entry: &entry }.to_string()
    }

    #[test]
    fn each_form_of_an_entry() {
        use Severity::{Error, Info, Warning};
        let (plain, timed) = (Format::Plain { colors: false }, Format::Timed { colors: false });
        for (format, severity, expected) in [
            (plain, Info, "saltecho: a\\n\\x1b[2J"),
            (plain, Error, "saltecho: error: a\\n\\x1b[2J"),
            (timed, Info, "1970-01-01T00:00:01.500Z a\\n\\x1b[2J"),
            (timed, Warning, "1970-01-01T00:00:01.500Z warning: a\\n\\x1b[2J"),
            (Format::Journal, Info, "a\\n\\x1b[2J"),
            (Format::Journal, Warning, "<4>warning: a\\n\\x1b[2J"),
            (Format::Journal, Error, "<3>error: a\\n\\x1b[2J"),
            (
                Format::Json,
                Warning,
                r#"{"schema":"saltecho-log/1","time":"1970-01-01T00:00:01.500Z","level":"warning","event":"message","message":"a\\n\\x1b[2J","n":7}"#,
            ),
        ] {
            assert_eq!(line(format, severity), expected);
        }
        let colored = line(Format::Plain { colors: true }, Warning);
        assert_eq!(colored, format!("saltecho: {WARNING}warning:{RESET} a\\n\\x1b[2J"));
    }

    #[test]
    fn an_entry_without_fields_is_an_object_too() {
        let entry = Entry::new(Severity::Info, "message", "text");
        let line = Line { format: Format::Json, time: SystemTime::UNIX_EPOCH, entry: &entry };
        let object: serde_json::Value = serde_json::from_str(&line.to_string()).unwrap();
        assert_eq!(object.as_object().unwrap().len(), 5);
    }

    #[test]
    fn the_journal_is_the_file_that_the_variable_names() {
        let stat = rustix::fs::fstat(std::fs::File::open("/dev/null").unwrap()).unwrap();
        let (device, inode) = (stat.st_dev, stat.st_ino);
        assert!(names(&format!("{device}:{inode}"), &stat));
        for other in
            [format!("{device}:{}", inode + 1), format!("1{device}:{inode}"), String::new()]
        {
            assert!(!names(&other, &stat), "{other}");
        }
    }
}
