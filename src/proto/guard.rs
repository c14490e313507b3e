use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls code of the library's user; `None` if it panicked.
///
/// A panic is printed by the panic hook where it happens. It must not take the loop down, and with
/// it all other connections. What the code has left half done is its owner's: that is given up.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    let panic = catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        // The payload is the user's as well, and its destructor may panic in turn.
        catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget)
    });
    panic.ok()
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::guarded;

    #[test]
    fn a_panic_ends_here_even_if_its_payload_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                resume_unwind(Box::new(()));
            }
        }
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| resume_unwind(Box::new(Bomb))), None::<()>);
    }
}
