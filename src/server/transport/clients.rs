//! Clients: which client is behind a connection, and how many connections each address has.
//!
//! A peer is its own client, unless it is a trusted proxy. Then the PROXY protocol names the client for the whole
//! connection, or the headers name it for each request. A proxy's connections serve many clients in turn and are not
//! counted. A stream uses its connection alone, and counts for its client from its start.
//!
//! Invariant: a connection with [`Flags::COUNTED`] is among the node's addresses once, under the key of its `peer`, which no longer
//! changes.

use super::Transport;
use super::connection::{CloseReason, Flags, Phase};
use super::peer::CompactPeer;
use crate::io::{Io, Peer, Token};
use crate::protocol::head::RequestHead;
use crate::protocol::proxy_header::ProxyHeader;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::settings::Settings;

/// Connections of an address over its limit that may still send a request, to receive the refusal.
const REFUSALS_PER_ADDRESS_MAX: u32 = 16;

/// The client that sends a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The connection.
    pub(crate) token: Token,
    /// Its other end, or the client that a trusted proxy names in its PROXY header.
    pub(crate) peer: CompactPeer,
    /// The client, which a trusted proxy may name for this request.
    pub(crate) address: CompactPeer,
    /// It came through the admin listener.
    pub(crate) is_admin: bool,
    /// It came through a listener that sends clients to the one with TLS.
    pub(crate) is_redirected: bool,
    /// It came through a listener on loopback.
    pub(crate) is_on_loopback: bool,
    /// Its connection has the spare descriptor.
    pub(crate) is_on_spare: bool,
}

impl<I: Io> Transport<I> {
    /// Takes the PROXY header of a connection. False while it is incomplete, when the connection is closed, and when a
    /// handshake has to follow first.
    pub(super) fn take_proxy_header(&mut self, slot: u32, node: &mut Node) -> bool {
        let connection = &mut self.connections[slot as usize];
        let Phase::Requesting(request) = &mut connection.phase else { return false };
        let client = match request.take_proxy_header() {
            Ok(None) => return false,
            Ok(Some(ProxyHeader::Proxy)) => connection.peer,
            Ok(Some(ProxyHeader::Client(address))) => CompactPeer::new(Peer::Inet(address)),
            Err(error) => {
                tracing::debug!(peer = %connection.peer, %error, "refused a connection");
                self.close(slot, CloseReason::ProxyHeader, node);
                return false;
            }
        };
        connection.flags.clear(Flags::AWAITS_PROXY_HEADER);
        connection.peer = client;
        let mut flags = connection.flags;
        if let Err(refusal) = count_address(client, &mut flags, node) {
            node.count_refusal(refusal);
            self.close(slot, CloseReason::Refused, node);
            return false;
        }
        let connection = &mut self.connections[slot as usize];
        connection.flags = flags;
        if connection.flags.has(Flags::AWAITS_HANDSHAKE) {
            let received = connection.take_request().take_handshake();
            self.secure(slot, received, node);
            return false;
        }
        true
    }

    /// The client that a request is from.
    pub(crate) fn client(&self, slot: u32, head: &RequestHead, settings: &Settings) -> Client {
        let connection = self.at(slot);
        let (peer, flags, trusted) = (connection.peer, connection.flags, &settings.proxies.trusted);
        let is_admin = flags.has(Flags::ADMIN);
        let mut address = peer;
        if !is_admin && trusted.trusts(peer.ip()) {
            let named = head.forwarded_for.client(|address| trusted.trusts(Some(address)));
            address = named.map_or(peer, |client| CompactPeer::new(Peer::Inet(client)));
        }
        Client {
            token: Token { slot, generation: connection.generation },
            peer,
            address,
            is_admin,
            is_redirected: flags.has(Flags::REDIRECTS),
            is_on_loopback: flags.has(Flags::LOOPBACK),
            is_on_spare: flags.has(Flags::ON_SPARE),
        }
    }

    /// True when one more stream of this client would be over its address's limit.
    pub(crate) fn is_over_address_limit(&self, client: &Client, node: &Node) -> bool {
        let Some(limit) = node.settings.limits.connections_per_ip_max else { return false };
        let count = node.common.addresses.count(client.address.key());
        match self.at(client.token.slot).flags.has(Flags::COUNTED) {
            true => count > limit,
            false => count >= limit && node.settings.proxies.trusted.trusts(client.peer.ip()),
        }
    }

    /// Assigns the connection, which is a stream now, to this client alone.
    pub(crate) fn give_to_client(&mut self, client: &Client, node: &Node) {
        let is_proxy = !client.is_admin && node.settings.proxies.trusted.trusts(client.peer.ip());
        let connection = &mut self.connections[client.token.slot as usize];
        if !is_proxy || connection.flags.has(Flags::COUNTED) {
            return;
        }
        connection.peer = client.address;
        if node.settings.limits.connections_per_ip_max.is_some() {
            connection.flags.set(Flags::COUNTED);
            node.common.addresses.take(client.address.key(), 1, u32::MAX);
        }
    }

    /// Stops counting a connection that has ended.
    pub(super) fn forget_address(peer: CompactPeer, flags: Flags, node: &Node) {
        if flags.has(Flags::COUNTED) {
            node.common.addresses.give_back(peer.key(), 1);
        }
    }

    /// Counts every connection again, for a limit that may be new.
    pub(crate) fn recount_addresses(&mut self, node: &Node) {
        let settings = &node.settings;
        let has_limit = settings.limits.connections_per_ip_max.is_some();
        for (_, connection) in &mut self.connections {
            let peer = connection.peer;
            let counts = match settings.proxies.trusted.trusts(peer.ip()) {
                true => connection.is_streaming(),
                false => peer.ip().is_some(),
            };
            Self::forget_address(peer, connection.flags, node);
            connection.flags.clear(Flags::COUNTED);
            if has_limit && counts && !connection.flags.has(Flags::ADMIN) {
                connection.flags.set(Flags::COUNTED);
                node.common.addresses.take(peer.key(), 1, u32::MAX);
            }
        }
    }
}

/// Admits a peer of a public listener, and sets its flags.
pub(super) fn admit_peer(peer: CompactPeer, flags: &mut Flags, node: &Node) -> Result<(), Refusal> {
    let proxies = &node.settings.proxies;
    if !proxies.protocol {
        return count_address(peer, flags, node);
    }
    if !proxies.trusted.trusts(peer.ip()) {
        return Err(Refusal::UntrustedPeer);
    }
    flags.set(Flags::AWAITS_PROXY_HEADER);
    Ok(())
}

/// Counts a connection for its peer's address; an error if the address is so far over its limit that it gets no answer.
/// Without a limit no count is kept.
fn count_address(peer: CompactPeer, flags: &mut Flags, node: &Node) -> Result<(), Refusal> {
    let Some(limit) = node.settings.limits.connections_per_ip_max else { return Ok(()) };
    if peer.ip().is_none() || node.settings.proxies.trusted.trusts(peer.ip()) {
        return Ok(());
    }
    if !node.common.addresses.take(peer.key(), 1, limit.saturating_add(REFUSALS_PER_ADDRESS_MAX)) {
        return Err(Refusal::AddressLimit);
    }
    flags.set(Flags::COUNTED);
    Ok(())
}
