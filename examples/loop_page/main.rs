//! Writes docs/loop.html: mistakes of event loops to step through, each with its cure.
//!
//! **To learn:** the page. This program plays each story's script twice over a simulated kernel, once
//! with a loop that makes the mistake and once with one that does not, and draws what both sides knew
//! after each step. The loops are in `stories`, each shorter than a page.
//!
//! `cargo run --example loop_page` writes the file; `tests/page` fails while it is out of date.
//!
//! **Read next:** `src/server/mod.rs`, the loop that has all the cures.

#[allow(unreachable_pub)] // A test has them too.
mod stories;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/loop.html");
    let page = stories::page()?;
    std::fs::write(file, page.to_html())?;
    println!("docs/loop.html: {} stories, {} runs", page.stories.len(), page.runs.len());
    Ok(())
}
