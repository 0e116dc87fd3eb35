//! The API: what a request means, who may make it, and the answer.
//!
//! The input is a request and a view of the server. The output is an [`context::Outcome`]: an answer, a stream to be
//! opened, or something that is answered later.
//!
//! Not here: sockets. Other modules apply an outcome to its connection.

pub(super) mod access;
pub(super) mod context;
mod disconnect;
pub(super) mod gather;
mod history;
mod kafka;
mod listing;
#[cfg(test)]
mod openapi_tests;
pub(super) mod origins;
mod page;
mod publish;
mod redirect;
mod reports;
pub(super) mod routes;
pub(super) mod statistics;
mod subscribe;
pub(super) mod waiting;

use std::sync::Arc;

use super::node::Node;
use crate::auth::denials::Denials;
use crate::observe::live::Live;
use crate::protocol::response::Response;
use crate::sources::channel::{Publish, SourceStatus};
use crate::sources::kafka_figures::KafkaFigures;
use access::Access;
use origins::RefusedOrigins;

/// State that only answers need.
pub(super) struct Api {
    pub(super) access: Access,
    pub(super) refused_origins: RefusedOrigins,
    /// Where clients' events go.
    publisher: Arc<dyn Publish + Send + Sync>,
    sources: Vec<Arc<SourceStatus>>,
    kafka: Option<Arc<KafkaFigures>>,
    live: Arc<Live>,
}

impl Api {
    pub(super) fn new(
        publisher: Arc<dyn Publish + Send + Sync>,
        sources: Vec<Arc<SourceStatus>>,
        kafka: Option<Arc<KafkaFigures>>,
        live: Arc<Live>,
        node: &Node,
    ) -> Api {
        let denied_tokens_max = node.settings.jwt.as_ref().map_or(0, |jwt| jwt.denied_tokens_max);
        Api {
            access: Access { denials: Denials::new(denied_tokens_max) },
            refused_origins: RefusedOrigins::default(),
            publisher,
            sources,
            kafka,
            live,
        }
    }
}

/// A response with a body that is JSON.
fn json(status: u16, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(value).expect("maps with names as keys, and no value that can refuse");
    Response::new(status).with_body("application/json", text)
}
