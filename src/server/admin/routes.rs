//! Routes of the admin endpoint: the requests that there are, without a server.

use std::net::{IpAddr, SocketAddr};

use super::query::Query;
#[cfg(feature = "metrics")]
use crate::metrics::Format;
use crate::proto::http::{Method, Request, Response, Status};

/// The subject of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Live,
    Ready,
    Version,
    #[cfg(feature = "metrics")]
    Metrics(Format),
    Connections(Query),
    /// Kill the connection with this number of a loop, counted from 0.
    Kill {
        worker: usize,
        number: u32,
    },
    Drain,
    Reload,
    /// Hand everything over to a new process, or check with one whether that would work.
    Upgrade {
        check: bool,
    },
    /// Log what this level asks for.
    Log(String),
}

/// The routes, for the answer to a request for something else.
const ROUTES: &str = "\
GET /livez
GET /readyz
GET /version
GET /connections?state=STATE&sort=KEY&limit=N
POST /connections/ID/kill
POST /drain
POST /reload
POST /upgrade?check=true
POST /log?level=LEVEL
";
const METRICS: &str = if cfg!(feature = "metrics") { "GET /metrics\n" } else { "" };

impl Route {
    /// The route of a request to so many loops, or the answer that refuses it.
    pub(super) fn new(request: &Request<'_>, loops: usize) -> Result<Self, Response> {
        if request.method == Method::Post {
            refuse_other_sites(request.host)?;
        }
        let read = |route: Self| match request.method {
            Method::Get | Method::Head => Ok(route),
            Method::Post => Err(Response::method_not_allowed("GET, HEAD")),
        };
        let write = |route: Self| match request.method {
            Method::Post => Ok(route),
            Method::Get | Method::Head => Err(Response::method_not_allowed("POST")),
        };
        let plain = |route: Result<Self, Response>| match request.query {
            None | Some("") => route,
            Some(query) => Err(bad_request(&format!("{query:?}: there are no parameters here"))),
        };
        match request.path {
            "/livez" => plain(read(Self::Live)),
            "/readyz" => plain(read(Self::Ready)),
            "/version" => plain(read(Self::Version)),
            #[cfg(feature = "metrics")]
            "/metrics" => plain(read(Self::Metrics(Format::accepted(request.accept)))),
            "/connections" => {
                // The method is refused first: another one would not make the query right.
                read(Self::Live)?;
                Query::parse(request.query.unwrap_or_default())
                    .map(Self::Connections)
                    .map_err(|text| bad_request(&text))
            }
            "/drain" => plain(write(Self::Drain)),
            "/reload" => plain(write(Self::Reload)),
            "/upgrade" => {
                write(Self::Drain)?;
                match request.query {
                    None | Some("" | "check=false") => Ok(Self::Upgrade { check: false }),
                    Some("check=true") => Ok(Self::Upgrade { check: true }),
                    Some(query) => {
                        Err(bad_request(&format!("{query:?}: ask for check=true, or for nothing")))
                    }
                }
            }
            "/log" => {
                write(Self::Drain)?;
                log_level(request.query.unwrap_or_default()).map_err(|text| bad_request(&text))
            }
            path => {
                let rest = path.strip_prefix("/connections/");
                let Some(id) = rest.and_then(|rest| rest.strip_suffix("/kill")) else {
                    return Err(not_found(path));
                };
                write(Self::Drain)?;
                let id = connection_id(id, loops).map_err(|text| bad_request(&text));
                let (worker, number) = id?;
                plain(Ok(Self::Kill { worker, number }))
            }
        }
    }
}

/// Parses `NUMBER` or, since each loop numbers its own connections, `WORKER:NUMBER`. The worker is
/// counted from 1 in the text, and from 0 in the result.
fn connection_id(text: &str, loops: usize) -> Result<(usize, u32), String> {
    let (worker, number) = match text.split_once(':') {
        Some((worker, number)) => (parse::<usize>(worker), number),
        None if loops > 1 => {
            return Err(format!(
                "{text:?} is a connection of which of the {loops} workers? Ask for \
                 WORKER:NUMBER, as /connections lists them"
            ));
        }
        None => (Some(1), text),
    };
    let worker = worker.filter(|worker| (1..=loops).contains(worker));
    worker.map(|worker| worker - 1).zip(parse(number)).ok_or_else(|| {
        format!("{text:?} is not the number of a connection: /connections lists them")
    })
}

