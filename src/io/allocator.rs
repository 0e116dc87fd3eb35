//! How the allocator deals with the few large tables that every connection has its place in.
#![allow(unsafe_code)]

/// From this size on a block has pages of its own: it grows without a copy, and is given back whole.
#[cfg(target_env = "gnu")]
const OWN_PAGES_FROM: libc::c_int = 64 << 10;

/// Keeps large blocks out of the heap. Call it before there is a second thread.
///
/// By default glibc raises its threshold with every large block that is freed. A table that outgrows its block then
/// leaves a hole in the heap, which stays resident: about 15 bytes for each connection, measured with
/// `benches/memory.rs` at 18,000.
pub fn give_large_blocks_their_own_pages() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: only sets a parameter of the allocator.
        let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_FROM) };
        debug_assert_eq!(taken, 1, "the threshold is within the allocator's bounds");
    }
}
