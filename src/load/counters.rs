//! The counters. The field names are the keys of the JSON report and the names that thresholds use.

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything that a load test counts; each loop keeps its own and they are added up.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds another loop's counters.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
            }

            /// Names and values, in the order of the report.
            pub fn pairs(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Attempts to connect, including reconnects.
    connect_attempts,
    /// Connections answered with 200 and an event stream.
    connect_successes,
    /// Attempts to connect again after a connection that was open or failed.
    reconnects,
    /// Redirects followed.
    redirects,
    /// Failures of any kind.
    errors,
    /// Streams that the server ended or reset.
    disconnects,
    /// Clients permanently refused by a status other than 200.
    refused_clients,
    /// Streams answered 200 that ended before any event or comment: this is how a server defers a client.
    deferred_connections,
    /// Bytes read, including heads and framing.
    received_bytes,
    /// Reads that returned bytes.
    reads,
    /// Events of every kind.
    received_events,
    /// Messages of this test, each counted once per subscriber.
    delivered_events,
    /// Of these, messages sent while their subscriber was away.
    caught_up_events,
    /// Events that this test did not publish.
    foreign_events,
    /// Owed, never received, and not announced by a gap.
    lost_events,
    /// Received again.
    duplicated_events,
    /// Received after a later one.
    disordered_events,
    /// The same, but publishing had failed.
    late_unconfirmed_events,
    /// Received with other bytes than were sent.
    corrupted_events,
    /// Missing at the end from a subscriber that is not connected.
    unresolved_events,
    /// Events of type gap.
    gap_events,
    /// Gaps without anything missing or repeated.
    needless_gap_events,
    /// Missing, and announced by a gap.
    announced_lost_events,
    /// Received again after a gap, or after a reconnect without an id.
    repeated_events,
    /// Sent while a subscriber without an id to resume from was away.
    missed_while_away_events,
    /// Comments; heartbeats are comments.
    heartbeats,
    /// Heartbeats missing from a silence.
    missed_heartbeats,
    /// Reconnection times sent by the server.
    retry_fields,
    /// Clients that read slowly or not at all.
    slow_clients,
    /// Of these, those whose stream the server closed.
    slow_disconnects,
    /// Clients that stopped answering on the network.
    blackholed_clients,
}
