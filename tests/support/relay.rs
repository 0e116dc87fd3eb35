//! A relay between clients and a server, as a proxy is, that can cut every connection it carries, or stand still.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use socket2::{Domain, Socket, Type};

/// A relay; it ends with the process.
pub struct Relay {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    carried: Arc<Mutex<Vec<TcpStream>>>,
    valve: Arc<Valve>,
}

/// Whether anything passes.
#[derive(Default)]
struct Valve {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Relay {
    pub fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let carried = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&carried);
        let valve = Arc::<Valve>::default();
        let shared = Arc::clone(&valve);
        let server = Arc::new(Mutex::new(server));
        let target = Arc::clone(&server);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = *target.lock().unwrap();
                let Ok(server) = connect(server) else { continue };
                let ends = [(&client, &server), (&server, &client)];
                let ends = ends.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
                noted.lock().unwrap().push(client);
                for (from, to) in ends {
                    let valve = Arc::clone(&shared);
                    std::thread::spawn(move || copy(from, to, &valve));
                }
            }
        });
        Relay { address, server, carried, valve }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap() = server;
    }

    /// Passes nothing on, from now on, and ends nothing.
    pub fn stall(&self) {
        *self.valve.is_shut.lock().unwrap() = true;
    }

    /// Passes everything on again.
    pub fn flow(&self) {
        *self.valve.is_shut.lock().unwrap() = false;
        self.valve.opened.notify_all();
    }

    /// Ends every connection of now.
    pub fn cut(&self) {
        for client in self.carried.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// The kernel buffers little for it: who sends to a relay that stands still soon knows.
fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_recv_buffer_size(16 << 10)?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

fn copy(mut from: TcpStream, mut to: TcpStream, valve: &Valve) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let shut = valve.is_shut.lock().unwrap();
        drop(valve.opened.wait_while(shut, |is_shut| *is_shut).unwrap());
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
