//! What an operator posts to end streams: `{"subject"?, "token_id"?, "topic"?, "address"?, "for_seconds"?}`; and how
//! nodes pass it on to each other. A stream ends only if every given field matches it.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

use super::number::whole;
use crate::event::{STATISTICS_TOPIC, Topic};

/// Longest subject or token id, in bytes: those in real tokens are far shorter.
pub(crate) const NAME_BYTES_MAX: usize = 1024;
/// Ten years.
pub(crate) const SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;

/// Which streams are to end, and for how long the tokens that opened them stay denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Whose streams end, and whose tokens may be denied; none: any holder's.
    pub holder: Option<Holder>,
    /// Streams of this topic; they may have other topics too.
    pub topic: Option<Topic>,
    /// Streams of clients in this network.
    pub network: Option<IpNet>,
    /// How long tokens stay denied; none: until they expire.
    pub for_seconds: Option<u64>,
    /// When it was requested, in seconds since 1970.
    pub asked_at_s: u64,
}

/// Whose streams end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Those of tokens of this subject (`sub`).
    Subject(String),
    /// Those of the token with this id (`jti`).
    TokenId(String),
}

/// The body as posted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectBody<'a> {
    /// Whose streams, by `sub`.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Cow<'a, str>>,
    /// Whose streams, by `jti`.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Cow<'a, str>>,
    /// Of which topic.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Cow<'a, str>>,
    /// From which address or network.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub address: Option<Cow<'a, str>>,
    /// For how long tokens stay denied.
    #[serde(default, deserialize_with = "read_seconds", skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}

/// The message as nodes pass it on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Passed<'a> {
    #[serde(borrow)]
    disconnect: DisconnectBody<'a>,
    asked_at_s: u64,
}

/// Why it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectError {
    /// Not the expected JSON; the text says what is wrong.
    #[error("the body is not a valid request for POST /disconnect: {0}")]
    Malformed(String),
    /// It would end every stream.
    #[error("the request selects no streams: name a subject, a token_id, a topic or an address")]
    NoTarget,
    /// A token id already names one token: a subject next to it adds nothing.
    #[error("name a subject or a token_id, not both")]
    SubjectAndTokenId,
    /// A name that no token has.
    #[error("field {0:?} must have 1 to {NAME_BYTES_MAX} bytes")]
    Name(&'static str),
    /// A topic with an invalid name.
    #[error("field \"topic\" {0}")]
    Topic(String),
    /// Neither an address nor a network.
    #[error("field \"address\" must be an address, or a network such as 10.0.0.0/8 or 2001:db8::/32")]
    Address,
    /// A time in a request that denies no token, or a time that is too long.
    #[error(
        "field \"for_seconds\" sets how long the tokens of a subject or a token_id stay denied: at most \
         {SECONDS_MAX}, and not combined with a topic or an address, which deny no token"
    )]
    Seconds,
}

impl Disconnect {
    /// Reads what was posted at `now_s`, in seconds since 1970.
    pub fn parse(body: &[u8], now_s: u64) -> Result<Disconnect, DisconnectError> {
        let body = serde_json::from_slice(body).map_err(|error| DisconnectError::Malformed(error.to_string()))?;
        Disconnect::read(body, now_s)
    }

    /// Reads what another node passed on; none if the message is something else.
    pub fn parse_passed(message: &[u8]) -> Option<Result<Disconnect, DisconnectError>> {
        if !message.starts_with(PASSED_PREFIX) {
            return None;
        }
        let passed = serde_json::from_slice(message).map_err(|error| DisconnectError::Malformed(error.to_string()));
        Some(passed.and_then(|Passed { disconnect, asked_at_s }| Disconnect::read(disconnect, asked_at_s)))
    }

    /// The message for the other nodes.
    pub fn passed(&self) -> String {
        let (subject, token_id) = match &self.holder {
            Some(Holder::Subject(name)) => (Some(name.as_str().into()), None),
            Some(Holder::TokenId(id)) => (None, Some(id.as_str().into())),
            None => (None, None),
        };
        let disconnect = DisconnectBody {
            subject,
            token_id,
            topic: self.topic.as_ref().map(|topic| topic.as_str().into()),
            address: self.network.map(|network| network.to_string().into()),
            for_seconds: self.for_seconds,
        };
        let passed = Passed { disconnect, asked_at_s: self.asked_at_s };
        serde_json::to_string(&passed).expect("strings and numbers are JSON")
    }

    /// The holder to deny; none if the request covers only some of a holder's streams, or `for_seconds` is 0.
    pub fn denied(&self) -> Option<&Holder> {
        let is_partial = self.topic.is_some() || self.network.is_some();
        self.holder.as_ref().filter(|_| !is_partial && self.for_seconds != Some(0))
    }

    fn read(body: DisconnectBody<'_>, asked_at_s: u64) -> Result<Disconnect, DisconnectError> {
        let DisconnectBody { subject, token_id, topic, address, for_seconds } = body;
        let holder = match (subject, token_id) {
            (Some(_), Some(_)) => return Err(DisconnectError::SubjectAndTokenId),
            (Some(subject), None) => Some(Holder::Subject(name(subject, "subject")?)),
            (None, Some(token_id)) => Some(Holder::TokenId(name(token_id, "token_id")?)),
            (None, None) => None,
        };
        let topic = topic.map(|name| self::topic(&name)).transpose()?;
        let network = address.map(|text| network(&text).ok_or(DisconnectError::Address)).transpose()?;
        if holder.is_none() && topic.is_none() && network.is_none() {
            return Err(DisconnectError::NoTarget);
        }
        let may_deny = holder.is_some() && topic.is_none() && network.is_none();
        if for_seconds.is_some_and(|seconds| !may_deny || seconds > SECONDS_MAX) {
            return Err(DisconnectError::Seconds);
        }
        Ok(Disconnect { holder, topic, network, for_seconds, asked_at_s })
    }
}

