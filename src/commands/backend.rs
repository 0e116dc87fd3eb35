//! Which backend of the IO contract `fanfare serve` uses: `--io`.

use std::io;

use crate::config::IoBackend;
use crate::io::Io;
use crate::io::epoll::EpollIo;
use crate::io::listener::Listener;
use crate::io::uring::Ring;

/// What `auto` selects: io_uring only if it takes at least 5 % less CPU than epoll on a machine without other work.
/// docs/decisions/0009-sends-go-through-the-ring.md has the figures.
const AUTO: IoBackend = IoBackend::Epoll;

/// The IO over these listeners. Where io_uring can't be used, epoll replaces it.
pub(super) fn open(choice: IoBackend, listeners: Vec<Listener>) -> io::Result<EpollIo> {
    let choice = if choice == IoBackend::Auto { AUTO } else { choice };
    let ring = match choice {
        IoBackend::IoUring => Ring::open()
            .inspect_err(|error| tracing::warn!(%error, "--io io_uring can't be used here: epoll replaces it"))
            .ok(),
        _ => None,
    };
    let io = EpollIo::new(listeners, ring)?;
    tracing::info!(backend = io.backend(), "the kernel's interface for IO is chosen");
    Ok(io)
}

/// Whether io_uring can be used here; if not, why.
pub(super) fn io_uring_here() -> Result<(), String> {
    Ring::open().map(drop).map_err(|error| error.to_string())
}
