//! Sockets that a service manager passes: their names say what they are for, they replace those that the server would have
//! opened, and outlive it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::http::Client;
use crate::support::server::{Server, TOKEN};
use crate::support::stream::Subscriber;
use crate::support::wait::{eventually, wait_until};

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts the server through `systemd-socket-activate` with these sockets and their names.
#[track_caller]
fn activate(sockets: &[(&str, &str)], options: &[&str]) -> Server {
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--setenv", &format!("FANFARE_PUBLISH_TOKEN={TOKEN}")]);
    for (address, _) in sockets {
        command.args(["--listen", address]);
    }
    let names: Vec<_> = sockets.iter().map(|(_, name)| *name).collect();
    command.arg(format!("--fdname={}", names.join(":")));
    command.args([env!("CARGO_BIN_EXE_fanfare"), "serve"]).args(options);
    let first: SocketAddr = sockets[0].0.parse().unwrap();
    // It listens itself, and becomes the server when the first client comes.
    let knock = || drop(eventually("systemd-socket-activate listens", || TcpStream::connect(first).ok()));
    let own = options.iter().filter(|option| **option == "--admin-listen").count();
    Server::launch(command, sockets.len() + own, knock)
}

#[test]
fn passed_sockets_are_listened_on_in_the_role_that_their_names_give() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.sock");
    let (public, admin) = (free_address().to_string(), free_address().to_string());
    let sockets = [(&*public, "public"), (path.to_str().unwrap(), "public"), (&*admin, "admin")];
    // One more than the sockets would be announced first, and break this.
    let server = activate(&sockets, &[]);
    assert_eq!(server.address().to_string(), public);
    let mut over_tcp = Subscriber::open(&server, "/events?topic=a");
    let mut over_unix = Subscriber::over(Client::connect_unix(&path), "/events?topic=a", "");
    server.publish("a", "x");
    over_tcp.expect(&["x"]);
    over_unix.expect(&["x"]);
    assert_eq!(server.get_admin("/health/ready").status, 200);
    assert_eq!(server.get_admin("/publish").status, 404, "the admin listener has no more than it ever has");
}

#[test]
fn a_listener_that_is_named_and_was_passed_is_one_and_others_are_opened_too() {
    let (public, more) = (free_address().to_string(), free_address().to_string());
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &public, "--fdname=fanfare.socket", env!("CARGO_BIN_EXE_fanfare"), "serve"]);
    command.args(["--listen", &public, "--listen", &more, "--admin-listen", "127.0.0.1:0"]);
    let address: SocketAddr = public.parse().unwrap();
    let knock = || drop(eventually("it listens", || TcpStream::connect(address).ok()));
    let server = Server::launch(command, 3, knock);
    assert_eq!(server.get("/health").status, 200);
    let mut other = Client::connect(more.parse().unwrap());
    other.get("/health");
    assert_eq!(other.answer().status, 200);
}

#[test]
fn during_a_drain_a_passed_socket_queues_new_connections_and_outlives_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.sock");
    let public = free_address().to_string();
    let sockets = [(&*public, "public"), (path.to_str().unwrap(), "public")];
    let mut server = activate(&sockets, &["--drain", "1h", "--admin-listen", "127.0.0.1:0"]);
    let subscriber = Subscriber::open(&server, "/events?topic=a");
    server.signal("TERM");
    wait_until("it closes streams", || server.metric("fanfare_draining") == 2.0);
    let accepted = server.metric("fanfare_accepted_total");
    let mut waiting = Client::connect(server.address());
    waiting.get("/health");
    // Asked over the admin listener, which is accepted: only that one is counted.
    assert_eq!(server.metric("fanfare_accepted_total"), accepted + 1.0);
    server.signal("TERM");
    assert_eq!(server.wait_for_exit(), Some(0));
    assert!(Path::new(&path).exists(), "the socket's file is its owner's");
    drop(subscriber);
}

#[test]
fn an_unusable_passed_socket_fails_the_start_with_an_explanation() {
    let start = |host: &str, name: &str, options: &[&str]| {
        let address = free_address();
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--listen", &format!("{host}:{}", address.port()), &format!("--fdname={name}")]);
        command.args([env!("CARGO_BIN_EXE_fanfare"), "serve"]).args(options);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(eventually("it listens", || TcpStream::connect(address).ok()));
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let check = |(code, said): (Option<i32>, String), words: &[&str]| {
        assert!(code == Some(2) && words.iter().all(|word| said.contains(word)), "{code:?} {said}");
    };
    check(start("127.0.0.1", "metrics", &[]), &["metrics", "public, tls, redirect or admin"]);
    check(start("0.0.0.0", "public", &["--dev"]), &["0.0.0.0", "--dev", "loopback"]);
}
