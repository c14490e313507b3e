use std::io::Write;

/// A status that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// 200
    Ok = 200,
    /// 202: begun, and not finished yet.
    Accepted = 202,
    /// 400: not HTTP, no `Host`, two of them, a length that is no number.
    BadRequest = 400,
    /// 403: a POST from another site's page.
    Forbidden = 403,
    /// 404
    NotFound = 404,
    /// 405: a method that this resource, or none here, has.
    MethodNotAllowed = 405,
    /// 408: the request was not complete in time.
    RequestTimeout = 408,
    /// 409: it was tried and given up, or refused.
    Conflict = 409,
    /// 413: a request with a body.
    ContentTooLarge = 413,
    /// 414: the request line alone fills [`MAX_REQUEST`](super::MAX_REQUEST).
    UriTooLong = 414,
    /// 422: understood, and what it asks for cannot be done.
    UnprocessableContent = 422,
    /// 431: the headers do not fit, or are too many.
    HeadersTooLarge = 431,
    /// 503: not ready, or not the process to ask any more.
    ServiceUnavailable = 503,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    VersionNotSupported = 505,
}

impl Status {
    /// The number.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason phrase of RFC 9110.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Accepted => "Accepted",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::Conflict => "Conflict",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::UnprocessableContent => "Unprocessable Content",
            Self::HeadersTooLarge => "Request Header Fields Too Large",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: Status,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The methods that the resource has, for [`Status::MethodNotAllowed`].
    pub allow: Option<&'static str>,
    /// Its content.
    pub content: Content,
}

/// The content of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The whole content, sent with its length.
    Whole(Vec<u8>),
    /// Slices from a [`Body`], whose length is not known beforehand: chunked in HTTP/1.1, until
    /// the end of the stream in HTTP/1.0.
    Streamed,
}

impl Response {
    /// Plain text.
    pub fn text(status: Status, text: impl Into<String>) -> Self {
        Self::whole(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Content of this type and a known length.
    pub const fn whole(status: Status, content_type: &'static str, content: Vec<u8>) -> Self {
        Self { status, content_type, allow: None, content: Content::Whole(content) }
    }

    /// Content of this type that is produced in slices.
    pub const fn streamed(content_type: &'static str) -> Self {
        Self { status: Status::Ok, content_type, allow: None, content: Content::Streamed }
    }

    /// The resource exists, and has other methods: a list like `GET, HEAD`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::refusal(Status::MethodNotAllowed) }
    }

    /// A status and nothing more to say than what it is called.
    pub(super) fn refusal(status: Status) -> Self {
        Self::text(status, format!("{} {}\n", status.code(), status.reason()))
    }

    /// Appends the status line and the headers.
    pub(super) fn write_head(&self, out: &mut Vec<u8>, chunked: bool, keeps_alive: bool) {
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(format_args!("{text}\r\n")).expect("a Vec takes every byte");
        };
        line(format_args!("HTTP/1.1 {} {}", self.status.code(), self.status.reason()));
        line(format_args!("Content-Type: {}", self.content_type));
        line(format_args!("Cache-Control: no-store"));
        if let Some(allow) = self.allow {
            line(format_args!("Allow: {allow}"));
        }
        match &self.content {
            Content::Whole(content) => line(format_args!("Content-Length: {}", content.len())),
            Content::Streamed if chunked => line(format_args!("Transfer-Encoding: chunked")),
            Content::Streamed => {}
        }
        line(format_args!("Connection: {}", if keeps_alive { "keep-alive" } else { "close" }));
        line(format_args!(""));
    }
}

/// A producer of content that is never held as a whole.
pub trait Body {
    /// Appends the next slice to `out`: about `max` bytes, at most one row more. It may append
    /// nothing, if it has looked at enough rows for one turn and found none to show.
    fn fill(&mut self, out: &mut Vec<u8>, max: usize) -> Progress;
}

/// The progress of a [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be another slice.
    More,
    /// That was the last one.
    Done,
}
