//! Reading keys: from a file that only its owner has access to, or the demo key.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use saltecho::auth::{Key, Keyring, MacAlgorithm, parse_key_file};
use saltecho::proto::Protocol;
use zeroize::Zeroizing;

/// The key flags, which both sides have to agree on.
#[derive(Args, Clone, Debug)]
pub(super) struct KeyArgs {
    /// File with the shared keys [default: the public demo key]
    ///
    /// One key per line, at most four: as plain text, or prefixed with `hex:`, `base64:` or
    /// `text:`; `#` starts a comment line. A server accepts any of them, a client uses the first.
    /// Only its owner may have access to the file; if root owns it, its group may read it.
    /// `credential:NAME` is the file of that name in $CREDENTIALS_DIRECTORY, where systemd puts what
    /// LoadCredential= names.
    #[arg(short, long, value_name = "FILE", env = "SALTECHO_KEY_FILE", hide_env_values = true)]
    pub(super) key_file: Option<PathBuf>,

    /// Accept a key file that other users can read or replace
    ///
    /// Skips the check of owner and mode. Meant for secrets that are mounted read-only with mode
    /// 0444 or 0644 into a container in which only this service runs.
    #[arg(long, env = "SALTECHO_ALLOW_EXPOSED_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_exposed_key: bool,

    /// Accept keys shorter than 16 bytes, which can be guessed
    #[arg(long, env = "SALTECHO_ALLOW_WEAK_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_weak_key: bool,

    /// Hash for the HMAC; must be the same on both sides [default: md5]
    ///
    /// With --protocol multiprocessing the default is sha256, which all versions of Python since 3.8
    /// can talk to, and md5 means the messages of Python up to 3.11.
    #[arg(long, value_enum, value_name = "HASH")]
    #[arg(env = "SALTECHO_MAC", hide_env_values = true)]
    pub(super) mac: Option<Mac>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mac {
    /// HMAC-MD5, as in the tutorial
    Md5,
    /// HMAC-SHA-256
    Sha256,
}

impl From<Mac> for MacAlgorithm {
    fn from(mac: Mac) -> Self {
        match mac {
            Mac::Md5 => Self::Md5,
            Mac::Sha256 => Self::Sha256,
        }
    }
}

/// Maximum size of a key file. Four keys as long as the largest block size of a hash, in
/// hexadecimal and with comments, take a fraction of it.
const MAX_LEN: u64 = 64 << 10;

impl KeyArgs {
    /// The hash for the HMAC in this protocol.
    pub(super) fn mac(&self, protocol: Protocol) -> MacAlgorithm {
        match self.mac {
            Some(mac) => mac.into(),
            None if protocol == Protocol::Multiprocessing => MacAlgorithm::Sha256,
            None => MacAlgorithm::Md5,
        }
    }

    /// Refuses keys in a protocol that has no use for them: they would promise what is not done.
    pub(super) fn check(&self, protocol: Protocol) -> Result<()> {
        let (file, mac) = (self.key_file.is_some(), self.mac.is_some());
        let unused = [("-k (SALTECHO_KEY_FILE)", file), ("--mac (SALTECHO_MAC)", mac)];
        match unused.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) if protocol == Protocol::Plain => {
                bail!("{flag} cannot be used with --protocol plain, which has no authentication")
            }
            _ => Ok(()),
        }
    }

    /// Reads the keys of the file, or the demo key; there is always at least one.
    pub(super) fn load(&self) -> Result<Vec<Key>> {
        match &self.key_file {
            None => Ok(vec![Key::demo()]),
            Some(name) => resolve(name, std::env::var_os(CREDENTIALS))
                .and_then(|path| self.read(&path))
                .with_context(|| format!("key file {}", name.display())),
        }
    }

    /// The path of the key file, if there is one and its name can be resolved.
    pub(super) fn path(&self) -> Option<PathBuf> {
        resolve(self.key_file.as_ref()?, std::env::var_os(CREDENTIALS)).ok()
    }

    fn read(&self, path: &Path) -> Result<Vec<Key>> {
        // Without O_NONBLOCK, opening a FIFO would wait for its writer. Symbolic links are followed,
        // because secrets are often mounted as links: the checks apply to the opened file.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "no such file; `(umask 077; saltecho keygen > {})` creates one",
                path.display()
            ),
            result => result.context("cannot open it")?,
        };
        check_kind(&file)?;
        if !self.allow_exposed_key {
            check_access(&file, path)?;
        }
        let mut text = Zeroizing::new(Vec::new());
        // One byte more than is allowed shows that the file is too long, and reserving it up front
        // avoids a reallocation, which would leave a copy of the secret behind.
        text.reserve_exact(usize::try_from(MAX_LEN + 1).expect("64 KiB fit into a usize"));
        file.take(MAX_LEN + 1).read_to_end(&mut text).context("cannot read it")?;
        ensure!(text.len() as u64 <= MAX_LEN, "it is larger than 64 KiB, too large for a key file");
        Ok(parse_key_file(&text, self.allow_weak_key)?)
    }
}

