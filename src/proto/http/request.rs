use std::ops::Range;

use super::Status;

/// The most bytes of one request, its empty line included: 8 KiB, what most servers grant.
pub const MAX_REQUEST: usize = 8 << 10;

/// The most headers of one request. Browsers send about twenty, Prometheus five.
pub const MAX_HEADERS: usize = 64;

/// A method that may be answered; every other one is refused with 405.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Answer with the resource.
    Get,
    /// Answer as to GET, without the content. [`Exchange`](super::Exchange) leaves it out.
    Head,
    /// Do something. A request from another site's page, which has an `Origin`, is refused with
    /// 403: a browser on the same machine reaches loopback addresses too.
    Post,
}

impl Method {
    /// Returns true if the content of an answer follows its head.
    pub(super) const fn has_content(self) -> bool {
        match self {
            Self::Get | Self::Post => true,
            Self::Head => false,
        }
    }
}

/// One complete request. It borrows the bytes that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path, from its slash to the question mark; not percent-decoded.
    pub path: &'a str,
    /// The part behind the question mark; not percent-decoded.
    pub query: Option<&'a str>,
    /// The host that is asked. Comparing it with the server's own names keeps out pages that
    /// reach a loopback address by a name of theirs (DNS rebinding). Only HTTP/1.0 may omit it.
    pub host: Option<&'a str>,
    /// The `Accept` header, the first if there are several.
    pub accept: Option<&'a str>,
}

/// A request's line and headers, as places in the buffer that holds them.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// All bytes of the request, the empty line included.
    pub(super) len: usize,
    pub(super) method: Method,
    path: Range<usize>,
    query: Option<Range<usize>>,
    host: Option<Range<usize>>,
    accept: Option<Range<usize>>,
    /// True if the peer knows chunked transfer encoding (HTTP/1.1).
    pub(super) knows_chunks: bool,
    /// True if another request may follow.
    pub(super) keeps_alive: bool,
}

impl Head {
    /// Reads what has arrived; `None` if more is to come. The verdict on a request is the same
    /// however its bytes are cut into pieces: an error shows at the same byte.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, Status> {
        let window = &input[..input.len().min(MAX_REQUEST)];
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(window) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if window.len() < MAX_REQUEST => return Ok(None),
            Ok(httparse::Status::Partial) if request.version.is_none() => {
                return Err(Status::UriTooLong);
            }
            Ok(httparse::Status::Partial) => return Err(Status::HeadersTooLarge),
            Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadersTooLarge),
            Err(httparse::Error::Version) => return Err(Status::VersionNotSupported),
            Err(_) => return Err(Status::BadRequest),
        };
        Self::understand(window, len, &request).map(Some)
    }

    fn understand(
        input: &[u8],
        len: usize,
        request: &httparse::Request<'_, '_>,
    ) -> Result<Self, Status> {
        let is_1_1 = request.version == Some(1);
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            _ => return Err(Status::MethodNotAllowed),
        };
        let meaning = Meaning::of(request.headers)?;
        if is_1_1 && meaning.host.is_none() {
            return Err(Status::BadRequest);
        }
        if method == Method::Post && meaning.has_origin {
            return Err(Status::Forbidden);
        }
        let (host, path, query) = parts(request.path.unwrap_or_default())?;
        let place = |text: &str| place_in(input, text.as_bytes());
        Ok(Self {
            len,
            method,
            path: place(path),
            query: query.map(place),
            host: host.or(meaning.host).map(place),
            accept: meaning.accept.map(place),
            knows_chunks: is_1_1,
            keeps_alive: !meaning.close && (is_1_1 || meaning.keep_alive),
        })
    }

    /// The request, of the same bytes that were parsed.
    pub(super) fn request<'a>(&self, input: &'a [u8]) -> Request<'a> {
        let text = |place: &Range<usize>| {
            str::from_utf8(&input[place.clone()]).expect("it was text when it was parsed")
        };
        Request {
            method: self.method,
            path: text(&self.path),
            query: self.query.as_ref().map(text),
            host: self.host.as_ref().map(text),
            accept: self.accept.as_ref().map(text),
        }
    }
}

/// The headers that matter here.
#[derive(Default)]
struct Meaning<'a> {
    host: Option<&'a str>,
    accept: Option<&'a str>,
    has_origin: bool,
    close: bool,
    keep_alive: bool,
}

impl<'a> Meaning<'a> {
    fn of(headers: &[httparse::Header<'a>]) -> Result<Self, Status> {
        let mut meaning = Self::default();
        let mut length = None;
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") {
                // Two hosts are two opinions about who is asked (RFC 9112, section 3.2).
                let host = str::from_utf8(header.value).map_err(|_| Status::BadRequest)?;
                if meaning.host.replace(host).is_some() {
                    return Err(Status::BadRequest);
                }
            } else if is("content-length") {
                // Two lengths are two opinions about where the next request begins.
                if length.replace(header.value).is_some_and(|other| other != header.value) {
                    return Err(Status::BadRequest);
                }
            } else if is("transfer-encoding") {
                return Err(Status::ContentTooLarge);
            } else if is("connection") {
                for option in header.value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    meaning.close |= option.eq_ignore_ascii_case(b"close");
                    meaning.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if is("accept") {
                // One that is no text is as good as none: any answer will do.
                meaning.accept = meaning.accept.or(str::from_utf8(header.value).ok());
            } else if is("origin") {
                meaning.has_origin = true;
            }
        }
        match length {
            None => Ok(meaning),
            Some(digits) if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) => {
                Err(Status::BadRequest)
            }
            Some(digits) if digits.iter().all(|digit| *digit == b'0') => Ok(meaning),
            Some(_) => Err(Status::ContentTooLarge),
        }
    }
}

/// A target's host (if it names one), path and query. A client that takes this endpoint for a
/// proxy names the host, which every server has to accept (RFC 9112, section 3.2.2).
fn parts(target: &str) -> Result<(Option<&str>, &str, Option<&str>), Status> {
    let is_absolute = target.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("http://"));
    let (host, target) = if is_absolute {
        let rest = &target[7..];
        // Without a path the root is meant; the slash of the scheme is as good as any.
        match rest.find('/') {
            Some(at) => (Some(&rest[..at]), &rest[at..]),
            None => (Some(rest), &target[6..7]),
        }
    } else {
        (None, target)
    };
    if !target.starts_with('/') || host.is_some_and(|host| host.contains(['?', '@'])) {
        return Err(Status::BadRequest);
    }
    match target.split_once('?') {
        Some((path, query)) => Ok((host, path, Some(query))),
        None => Ok((host, target, None)),
    }
}

/// Where `part`, which borrows from `whole`, lies in it.
fn place_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}
