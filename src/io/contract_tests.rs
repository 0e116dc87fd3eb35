//! The contract, held to each backend of the kernel's IO: the same tests over epoll and io_uring.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::epoll::EpollIo;
use super::listener::{ListenAddress, Listener};
use super::socket_options::SocketOptions;
use super::uring::Ring;
use super::{Accept, Close, Gone, Io, ListenerIndex, Read, Readiness, Sent, Socket, Token};
use crate::event::Frame;

const TOKEN: Token = Token { slot: 7, generation: u32::MAX };
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test over epoll, and over io_uring where this kernel allows it; `tests/on-io-uring` says where it does not.
fn on_each_backend(test: impl Fn(&dyn Fn(Vec<Listener>) -> EpollIo)) {
    test(&|listeners| EpollIo::new(listeners, None).unwrap());
    match Ring::open() {
        Ok(_) => test(&|listeners| EpollIo::new(listeners, Some(Ring::open().unwrap())).unwrap()),
        Err(error) => eprintln!("io_uring is left out: {error}"),
    }
}

const OPTIONS: SocketOptions = SocketOptions {
    backlog: 512,
    send_buffer_bytes: Some(4096),
    unsent_bytes_max: 16 << 10,
    user_timeout: Duration::from_secs(120),
};

fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::open(&"127.0.0.1:0".parse().unwrap(), &OPTIONS, false).unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("a TCP listener") };
    (listener, address)
}

/// An accepted connection and its peer.
fn connected(io: &mut EpollIo, address: SocketAddr) -> (Socket, TcpStream) {
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let Accept::Connection(socket, _) = io.accept(ListenerIndex(0)) else { panic!("it has connected") };
    (socket, peer)
}

/// What the next wait that reports anything reports.
#[track_caller]
fn wait(io: &mut EpollIo) -> Vec<Readiness> {
    let (mut ready, deadline) = (Vec::new(), io.now() + DEADLINE);
    while ready.is_empty() {
        assert!(io.now() < deadline, "nothing is ready");
        io.wait(Some(DEADLINE), &mut ready).unwrap();
    }
    ready
}

/// What is ready now.
fn ready_now(io: &mut EpollIo) -> Vec<Readiness> {
    let mut ready = Vec::new();
    io.wait(Some(Duration::ZERO), &mut ready).unwrap();
    ready
}

fn send(io: &mut EpollIo, run: &[Frame], skip_bytes: usize, targets: &[Socket]) -> Vec<Sent> {
    let mut outcomes = Vec::new();
    io.send(run, skip_bytes, targets.iter().copied(), &mut outcomes);
    assert_eq!(outcomes.len(), targets.len());
    outcomes
}

/// Sends until a socket takes no more; how many bytes it took.
fn fill(io: &mut EpollIo, socket: Socket, frame: &Frame) -> usize {
    let mut taken = 0;
    loop {
        match send(io, std::slice::from_ref(frame), 0, &[socket, socket])[..] {
            [Sent::Bytes(first), Sent::Bytes(second)] => taken += first + second,
            [Sent::Bytes(first), Sent::WouldBlock] => taken += first,
            [Sent::WouldBlock, Sent::WouldBlock] => return taken,
            ref other => panic!("{other:?}"),
        }
    }
}

fn exactly(peer: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn readiness_is_reported_once_until_a_call_would_have_blocked() {
    on_each_backend(|open| {
        let (listener, address) = listener();
        let mut io = open(vec![listener]);
        let _waits_to_be_accepted = TcpStream::connect(address).unwrap();
        assert_eq!(wait(&mut io), [Readiness::Acceptable(ListenerIndex(0))]);
        assert!(matches!(io.accept(ListenerIndex(0)), Accept::Connection(..)));
        let (socket, mut peer) = connected(&mut io, address);
        assert_eq!(io.accept(ListenerIndex(0)), Accept::WouldBlock);
        io.watch(socket, TOKEN).unwrap();
        assert_eq!(wait(&mut io), [Readiness::Writable(TOKEN)]);
        assert_eq!(ready_now(&mut io), []);

        peer.write_all(b"ab").unwrap();
        assert!(wait(&mut io).contains(&Readiness::Readable(TOKEN)));
        assert_eq!(ready_now(&mut io), []);
        let mut byte = [0];
        for expected in [Read::Bytes(1), Read::Bytes(1), Read::WouldBlock] {
            assert_eq!(io.read(socket, &mut byte), expected);
        }
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(wait(&mut io).contains(&Readiness::Readable(TOKEN)));
        assert_eq!(io.read(socket, &mut byte), Read::Ended);

        let frame = Frame::from(vec![b'x'; 64 << 10]);
        let taken = fill(&mut io, socket, &frame);
        exactly(&mut peer, taken);
        assert!(wait(&mut io).contains(&Readiness::Writable(TOKEN)));
        io.close(socket, Close::Reset);
    });
}

/// More sockets than a batch has, so that a second one follows.
#[test]
fn a_run_reaches_every_socket_once_and_each_has_its_own_outcome() {
    const COUNT: usize = 600;
    const FULL: usize = 3;
    const GONE: usize = 300;
    on_each_backend(|open| {
        let (listener, address) = listener();
        let mut io = open(vec![listener]);
        let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| connected(&mut io, address)).unzip();
        let run = [b"one ".as_slice(), b"two ", b"three"].map(Frame::from);
        let expected = b"ne two three";

        let full_bytes = fill(&mut io, sockets[FULL], &Frame::from(vec![b'x'; 64 << 10]));
        io.watch(sockets[GONE], TOKEN).unwrap();
        socket2::SockRef::from(&peers[GONE]).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peers.remove(GONE));
        while !wait(&mut io).contains(&Readiness::Readable(TOKEN)) {}

        let outcomes = send(&mut io, &run, 1, &sockets);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let sent = match index {
                FULL => Sent::WouldBlock,
                GONE => Sent::Gone(Gone::Reset),
                _ => Sent::Bytes(expected.len()),
            };
            assert_eq!(outcome, sent, "{index}");
        }
        exactly(&mut peers[FULL], full_bytes);
        for (index, peer) in peers.iter_mut().enumerate() {
            if index != FULL {
                assert_eq!(exactly(peer, expected.len()), expected, "{index}");
            }
            peer.set_nonblocking(true).unwrap();
            assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "{index}");
        }
        sockets.into_iter().for_each(|socket| io.close(socket, Close::Reset));
    });
}

