//! Requests on a listener that sends clients to the one with TLS.

use url::form_urlencoded;

use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};
use crate::server::hosts::without_port;

const HTTPS_PORT: u16 = 443;

/// The address of the same at the port with TLS. 308 keeps the method (RFC 9110, 15.4.9); EventSource follows it, too.
pub(super) fn to_https(head: &RequestHead, port: Option<u16>) -> Response {
    let Some(host) = head.host.as_deref().map(without_port).filter(|host| !host.is_empty()) else {
        return response::problem(400, "Malformed request", "without a Host there is no address to redirect to");
    };
    let port = port.filter(|port| *port != HTTPS_PORT).map(|port| format!(":{port}")).unwrap_or_default();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(&head.target.query);
    let query = query.finish();
    let separator = if query.is_empty() { "" } else { "?" };
    let location = format!("https://{host}{port}{}{separator}{query}", head.target.path);
    let detail = format!("this address speaks plain HTTP only to send clients to {location}");
    response::problem(308, "Use HTTPS", &detail).with_header("Location", location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Parsed;
    use crate::protocol::head::{HeadLimits, parse};

    fn answer(target: &str, host: &str, port: u16) -> Response {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let limits = HeadLimits { head_bytes_max: 16 << 10, target_bytes_max: 8 << 10, headers_max: 100 };
        let Ok(Parsed::Complete { value, .. }) = parse(head.as_bytes(), &limits) else { panic!("{head}") };
        to_https(&value, Some(port))
    }

    #[test]
    fn the_same_is_asked_for_at_the_port_with_tls() {
        let check = |target: &str, host: &str, port: u16, expected: &str| {
            let answer = answer(target, host, port);
            let location = answer.headers.iter().find(|(name, _)| *name == "Location").map(|(_, value)| value.as_str());
            assert_eq!((answer.status, location), (308, Some(expected)));
        };
        check("/", "events.example", 443, "https://events.example/");
        check("/events?topic=a", "events.example:80", 443, "https://events.example/events?topic=a");
        check("/topics/a%2Fb", "events.example", 8443, "https://events.example:8443/topics/a%2Fb");
        check("/events?topic=a%26b&x=1+2", "10.0.0.1", 443, "https://10.0.0.1/events?topic=a%26b&x=1+2");
        check("/events", "[::1]:8080", 8443, "https://[::1]:8443/events");
    }

    #[test]
    fn without_a_host_there_is_no_redirect() {
        let answer = answer("/", "", 443);
        assert_eq!(answer.status, 400);
        assert!(answer.headers.iter().all(|(name, _)| *name != "Location"));
    }
}
