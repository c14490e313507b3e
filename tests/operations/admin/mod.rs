//! The admin endpoint over real sockets.

mod asking;
mod endpoint;
mod scrape;
