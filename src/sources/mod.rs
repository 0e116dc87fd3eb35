//! Sources: one file and one thread each; they know nothing of the server.
