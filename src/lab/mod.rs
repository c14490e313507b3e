//! A laboratory for event loops: bring a loop, and a judge runs it over a simulated kernel.
//!
//! A loop that is written over [`Kernel`](crate::reactor::Kernel) gets the [simulator](crate::sim)'s
//! seeds and faults, clients that follow a script, and a judge that sees nothing of the loop but its
//! calls. Each [`Exercise`] is an echo under one new condition. [`grade`] runs a loop through it with many
//! seeds, [`exhaust`] with every short script. A verdict names the simplest script that fails, the step
//! from which on nothing could save the run, what was expected, and a remedy; the feature `page` makes a
//! page of it to step through. The exercises' texts are in the repository's `lab/`, and `saltecho lab run`
//! judges programs in any language through a pipe.
//!
//! ```
//! use std::{collections::HashMap, io};
//!
//! use saltecho::lab::{Code, Exercise, grade};
//! use saltecho::reactor::{Kernel, Token};
//!
//! /// An echo, which takes an event for a message.
//! fn serve<K: Kernel>(kernel: &mut K, listener: &mut K::Listener) -> io::Result<()> {
//!     let (door, mut streams, mut events) = (Token::listener(0), HashMap::new(), Vec::new());
//!     kernel.register_listener(listener, door)?;
//!     loop {
//!         kernel.poll(None, |token, _| events.push(token))?;
//!         for token in events.drain(..) {
//!             if let Some(stream) = streams.get_mut(&token) {
//!                 let mut buffer = [0; 256];
//!                 let n = kernel.recv(stream, &mut buffer)?;
//!                 kernel.send(stream, &buffer[..n])?;
//!             } else if token == door {
//!                 let (mut stream, _) = kernel.accept(listener)?;
//!                 let token = Token::from_raw(streams.len());
//!                 kernel.register(&mut stream, token)?;
//!                 streams.insert(token, stream);
//!             }
//!         }
//!     }
//! }
//!
//! let verdict = grade(Exercise::find("drain")?, 0..10_000, |kernel| serve(kernel, &mut ()));
//! assert_eq!(verdict.code(), Some(Code::UnreadInput), "{verdict}");
//! # Ok::<(), String>(())
//! ```

mod case;
mod code;
mod exercise;
mod grade;
mod judge;
mod kernel;
mod log;
mod rules;
mod script;
mod sleep;
mod verdict;
mod world;

pub use case::{Case, Met};
pub use code::Code;
pub use exercise::Exercise;
pub use grade::{Run, WireFault, exhaust, grade, grade_in, run};
pub use kernel::{LabKernel, error_name};
pub use log::Step;
pub use rules::Rules;
pub use script::{Act, Script};
pub use verdict::{Failure, Film, Origin, Verdict};
