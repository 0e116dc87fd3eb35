//! The server's counters, plain numbers that the loop owns, and the page that shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;
use super::logging;
use super::prometheus::{Kind, Page};

/// Counters by the value of one label; every value is present from the start, at zero.
#[derive(Clone, Debug)]
pub struct Labelled(Vec<(&'static str, u64)>);

impl Labelled {
    /// All counters at zero.
    pub fn new(labels: impl IntoIterator<Item = &'static str>) -> Labelled {
        Labelled(labels.into_iter().map(|label| (label, 0)).collect())
    }

    /// Adds one.
    pub fn count(&mut self, label: &'static str) {
        self.add(label, 1);
    }

    /// Adds several.
    pub fn add(&mut self, label: &'static str, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == label) {
            Some((_, value)) => *value += count,
            None => self.0.push((label, count)),
        }
    }

    /// The count of one.
    pub fn get(&self, label: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == label).map_or(0, |(_, value)| *value)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }

    /// Adds those of another loop. What all loops count alike counts once: as the loop that counted most.
    fn merge(&mut self, other: &Labelled, is_alike: impl Fn(&str) -> bool) {
        for (label, count) in other.iter() {
            let more = if is_alike(label) { count.saturating_sub(self.get(label)) } else { count };
            self.add(label, more);
        }
    }

    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, value)| value).sum()
    }
}

/// What a loop counts.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Times that accepting paused, by reason.
    pub accept_pauses: Labelled,
    /// TLS handshakes that ended, by outcome.
    pub handshakes: Labelled,
    /// Connections closed, by reason.
    pub closed: Labelled,
    /// Streams started.
    pub streams: u64,
    /// Streams and connections refused, by reason.
    pub refused: Labelled,
    /// Requests that were not let in, by reason.
    pub denied: Labelled,
    /// Requests answered, by status.
    pub responses: Labelled,
    /// Events published over HTTP.
    pub published_http: u64,
    /// Events that reached the logs.
    pub broadcasts: u64,
    /// Events that reached no log, by reason.
    pub dropped: Labelled,
    /// Gaps reported, by reason.
    pub gaps: Labelled,
    /// Frames of events handed to the kernel whole, once for each subscriber.
    pub delivered_events: u64,
    /// Bytes handed to the kernel.
    pub sent_bytes: u64,
    /// Sends, each a system call or an entry of one.
    pub sends: u64,
    /// Sends that the kernel took only in part, or not at all.
    pub short_sends: u64,
    /// Visits that attempted no send because the socket awaits writability.
    pub skipped_blocked: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Streams started that are compressed.
    pub compressed_streams: u64,
    /// Forms of events that compressed streams share, by kind.
    pub forms: Labelled,
    /// Bytes of events before and after they were deflated, once for each form.
    pub compressed_bytes: Labelled,
    /// Forms that were forgotten because newer ones needed the memory.
    pub forms_evicted: u64,
    /// Streams that began with older entries of a durable bus.
    pub fetching_streams: u64,
    /// Of what is counted above, what the operators' page causes.
    pub own: OwnTraffic,
    /// From appending an event to the end of the walk that visited its subscribers.
    pub broadcast_duration: Histogram,
    /// From appending an event until a subscriber was visited, by the slice of the walk that it was visited in.
    pub delivery_duration: Histogram,
    /// How long one turn of the loop worked: all other work waits for that long.
    pub turn_duration: Histogram,
}

/// What clients that watch the server's statistics cause: the statistics leave it out, so that an idle server that is looked at
/// shows zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnTraffic {
    /// Events of the statistics.
    pub broadcasts: u64,
    /// Streams that have the statistics among their topics.
    pub streams: u64,
    /// Events that such streams got.
    pub delivered_events: u64,
    /// Bytes that such streams got, and those of all answers that are no stream.
    pub sent_bytes: u64,
}

