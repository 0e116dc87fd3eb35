//! A small SSE server that can misbehave in chosen ways, to test the checks of the load client.
//!
//! Threads and blocking sockets, nothing shared with Fanfare's own server, so that a mistake made there is not
//! made here as well. `GET` of any path is a stream, `POST` of any path publishes: a bare payload, `{"data": …}`, or
//! an array of those. Every frame has its number as its id, and a Last-Event-ID is answered with what followed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// What is done to which message, for the subscriber that came first (and, with `everybody`, for all).
    pub fault: Option<(Fault, usize)>,
    pub everybody: bool,
    /// Chunked bodies, each frame in two chunks; otherwise the body ends with the connection.
    pub is_chunked: bool,
    /// False: no `id:` lines, and nothing is replayed.
    pub has_ids: bool,
    /// Answer streams with this status.
    pub status: Option<u16>,
    /// Every subscriber is disconnected after this message.
    pub hang_up_after: Option<usize>,
    /// The milliseconds of `retry:` in the preamble.
    pub retry_ms: u32,
    /// The body of a publish request is the data of one event, whatever it is.
    pub sends_bodies_whole: bool,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            fault: None,
            everybody: false,
            is_chunked: false,
            has_ids: true,
            status: None,
            hang_up_after: None,
            retry_ms: 50,
            sends_bodies_whole: false,
        }
    }
}

/// What goes wrong with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not sent.
    Lose,
    /// It is sent twice.
    Duplicate,
    /// One of its bytes is another.
    Corrupt,
    /// It and the next change places.
    Swap,
    /// A `gap` event is sent instead of it.
    Gap,
}

/// A server, until it is dropped.
pub struct SseServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    subscribers: Vec<Subscriber>,
    subscribers_so_far: usize,
    /// Data of all messages; message `n` is at `n - 1`.
    messages: Vec<String>,
}

struct Subscriber {
    stream: TcpStream,
    has_fault: bool,
    /// A frame that waits for the next to pass it.
    held: Option<Vec<u8>>,
}

impl SseServer {
    /// Listens on `address`; port 0 picks one.
    pub fn start(address: SocketAddr, behaviour: Behaviour) -> std::io::Result<SseServer> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { behaviour, ..State::default() }));
        for _ in 0..4 {
            let (listener, state) = (listener.try_clone()?, Arc::clone(&state));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that goes away in mid-request is not an error.
                    let _ = serve(stream, &state);
                }
            });
        }
        Ok(SseServer { address, state })
    }

    /// A URL on this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Publishes one message.
    pub fn publish(&self, data: String) {
        lock(&self.state).publish(data);
    }

    /// Streams ever opened.
    pub fn subscribers_so_far(&self) -> usize {
        lock(&self.state).subscribers_so_far
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Request { line, headers }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

fn serve(stream: TcpStream, state: &Arc<Mutex<State>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1024, stream);
    let Some(request) = Request::read(&mut reader)? else { return Ok(()) };
    if request.line.starts_with("POST") {
        let state = Arc::clone(state);
        std::thread::spawn(move || serve_publisher(reader, request, &state));
        return Ok(());
    }
    if request.line.starts_with("GET /moved") {
        return write!(reader.get_mut(), "HTTP/1.1 302 Found\r\nLocation: events\r\nContent-Length: 0\r\n\r\n");
    }
    subscribe(reader.into_inner(), &request, &mut lock(state))
}

fn serve_publisher(
    mut reader: BufReader<TcpStream>,
    mut request: Request,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    loop {
        let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        let mut state = lock(state);
        match state.behaviour.sends_bodies_whole {
            true => state.publish(body.into_owned()),
            false => payloads(&body).into_iter().for_each(|data| state.publish(data)),
        }
        drop(state);
        reader.get_mut().write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")?;
        let Some(next) = Request::read(&mut reader)? else { return Ok(()) };
        request = next;
    }
}

fn payloads(body: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        data: &'a serde_json::value::RawValue,
    }
    let one = serde_json::from_str::<Envelope<'_>>(body).map(|envelope| vec![envelope]);
    match one.or_else(|_| serde_json::from_str::<Vec<Envelope<'_>>>(body)) {
        Ok(envelopes) => envelopes.iter().map(|envelope| envelope.data.get().to_owned()).collect(),
        Err(_) => vec![body.to_owned()],
    }
}

fn subscribe(mut stream: TcpStream, request: &Request, state: &mut State) -> std::io::Result<()> {
    let behaviour = state.behaviour.clone();
    if let Some(status) = behaviour.status {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
    }
    let framing = if behaviour.is_chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n");
    let seen = request.header("last-event-id").and_then(|id| id.parse::<usize>().ok());
    let preamble = if behaviour.has_ids {
        format!("retry: {}\nid: {}\n\n", behaviour.retry_ms, seen.unwrap_or(state.messages.len()))
    } else {
        format!("retry: {}\n\n", behaviour.retry_ms)
    };
    let mut bytes = head.into_bytes();
    bytes.extend(behaviour.framed(preamble));
    for number in seen.filter(|_| behaviour.has_ids).map_or(0..0, |seen| seen..state.messages.len()) {
        bytes.extend(behaviour.frame(number + 1, &state.messages[number]));
    }
    stream.write_all(&bytes)?;
    stream.set_nonblocking(true)?;
    let has_fault = behaviour.everybody || state.subscribers_so_far == 0;
    state.subscribers_so_far += 1;
    state.subscribers.push(Subscriber { stream, has_fault, held: None });
    Ok(())
}

impl State {
    fn publish(&mut self, data: String) {
        let number = self.messages.len() + 1;
        let behaviour = &self.behaviour;
        let frame = behaviour.frame(number, &data);
        let fault = behaviour.fault.filter(|(_, at)| *at == number).map(|(fault, _)| fault);
        // A subscriber that can't take a whole frame is disconnected, as if it were gone.
        self.subscribers.retain_mut(|subscriber| {
            let bytes = match fault.filter(|_| subscriber.has_fault) {
                None => [&frame[..], &subscriber.held.take().unwrap_or_default()].concat(),
                Some(Fault::Lose) => return true,
                Some(Fault::Duplicate) => [&frame[..], &frame].concat(),
                Some(Fault::Corrupt) => behaviour.frame(number, &bent(&data)),
                Some(Fault::Gap) => behaviour.framed(format!("event: gap\nid: {number}\ndata: {{}}\n\n")),
                Some(Fault::Swap) => {
                    subscriber.held = Some(frame.clone());
                    return true;
                }
            };
            subscriber.stream.write(&bytes).is_ok_and(|written| written == bytes.len())
        });
        if behaviour.hang_up_after == Some(number) {
            self.subscribers.clear();
        }
        self.messages.push(data);
    }
}

/// The same data with another letter in its padding.
fn bent(data: &str) -> String {
    let at = data.len() - 30;
    let letter = if &data[at..=at] == "a" { "b" } else { "a" };
    format!("{}{letter}{}", &data[..at], &data[at + 1..])
}

impl Behaviour {
    fn frame(&self, number: usize, data: &str) -> Vec<u8> {
        let id = if self.has_ids { format!("id: {number}\n") } else { String::new() };
        self.framed(format!("{id}data: {data}\n\n"))
    }

    fn framed(&self, text: String) -> Vec<u8> {
        if !self.is_chunked {
            return text.into_bytes();
        }
        let (one, other) = text.split_at(text.len() / 2);
        format!("{:x}\r\n{one}\r\n{:X};x=y\r\n{other}\r\n", one.len(), other.len()).into_bytes()
    }
}