/// The variable in which systemd names the directory of a unit's credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The path of a key file, which may be a credential by its name.
fn resolve(name: &Path, directory: Option<OsString>) -> Result<PathBuf> {
    let Some(credential) = name.to_str().and_then(|name| name.strip_prefix("credential:")) else {
        return Ok(name.to_owned());
    };
    ensure!(
        !credential.is_empty() && !credential.contains('/') && ![".", ".."].contains(&credential),
        "expected `credential:` and the name of a credential, without `/`"
    );
    let directory = directory.filter(|directory| !directory.is_empty()).with_context(|| {
        format!(
            "{CREDENTIALS} is not set: systemd sets it for a unit with \
             LoadCredential={credential}:FILE"
        )
    })?;
    Ok(Path::new(&directory).join(credential))
}

/// The keys that a server accepts, and their public names.
pub(super) struct Keys {
    pub(super) keyring: Keyring,
    pub(super) names: Vec<String>,
}

impl Keys {
    /// Reads the keys for a server at these addresses.
    ///
    /// The demo key is public, so it is refused on an address that other machines can reach.
    pub(super) fn for_server(
        args: &KeyArgs,
        protocol: Protocol,
        listen: &[SocketAddr],
    ) -> Result<Self> {
        args.check(protocol)?;
        if protocol == Protocol::Plain {
            return Ok(Self { keyring: Keyring::demo(), names: Vec::new() });
        }
        let keys = args.load()?;
        let exposed = listen.iter().find(|address| !is_loopback(address));
        if let Some(address) = exposed.filter(|_| keys.contains(&Key::demo())) {
            bail!(
                "the demo key is public and cannot be used on {address}, which other machines can \
                 reach: create a key with `(umask 077; saltecho keygen > saltecho.key)` and use it \
                 with -k saltecho.key"
            );
        }
        let names = keys.iter().map(public_name).collect();
        Ok(Self { keyring: Keyring::new(args.mac(protocol), &keys)?, names })
    }
}

/// Returns whether only this machine can connect to an address.
pub(super) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The name of a key for logs and reports. A weak key has none: it could be guessed from its id.
pub(super) fn public_name(key: &Key) -> String {
    if *key == Key::demo() {
        format!("{} (the demo key)", key.id())
    } else if key.is_weak() {
        "(weak)".to_owned()
    } else {
        key.id().to_string()
    }
}

/// Refuses anything but a regular file. A pipe could block, and could not be read again on SIGHUP.
fn check_kind(file: &File) -> Result<()> {
    let kind = file.metadata().context("cannot stat it")?.file_type();
    ensure!(
        kind.is_file(),
        "it is {}, not a regular file",
        match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a pipe",
            () => "a device or a socket",
        }
    );
    Ok(())
}

/// Refuses a file that other users can read, which would let them in, or own, which would let them
/// replace the key.
///
/// The rule is PostgreSQL's for its private key: no access for others, and none for the group
/// unless root owns the file, as when a service reads it through its group.
fn check_access(file: &File, path: &Path) -> Result<()> {
    const MOUNTED: &str = "--allow-exposed-key accepts it if it is mounted this way";
    let metadata = file.metadata().context("cannot stat it")?;
    let mode = metadata.mode() & 0o7777;
    let path = path.display();
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    ensure!(
        owner == own || owner == 0,
        "it is owned by user {owner}, who could replace the key: `chown {own} {path}`; {MOUNTED}"
    );
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    ensure!(
        mode & forbidden == 0,
        "other users have access to it (mode {mode:04o}): `chmod 600 {path}`; {MOUNTED}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_in_their_directory() {
        let directory = || Some(OsString::from("/run/credentials/saltecho.service"));
        for (name, path) in [
            ("saltecho.key", "saltecho.key"),
            ("./credential:key", "./credential:key"),
            ("credential:key", "/run/credentials/saltecho.service/key"),
        ] {
            assert_eq!(resolve(Path::new(name), directory()).unwrap(), Path::new(path));
        }
        for name in ["credential:", "credential:..", "credential:a/b", "credential:/etc/shadow"] {
            let error = resolve(Path::new(name), directory()).unwrap_err().to_string();
            assert!(error.contains("the name of a credential"), "{name}: {error}");
        }
        for directory in [None, Some(OsString::new())] {
            let error = resolve(Path::new("credential:key"), directory).unwrap_err().to_string();
            assert!(error.contains("LoadCredential=key:FILE"), "{error}");
        }
    }
}