/// A number; `parse` alone would accept a sign.
fn parse<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn log_level(query: &str) -> Result<Route, String> {
    match query.split_once('=') {
        Some(("level", level)) if !level.is_empty() && !level.contains('&') => {
            Ok(Route::Log(level.to_owned()))
        }
        _ => Err(format!("{query:?}: ask for level=LEVEL")),
    }
}

/// Refuses a POST in which a browser may do the bidding of another site's page. Every page can reach
/// the loopback addresses of the machine that shows it, with a request that needs no permission. Its
/// `Origin` gives most away, and is refused with the request; but a page may also have its own name
/// resolve to 127.0.0.1 (DNS rebinding), and is then at home here. The name gives that away: where
/// an IP address or `localhost` leads is not for another site to decide.
fn refuse_other_sites(host: Option<&str>) -> Result<(), Response> {
    match host {
        Some(host) if !is_literal(host) => {
            let text = format!(
                "{host:?} may not do this: ask an IP address or localhost, not a name, so that \
                 the page of another site cannot\n"
            );
            Err(Response::text(Status::Forbidden, text))
        }
        // HTTP/1.0, which no browser speaks.
        Some(_) | None => Ok(()),
    }
}

/// Returns whether a host, perhaps with a port, is an IP address or `localhost`.
fn is_literal(host: &str) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<SocketAddr>().is_ok()
        || name.parse::<IpAddr>().is_ok()
        || unbracketed.is_some_and(|host| host.parse::<IpAddr>().is_ok())
        || name.eq_ignore_ascii_case("localhost")
}

fn bad_request(text: &str) -> Response {
    Response::text(Status::BadRequest, format!("{text}\n"))
}

fn not_found(path: &str) -> Response {
    Response::text(Status::NotFound, format!("{path:?} is not here. There are:\n{METRICS}{ROUTES}"))
}

pub(super) fn live() -> Response {
    Response::text(Status::Ok, "ok\n")
}

pub(super) fn ready(is_ready: bool) -> Response {
    match is_ready {
        true => Response::text(Status::Ok, "ready\n"),
        false => Response::text(Status::ServiceUnavailable, "draining\n"),
    }
}

/// The answer of a process whose service another one has: to do it here would do nothing, and figures
/// from here would be old. The service itself is alive and ready.
pub(super) fn elsewhere(route: &Route) -> Response {
    match route {
        Route::Live => live(),
        Route::Ready => ready(true),
        _ => Response::text(
            Status::ServiceUnavailable,
            "nothing was done: another process has taken over meanwhile; ask again\n",
        ),
    }
}

pub(super) fn draining() -> Response {
    Response::text(Status::Accepted, "draining\n")
}

/// The outcome of an action that the program has done, or not, which is then `status`.
pub(super) fn outcome(outcome: Result<String, String>, status: Status) -> Response {
    match outcome {
        Ok(text) => Response::text(Status::Ok, format!("{text}\n")),
        Err(text) => Response::text(status, format!("{text}\n")),
    }
}

pub(super) fn killed(number: u32) -> Response {
    Response::text(Status::Ok, format!("killed #{number}\n"))
}

pub(super) fn no_connection(number: u32) -> Response {
    let text = format!("there is no connection #{number}: /connections lists those that are\n");
    Response::text(Status::NotFound, text)
}

