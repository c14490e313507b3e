use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use saltecho::auth::Keyring;
use saltecho::proto::{Config, Handler, Identity, Upper};
use saltecho::server::{BuildError, Limits, MioKernel, Server, ServerBuilder, run_workers};

use super::args::{Reply, ServeArgs};
use super::failure::{Failure, Kind};
use super::keyfile::{Keys, is_loopback};
use super::log::{Level, Log};
use super::report::{self, Reporter};
use super::signals::Signals;

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let level = match (args.quiet, args.verbose) {
        (true, _) => Level::Quiet,
        (false, true) => Level::Verbose,
        (false, false) => Level::Normal,
    };
    let (log, writer) = Log::start(level).context("cannot start a thread for the log")?;
    let result = match args.reply {
        Reply::Upper => serve(args, &log, Upper),
        Reply::Same => serve(args, &log, Identity),
    };
    // An error is the last thing to be said.
    drop(log);
    writer.finish();
    result
}

fn serve<H: Handler + Clone + Send>(
    args: &ServeArgs,
    log: &Log,
    handler: H,
) -> Result<(), Failure> {
    let keys = Keys::for_server(&args.keys, &args.listen)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    warn_of_exposure(args, log);
    if let Some(path) = &args.port_file {
        remove_stale(path)?;
    }
    let signals = Signals::catch()?;
    let (config, limits) = (args.config(keys.keyring), args.limits());
    let workers = usize::from(args.workers);
    let terms = report::terms(&config, &limits, &keys.names, workers);
    let mut builder = Server::builder().config(config).limits(limits).handler(handler);
    for address in &args.listen {
        builder = builder.listen(*address);
    }
    let mut servers = build(builder, workers)?;
    for (server, number) in servers.iter_mut().zip(1..) {
        let worker = (workers > 1).then_some(number);
        server.set_observer(Box::new(Reporter::new(log.clone(), worker)));
    }
    let addresses = servers[0].addresses().context("cannot tell the port")?;
    let handle = servers.iter().map(Server::handle).collect();
    let reload = {
        let (keys, listen) = (args.keys.clone(), args.listen.clone());
        move || match keys.key_file {
            Some(_) => Keys::for_server(&keys, &listen),
            None => Err(anyhow!("there is no key file to read again")),
        }
    };
    let watch = signals.watch(handle, log.clone(), reload)?;
    if let Some(path) = &args.port_file {
        write_ports(path, &addresses)?;
    }
    let places: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    log.say(Level::Normal, format_args!("listening on {}: {terms}", places.join(", ")));
    let stats = run_workers(servers).context("the event loop failed")?;
    drop(watch);
    log.say(Level::Normal, report::counters(&stats));
    report::verdict(&stats)
}

impl ServeArgs {
    fn config(&self, keyring: Keyring) -> Config {
        Config {
            auth_timeout: self.auth_timeout.0,
            recv_timeout: self.idle_timeout.0,
            send_timeout: self.send_timeout.0,
            keepalive: self.keepalive.0,
            recv_size: self.bufsize.0,
            ..Config::new(keyring)
        }
    }

    fn limits(&self) -> Limits {
        let limits = match self.max_connections {
            Some(number) => Limits::for_connections(number as usize),
            None => Limits::for_workers(self.workers.into()),
        };
        Limits {
            backlog: self.backlog,
            drain_timeout: self.drain_timeout.0,
            spin: self.spin.0.unwrap_or_default(),
            ..limits
        }
    }
}

fn warn_of_exposure(args: &ServeArgs, log: &Log) {
    if args.keys.key_file.is_none() {
        log.warn("this is the demo key, which everybody knows; -k FILE uses another");
    }
    if let Some(address) = args.listen.iter().find(|address| !is_loopback(address)) {
        log.warn(format_args!(
            "{address} can be reached from outside, and nothing is encrypted: what is sent can be \
             read and changed on the way"
        ));
    }
}

fn build<H: Handler + Clone>(
    builder: ServerBuilder<H>,
    workers: usize,
) -> Result<Vec<Server<MioKernel, H>>, Failure> {
    builder.build_workers(workers).map_err(|error| match error {
        BuildError::Listen { address, source } => {
            Failure::because(Kind::Runtime, cannot_listen(address, &source))
        }
        BuildError::Descriptors { .. } => {
            Failure::because(Kind::Usage, format!("--max-connections: {error}"))
        }
        BuildError::Zero("connections") => {
            let text = "--max-connections: each of --workers needs at least one";
            Failure::because(Kind::Usage, text.to_owned())
        }
        BuildError::NoAddress | BuildError::Zero(_) | BuildError::NotShared(_) => {
            Failure::new(Kind::Usage, error)
        }
        BuildError::Loop(_) => Failure::new(Kind::Runtime, error),
    })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use: end the program that has it (`ss -ltnp sport = :{port}` shows \
             which), or choose another address with -l (port 0 takes a free one)"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{address} is no address of this machine (`ip address` lists them): choose another \
             with -l, like 127.0.0.1:{port} or 0.0.0.0:{port}"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{address} is not allowed to this user: choose a port from 1024 up with -l, or grant \
             CAP_NET_BIND_SERVICE"
        ),
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// Whoever waits for the file must not be told the ports of an earlier run.
fn remove_stale(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace the port file {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes one port a line, all at once: whoever sees the file sees all of it.
fn write_ports(path: &Path, addresses: &[SocketAddr]) -> Result<()> {
    let text: String = addresses.iter().map(|address| format!("{}\n", address.port())).collect();
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let result = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path));
    result.map_err(|error| {
        // It may not even exist.
        let _ = fs::remove_file(&unfinished);
        anyhow::Error::new(error).context(format!("cannot write the port file {}", path.display()))
    })
}