impl Counters {
    /// Adds those of another loop, for the node. Every loop appends every event, so that what becomes of events counts once;
    /// `is_gap_of_all` is true for the reasons of gaps that every loop reports.
    pub fn add(&mut self, other: &Counters, is_gap_of_all: impl Fn(&str) -> bool) {
        // Each field by its name, so that none is forgotten.
        let Counters {
            accepted,
            accept_pauses,
            handshakes,
            closed,
            streams,
            refused,
            denied,
            responses,
            published_http,
            broadcasts,
            dropped,
            gaps,
            delivered_events,
            sent_bytes,
            sends,
            short_sends,
            skipped_blocked,
            heartbeats,
            fetching_streams,
            compressed_streams,
            forms,
            compressed_bytes,
            forms_evicted,
            own,
            broadcast_duration,
            delivery_duration,
            turn_duration,
        } = other;
        self.accepted += accepted;
        self.accept_pauses.merge(accept_pauses, |_| false);
        self.handshakes.merge(handshakes, |_| false);
        self.closed.merge(closed, |_| false);
        self.streams += streams;
        self.refused.merge(refused, |_| false);
        self.denied.merge(denied, |_| false);
        self.responses.merge(responses, |_| false);
        self.published_http += published_http;
        self.broadcasts = self.broadcasts.max(*broadcasts);
        self.dropped.merge(dropped, |_| true);
        self.gaps.merge(gaps, is_gap_of_all);
        self.delivered_events += delivered_events;
        self.sent_bytes += sent_bytes;
        self.sends += sends;
        self.short_sends += short_sends;
        self.skipped_blocked += skipped_blocked;
        self.heartbeats += heartbeats;
        self.fetching_streams += fetching_streams;
        self.compressed_streams += compressed_streams;
        self.forms.merge(forms, |_| false);
        self.compressed_bytes.merge(compressed_bytes, |_| false);
        self.forms_evicted += forms_evicted;
        self.own.broadcasts = self.own.broadcasts.max(own.broadcasts);
        self.own.streams += own.streams;
        self.own.delivered_events += own.delivered_events;
        self.own.sent_bytes += own.sent_bytes;
        self.broadcast_duration.add(broadcast_duration);
        self.delivery_duration.add(delivery_duration);
        self.turn_duration.add(turn_duration);
    }
}

/// What a loop measures on request.
#[derive(Clone, Debug, Default)]
pub struct LoopGauges {
    /// How its sends reach the kernel; for several loops, one of each.
    pub io_backends: Vec<&'static str>,
    /// Open connections, streams among them.
    pub connections: usize,
    /// Open streams.
    pub streams: usize,
    /// Connections whose last send the kernel took only in part, or not at all.
    pub lagging: usize,
    /// Topics that are configured or were published to: the same in all loops.
    pub topics: usize,
    /// Topics that exist only because subscribers name them; one with subscribers in several loops is in each.
    pub subscribed_topics: usize,
    /// Entries of all logs.
    pub retained_events: usize,
    /// Entries that were evicted, by reason.
    pub evicted_events: Vec<(&'static str, u64)>,
    /// Bytes of all logs.
    pub retained_bytes: usize,
    /// Bytes of evicted frames that are written to a client only in part.
    pub pinned_bytes: usize,
    /// Messages waiting in the channel.
    pub channel_messages: usize,
}

impl LoopGauges {
    /// Adds those of another loop, for the node. Logs hold the same events: those of the loop that has most count.
    pub fn add(&mut self, other: &LoopGauges) {
        let LoopGauges {
            io_backends,
            connections,
            streams,
            lagging,
            topics,
            subscribed_topics,
            retained_events,
            evicted_events,
            retained_bytes,
            pinned_bytes,
            channel_messages,
        } = other;
        self.io_backends.extend(io_backends);
        self.connections += connections;
        self.streams += streams;
        self.lagging += lagging;
        self.topics = self.topics.max(*topics);
        self.subscribed_topics += subscribed_topics;
        self.retained_events = self.retained_events.max(*retained_events);
        for ((_, own), (_, count)) in self.evicted_events.iter_mut().zip(evicted_events) {
            *own = (*own).max(*count);
        }
        self.retained_bytes = self.retained_bytes.max(*retained_bytes);
        self.pinned_bytes += pinned_bytes;
        self.channel_messages += channel_messages;
    }

