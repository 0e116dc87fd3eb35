//! Threads that do the handshakes of TLS: one takes 0.1 ms of computing that can't be divided, too long for an event loop.
//!
//! ```text
//!  loop ── begin ──▶ thread (its own epoll, many handshakes at a time) ── finished, wake ──▶ loop
//! ```
//!
//! Invariants:
//! - A thread reads no byte behind the handshake: it asks the socket for what is missing of the next record, and no more.
//! - Each socket that a loop hands over comes back once, whatever happens to its handshake.
//! - A thread has at most [`HANDSHAKES_PER_THREAD_MAX`] handshakes. Further sockets wait; the loops accept no more meanwhile.
//!
//! Not here: deadlines. The loop has one for each connection, and cancels.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};
use rustls::ServerConfig;
use slab::Slab;

use super::allocator::{free_cached_blocks, return_free_pages};
use super::epoll::receive;
use super::sealed::{Finished, Handshakes};
use super::send::send_bytes;
use super::{Read, Sent, Socket};
use crate::tls::handshake::{ANSWER_TO_PLAIN_HTTP, Failure, Handshake, record_len};
use crate::tls::record::{HEADER_BYTES, Keys, RECORD_BYTES_MAX};

/// Handshakes of one thread at a time; each takes about 10 KB.
pub const HANDSHAKES_PER_THREAD_MAX: usize = 1024;

/// After this many, the memory that they took is returned, once there was no other for a while.
const HANDSHAKES_WORTH_A_TRIM: usize = 256;
const TRIM_AFTER: Duration = Duration::from_secs(1);

const EVENTS_PER_WAIT_MAX: usize = 256;
const WAKER: mio::Token = mio::Token(usize::MAX);
/// Events of the loops come first.
const NICENESS: libc::c_int = 5;

/// The configuration of handshakes that begin from now on; a reload replaces it.
#[derive(Clone)]
pub struct CurrentConfig(Arc<Mutex<Arc<ServerConfig>>>);

impl CurrentConfig {
    /// One that begins with this.
    pub fn new(config: Arc<ServerConfig>) -> CurrentConfig {
        CurrentConfig(Arc::new(Mutex::new(config)))
    }