#[test]
fn a_short_send_reports_how_many_bytes_the_kernel_took() {
    on_each_backend(|open| {
        let (listener, address) = listener();
        let mut io = open(vec![listener]);
        let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..5).map(|_| connected(&mut io, address)).unzip();
        let bytes: Vec<u8> = (0..8 << 20).map(|at: usize| (at / 7) as u8).collect();
        let large = Frame::from(bytes.clone());
        // The last run is too long to be joined.
        for (run, skip_bytes) in [(vec![large.clone()], 5), (vec![Frame::from(&bytes[..9]), large], 3)] {
            let whole: Vec<u8> = run.iter().flat_map(|frame| frame.bytes().to_vec()).skip(skip_bytes).collect();
            for (outcome, peer) in send(&mut io, &run, skip_bytes, &sockets).into_iter().zip(&mut peers) {
                let Sent::Bytes(taken) = outcome else { panic!("{outcome:?}") };
                assert!(0 < taken && taken < whole.len(), "{taken}");
                assert_eq!(exactly(peer, taken), whole[..taken]);
            }
        }
        sockets.into_iter().for_each(|socket| io.close(socket, Close::Reset));
    });
}

#[test]
fn a_graceful_close_delivers_what_was_sent_and_a_reset_does_not_wait_for_it() {
    on_each_backend(|open| {
        let (listener, address) = listener();
        let mut io = open(vec![listener]);
        let [(closed, mut its_peer), (reset, mut other_peer)] = [(); 2].map(|()| connected(&mut io, address));
        send(&mut io, &[Frame::from(b"last".as_slice())], 0, &[closed, reset]);
        io.close(closed, Close::Graceful);
        let mut all = Vec::new();
        its_peer.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"last");
        exactly(&mut other_peer, 4);
        io.close(reset, Close::Reset);
        assert_eq!(other_peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_listener_that_stops_refuses_and_an_inherited_one_lets_connections_wait() {
    on_each_backend(|open| {
        let (own, own_address) = listener();
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let passed_address = passed.local_addr().unwrap();
        let mut io = open(vec![own, Listener::inherit(passed.into(), &OPTIONS).unwrap()]);
        for index in [0, 1] {
            io.stop_listening(ListenerIndex(index));
            io.stop_listening(ListenerIndex(index));
            assert_eq!(io.accept(ListenerIndex(index)), Accept::WouldBlock);
        }
        assert_eq!(TcpStream::connect(own_address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        TcpStream::connect(passed_address).unwrap();
        assert_eq!(ready_now(&mut io), []);
    });
}

#[test]
fn a_wake_ends_a_wait_on_another_thread_and_each_io_has_its_own() {
    on_each_backend(|open| {
        let [mut one, mut other] = [open(Vec::new()), open(Vec::new())];
        let wake = one.wake();
        let waiting = std::thread::spawn(move || {
            let (mut ready, started) = (Vec::new(), one.now());
            one.wait(None, &mut ready).unwrap();
            (ready, one.now() >= started)
        });
        wake();
        assert_eq!(waiting.join().unwrap(), (Vec::new(), true));
        assert_eq!(ready_now(&mut other), []);
    });
}

#[test]
fn the_descriptor_that_is_kept_is_given_up_once_and_taken_again() {
    on_each_backend(|open| {
        let mut io = open(Vec::new());
        let released = [io.release_reserved_fd(), io.release_reserved_fd()];
        assert_eq!((released, io.reserve_fd(), io.release_reserved_fd()), ([true, false], true, true));
    });
}

#[test]
fn io_sends_from_another_thread_than_the_one_that_opened_it() {
    on_each_backend(|open| {
        let (listener, address) = listener();
        let mut io = open(vec![listener]);
        let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..3).map(|_| connected(&mut io, address)).unzip();
        std::thread::spawn(move || {
            let outcomes = send(&mut io, &[Frame::from(b"hello".as_slice())], 0, &sockets);
            assert_eq!(outcomes, [Sent::Bytes(5); 3]);
        })
        .join()
        .unwrap();
        peers.iter_mut().for_each(|peer| assert_eq!(exactly(peer, 5), b"hello"));
    });
}
