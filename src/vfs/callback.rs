//! What every callback goes through: no panic crosses into SQLite, a panic is an error code.

use crate::handle;
use crate::sqlite::Code;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of a callback that answers a result code; a panic answers `on_panic`.
pub(super) fn callback(on_panic: Code, body: impl FnOnce() -> Result<(), Code>) -> c_int {
    let result = callback_value(Err(on_panic), || {
        handle::entered();
        body()
    });
    match result {
        Ok(()) => 0,
        Err(code) => code.number(),
    }
}

/// Runs the body of a callback that answers something else; a panic answers `on_panic`.
/// Does not call [`handle::entered`].
pub(super) fn callback_value<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    let _inside = crate::os::inside();
    // The state that a panic leaves half done is in `Handle`, and ended there.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // Dropping a foreign payload may panic again.
        std::mem::forget(payload);
        if let Err(payload) = catch_unwind(handle::after_panic) {
            std::mem::forget(payload);
        }
        on_panic
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_error_code_and_never_ok() {
        assert_eq!(callback(Code::IOERR_READ, || panic!("on purpose")), Code::IOERR_READ.number());
        assert_eq!(callback(Code::IOERR_READ, || Err(Code::FULL)), 13);
        assert_eq!(callback(Code::IOERR_READ, || Ok(())), 0);
        assert_eq!(callback_value(7, || panic!("on purpose")), 7);
    }

    #[test]
    fn a_payload_that_panics_when_dropped_does_no_harm() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let code = callback(Code::IOERR, || std::panic::panic_any(Bomb));
        assert_eq!(code, Code::IOERR.number());
    }
}
