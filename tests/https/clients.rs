//! Clients that are not ours: curl, openssl, and our own commands over https.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::streams::{start, subscribe};
use crate::support::secured;
use crate::support::server::TOKEN;

fn authority() -> String {
    secured::certificate().file("certificate.pem").to_str().unwrap().to_owned()
}

#[test]
fn curl_reads_a_stream_to_its_end() {
    let server = start(&["--drain", "1s", "--drain-notice", "0s"]);
    let url = server.url("/events?topic=a&replay=all");
    server.publish("a", "for curl");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--cacert", &authority(), &url]);
    let mut curl =
        curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl (Debian: apt-get install curl)");
    let mut out = curl.stdout.take().unwrap();
    let (mut received, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&received).contains("data: for curl\n\n") {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&received));
        received.push(byte[0]);
    }
    server.signal("TERM");
    out.read_to_end(&mut received).unwrap();
    let ended = curl.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// What `openssl s_client` says, with a request on its standard input.
fn s_client(address: &str, options: &[&str], request: &str) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", address, "-CAfile", &authority(), "-ign_eof"]).args(options);
    let mut client = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl (Debian: apt-get install openssl)");
    // It may have ended already.
    let _ = client.stdin.take().unwrap().write_all(request.as_bytes());
    let output = client.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn openssl_finds_tls_1_3_only_and_an_end_that_is_no_truncation() {
    let server = start(&[]);
    let address = server.address().to_string();
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let said = s_client(&address, &["-tls1_3"], request);
    assert!(said.contains("HTTP/1.1 200 OK") && said.contains("TLSv1.3"), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("closed") && !said.contains("unexpected eof"), "{said}");
    let said = s_client(&address, &["-tls1_2"], request);
    assert!(said.contains("alert protocol version"), "{said}");
    server.wait_for_metric("fanfare_tls_handshakes_total{outcome=\"old_version\"}", |count| count == 1.0);
}

/// K makes openssl send a KeyUpdate, which the server does not follow.
#[test]
fn a_key_update_ends_its_connection_with_an_alert() {
    let server = start(&[]);
    let mut neighbour = subscribe(&server, "a");
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &server.address().to_string(), "-CAfile", &authority(), "-tls1_3"]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    server.wait_for_metric("fanfare_tls_handshakes_total{outcome=\"completed\"}", |count| count == 2.0);
    input.write_all(b"k\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("alert unexpected message"), "{said}");
    server.wait_for_metric("fanfare_closed_total{reason=\"tls_record\"}", |count| count == 1.0);
    server.publish("a", "still here");
    assert!(String::from_utf8(neighbour.read_through(b"\n\n").unwrap()).unwrap().contains("data: still here"));
}

#[test]
fn our_own_commands_publish_and_load_over_https() {
    let server = start(&[]);
    let mut stream = subscribe(&server, "a");
    let mut publish = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    publish.env("FANFARE_PUBLISH_TOKEN", TOKEN).args([
        "publish",
        "--ca",
        &authority(),
        "--url",
        &server.url("/publish"),
    ]);
    let output = publish.args(["a", "from a command"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(stream.read_through(b"\n\n").unwrap()).unwrap().contains("data: from a command"));
    let mut load = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let token_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token_file.path(), TOKEN).unwrap();
    load.args(["load", &server.url("/events?topic=b"), "--ca", &authority(), "--publish-token-file"])
        .arg(token_file.path());
    load.args(["-n", "50", "--publish-url", &server.url("/publish"), "--publish-topic", "b"]);
    let output = load.args(["--publish-count", "20", "--publish-rate", "100", "--duration", "2s"]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("50 held of 50") && said.contains("1,000 delivered"), "{said}");
}