    /// Replaces it.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn get(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The threads, which all loops share.
pub struct HandshakeThreads {
    threads: Vec<Thread>,
    /// The sockets that the threads have.
    under_way: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Thread {
    tasks: Sender<Task>,
    waker: Arc<Waker>,
}

enum Task {
    Begin { socket: Socket, received: Vec<u8>, client: Arc<Client> },
    Cancel(Socket),
}

/// The loop that a handshake is for.
struct Client {
    finished: Sender<Finished>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl HandshakeThreads {
    /// None, for a server without listeners that speak TLS.
    pub fn none() -> HandshakeThreads {
        HandshakeThreads { threads: Vec::new(), under_way: Arc::default() }
    }

    /// Starts this many threads. `on_failure` is called if one of them panics.
    pub fn start(
        count: usize,
        config: &CurrentConfig,
        on_failure: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<HandshakeThreads> {
        let under_way = Arc::<AtomicUsize>::default();
        let start = |index: usize| {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
            let (tasks, inbox) = unbounded();
            let worker = Worker {
                poll,
                inbox,
                config: config.clone(),
                running: Slab::new(),
                places: HashMap::new(),
                waiting: VecDeque::new(),
                done: 0,
                under_way: Arc::clone(&under_way),
            };
            let guard = CallIfPanicking(on_failure.clone());
            let run = move || {
                let _guard = guard;
                worker.run();
            };
            thread::Builder::new().name(format!("handshakes-{index}")).spawn(run)?;
            Ok(Thread { tasks, waker })
        };
        let threads = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(HandshakeThreads { threads, under_way })
    }

    /// The handshakes of one loop, which `wake` wakes.
    pub fn for_loop(&self, wake: impl Fn() + Send + Sync + 'static) -> ThreadedHandshakes {
        let (finished, inbox) = unbounded();
        ThreadedHandshakes {
            threads: self.threads.clone(),
            places: HashMap::new(),
            next: 0,
            client: Arc::new(Client { finished, wake: Box::new(wake) }),
            finished: inbox,
            under_way: Arc::clone(&self.under_way),
        }
    }
}

/// Handshakes of one loop in threads of their own.
pub struct ThreadedHandshakes {
    threads: Vec<Thread>,
    /// The thread that has a socket.
    places: HashMap<i32, usize>,
    next: usize,
    client: Arc<Client>,
    finished: Receiver<Finished>,
    under_way: Arc<AtomicUsize>,
}

impl ThreadedHandshakes {
    fn give(&self, index: usize, task: Task) {
        let Thread { tasks, waker } = &self.threads[index];
        // After a panic of the thread, the process leaves.
        let _ = tasks.send(task);
        let _ = waker.wake();
    }
}

impl Handshakes for ThreadedHandshakes {
    fn begin(&mut self, socket: Socket, received: Vec<u8>) {
        self.next = (self.next + 1) % self.threads.len();
        self.places.insert(socket.number(), self.next);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.give(self.next, Task::Begin { socket, received, client: Arc::clone(&self.client) });
    }

    fn cancel(&mut self, socket: Socket) {
        if let Some(index) = self.places.get(&socket.number()) {
            self.give(*index, Task::Cancel(socket));
        }
    }

    fn next_finished(&mut self) -> Option<Finished> {
        let finished = self.finished.try_recv().ok()?;
        self.places.remove(&finished.socket.number());
        Some(finished)
    }

    fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) < self.threads.len() * HANDSHAKES_PER_THREAD_MAX
    }
}

/// One of the threads.
struct Worker {
    poll: Poll,
    inbox: Receiver<Task>,
    config: CurrentConfig,
    /// Each in a block of its own, so that they take memory only while they run.
    running: Slab<Box<Running>>,
    /// Where each running socket is.
    places: HashMap<i32, usize>,
    /// Those for which there is no room yet.
    waiting: VecDeque<(Socket, Vec<u8>, Arc<Client>)>,
    /// Handshakes that ended since their memory was last returned to the kernel.
    done: usize,
    under_way: Arc<AtomicUsize>,
}

/// A handshake and its socket.
struct Running {
    socket: Socket,
    client: Arc<Client>,
    handshake: Handshake,
    /// What has arrived of the next record.
    received: Vec<u8>,
    /// No record has arrived yet.
    is_fresh: bool,
}

impl Worker {
    fn run(mut self) {
        // SAFETY: no memory is involved; 0 is this thread. If it is forbidden, the thread just competes with the loops.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        let mut events = Events::with_capacity(EVENTS_PER_WAIT_MAX);
        loop {
            let timeout = (self.done >= HANDSHAKES_WORTH_A_TRIM).then_some(TRIM_AFTER);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("waiting for handshakes: {error}"),
                _ => {}
            }
            if timeout.is_some() && events.is_empty() && self.running.is_empty() {
                self.done = 0;
                self.running.shrink_to_fit();
                self.places.shrink_to_fit();
                self.waiting.shrink_to_fit();
                if let Some(freeing) = free_cached_blocks() {
                    let _ = freeing.join(); // it can't panic
                }
                return_free_pages();
            }
            for event in &events {
                if event.token() != WAKER {
                    self.advance(event.token().0);
                }
            }
            while let Ok(task) = self.inbox.try_recv() {
                match task {
                    Task::Begin { socket, received, client } => self.waiting.push_back((socket, received, client)),
                    Task::Cancel(socket) => self.cancel(socket),
                }
            }
            while self.running.len() < HANDSHAKES_PER_THREAD_MAX
                && let Some((socket, received, client)) = self.waiting.pop_front()
            {
                self.begin(socket, received, client);
            }
        }
    }

    fn begin(&mut self, socket: Socket, received: Vec<u8>, client: Arc<Client>) {
        let handshake = match Handshake::new(self.config.get()) {
            Ok(handshake) => handshake,
            Err(failure) => return self.give_back(socket, &client, Err(failure)),
        };
        let place = self.running.vacant_key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut SourceFd(&socket.number()), mio::Token(place), interest).is_err() {
            return self.give_back(socket, &client, Err(Failure::Left)); // the kernel has no memory for it
        }
        self.running.insert(Box::new(Running { socket, client, handshake, received, is_fresh: true }));
        self.places.insert(socket.number(), place);
        self.advance(place);
    }

