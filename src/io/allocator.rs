//! How the allocator places the few large tables that have an entry for every connection, and when it returns memory.
#![allow(unsafe_code)]

use std::thread::JoinHandle;

/// Blocks of at least this size get pages of their own: they grow without a copy, and are returned to the kernel whole.
#[cfg(target_env = "gnu")]
const OWN_PAGES_FROM: libc::c_int = 64 << 10;

/// Keeps large blocks out of the heap. Call it before a second thread starts.
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

/// Returns the pages of the heap that hold nothing any more to the kernel. By itself, glibc returns only those at the heap's
/// end. Takes a few milliseconds after millions of small blocks were freed, while other threads that allocate wait.
pub fn return_free_pages() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: only changes the allocator's own state, under its own locks.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Frees the blocks that the allocator keeps for this thread. Call it after many small blocks were freed.
///
/// glibc keeps the last seven of each small size, and with them the pages where they lie: 1 MB after 100,000 topics vanished.
/// It frees what it keeps for a thread when the thread ends, so one is started to take them over. Returns that thread.
pub fn free_cached_blocks() -> Option<JoinHandle<()>> {
    #[cfg(target_env = "gnu")]
    {
        // The bounds of the cache, unless GLIBC_TUNABLES sets others.
        const BYTES_MAX: usize = 1032;
        const BLOCKS_PER_SIZE: usize = 7;
        let sizes = (24..=BYTES_MAX).step_by(16).flat_map(|bytes| [bytes; BLOCKS_PER_SIZE]);
        let blocks: Vec<Vec<u8>> = sizes.map(Vec::with_capacity).collect();
        // Without a thread they go back to where they were.
        std::thread::Builder::new().name("free".to_owned()).spawn(|| drop(blocks)).ok()
    }
    #[cfg(not(target_env = "gnu"))]
    None
}
