//! The load-test client: epoll loops that hold very many SSE connections and check every event.
