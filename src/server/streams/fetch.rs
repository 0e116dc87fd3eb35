//! Streams that continue from pages of a durable bus, because the logs no longer hold what they need next.
//!
//! A stream sends what the hub's archive holds. When it needs a page that is not in memory, it waits for it
//! (`fetch_queue.rs`). Once it reaches what the logs hold, it is a stream like any other.

use super::Streams;
use super::transmit::{RUN_LIMITS, gap_frame};
use crate::event::archive::PageKey;
use crate::hub::{Hub, MissedGap, Subscriber};
use crate::io::Io;
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Flags, StreamMode};

impl Streams {
    /// A page is in the hub's archive: the streams that waited for it continue.
    pub(crate) fn note_page<I: Io>(&mut self, key: PageKey, transport: &mut Transport<I>) {
        for slot in self.fetches.take_waiting(key) {
            if !transport.at(slot).flags.has(Flags::BLOCKED) {
                transport.queue_catching_up(slot);
            }
        }
    }

    /// Sends one run of the archive to a stream, or waits for a page.
    pub(super) fn catch_up_from_archive<I: Io>(
        &mut self,
        slot: u32,
        transport: &mut Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) {
        let (subscriber, stream) = (Subscriber(slot), transport.at_mut(slot).stream_mut());
        let Some(stream) = stream else { return };
        let after = stream.delivered_through;
        if !hub.is_evicted(subscriber, after) {
            stream.mode.clear(StreamMode::FETCHING);
            return transport.queue_catching_up(slot);
        }
        let outbox = transport.take_outbox(slot, node.now);
        let Some(outbox) = transport.unless_blocked(slot, outbox, node) else { return };
        let mut run = std::mem::take(&mut self.scratch.run);
        run.clear();
        outbox.unsent().iter().for_each(|frame| run.push_unlogged(frame.clone(), after));
        let format = |gap: &MissedGap| gap_frame(hub, gap);
        let missing = hub.archived_run_for(subscriber, after, format, RUN_LIMITS, &mut run);
        self.compress_run(slot, outbox.unsent().len(), &mut run, transport, hub, node);
        let is_empty = run.is_empty();
        self.send_run(slot, outbox, &run, transport, node);
        run.clear();
        self.scratch.run = run;
        match missing {
            Some(key) if is_empty => self.fetches.wait(slot, key),
            _ if transport.stream(slot).is_some() && !transport.at(slot).flags.has(Flags::BLOCKED) => {
                transport.queue_catching_up(slot);
            }
            _ => {}
        }
    }
}
