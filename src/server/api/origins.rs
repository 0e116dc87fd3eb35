//! What pages of other origins may read (CORS), and which host names a listener on loopback accepts.

use std::collections::VecDeque;

use crate::observe::clip::clip;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::server::hosts::{is_address, is_loopback, is_name, is_same};
use crate::server::node::Node;
use crate::server::node::letter::Letter;
use crate::server::node::log_entries::LogEntry;
use crate::server::settings::Settings;
use crate::server::transport::clients::Client;

/// The header that names the origin whose pages may read an answer.
pub(super) const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin";

/// Refused origins that are remembered, so that each is not logged again and again.
const REFUSED_ORIGINS_MAX: usize = 100;

/// The refused origins that were logged last, clipped as they are logged.
#[derive(Debug, Default)]
pub(crate) struct RefusedOrigins(VecDeque<String>);

impl RefusedOrigins {
    /// The CORS headers of an answer that does not say itself that all origins may read it.
    pub(crate) fn cors_headers_of(
        &mut self,
        response: &Response,
        head: &RequestHead,
        node: &mut Node,
    ) -> Vec<(&'static str, String)> {
        match response.headers.iter().any(|(name, _)| *name == ALLOW_ORIGIN) {
            true => Vec::new(),
            false => self.cors_headers(head, node),
        }
    }

    /// The CORS headers for a page's origin; a refused origin is logged with the option that would permit it.
    pub(crate) fn cors_headers(&mut self, head: &RequestHead, node: &mut Node) -> Vec<(&'static str, String)> {
        let Some(origin) = &head.origin else { return Vec::new() };
        let exposed = ("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate".to_owned());
        if node.settings.cors.any {
            // Never with credentials: what every page may read must not depend on the client.
            return vec![(ALLOW_ORIGIN, "*".to_owned()), exposed];
        }
        let vary = ("Vary", "Origin".to_owned());
        if node.settings.cors.allows(origin) {
            let credentials = ("Access-Control-Allow-Credentials", "true".to_owned());
            return vec![(ALLOW_ORIGIN, origin.clone()), credentials, exposed, vary];
        }
        if !is_same(origin, head) {
            self.log_refused(origin, node);
        }
        vec![vary]
    }

    fn log_refused(&mut self, origin: &str, node: &mut Node) {
        let origin = clip(origin);
        if !self.has(&origin) && node.may_log(LogEntry::OriginRefused) {
            // Not logged as it is: it may hold characters that move a terminal's cursor or reverse its text.
            tracing::warn!(
                origin = &*origin,
                "{}; --cors-origin {origin:?} would permit it",
                LogEntry::OriginRefused.text()
            );
            node.member.send_to_all(|| Letter::OriginRefused(origin.clone().into_owned()));
            self.remember(origin.into_owned());
        }
    }

    /// True if it is one of them.
    fn has(&self, origin: &str) -> bool {
        self.0.iter().any(|logged| logged == origin)
    }

    /// Adds one and drops the oldest: invented origins never fill the list for good.
    pub(crate) fn remember(&mut self, origin: String) {
        if self.0.len() >= REFUSED_ORIGINS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(origin);
    }
}

/// The answer to OPTIONS: a route's methods and, for a page that is allowed, what it may send.
pub(crate) fn preflight(head: &RequestHead, methods: &'static str, settings: &Settings) -> Response {
    let response = Response::new(204).with_header("Allow", methods);
    let allowed = head.origin.as_ref().is_some_and(|origin| settings.cors.allows(origin));
    if !allowed || head.access_control_request_method.is_none() {
        return response;
    }
    response
        .with_header("Access-Control-Allow-Methods", methods)
        .with_header("Access-Control-Allow-Headers", "Authorization, Cache-Control, Content-Type, Last-Event-ID")
        .with_header("Access-Control-Max-Age", "600")
}

/// On loopback, refuses requests for a host name that is not this host's. Otherwise a page whose name was made to point
/// here (DNS rebinding) would have the server's own origin, and could read and publish.
///
/// A trusted proxy passes public names on, and what it lets through is public anyway. Forwarding headers alone do not
/// prove a proxy: a page may send most of them. Under `--dev`, where no token is needed, not even a proxy is exempt.
pub(crate) fn check_host(client: &Client, head: &RequestHead, settings: &Settings) -> Result<(), Response> {
    let Some(host) = head.host.as_deref().filter(|_| client.is_on_loopback) else { return Ok(()) };
    let is_dev = settings.is_dev();
    let is_proxied =
        !client.is_admin && (settings.proxies.protocol || settings.proxies.trusted.trusts(client.peer.ip()));
    // No page has a name that is an address. Under --dev even addresses of this host's networks are refused.
    let is_own = is_loopback(host) || (!is_dev && is_address(host));
    let is_allowed = || settings.allowed_hosts.iter().any(|allowed| is_name(host, allowed));
    if (is_proxied && !is_dev) || is_own || is_allowed() {
        return Ok(());
    }
    let detail = "this listener on loopback answers to localhost, to addresses, and to the names of --allowed-host; a \
                  proxy in front of it is named by --trusted-proxy";
    Err(response::problem(421, "Not this host", detail))
}
