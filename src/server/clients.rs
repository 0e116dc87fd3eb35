//! Clients: who is behind a connection, and how many connections each address has.
//!
//! A peer is its own client, unless it is a trusted proxy: then the client is whom the PROXY protocol names, for the
//! whole connection, or whom the headers name, for each request. A proxy's connections serve many clients in turn and
//! are not counted; a stream has its connection for itself, and is counted for its client from its start.
//!
//! Invariant: a connection with [`Flags::COUNTED`] stands in `addresses` once, under the key of its `peer`, which does
//! not change any more.

use super::Server;
use super::connection::{CloseReason, CompactPeer, Flags, Phase};
use super::refusal::Refusal;
use crate::io::{Io, Peer};
use crate::protocol::head::RequestHead;
use crate::protocol::proxy_header::ProxyHeader;

/// Connections of one address beyond the limit on its streams that may still send a request, to be told so.
const REFUSALS_PER_ADDRESS_MAX: u32 = 16;

impl<I: Io> Server<I> {
    /// Lets a peer of a public listener in, and marks what is to be known of it.
    pub(super) fn admit_peer(&mut self, peer: CompactPeer, flags: &mut Flags) -> Result<(), Refusal> {
        if !self.settings.proxies.protocol {
            return self.count_address(peer, flags);
        }
        if !self.is_trusted(peer) {
            return Err(Refusal::UntrustedPeer);
        }
        flags.set(Flags::AWAITS_PROXY_HEADER);
        Ok(())
    }

    /// Takes the header that a connection begins with; false while it is not there, and when the connection is closed.
    pub(super) fn take_proxy_header(&mut self, slot: u32) -> bool {
        let connection = &mut self.connections[slot as usize];
        let Phase::Requesting(request) = &mut connection.phase else { return false };
        let client = match request.take_proxy_header() {
            Ok(None) => return false,
            Ok(Some(ProxyHeader::Proxy)) => connection.peer,
            Ok(Some(ProxyHeader::Client(address))) => CompactPeer::new(Peer::Inet(address)),
            Err(error) => {
                tracing::debug!(peer = %connection.peer, %error, "refused a connection");
                self.close(slot, CloseReason::ProxyHeader);
                return false;
            }
        };
        connection.flags.clear(Flags::AWAITS_PROXY_HEADER);
        connection.peer = client;
        let mut flags = connection.flags;
        if let Err(refusal) = self.count_address(client, &mut flags) {
            self.count_refusal(refusal);
            self.close(slot, CloseReason::Refused);
            return false;
        }
        self.connections[slot as usize].flags = flags;
        true
    }

    /// The client that a request is from.
    pub(super) fn client(&self, slot: u32, head: &RequestHead) -> CompactPeer {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::ADMIN) || !self.is_trusted(connection.peer) {
            return connection.peer;
        }
        let trusted = &self.settings.proxies.trusted;
        let named = head.forwarded_for.client(|address| trusted.trusts(Some(address)));
        named.map_or(connection.peer, |client| CompactPeer::new(Peer::Inet(client)))
    }

    /// True when a stream for this client would be one more than its address may have.
    pub(super) fn is_over_address_limit(&self, slot: u32, client: CompactPeer) -> bool {
        let Some(limit) = self.settings.limits.connections_per_address_max else { return false };
        let connection = &self.connections[slot as usize];
        let count = self.addresses.get(&client.key()).copied().unwrap_or(0);
        match connection.flags.has(Flags::COUNTED) {
            true => count > limit,
            false => count >= limit && self.is_trusted(connection.peer),
        }
    }

    /// The connection is a stream from now on: this client's, and nobody else's.
    pub(super) fn give_to_client(&mut self, slot: u32, client: CompactPeer) {
        let connection = &self.connections[slot as usize];
        let is_proxy = !connection.flags.has(Flags::ADMIN) && self.is_trusted(connection.peer);
        let connection = &mut self.connections[slot as usize];
        if !is_proxy || connection.flags.has(Flags::COUNTED) {
            return;
        }
        connection.peer = client;
        if self.settings.limits.connections_per_address_max.is_some() {
            connection.flags.set(Flags::COUNTED);
            *self.addresses.entry(client.key()).or_insert(0) += 1;
        }
    }

    /// The connection has ended.
    pub(super) fn forget_address(&mut self, peer: CompactPeer, flags: Flags) {
        if !flags.has(Flags::COUNTED) {
            return;
        }
        if let Some(count) = self.addresses.get_mut(&peer.key()) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&peer.key());
            }
        }
    }

    /// Counts every connection anew, for a limit that may not have been there when it came.
    pub(super) fn recount_addresses(&mut self) {
        self.addresses.clear();
        let has_limit = self.settings.limits.connections_per_address_max.is_some();
        for (_, connection) in &mut self.connections {
            let peer = connection.peer;
            let counts = match self.settings.proxies.trusted.trusts(peer.ip()) {
                true => matches!(connection.phase, Phase::Streaming),
                false => peer.ip().is_some(),
            };
            connection.flags.clear(Flags::COUNTED);
            if has_limit && counts && !connection.flags.has(Flags::ADMIN) {
                connection.flags.set(Flags::COUNTED);
                *self.addresses.entry(peer.key()).or_insert(0) += 1;
            }
        }
    }

    /// Counts a connection for its peer's address; an error when that has so many that it has been told enough.
    /// Without a limit nothing is kept.
    fn count_address(&mut self, peer: CompactPeer, flags: &mut Flags) -> Result<(), Refusal> {
        let Some(limit) = self.settings.limits.connections_per_address_max else { return Ok(()) };
        if peer.ip().is_none() || self.is_trusted(peer) {
            return Ok(());
        }
        let count = self.addresses.entry(peer.key()).or_insert(0);
        if *count >= limit.saturating_add(REFUSALS_PER_ADDRESS_MAX) {
            return Err(Refusal::AddressLimit);
        }
        *count += 1;
        flags.set(Flags::COUNTED);
        Ok(())
    }

    pub(super) fn is_trusted(&self, peer: CompactPeer) -> bool {
        self.settings.proxies.trusted.trusts(peer.ip())
    }
}
