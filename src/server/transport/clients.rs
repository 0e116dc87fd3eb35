//! Clients: who is behind a connection, and how many connections each address has.
//!
//! A peer is its own client, unless it is a trusted proxy: then the client is whom the PROXY protocol names, for the
//! whole connection, or whom the headers name, for each request. A proxy's connections serve many clients in turn and
//! are not counted; a stream has its connection for itself, and is counted for its client from its start.
//!
//! Invariant: a connection with [`Flags::COUNTED`] stands in `addresses` once, under the key of its `peer`, which does
//! not change any more.

use super::Transport;
use super::answers::Account;
use super::connection::{CloseReason, Flags, Phase};
use super::peer::CompactPeer;
use crate::io::{Io, Peer, Token};
use crate::protocol::head::RequestHead;
use crate::protocol::proxy_header::ProxyHeader;
use crate::server::node::Node;
use crate::server::node::refusal::Refusal;
use crate::server::settings::Settings;

/// Connections of one address beyond the limit on its streams that may still send a request, to be told so.
const REFUSALS_PER_ADDRESS_MAX: u32 = 16;

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The connection.
    pub(crate) token: Token,
    /// Its other end, or whom a trusted proxy names there.
    pub(crate) peer: CompactPeer,
    /// The client, whom a trusted proxy may name for this request.
    pub(crate) address: CompactPeer,
    /// It came through the admin listener.
    pub(crate) is_admin: bool,
    /// It came through a listener on loopback.
    pub(crate) is_on_loopback: bool,
    /// Its connection has the spare descriptor.
    pub(crate) is_on_spare: bool,
}

impl<I: Io> Transport<I> {
    /// Lets a peer of a public listener in, and marks what is to be known of it.
    pub(super) fn admit_peer(
        &mut self,
        peer: CompactPeer,
        flags: &mut Flags,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        if !settings.proxies.protocol {
            return self.count_address(peer, flags, settings);
        }
        if !settings.proxies.trusted.trusts(peer.ip()) {
            return Err(Refusal::UntrustedPeer);
        }
        flags.set(Flags::AWAITS_PROXY_HEADER);
        Ok(())
    }

    /// Takes the header that a connection begins with; false while it is not there, and when the connection is closed.
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
        if let Err(refusal) = self.count_address(client, &mut flags, &node.settings) {
            node.count_refusal(refusal);
            self.close(slot, CloseReason::Refused, node);
            return false;
        }
        self.connections[slot as usize].flags = flags;
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
            is_on_loopback: flags.has(Flags::LOOPBACK),
            is_on_spare: flags.has(Flags::ON_SPARE),
        }
    }

    /// True when a stream for this client would be one more than its address may have.
    pub(crate) fn is_over_address_limit(&self, client: &Client, settings: &Settings) -> bool {
        let Some(limit) = settings.limits.connections_per_address_max else { return false };
        let count = self.addresses.get(&client.address.key()).copied().unwrap_or(0);
        match self.at(client.token.slot).flags.has(Flags::COUNTED) {
            true => count > limit,
            false => count >= limit && settings.proxies.trusted.trusts(client.peer.ip()),
        }
    }

    /// Gives the connection, which is a stream now, to this client alone.
    pub(crate) fn give_to_client(&mut self, client: &Client, settings: &Settings) {
        let is_proxy = !client.is_admin && settings.proxies.trusted.trusts(client.peer.ip());
        let connection = &mut self.connections[client.token.slot as usize];
        if !is_proxy || connection.flags.has(Flags::COUNTED) {
            return;
        }
        connection.peer = client.address;
        if settings.limits.connections_per_address_max.is_some() {
            connection.flags.set(Flags::COUNTED);
            *self.addresses.entry(client.address.key()).or_insert(0) += 1;
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
    pub(crate) fn recount_addresses(&mut self, settings: &Settings) {
        self.addresses.clear();
        let has_limit = settings.limits.connections_per_address_max.is_some();
        for (_, connection) in &mut self.connections {
            let peer = connection.peer;
            let counts = match settings.proxies.trusted.trusts(peer.ip()) {
                true => connection.is_streaming(),
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
    fn count_address(&mut self, peer: CompactPeer, flags: &mut Flags, settings: &Settings) -> Result<(), Refusal> {
        let Some(limit) = settings.limits.connections_per_address_max else { return Ok(()) };
        if peer.ip().is_none() || settings.proxies.trusted.trusts(peer.ip()) {
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
}

impl Client {
    /// Who pays for an answer to it.
    pub(crate) fn account(&self, settings: &Settings) -> Account {
        if self.is_admin {
            return Account::Admin;
        }
        let stands_for_many = self.address.ip().is_none() || settings.proxies.trusted.trusts(self.address.ip());
        Account::Public((!stands_for_many).then(|| self.address.key()))
    }
}
