use std::io::{Read as _, Write as _};

use rustls::crypto::ring::{ALL_CIPHER_SUITES, cipher_suite};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection};

use super::*;
use crate::tls::certificates::Certificates;
use crate::tls::record::{self, CLOSE_NOTIFY, ContentType};
use crate::tls::testing::{client_config, pem, server};

/// Gives the server what the client has to send, record by record.
fn to_server(client: &mut ClientConnection, handshake: &mut Handshake, is_first: &mut bool) -> Result<(), Failure> {
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    let mut rest = &sent[..];
    while !rest.is_empty() {
        let length = record_len(rest, std::mem::replace(is_first, false))?.unwrap();
        let (record, later) = rest.split_at(length);
        handshake.receive(record)?;
        rest = later;
    }
    Ok(())
}

fn to_client(handshake: &mut Handshake, client: &mut ClientConnection) -> Result<(), Error> {
    let mut sent = Vec::new();
    handshake.send(&mut sent).unwrap();
    receive(client, &sent)
}

fn receive(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// A handshake to its end, or to the failure of one side.
fn shake_hands(
    client: &mut ClientConnection,
    config: Arc<ServerConfig>,
) -> (Handshake, Result<(), Failure>, Result<(), Error>) {
    let (mut handshake, mut is_first) = (Handshake::new(config).unwrap(), true);
    for _ in 0..10 {
        let taken = to_server(client, &mut handshake, &mut is_first);
        let received = to_client(&mut handshake, client);
        if taken.is_err() || received.is_err() {
            // What the client says about it.
            let taken = taken.and_then(|()| to_server(client, &mut handshake, &mut false));
            return (handshake, taken, received);
        }
        if handshake.is_complete() && !client.is_handshaking() {
            return (handshake, Ok(()), Ok(()));
        }
    }
    panic!("the handshake does not end");
}

fn for_localhost(config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

#[test]
fn each_cipher_of_tls_1_3_seals_and_opens_what_rustls_opens_and_seals() {
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let (config, trusted) = server();
        let mut client = for_localhost(client_config(&[&trusted], &rustls::version::TLS13, vec![suite]));
        let (handshake, taken, received) = shake_hands(&mut client, config);
        taken.unwrap();
        received.unwrap();
        let mut keys = handshake.into_keys().unwrap();

        for length in [1, 200, record::CONTENT_BYTES_MAX] {
            let content = vec![b'x'; length];
            let mut record = Vec::new();
            record::begin(&mut record);
            record.extend_from_slice(&content);
            keys.sealing.seal(ContentType::Data, &mut record).unwrap();
            receive(&mut client, &record).unwrap();
            let mut opened = vec![0; length];
            client.reader().read_exact(&mut opened).unwrap();
            assert_eq!(opened, content);
        }
        for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"more"] {
            client.writer().write_all(text).unwrap();
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            let (content_type, length) = keys.opening.open(&mut sent).unwrap();
            assert_eq!((content_type, &sent[..length]), (ContentType::Data, text));
        }
        let mut record = Vec::new();
        record::begin(&mut record);
        record.extend_from_slice(&CLOSE_NOTIFY);
        keys.sealing.seal(ContentType::Alert, &mut record).unwrap();
        receive(&mut client, &record).unwrap();
        assert_eq!(client.reader().read(&mut [0; 8]).unwrap(), 0, "close_notify is an end");
    }
}

#[test]
fn a_client_that_returns_resumes_with_its_ticket() {
    let (config, trusted) = server();
    let of_client = Arc::new(client_config(&[&trusted], &rustls::version::TLS13, ALL_CIPHER_SUITES.to_vec()));
    for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let mut client =
            ClientConnection::new(Arc::clone(&of_client), ServerName::try_from("localhost").unwrap()).unwrap();
        let (_, taken, received) = shake_hands(&mut client, Arc::clone(&config));
        taken.unwrap();
        received.unwrap();
        assert_eq!(client.handshake_kind(), Some(kind));
    }
}

