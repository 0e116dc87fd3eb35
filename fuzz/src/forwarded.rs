//! What a client writes into the headers of proxies: no reader of the last proxy's word is led astray by it.

use std::net::SocketAddr;

use fanfare::protocol::forwarded::ForwardedFor;

/// Whom the last proxy heard the request from.
const HEARD: &str = "203.0.113.9";

/// The bytes are what stood in either header before the last proxy added to it.
pub fn check(bytes: &[u8]) {
    let written = String::from_utf8_lossy(bytes).into_owned();
    let heard = SocketAddr::new(HEARD.parse().expect("an address"), 0);
    let client = |forwarded: &[&str], x_forwarded_for: &[&str]| {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
        ForwardedFor { forwarded: lines(forwarded), x_forwarded_for: lines(x_forwarded_for) }.client(|_| false)
    };
    let element = format!("for={HEARD}");
    assert_eq!(client(&[&written, &element], &[]), Some(heard), "a line of its own");
    assert_eq!(client(&[], &[&written, HEARD]), Some(heard), "a line of its own");
    assert_eq!(client(&[], &[&format!("{written}, {HEARD}")]), Some(heard), "appended");
    // A quote that is never closed may take the proxy's word in: then nobody is believed.
    let appended = client(&[&format!("{written}, {element}")], &[]);
    assert!(appended.is_none_or(|client| client == heard), "{appended:?}");
    // The header that the proxy does not know is passed on as it was written.
    let both = [client(&[&written], &[HEARD]), client(&[&element], &[&written])];
    assert!(both.iter().flatten().all(|client| client.ip() == heard.ip()), "{both:?}");
}
