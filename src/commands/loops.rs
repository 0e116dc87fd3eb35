//! The event loops of `fanfare serve`: the first one runs in the main thread, each other in a thread of its own.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};

use super::backend;
use super::listeners::LoopListeners;
use crate::config::IoBackend;
use crate::io::affinity::Cores;
use crate::io::epoll::EpollIo;
use crate::io::handshakes::{HandshakeThreads, ThreadedHandshakes};
use crate::io::sealed::Sealed;
use crate::server::{Entrance, Member, Parts, Server};
use crate::sources::channel::{ChannelLimits, Control, Inbox, Outlet, channel};
use crate::sources::sequencer::Sequencer;

/// The IO of a loop: TLS over epoll.
pub(super) type LoopIo = Sealed<EpollIo, ThreadedHandshakes>;

/// A loop before it runs: its sockets, its end of the channel, and its place among the loops.
pub(super) struct Loop {
    pub(super) io: EpollIo,
    /// Which of its listeners speak TLS.
    pub(super) speak_tls: Vec<bool>,
    pub(super) inbox: Inbox,
    pub(super) member: Member,
    pub(super) entrances: Vec<Entrance>,
}

/// The IO of a loop whose handshakes these threads do.
pub(super) fn secured(io: EpollIo, speak_tls: Vec<bool>, threads: &HandshakeThreads) -> LoopIo {
    let handshakes = threads.for_loop(io.wake());
    Sealed::new(io, handshakes, speak_tls)
}

/// Makes a loop of each set of listeners, with this backend. Returns the channels into them, too.
pub(super) fn make(backend: IoBackend, listeners: Vec<LoopListeners>) -> anyhow::Result<(Vec<Loop>, Vec<Outlet>)> {
    let (mut made, mut outlets) = (Vec::new(), Vec::new());
    for LoopListeners { opened, speak_tls, entrances } in listeners {
        let io = backend::open(backend, opened).context("setting up epoll")?;
        let (outlet, inbox) = channel(ChannelLimits::default(), io.wake());
        made.push((io, speak_tls, inbox, entrances));
        outlets.push(outlet);
    }
    let members = Member::of(&outlets);
    let of = |((io, speak_tls, inbox, entrances), member)| Loop { io, speak_tls, inbox, member, entrances };
    Ok((made.into_iter().zip(members).map(of).collect(), outlets))
}

/// The cores of the loops, if each has one of its own.
pub(super) struct Pinning(Option<Vec<Cores>>);

impl Pinning {
    /// Gives each of several loops a core, and all threads that this one starts from now on the others. Where that is
    /// forbidden, loops have no cores of their own.
    pub(super) fn begin(loops: usize) -> Pinning {
        if loops < 2 {
            return Pinning(None);
        }
        let pinned = Cores::allowed().and_then(|allowed| {
            let Some((of_loops, rest)) = allowed.split(loops) else { return Ok(None) };
            rest.keep_this_thread().map(|()| Some(of_loops))
        });
        Pinning(pinned.unwrap_or_else(|error| {
            tracing::warn!(%error, "event loops can't have cores of their own");
            None
        }))
    }

    /// True when loops have cores of their own.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn pin(&self, index: usize) {
        let core = self.0.as_ref().and_then(|of_loops| of_loops.get(index));
        if let Some(Err(error)) = core.map(Cores::keep_this_thread) {
            tracing::warn!(%error, r#loop = index, "an event loop can't have a core of its own");
        }
    }
}

/// The loops that run in threads of their own.
pub(super) struct OtherLoops(Vec<JoinHandle<io::Result<()>>>);

impl OtherLoops {
    /// Starts all loops but the first. If one fails, the others leave.
    pub(super) fn start(
        parts: Vec<(LoopIo, Parts)>,
        pinning: &Arc<Pinning>,
        sequencer: &Arc<Sequencer>,
    ) -> io::Result<OtherLoops> {
        let start = |(index, (io, parts)): (usize, (LoopIo, Parts))| {
            let (pinning, sequencer) = (Arc::clone(pinning), Arc::clone(sequencer));
            let run = move || {
                let failure = LeaveUnlessDone(sequencer);
                pinning.pin(index);
                Server::new(io, parts).run()?;
                std::mem::forget(failure);
                Ok(())
            };
            thread::Builder::new().name(format!("loop-{index}")).spawn(run)
        };
        (1..).zip(parts).map(start).collect::<io::Result<_>>().map(OtherLoops)
    }

    /// Waits until all have ended.
    pub(super) fn join(self) -> anyhow::Result<()> {
        for handle in self.0 {
            let outcome = handle.join().map_err(|_| anyhow!("an event loop has panicked"))?;
            outcome.context("waiting for events")?;
        }
        Ok(())
    }
}

/// Pins the main thread, which runs the first loop.
pub(super) fn pin_first(pinning: &Pinning) {
    pinning.pin(0);
}

/// Dropped: a loop has failed or panicked. Its subscribers are gone, and a new process has to serve them.
struct LeaveUnlessDone(Arc<Sequencer>);

impl Drop for LeaveUnlessDone {
    fn drop(&mut self) {
        tracing::error!("an event loop has failed: the others leave");
        self.0.control(&Control::Drain);
    }
}
