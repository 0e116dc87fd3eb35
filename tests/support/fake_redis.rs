//! What stands between a server and its Redis, and passes on the truth, or lies.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a connection gets.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// What Redis says.
    Truth,
    /// The same, byte by byte.
    Dribble,
    /// This, to whatever it asks, and nothing more.
    Lie(&'static [u8]),
}

/// A false Redis; it ends with the process.
pub struct FakeRedis {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    answer: Answer,
    lies_sent: usize,
    open: Vec<TcpStream>,
}

impl FakeRedis {
    /// One that tells the truth, which is at `redis`.
    pub fn before(redis: SocketAddr) -> FakeRedis {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { answer: Answer::Truth, lies_sent: 0, open: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                let answer = {
                    let mut state = state.lock().unwrap();
                    state.open.push(client.try_clone().unwrap());
                    state.answer
                };
                std::thread::spawn(move || match answer {
                    Answer::Truth => relay(&client, redis, pass_on),
                    Answer::Dribble => relay(&client, redis, dribble),
                    Answer::Lie(lie) => tell(&client, lie, &state),
                });
            }
        });
        FakeRedis { address, state }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Cuts every connection; the next ones get this. Returns the number of lies so far.
    pub fn tell(&self, answer: Answer) -> usize {
        let mut state = self.state.lock().unwrap();
        state.answer = answer;
        for client in state.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both); // it may have ended by itself
        }
        state.lies_sent
    }

    /// Says this on every open connection, and then `x` until it is cut. How much went out on the one that took most.
    pub fn flood(&self, begin: &'static [u8]) -> Arc<AtomicUsize> {
        let flooded = Arc::new(AtomicUsize::new(0));
        for client in &self.state.lock().unwrap().open {
            let (mut client, most) = (client.try_clone().unwrap(), Arc::clone(&flooded));
            std::thread::spawn(move || {
                let (mut bytes, mut next) = (0, begin);
                while client.write_all(next).is_ok() {
                    bytes += next.len();
                    most.fetch_max(bytes, Ordering::Relaxed);
                    next = &[b'x'; 64 << 10];
                }
            });
        }
        flooded
    }

    /// The number of lies so far.
    pub fn lies_sent(&self) -> usize {
        self.state.lock().unwrap().lies_sent
    }
}

fn relay(client: &TcpStream, redis: SocketAddr, answers: fn(&TcpStream, &TcpStream)) {
    let Ok(redis) = TcpStream::connect(redis) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(client, &redis));
        answers(&redis, client);
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn dribble(mut from: &TcpStream, mut to: &TcpStream) {
    to.set_nodelay(true).unwrap();
    let mut byte = [0];
    while from.read(&mut byte).is_ok_and(|count| count > 0) && to.write_all(&byte).is_ok() {
        std::thread::sleep(Duration::from_micros(500));
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// One lie for each time that it says something, until it goes.
fn tell(mut client: &TcpStream, lie: &[u8], state: &Mutex<State>) {
    let mut asked = [0; 4096];
    while client.read(&mut asked).is_ok_and(|count| count > 0) && client.write_all(lie).is_ok() {
        state.lock().unwrap().lies_sent += 1;
    }
}
