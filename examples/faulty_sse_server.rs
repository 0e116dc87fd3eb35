//! A small SSE server to try `fanfare load` on: `faulty_sse_server [ADDRESS] [lose|duplicate|corrupt|swap|gap [N]]`.

#![allow(clippy::print_stdout, reason = "an example prints")]

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../tests/support/sse_server.rs"]
mod sse_server;

use sse_server::{Behaviour, Fault, SseServer};

fn main() -> std::io::Result<()> {
    fanfare::io::limits::raise_descriptor_limit()?;
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3005".to_owned());
    let fault = match args.next().as_deref() {
        Some("lose") => Some(Fault::Lose),
        Some("duplicate") => Some(Fault::Duplicate),
        Some("corrupt") => Some(Fault::Corrupt),
        Some("swap") => Some(Fault::Swap),
        Some("gap") => Some(Fault::Gap),
        _ => None,
    };
    let at = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let address = address.parse().map_err(|_| std::io::Error::other(format!("{address} is not an address")))?;
    let behaviour = Behaviour { fault: fault.map(|fault| (fault, at)), ..Behaviour::default() };
    let server = SseServer::start(address, behaviour)?;
    println!("streams on {}, POST to {}", server.url("/events"), server.url("/publish"));
    loop {
        std::thread::park();
    }
}