/// How a message of another node begins, as [`Disconnect::passed`] writes it.
const PASSED_PREFIX: &[u8] = b"{\"disconnect\":";

fn read_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<Number>::deserialize(deserializer)?;
    let seconds =
        |number: Number| whole(&number).ok_or_else(|| Error::custom("for_seconds must be whole seconds, from 0"));
    number.map(seconds).transpose()
}

fn name(text: Cow<'_, str>, field: &'static str) -> Result<String, DisconnectError> {
    match text.len() {
        1..=NAME_BYTES_MAX => Ok(text.into_owned()),
        _ => Err(DisconnectError::Name(field)),
    }
}

fn topic(name: &str) -> Result<Topic, DisconnectError> {
    match name {
        STATISTICS_TOPIC => Ok(Topic::statistics()),
        // No stream has such a topic: the request would end none, and say that it did.
        name if Topic::looks_like_pattern(name) => {
            Err(DisconnectError::Topic("has a *: names are exact, there are no patterns here".to_owned()))
        }
        name => Topic::new(name).map_err(|error| DisconnectError::Topic(error.to_string())),
    }
}

/// A network. Host bits are cleared.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    network.ok().or_else(|| text.parse().ok()).map(|network: IpNet| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_795_318_730;

    fn parse(body: &str) -> Result<Disconnect, DisconnectError> {
        Disconnect::parse(body.as_bytes(), NOW_S)
    }

    #[test]
    fn a_request_survives_the_way_over_the_bus() {
        for body in [
            r#"{"subject":"user-7"}"#,
            r#"{"subject":"user-7","for_seconds":3600}"#,
            r#"{"subject":"user-7","for_seconds":3600.0}"#,
            r#"{"token_id":"a\"b\u0000","for_seconds":0}"#,
            r#"{"topic":"orders","address":"10.0.0.0/8","subject":"user-7"}"#,
            r#"{"address":"2001:db8::1"}"#,
            r#"{"address":"::ffff:10.1.2.3"}"#,
            r#"{"topic":"fanfare:statistics"}"#,
        ] {
            let disconnect = parse(body).unwrap();
            let passed = disconnect.passed();
            assert_eq!(Disconnect::parse_passed(passed.as_bytes()), Some(Ok(disconnect)), "{passed}");
        }
        assert_eq!(Disconnect::parse_passed(br#"[{"topic":"t","data":1}]"#), None);
        assert_eq!(Disconnect::parse_passed(br#"{"copied":[],"events":[]}"#), None);
        assert!(matches!(Disconnect::parse_passed(br#"{"disconnect":{},"asked_at_s":1}"#), Some(Err(_))));
        assert!(matches!(Disconnect::parse_passed(br#"{"disconnect":{"topic":"t"}}"#), Some(Err(_))));
    }

    #[test]
    fn only_a_holder_that_is_named_alone_is_denied() {
        let check =
            |body: &str, is_denied: bool| assert_eq!(parse(body).unwrap().denied().is_some(), is_denied, "{body}");
        check(r#"{"subject":"a"}"#, true);
        check(r#"{"token_id":"a","for_seconds":1}"#, true);
        check(r#"{"token_id":"a","for_seconds":0}"#, false);
        check(r#"{"token_id":"a","topic":"t"}"#, false);
        check(r#"{"subject":"a","address":"::1"}"#, false);
        check(r#"{"topic":"t"}"#, false);
    }

    #[test]
    fn an_address_is_read_as_the_network_that_it_means() {
        let check = |address: &str, expected: &str| {
            let network = parse(&format!(r#"{{"address":"{address}"}}"#)).unwrap().network.unwrap();
            assert_eq!(network.to_string(), expected);
        };
        check("192.0.2.7", "192.0.2.7/32");
        check("::ffff:192.0.2.7", "192.0.2.7/32");
        check("192.0.2.7/24", "192.0.2.0/24");
        check("2001:db8::1/64", "2001:db8::/64");
    }

    #[test]
    fn an_error_names_the_wrong_field() {
        let check = |body: &str, words: &str| {
            let error = parse(body).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
        };
        check("", "EOF");
        check("[]", "not a valid request for POST /disconnect");
        check("{}", "selects no streams");
        check(r#"{"user":"a"}"#, "unknown field `user`");
        check(r#"{"subject":7}"#, "expected a string");
        check(r#"{"subject":"a","subject":"b"}"#, "duplicate field `subject`");
        check(r#"{"subject":"a","token_id":"b"}"#, "not both");
        check(r#"{"subject":""}"#, "\"subject\" must have 1 to");
        check(r#"{"topic":"orders.*"}"#, "\"topic\" has a *");
        check(&format!(r#"{{"token_id":"{}"}}"#, "x".repeat(1025)), "\"token_id\" must have 1 to");
        check(r#"{"topic":"fanfare:other"}"#, "\"topic\" is reserved");
        check(r#"{"address":"10.0.0.0/33"}"#, "\"address\" must be an address");
        check(r#"{"address":"unix"}"#, "\"address\" must be an address");
        check(r#"{"topic":"t","for_seconds":1}"#, "\"for_seconds\" sets how long");
        check(r#"{"subject":"a","topic":"t","for_seconds":1}"#, "not combined with a topic");
        check(r#"{"subject":"a","for_seconds":-1}"#, "whole seconds, from 0");
        check(r#"{"subject":"a","for_seconds":1.5}"#, "whole seconds, from 0");
        check(r#"{"subject":"a","for_seconds":999999999999}"#, "at most 316224000");
    }
}
