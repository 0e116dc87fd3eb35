//! The IO contract and its implementations: the only home of mio, libc and unsafe.
