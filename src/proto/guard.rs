use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IN_USER_CODE: Cell<bool> = const { Cell::new(false) };
}

/// Calls a handler or observer; returns `None` if it panicked.
///
/// The panic hook prints the panic. It must not end the loop and with it all other connections.
/// The panicking object may be left in an inconsistent state, so its owner must stop using it.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    // Such a call may cause another, which ends before.
    let before = IN_USER_CODE.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        // The payload is user code too: its destructor may panic in turn.
        catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(std::mem::forget)
    });
    IN_USER_CODE.set(before);
    outcome.ok()
}

/// Returns true inside a [`guarded`] call, where waiting for the calling loop would deadlock.
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
