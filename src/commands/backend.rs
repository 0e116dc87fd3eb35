//! Which backend of the IO contract `fanfare serve` uses: `--io`.

use std::io;

use crate::config::IoBackend;
use crate::io::Io;
use crate::io::epoll::EpollIo;
use crate::io::listener::Listener;
use crate::io::uring::Ring;

/// The IO over these listeners. Where io_uring can't be used, epoll replaces it.
///
/// `auto` selects io_uring only where it takes at least 5 % less CPU than epoll. It does not:
/// docs/decisions/0009-sends-go-through-the-ring.md has the figures.
pub(super) fn open(choice: IoBackend, listeners: Vec<Listener>) -> io::Result<EpollIo> {
    let ring = match choice {
        IoBackend::Auto | IoBackend::Epoll => None,
        IoBackend::IoUring => match Ring::open() {
            Ok(ring) => Some(ring),
            Err(error) => {
                tracing::warn!(%error, "--io io_uring can't be used here: epoll replaces it");
                None
            }
        },
    };
    let io = EpollIo::new(listeners, ring)?;
    tracing::info!(backend = io.backend(), "the kernel's interface for IO is chosen");
    Ok(io)
}

/// Whether io_uring can be used here; if not, why.
pub(super) fn io_uring_here() -> Result<(), String> {
    Ring::open().map(drop).map_err(|error| error.to_string())
}
