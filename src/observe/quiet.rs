//! Panics of other crates that are expected: they are caught, and not logged.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic. None: it did.
pub fn catch<T>(run: impl FnOnce() -> T) -> Option<T> {
    IS_EXPECTED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run)).ok();
    IS_EXPECTED.set(false);
    outcome
}

/// True if a panic of this thread is expected now.
pub fn is_expected() -> bool {
    IS_EXPECTED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_until_it_is_caught() {
        assert_eq!((catch(is_expected), is_expected()), (Some(true), false));
        assert_eq!((catch(|| [0].get(1).copied().unwrap()), is_expected()), (None, false));
    }
}
