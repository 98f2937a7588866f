//! sled panics on damage, even when it only reads. [`guarded`] turns such a panic into an error,
//! without a message on standard error.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

use crate::outbox::{OutboxError, error::Result};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a function that calls sled.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    done.unwrap_or_else(|panic| {
        let what = message(&*panic);
        Err(OutboxError::CorruptPage(format!("sled panicked: {what}").into()))
    })
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded::<()>(|| panic!("tried {}", 1)).unwrap_err().to_string();
        assert!(error.contains("tried 1"), "{error}");
        assert!(guarded(|| Ok(2)).is_ok());
    }
}
