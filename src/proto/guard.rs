use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IN_USER_CODE: Cell<bool> = const { Cell::new(false) };
}

/// Calls code of the library's user; `None` if it panicked.
///
/// A panic is printed by the panic hook where it happens. It must not take the loop down, and with
/// it all other connections. What the code has left half done is its owner's: that is given up.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    IN_USER_CODE.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        // The payload is the user's as well, and its destructor may panic in turn.
        catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget)
    });
    IN_USER_CODE.set(false);
    outcome.ok()
}

/// Whether this thread is inside a [`guarded`] call, and so must not wait for the loop that made
/// it.
#[cfg(feature = "server")]
pub(crate) fn in_user_code() -> bool {
    IN_USER_CODE.get()
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