    /// How many loops use each backend of the IO.
    pub fn loops_by_io_backend(&self) -> BTreeMap<&'static str, u64> {
        self.io_backends.iter().fold(BTreeMap::new(), |mut loops, backend| {
            *loops.entry(*backend).or_default() += 1;
            loops
        })
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics + self.subscribed_topics
    }
}

/// What is measured for the page of metrics.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// What the loops measure, together.
    pub of_loops: LoopGauges,
    /// Open connections of each loop.
    pub connections_by_loop: Vec<usize>,
    /// Loops that have not turned for a while.
    pub hanging_loops: usize,
    /// Streams that may be open.
    pub streams_max: usize,
    /// Certificates, and when each expires, in seconds since 1970.
    pub certificates: Vec<(String, u64)>,
    /// Since the start.
    pub uptime: Duration,
    /// Draining: 0 no, 1 notice, 2 closing.
    pub draining: u8,
    /// The sources.
    pub sources: Vec<SourceGauges>,
    /// The durable bus, if there is one.
    pub bus: Option<BusGauges>,
    /// What is done with Kafka.
    pub kafka: KafkaGauges,
    /// Resident memory of the process, as last sampled.
    pub resident_bytes: Option<u64>,
    /// Open descriptors of the process, as last sampled.
    pub open_descriptors: Option<u64>,
}

