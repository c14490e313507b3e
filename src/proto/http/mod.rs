//! HTTP/1.1 for the admin endpoint, as a state machine without I/O.
//!
//! One [`Exchange`] is one connection with any number of requests (GET, HEAD and POST without a
//! body), each at most [`MAX_REQUEST`] bytes, answered in turn. An answer is either [whole](Content::Whole) or
//! [streamed](Content::Streamed) in slices that a [`Body`] produces when the last one is gone, so
//! that a list of a million rows neither occupies memory nor holds up the loop that serves it.
//!
//! Bytes and the time are arguments, as everywhere in [`proto`](super). httparse reads the request
//! line and the headers; what they mean is decided here, by RFC 9110 and RFC 9112.

mod exchange;
mod request;
mod response;

pub use exchange::{
    Exchange, IDLE_TIMEOUT, LINGER_BYTES, LINGER_TIMEOUT, REQUEST_TIMEOUT, SEND_TIMEOUT, SLICE,
    Wants,
};
pub use request::{MAX_HEADERS, MAX_REQUEST, Method, Request};
pub use response::{Body, Content, Progress, Response, Status};
