//! The header of the PROXY protocol: its beginnings want more, and what follows it changes nothing.

use fanfare::protocol::Parsed;
use fanfare::protocol::proxy_header::{ProxyHeader, parse};

pub fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    let end = match &whole {
        Ok(Parsed::Complete { value, consumed }) => {
            assert!((1..=bytes.len()).contains(consumed));
            if let ProxyHeader::Client(client) = value {
                assert!(!client.ip().is_unspecified(), "{client}");
            }
            assert_eq!(parse(&bytes[..*consumed]), whole, "without what follows");
            *consumed
        }
        _ => bytes.len(),
    };
    for beginning in (0..end).map(|end| parse(&bytes[..end])) {
        assert!(
            beginning == Ok(Parsed::NeedMore) || beginning.is_err() && whole.is_err(),
            "{beginning:?}, then {whole:?}"
        );
    }
}