#[test]
fn a_client_gets_the_certificate_that_is_valid_for_the_name_it_asks_for() {
    let mut certificates = Certificates::default();
    let names = ["localhost", "*.example.com", "other.example"];
    let trusted: Vec<String> = names
        .map(|name| {
            let (chain, key) = pem(&[name]);
            certificates.add(name.to_owned(), &chain, &key).unwrap();
            chain
        })
        .into();
    let config = certificates.server_config().unwrap();
    let is_trusted = |name: &str, trusted: &[&str]| {
        let of_client = client_config(trusted, &rustls::version::TLS13, ALL_CIPHER_SUITES.to_vec());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(of_client), name).unwrap();
        shake_hands(&mut client, Arc::clone(&config)).2.is_ok()
    };
    for (name, chain) in ["localhost", "events.example.com", "other.example"].into_iter().zip(&trusted) {
        assert!(is_trusted(name, &[chain]), "{name}");
    }
    // For a name that no certificate has, the first one, which its client refuses.
    assert!(!is_trusted("unknown.example", &trusted.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn each_failure_is_told_to_the_client_and_has_its_name() {
    let (config, trusted) = server();
    let check = |of_client: ClientConfig, failure: Failure, alert: Option<AlertDescription>| {
        let (_, taken, received) = shake_hands(&mut for_localhost(of_client), Arc::clone(&config));
        assert_eq!(taken, Err(failure));
        if let Some(alert) = alert {
            assert_eq!(received, Err(Error::AlertReceived(alert)), "{failure:?}");
        }
    };
    let all = || ALL_CIPHER_SUITES.to_vec();
    let old = client_config(&[&trusted], &rustls::version::TLS12, all());
    check(old, Failure::OldVersion, Some(AlertDescription::ProtocolVersion));
    let distrustful = client_config(&[&pem(&["localhost"]).0], &rustls::version::TLS13, all());
    check(distrustful, Failure::RefusedByClient, None);
    let mut other = client_config(&[&trusted], &rustls::version::TLS13, all());
    other.alpn_protocols = vec![b"spdy/3".to_vec()];
    check(other, Failure::OtherProtocol, Some(AlertDescription::NoApplicationProtocol));
    let mut known = client_config(&[&trusted], &rustls::version::TLS13, all());
    known.alpn_protocols = vec![b"h3".to_vec(), b"http/1.1".to_vec()];
    assert!(shake_hands(&mut for_localhost(known), Arc::clone(&config)).1.is_ok());
    let mut handshake = Handshake::new(config).unwrap();
    assert_eq!(handshake.receive(b"\x16\x03\x01\x00\x04nope"), Err(Failure::Broken));
}

#[test]
fn what_is_no_tls_is_known_by_its_first_byte() {
    assert_eq!(record_len(b"", true), Ok(None));
    assert_eq!(record_len(b"\x16\x03", true), Ok(None));
    assert_eq!(record_len(b"\x16\x03\x01\x02\x00", true), Ok(Some(0x205)));
    assert_eq!(record_len(b"\x16\x03\x01\x41\x00", true), Ok(Some(RECORD_BYTES_MAX)));
    assert_eq!(record_len(b"\x16\x03\x01\x41\x01", true), Err(Failure::Broken));
    assert_eq!(record_len(b"GET / ", true), Err(Failure::PlainHttp));
    assert_eq!(record_len(b"P", true), Err(Failure::PlainHttp));
    for first in [b"\x17\x03\x03", b"\x14\x03\x03", b"\x80\x2e\x01", b"get"] {
        assert_eq!(record_len(first, true), Err(Failure::NotTls));
    }
    assert_eq!(record_len(b"\x14\x03\x03\x00\x01", false), Ok(Some(6)));
    assert_eq!(record_len(b"\x18\x03\x03\x00\x01", false), Err(Failure::NotTls));
}

#[test]
fn the_answer_to_plain_http_has_the_length_that_it_says() {
    let answer = std::str::from_utf8(ANSWER_TO_PLAIN_HTTP).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
}
