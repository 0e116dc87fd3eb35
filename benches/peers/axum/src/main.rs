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

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let (sender, _) = broadcast::channel(1024);
    let app = Router::new().route("/events", get(events)).route("/publish", post(publish)).with_state(sender);
    let port = std::env::var("PORT").unwrap_or_default();
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