pub(super) fn version() -> Response {
    let quoted = |text: &str| format!("\"{text}\"");
    let commit = option_env!("BUILD_COMMIT").map_or("null".to_owned(), quoted);
    let features = env!("BUILD_FEATURES").split(',').filter(|feature| !feature.is_empty());
    let features: Vec<String> = features.map(quoted).collect();
    let json = format!(
        "{{\"version\":\"{}\",\"commit\":{commit},\"features\":[{}]}}\n",
        env!("CARGO_PKG_VERSION"),
        features.join(",")
    );
    Response::whole(Status::Ok, "application/json", json.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::Content;

    fn request<'a>(method: Method, path: &'a str, host: Option<&'a str>) -> Request<'a> {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        Request { method, path, query, host, accept: None }
    }

    fn refusal(method: Method, path: &str) -> (Status, Option<&'static str>, String) {
        let host = Some("localhost");
        let response = Route::new(&request(method, path, host), 1).expect_err("it is refused");
        let Content::Whole(content) = response.content else { panic!("it is short") };
        (response.status, response.allow, String::from_utf8(content).unwrap())
    }

    #[test]
    fn each_route_has_its_methods() {
        for (path, route) in [
            ("/livez", Route::Live),
            ("/readyz", Route::Ready),
            ("/version", Route::Version),
            #[cfg(feature = "metrics")]
            ("/metrics", Route::Metrics(Format::PrometheusText)),
            ("/connections", Route::Connections(Query::parse("").unwrap())),
        ] {
            for method in [Method::Get, Method::Head] {
                assert_eq!(Route::new(&request(method, path, None), 1).unwrap(), route);
            }
            let (status, allow, _) = refusal(Method::Post, path);
            assert_eq!((status, allow), (Status::MethodNotAllowed, Some("GET, HEAD")));
        }
        for (path, route) in [
            ("/drain", Route::Drain),
            ("/reload", Route::Reload),
            ("/log?level=verbose", Route::Log("verbose".to_owned())),
            ("/connections/17/kill", Route::Kill { worker: 0, number: 17 }),
            ("/connections/1:17/kill", Route::Kill { worker: 0, number: 17 }),
        ] {
            assert_eq!(Route::new(&request(Method::Post, path, None), 1).unwrap(), route);
            let (status, allow, _) = refusal(Method::Get, path);
            assert_eq!((status, allow), (Status::MethodNotAllowed, Some("POST")));
        }
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        for (method, path, status, words) in [
            (Method::Get, "/", Status::NotFound, "GET /livez"),
            (Method::Get, "/livez/", Status::NotFound, "GET /readyz"),
            (Method::Post, "/connections/kill", Status::NotFound, "POST /connections/ID/kill"),
            (Method::Post, "/log", Status::BadRequest, "level=LEVEL"),
            (Method::Post, "/log?level=", Status::BadRequest, "level=LEVEL"),
            (Method::Post, "/connections/2:1/kill", Status::BadRequest, "\"2:1\""),
            (Method::Post, "/connections/0:1/kill", Status::BadRequest, "\"0:1\""),
            (Method::Get, "/livez?verbose", Status::BadRequest, "\"verbose\""),
            (Method::Get, "/connections?state=open", Status::BadRequest, "await_digest"),
            (Method::Post, "/connections/+1/kill", Status::BadRequest, "\"+1\""),
            (Method::Post, "/connections//kill", Status::BadRequest, "/connections lists"),
            (Method::Post, "/connections/4294967296/kill", Status::BadRequest, "4294967296"),
        ] {
            let (found, _, text) = refusal(method, path);
            assert_eq!(found, status, "{path}");
            assert!(text.contains(words), "{path}: {text}");
        }
    }

    #[test]
    fn only_literal_hosts_may_be_asked_to_do_something() {
        for host in
            ["127.0.0.1", "127.0.0.1:9998", "[::1]", "[::1]:9998", "localhost", "LocalHost:1"]
        {
            assert_eq!(
                Route::new(&request(Method::Post, "/drain", Some(host)), 1),
                Ok(Route::Drain)
            );
        }
        for host in ["", "example.org", "example.org:9998", "127.0.0.1.example.org", "localhost.x"]
        {
            let response = Route::new(&request(Method::Post, "/drain", Some(host)), 1).unwrap_err();
            assert_eq!(response.status, Status::Forbidden, "{host:?}");
            let route = Route::new(&request(Method::Get, "/readyz", Some(host)), 1);
            assert_eq!(route, Ok(Route::Ready), "reading is open to every name");
        }
    }

    #[test]
    fn several_loops_number_their_connections() {
        let kill = |path| Route::new(&request(Method::Post, path, None), 3);
        assert_eq!(kill("/connections/3:17/kill"), Ok(Route::Kill { worker: 2, number: 17 }));
        for path in ["/connections/17/kill", "/connections/4:17/kill", "/connections/:17/kill"] {
            assert_eq!(kill(path).unwrap_err().status, Status::BadRequest, "{path}");
        }
    }
}
