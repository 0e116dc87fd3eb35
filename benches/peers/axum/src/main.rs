//! An SSE server as one writes it with axum: a broadcast channel, and a stream of it for each subscriber.

use std::convert::Infallible;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

type Events = broadcast::Sender<String>;

async fn events(State(events): State<Events>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let received = BroadcastStream::new(events.subscribe()).filter_map(Result::ok);
    Sse::new(received.map(|data| Ok(Event::default().data(data))))
}

async fn publish(State(events): State<Events>, data: String) -> StatusCode {
    // An error means that nobody listens.
    let _ = events.send(data);
    StatusCode::ACCEPTED
}

/// Passes on what is published to the channel `bench` of Redis.
async fn relay(url: String, events: Events) -> redis::RedisResult<()> {
    let mut subscription = redis::Client::open(url)?.get_async_pubsub().await?;
    subscription.subscribe("bench").await?;
    let mut messages = subscription.into_on_message();
    while let Some(message) = messages.next().await {
        let _ = events.send(message.get_payload()?);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let history = std::env::var("HISTORY").ok().and_then(|text| text.parse().ok());
    let (sender, _) = broadcast::channel(history.unwrap_or(1024));
    if let Ok(url) = std::env::var("REDIS_URL") {
        let events = sender.clone();
        tokio::spawn(async move { relay(url, events).await.expect("Redis serves") });
    }
    let app = Router::new().route("/events", get(events)).route("/publish", post(publish)).with_state(sender);
    let port = std::env::var("PORT").unwrap_or_default();
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
