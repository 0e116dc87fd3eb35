//! A broker that knows only the login of Kafka's protocol, and refuses every one: the mock cluster knows none.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Requests by their number in the protocol, with the highest version that this broker takes.
const VERSIONS: [(u16, u16); 3] = [(SASL_HANDSHAKE, 1), (API_VERSIONS, 0), (SASL_AUTHENTICATE, 0)];
const SASL_HANDSHAKE: u16 = 17;
const API_VERSIONS: u16 = 18;
const SASL_AUTHENTICATE: u16 = 36;
/// Its codes for errors.
const UNSUPPORTED_VERSION: u16 = 35;
const SASL_AUTHENTICATION_FAILED: u16 = 58;

/// Starts one, which ends with the process. Returns its address, and what clients send to log in with `PLAIN`.
pub fn refuse_logins() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, logins) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            // A client that ends the connection is no failure.
            std::thread::spawn(move || drop(serve(client, &sender)));
        }
    });
    (address, logins)
}

fn serve(mut client: TcpStream, logins: &Sender<String>) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut request)?;
        let number = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let (kind, version, client_bytes) = (number(0), number(2), usize::from(number(8)));
        let body = &request[10 + client_bytes..];
        let mut answer = request[4..8].to_vec();
        match kind {
            API_VERSIONS => answer.extend(versions(if version == 0 { 0 } else { UNSUPPORTED_VERSION })),
            SASL_HANDSHAKE => {
                answer.extend([0, 0, 0, 0, 0, 1, 0, 5]);
                answer.extend(b"PLAIN");
            }
            SASL_AUTHENTICATE => {
                let login = String::from_utf8_lossy(&body[4..]).into_owned();
                let _ = logins.send(login); // the test may have ended
                answer.extend(SASL_AUTHENTICATION_FAILED.to_be_bytes());
                let (no_text, no_bytes) = ([0xff; 2], [0; 4]);
                answer.extend(no_text.iter().chain(&no_bytes));
            }
            other => panic!("a client asks for {other} before its login"),
        }
        client.write_all(&(answer.len() as u32).to_be_bytes())?;
        client.write_all(&answer)?;
    }
}

fn versions(error: u16) -> Vec<u8> {
    let mut answer = error.to_be_bytes().to_vec();
    answer.extend((VERSIONS.len() as u32).to_be_bytes());
    for (kind, highest) in VERSIONS {
        answer.extend([kind, 0, highest].iter().flat_map(|number| number.to_be_bytes()));
    }
    answer
}
