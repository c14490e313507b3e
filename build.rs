//! Sets the commit and the features that `saltecho --version` shows.
//!
//! The commit is SALTECHO_COMMIT if a packager sets it, else that of the package's own repository,
//! else the one that `cargo package` recorded in a published archive, else unknown.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Number of digits of a commit to show; git itself would choose 7 for a repository of this size.
const DIGITS: usize = 12;

fn main() {
    // The variables set here are not named SALTECHO_..., because cargo also sets them for programs
    // that it runs, and those names are settings.
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SALTECHO_COMMIT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let commit = env::var("SALTECHO_COMMIT").ok();
    let commit = commit.or_else(|| repository_commit(&root)).or_else(|| archive_commit(&root));
    let commit = commit.map(|commit| commit.chars().take(DIGITS).collect::<String>());
    let features = ["cli", "tui"].into_iter().filter(|feature| {
        env::var_os(format!("CARGO_FEATURE_{}", feature.to_ascii_uppercase())).is_some()
    });
    let features = features.collect::<Vec<_>>();
    println!("cargo::rustc-env=BUILD_FEATURES={}", features.join(","));
    let features = features.join(", ");
    let built_from = commit.as_deref().unwrap_or("unknown commit");
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    println!("cargo::rustc-env=BUILD_VERSION={version} ({built_from}, features: {features})");
    println!("cargo::rustc-env=BUILD_SOURCE={version} ({built_from})");
    if let Some(commit) = commit {
        println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    }
}

/// The commit that is checked out, if the package is the root of a repository. A package within
/// another repository, such as in a vendor directory, does not have that repository's commit.
fn repository_commit(root: &Path) -> Option<String> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // HEAD names a branch, and its log grows with each commit. If git keeps no log, a commit
    // changes the file of the branch. A worktree has its own HEAD; branches are shared.
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = root.join(git(root, &["rev-parse", "--git-path", name])?);
        // cargo considers a missing file as always changed.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(root, &["rev-parse", "HEAD"])
}

/// The commit in `.cargo_vcs_info.json`, which every crates.io archive has at its root.
fn archive_commit(root: &Path) -> Option<String> {
    let info = fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = info.split_once("\"sha1\"")?;
    let digits = rest.split('"').nth(1)?;
    let is_commit = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| digits.to_owned())
}

/// The output of git, if it is installed and succeeds.
fn git(directory: &Path, args: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // A git hook of another repository sets these variables.
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE");
    let output = git.args(args).current_dir(directory).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
