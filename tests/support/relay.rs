//! A relay between clients and a server, as a proxy is, that can cut every connection it carries.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A relay; it ends with the process.
pub struct Relay {
    address: SocketAddr,
    carried: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    pub fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let carried = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&carried);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let ends = [(&client, &server), (&server, &client)];
                let ends = ends.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
                noted.lock().unwrap().push(client);
                for (from, to) in ends {
                    std::thread::spawn(move || copy(from, &to));
                }
            }
        });
        Relay { address, carried }
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// Ends every connection of now.
    pub fn cut(&self) {
        for client in self.carried.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