/// What a durable bus does.
#[derive(Clone, Copy, Debug)]
pub struct BusGauges {
    /// The epoch that is read.
    pub epoch: u64,
    /// The last entry of it that was read.
    pub offset: u64,
    /// Entries that were not read at the last look.
    pub lag: u64,
    /// Epochs that began meanwhile.
    pub forks: u64,
    /// Pages of older entries that were fetched.
    pub pages: u64,
    /// Entries that were appended, by result.
    pub appended: [(&'static str, u64); 3],
}

/// What is done with Kafka.
#[derive(Clone, Debug, Default)]
pub struct KafkaGauges {
    /// Copies, by outcome.
    pub copies: [(&'static str, u64); 3],
    /// Copies that wait, and their bytes; none: nothing is copied.
    pub waiting: Option<(usize, usize)>,
    /// Partitions that this node reads, and their messages that it has not read, if that is known; none: no topic is read.
    pub feeds: Option<(usize, Option<u64>)>,
    /// Known brokers, by whether one of this node's clients is connected.
    pub brokers: Vec<(&'static str, usize)>,
}

/// What a source's thread counts.
#[derive(Clone, Debug)]
pub struct SourceGauges {
    /// Its name.
    pub name: &'static str,
    /// Connected and subscribed.
    pub up: bool,
    /// Whether this node leads it; none: every node has it for itself.
    pub leads: Option<bool>,
    /// Messages that arrived.
    pub received: u64,
    /// Reconnections after a loss.
    pub reconnects: u64,
    /// Events published over HTTP that were also copied to a channel of `--redis-publish`.
    pub copied: u64,
    /// Messages that became no event, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// Writes the page.
pub fn render(counters: &Counters, gauges: &Gauges) -> String {
    let mut page = Page::default();
    connections(&mut page, counters, gauges);
    events(&mut page, counters);
    delivery(&mut page, counters, gauges);
    sources(&mut page, gauges);
    bus(&mut page, counters, gauges);
    kafka(&mut page, &gauges.kafka);
    memory(&mut page, gauges);
    page.into_text()
}

fn connections(page: &mut Page, counters: &Counters, gauges: &Gauges) {
    let kinds =
        [("stream", gauges.of_loops.streams), ("request", gauges.of_loops.connections - gauges.of_loops.streams)];
    page.by(Kind::Gauge, "fanfare_connections", "Open connections.", "kind", kinds);
    let names: Vec<_> = (0..gauges.connections_by_loop.len()).map(|index| index.to_string()).collect();
    let by_loop = names.iter().map(String::as_str).zip(gauges.connections_by_loop.iter().copied());
    page.by(Kind::Gauge, "fanfare_loop_connections", "Open connections of each event loop.", "loop", by_loop);
    let help = "Event loops that have not turned for 10 seconds.";
    page.single(Kind::Gauge, "fanfare_loops_hanging", help, gauges.hanging_loops);
    page.single(Kind::Gauge, "fanfare_streams_max", "Streams that may be open.", gauges.streams_max);
    page.single(Kind::Counter, "fanfare_accepted_total", "Connections accepted.", counters.accepted);
    let help = "Pauses in accepting connections until a resource was free.";
    page.by(Kind::Counter, "fanfare_accept_pauses_total", help, "reason", counters.accept_pauses.iter());
    let help = "TLS handshakes that ended.";
    page.by(Kind::Counter, "fanfare_tls_handshakes_total", help, "outcome", counters.handshakes.iter());
    let help = "When a certificate expires, in seconds since 1970.";
    let certificates = gauges.certificates.iter().map(|(name, expires_at_s)| (name.as_str(), *expires_at_s));
    page.by(Kind::Gauge, "fanfare_tls_certificate_expires_seconds", help, "certificate", certificates);
    page.single(Kind::Counter, "fanfare_streams_total", "Streams started.", counters.streams);
    let help = "Streams, requests and connections refused.";
    page.by(Kind::Counter, "fanfare_refused_total", help, "reason", counters.refused.iter());
    page.by(Kind::Counter, "fanfare_closed_total", "Connections closed.", "reason", counters.closed.iter());
    let help = "Requests that were denied access.";
    page.by(Kind::Counter, "fanfare_denied_total", help, "reason", counters.denied.iter());
    page.by(Kind::Counter, "fanfare_responses_total", "Requests answered.", "status", counters.responses.iter());
}

fn events(page: &mut Page, counters: &Counters) {
    page.single(Kind::Counter, "fanfare_broadcasts_total", "Events that reached the logs.", counters.broadcasts);
    let help = "Events that reached no log.";
    page.by(Kind::Counter, "fanfare_dropped_events_total", help, "reason", counters.dropped.iter());
    let help = "Gaps announced: to all subscribers of a topic, or to one that reads too slowly or reconnects.";
    page.by(Kind::Counter, "fanfare_gaps_total", help, "reason", counters.gaps.iter());
}

fn delivery(page: &mut Page, counters: &Counters, gauges: &Gauges) {
    let help = "Events handed to the kernel whole, once for each subscriber.";
    page.single(Kind::Counter, "fanfare_delivered_events_total", help, counters.delivered_events);
    page.single(Kind::Counter, "fanfare_sent_bytes_total", "Bytes handed to the kernel.", counters.sent_bytes);
    page.single(Kind::Counter, "fanfare_sends_total", "Sends attempted.", counters.sends);
    let help = "Sends that the kernel took only in part, or not at all.";
    page.single(Kind::Counter, "fanfare_short_sends_total", help, counters.short_sends);
    let help = "Visits that attempted no send because the socket awaits writability.";
    page.single(Kind::Counter, "fanfare_skipped_blocked_total", help, counters.skipped_blocked);
    page.single(Kind::Counter, "fanfare_heartbeats_total", "Heartbeats sent.", counters.heartbeats);
    let help = "Streams started that are compressed.";
    page.single(Kind::Counter, "fanfare_compressed_streams_total", help, counters.compressed_streams);
    let help = "Forms of events made for compressed streams, which share them: deflated alone, deflated after other events, \
                or stored as they are because the turn's budget was used up.";
    page.by(Kind::Counter, "fanfare_compressed_forms_total", help, "kind", counters.forms.iter());
    let help = "Bytes of events before and after they were deflated, once for each form.";
    page.by(Kind::Counter, "fanfare_compressed_bytes_total", help, "stage", counters.compressed_bytes.iter());
    let help = "Forms that were forgotten because newer ones needed the memory.";
    page.single(Kind::Counter, "fanfare_compressed_forms_evicted_total", help, counters.forms_evicted);
    let help = "Connections whose last send the kernel took only in part, or not at all: \
                subscribers, and clients that read an answer.";
    page.single(Kind::Gauge, "fanfare_lagging_subscribers", help, gauges.of_loops.lagging);
    let help = "From an event's arrival in its log until every subscriber was visited.";
    page.histogram("fanfare_broadcast_duration_seconds", help, &counters.broadcast_duration);
    let help = "From an event's arrival in its log until a subscriber was visited.";
    page.histogram("fanfare_delivery_duration_seconds", help, &counters.delivery_duration);
    let help = "How long one turn of the event loop took, while all other connections waited.";
    page.histogram("fanfare_loop_turn_duration_seconds", help, &counters.turn_duration);
    let help = "Messages from sources that wait for the loop.";
    page.single(Kind::Gauge, "fanfare_channel_messages", help, gauges.of_loops.channel_messages);
    let help = "0 serving, 1 giving notice (unready), 2 closing streams.";
    page.single(Kind::Gauge, "fanfare_draining", help, gauges.draining);
}

fn sources(page: &mut Page, gauges: &Gauges) {
    let all = &gauges.sources;
    let up = all.iter().map(|source| (source.name, u8::from(source.up)));
    page.by(Kind::Gauge, "fanfare_source_up", "1 while the source is connected and subscribed.", "source", up);
    let leads = all.iter().filter_map(|source| Some((source.name, u8::from(source.leads?))));
    let help = "1 while this node appends to the bus what the source carries; of the nodes, one does.";
    page.by(Kind::Gauge, "fanfare_source_leads", help, "source", leads);
    let received = all.iter().map(|source| (source.name, source.received));
    page.by(Kind::Counter, "fanfare_published_events_total", "Events that arrived, by source.", "source", received);
    let reconnects = all.iter().map(|source| (source.name, source.reconnects));
    let help = "Reconnections of a source after it was lost.";
    page.by(Kind::Counter, "fanfare_source_reconnects_total", help, "source", reconnects);
    let copied = all.iter().map(|source| (source.name, source.copied));
    let help = "Events published over HTTP that also went to a channel of --redis-publish, or to Kafka.";
    page.by(Kind::Counter, "fanfare_source_copied_total", help, "source", copied);
    let refused: Vec<_> = all
        .iter()
        .flat_map(|source| {
            source.refused.iter().map(|(why, count)| ([("source", source.name), ("reason", *why)], count))
        })
        .collect();
    let help = "Messages of a source that were not published as events.";
    let samples = refused.iter().map(|(labels, count)| (&labels[..], *count));
    page.family(Kind::Counter, "fanfare_source_refused_total", help, samples);
}

fn bus(page: &mut Page, counters: &Counters, gauges: &Gauges) {
    let bus = gauges.bus.as_ref();
    let mut single = |kind, name, help, value: fn(&BusGauges) -> u64| {
        page.family(kind, name, help, bus.map(|bus| (&[][..], value(bus))));
    };
    single(Kind::Gauge, "fanfare_bus_epoch", "The epoch of the bus that this node reads.", |bus| bus.epoch);
    single(Kind::Gauge, "fanfare_bus_offset", "The last entry of it that this node has read.", |bus| bus.offset);
    single(Kind::Gauge, "fanfare_bus_lag_entries", "Entries that this node had not read at its last look.", |bus| {
        bus.lag
    });
    single(
        Kind::Counter,
        "fanfare_bus_forks_total",
        "Epochs that began while this node read the bus, and may lack entries.",
        |bus| bus.forks,
    );
    let help = "Pages of older entries that were fetched for subscribers.";
    single(Kind::Counter, "fanfare_bus_pages_fetched_total", help, |bus| bus.pages);
    let help = "Streams that began with entries that only the bus still had.";
    page.single(Kind::Counter, "fanfare_bus_fetching_streams_total", help, counters.fetching_streams);
    let (name, help) = ("fanfare_bus_appended_total", "Entries published over HTTP through this node, by result.");
    page.by(Kind::Counter, name, help, "result", bus.into_iter().flat_map(|bus| bus.appended));
}

fn kafka(page: &mut Page, kafka: &KafkaGauges) {
    let (name, help) = ("fanfare_kafka_copies_total", "Copies of events for Kafka, by outcome.");
    page.by(Kind::Counter, name, help, "result", kafka.copies);
    let mut single = |name, help, value: Option<u64>| {
        page.family(Kind::Gauge, name, help, value.map(|value| (&[][..], value)));
    };
    let waiting = kafka.waiting;
    let help = "Copies that wait until Kafka has them.";
    single("fanfare_kafka_copies_waiting", help, waiting.map(|(count, _)| count as u64));
    let help = "Bytes of the copies that wait.";
    single("fanfare_kafka_copies_waiting_bytes", help, waiting.map(|(_, bytes)| bytes as u64));
    let help = "Partitions of Kafka that this node reads.";
    single("fanfare_kafka_partitions", help, kafka.feeds.map(|(count, _)| count as u64));
    let help = "Messages in these partitions that this node has not read.";
    single("fanfare_kafka_lag_messages", help, kafka.feeds.and_then(|(_, lag)| lag));
    let help = "Brokers of Kafka, by whether this node is connected.";
    page.by(Kind::Gauge, "fanfare_kafka_brokers", help, "state", kafka.brokers.iter().copied());
}

fn memory(page: &mut Page, gauges: &Gauges) {
    page.single(Kind::Gauge, "fanfare_topics", "Topics that exist.", gauges.of_loops.topic_count());
    page.single(Kind::Gauge, "fanfare_retained_events", "Events in all logs.", gauges.of_loops.retained_events);
    let (name, evicted) = ("fanfare_evicted_events_total", gauges.of_loops.evicted_events.iter().copied());
    page.by(Kind::Counter, name, "Events evicted from the logs, by the bound that required it.", "reason", evicted);
    page.single(Kind::Gauge, "fanfare_retained_bytes", "Bytes of all logs.", gauges.of_loops.retained_bytes);
    let help = "Bytes of evicted frames that are still partly written to a subscriber.";
    page.single(Kind::Gauge, "fanfare_pinned_bytes", help, gauges.of_loops.pinned_bytes);
    let (name, help) = ("fanfare_log_lines_dropped_total", "Lines of the log that were lost.");
    page.by(Kind::Counter, name, help, "reason", logging::lost_lines());
    page.single(Kind::Gauge, "fanfare_uptime_seconds", "Time since the start.", gauges.uptime.as_secs_f64());
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family(Kind::Gauge, "fanfare_build_info", "Always 1.", [(&version[..], 1)]);
    let (name, help) = ("fanfare_io_backend", "Event loops, by how their sends reach the kernel.");
    page.by(Kind::Gauge, name, help, "backend", gauges.of_loops.loops_by_io_backend());
    if let Some(bytes) = gauges.resident_bytes {
        page.single(Kind::Gauge, "process_resident_memory_bytes", "Resident memory.", bytes);
    }
    if let Some(count) = gauges.open_descriptors {
        page.single(Kind::Gauge, "process_open_fds", "Open descriptors.", count);
    }
}