    fn cancel(&mut self, socket: Socket) {
        if let Some(place) = self.places.get(&socket.number()) {
            self.finish(*place, Err(Failure::Left));
        } else if let Some(at) = self.waiting.iter().position(|(waiting, ..)| *waiting == socket) {
            let (socket, _, client) = self.waiting.remove(at).expect("it was found there");
            self.give_back(socket, &client, Err(Failure::Left));
        }
    }

    /// Continues a handshake as far as it goes now. An event may come late: for a place that is free, or has another.
    fn advance(&mut self, place: usize) {
        let Some(running) = self.running.get_mut(place) else { return };
        match running.advance() {
            Ok(false) => {}
            Ok(true) => self.finish(place, Ok(())),
            Err(failure) => self.finish(place, Err(failure)),
        }
    }

    fn finish(&mut self, place: usize, outcome: Result<(), Failure>) {
        self.done += 1;
        let Running { socket, client, handshake, .. } = *self.running.remove(place);
        self.places.remove(&socket.number());
        // The loop watches the socket with an epoll of its own.
        let _ = self.poll.registry().deregister(&mut SourceFd(&socket.number()));
        let outcome = outcome.and_then(|()| handshake.into_keys());
        self.give_back(socket, &client, outcome);
    }

    fn give_back(&self, socket: Socket, client: &Client, outcome: Result<Keys, Failure>) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        // A loop that has ended needs it no more.
        let _ = client.finished.send(Finished { socket, outcome });
        (client.wake)();
    }
}

impl Running {
    /// True when the handshake is complete, false when it waits for its socket.
    fn advance(&mut self) -> Result<bool, Failure> {
        loop {
            match self.handshake.send(&mut Outgoing(self.socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(Failure::Left),
                Ok(()) => {}
            }
            if self.handshake.is_complete() {
                // What follows is for the loop, and was not read.
                return if self.received.is_empty() { Ok(true) } else { Err(Failure::Broken) };
            }
            let record = match self.next_record() {
                Ok(None) => return Ok(false),
                Ok(Some(record)) => record,
                Err(failure) => {
                    if failure == Failure::PlainHttp {
                        self.answer_in_plain();
                    }
                    return Err(failure);
                }
            };
            let taken = self.handshake.receive(&record);
            if taken.is_err() {
                // An alert, as far as there is room.
                let _ = self.handshake.send(&mut Outgoing(self.socket));
            }
            taken?;
        }
    }

    /// Reads what is missing of the next record, and takes it once it is complete.
    fn next_record(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let missing = match record_len(&self.received, self.is_fresh)? {
                None => HEADER_BYTES - self.received.len(),
                Some(length) if length > self.received.len() => length - self.received.len(),
                Some(length) => {
                    self.is_fresh = false;
                    let next = self.received.split_off(length);
                    return Ok(Some(std::mem::replace(&mut self.received, next)));
                }
            };
            let had = self.received.len();
            self.received.resize(had + missing, 0);
            let read = receive(self.socket, &mut self.received[had..]);
            self.received.truncate(had + if let Read::Bytes(count) = read { count } else { 0 });
            match read {
                Read::Bytes(_) => {}
                Read::WouldBlock => return Ok(None),
                Read::Ended | Read::Gone(_) => return Err(Failure::Left),
            }
        }
    }

    /// Tells a client without TLS what is wrong. What it sent is read: otherwise the close would be a reset, which may
    /// overtake the answer.
    fn answer_in_plain(&mut self) {
        let mut buffer = [0; RECORD_BYTES_MAX];
        receive(self.socket, &mut buffer);
        send_bytes(ANSWER_TO_PLAIN_HTTP, self.socket);
    }
}

/// A socket to which rustls writes.
struct Outgoing(Socket);

impl io::Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match send_bytes(bytes, self.0) {
            Sent::Bytes(count) | Sent::Held(count) => Ok(count),
            Sent::WouldBlock => Err(ErrorKind::WouldBlock.into()),
            Sent::Gone(_) => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls it when it is dropped in a panic.
struct CallIfPanicking<F: Fn()>(F);

impl<F: Fn()> Drop for CallIfPanicking<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a thread for handshakes has failed");
            (self.0)();
        }
    }
}
