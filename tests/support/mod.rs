//! What several integration tests share: the real binary, a client that speaks raw bytes, subscribers, durable buses, a redis-server, a
//! PostgreSQL, a Kafka, an nginx that speaks TLS, the proxies of docs/proxies, a node without its server, and servers that misbehave in
//! chosen ways.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

pub mod bus;
pub mod certificates;
pub mod fake_host;
pub mod fake_redis;
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kafka")]
pub mod kafka_client;
#[cfg(feature = "kafka")]
pub mod kafka_login;
#[cfg(feature = "kafka")]
pub mod mock_kafka;
pub mod nginx;
pub mod node;
pub mod numbers;
pub mod paused;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod redis;
pub mod relay;
pub mod secured;
pub mod sentinel;
pub mod server;
pub mod sse_server;
pub mod stream;
pub mod wait;
pub mod watcher;
