//! A request being read: its bytes until the head is complete, its body until it is complete. Exists only during that.

use std::sync::Arc;

use crate::config::LimitsConfig;
use crate::protocol::body::{BodyFraming, BodyReader};
use crate::protocol::head::{self, Method, RequestHead};
use crate::protocol::proxy_header::{self, BadProxyHeader, ProxyHeader};
use crate::protocol::{Parsed, RequestError};
use crate::server::grant::PublishGrant;

/// A request being read, with what the client sent after it.
#[derive(Debug, Default)]
pub(crate) struct Request {
    unparsed: Vec<u8>,
    /// Bytes of it that were searched already and held no complete head.
    looked_at: usize,
    current: Option<Current>,
    /// Requests taken from what arrived last.
    taken: usize,
}

#[derive(Debug)]
struct Current {
    head: Arc<RequestHead>,
    reader: BodyReader,
    body: Vec<u8>,
    admitted: bool,
    grant: Option<PublishGrant>,
}

/// How far the reading of a request is.
#[derive(Debug)]
pub(crate) enum Progress {
    NeedMore,
    /// A body will follow: [`Request::admit_body`] admits it.
    Head(Arc<RequestHead>),
    Complete {
        head: Arc<RequestHead>,
        body: Vec<u8>,
        /// What the body was admitted for: a token is checked once.
        grant: Option<PublishGrant>,
    },
}

impl Request {
    /// Takes the bytes that arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.taken = 0;
        self.unparsed.extend_from_slice(bytes);
    }

    /// True when no byte of a request is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.unparsed.is_empty() && self.current.is_none()
    }

    /// Takes the header of the PROXY protocol before the first request; none while it is incomplete.
    pub(crate) fn take_proxy_header(&mut self) -> Result<Option<ProxyHeader>, BadProxyHeader> {
        let Parsed::Complete { value, consumed } = proxy_header::parse(&self.unparsed)? else { return Ok(None) };
        self.unparsed.drain(..consumed);
        Ok(Some(value))
    }

    /// Takes what follows the header of the PROXY protocol on a connection with TLS.
    pub(crate) fn take_handshake(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unparsed)
    }

    /// How many requests the last bytes to arrive completed: all but the first came ahead of an answer.
    pub(crate) fn pipelined(&self) -> usize {
        self.taken
    }

    /// True while the head is complete and the body is not.
    pub(crate) fn is_in_body(&self) -> bool {
        self.current.is_some()
    }

    /// True when the request whose body is being read is a HEAD: not even a refusal of it has a body.
    pub(crate) fn is_head(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.head.method == Method::Head)
    }

    /// Reads as far as the bytes reach.
    pub(crate) fn advance(&mut self, limits: &LimitsConfig) -> Result<Progress, RequestError> {
        if self.current.is_none() {
            let parsed = head::parse_grown(&self.unparsed, self.looked_at, &limits.head())?;
            self.looked_at = self.unparsed.len();
            let Parsed::Complete { value: head, consumed } = parsed else { return Ok(Progress::NeedMore) };
            self.looked_at = 0;
            self.unparsed.drain(..consumed);
            if head.framing == BodyFraming::None {
                self.taken += 1;
                self.release();
                return Ok(Progress::Complete { head: Arc::new(head), body: Vec::new(), grant: None });
            }
            let reader = BodyReader::new(head.framing, limits.body_bytes_max);
            let current = Current { head: Arc::new(head), reader, body: Vec::new(), admitted: false, grant: None };
            let current = self.current.insert(current);
            // A length over the limit is known now: the client must not be invited to send what will be refused.
            current.reader.feed(&[], &mut current.body)?;
        }
        let current = self.current.as_mut().expect("set above, unless it was already");
        if !current.admitted {
            return Ok(Progress::Head(Arc::clone(&current.head)));
        }
        let progress = current.reader.feed(&self.unparsed, &mut current.body)?;
        self.unparsed.drain(..progress.consumed);
        if progress.complete {
            let Current { head, body, grant, .. } = self.current.take().expect("it was just fed");
            self.taken += 1;
            self.release();
            return Ok(Progress::Complete { head, body, grant });
        }
        Ok(Progress::NeedMore)
    }

    /// Admits the body, for this grant; true when the client waits for `100 Continue` before it sends the body.
    pub(crate) fn admit_body(&mut self, grant: Option<PublishGrant>) -> bool {
        let Some(current) = &mut self.current else { return false };
        current.admitted = true;
        current.grant = grant;
        current.head.expect_continue && self.unparsed.is_empty()
    }

    fn release(&mut self) {
        if self.unparsed.is_empty() {
            self.unparsed = Vec::new();
        }
    }
}
