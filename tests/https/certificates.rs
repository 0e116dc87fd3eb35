//! Certificates that are replaced under load, refused, chosen by name, and reported.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

use crate::streams::subscribe;
use crate::support::secured;
use crate::support::server::Server;

/// A folder with `certificate.pem` and `key.pem`, and what its certificate is.
struct Pair {
    folder: tempfile::TempDir,
    pem: String,
}

impl Pair {
    fn new(names: &[&str]) -> Pair {
        let pair = Pair { folder: tempfile::tempdir().unwrap(), pem: String::new() };
        pair.renewed(names)
    }

    /// With another certificate.
    fn renewed(mut self, names: &[&str]) -> Pair {
        let (certificate, key) = made(names, |_| {});
        self.write(&certificate, &key);
        self.pem = certificate;
        self
    }

    fn write(&self, certificate: &str, key: &str) {
        fs::write(self.path("certificate.pem"), certificate).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
        fs::set_permissions(self.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn options(&self) -> [String; 4] {
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| self.path(name));
        ["--tls-certificate".to_owned(), certificate, "--tls-key".to_owned(), key]
    }
}

/// A certificate for these names, and its key, in PEM.
fn made(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn start(pairs: &[&Pair]) -> Server {
    let options: Vec<String> = pairs.iter().flat_map(|pair| pair.options()).collect();
    let listeners = ["--listen", "tls:127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let options: Vec<&str> = listeners.into_iter().chain(options.iter().map(String::as_str)).collect();
    Server::start(&options)
}

/// The certificate that a client gets who asks for this name and trusts this certificate.
fn shown(server: &Server, name: &'static str, trusted: &str) -> Result<CertificateDer<'static>, String> {
    let name = ServerName::try_from(name).unwrap();
    let connection = ClientConnection::new(Arc::new(secured::config(&[trusted])), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server.address()).unwrap());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    }
    Ok(stream.conn.peer_certificates().unwrap()[0].clone().into_owned())
}

#[test]
fn a_reload_replaces_the_certificate_and_ends_no_stream() {
    let usual = secured::certificate();
    let pem = |name| fs::read_to_string(usual.file(name)).unwrap();
    let pair = Pair::new(&["localhost"]);
    pair.write(&pem("certificate.pem"), &pem("key.pem"));
    let server = start(&[&pair]);
    let mut streams: Vec<_> = (0..20).map(|_| subscribe(&server, "a")).collect();
    let before = shown(&server, "localhost", &pem("certificate.pem")).unwrap();

    let (certificate, key) = made(&["localhost"], |_| {});
    pair.write(&certificate, &key);
    server.signal("HUP");
    server.wait_for_log(&["new handshakes use the new certificates"]);
    let after = shown(&server, "localhost", &certificate).unwrap();
    assert!(before != after);
    assert!(shown(&server, "localhost", &pem("certificate.pem")).is_err());
    // Published over a connection of its own, which needs the certificate that its client knows.
    pair.write(&pem("certificate.pem"), &pem("key.pem"));
    server.signal("HUP");
    crate::support::wait::wait_until("the first certificate is back", || {
        shown(&server, "localhost", &pem("certificate.pem")).is_ok()
    });
    server.publish("a", "after two reloads");
    for stream in &mut streams {
        let frame = String::from_utf8(stream.read_through(b"\n\n").unwrap()).unwrap();
        assert!(frame.contains("data: after two reloads"), "{frame}");
    }
}

#[test]
fn a_broken_pair_changes_nothing_and_is_logged() {
    let pair = Pair::new(&["localhost"]);
    let server = start(&[&pair]);
    let (other, other_key) = made(&["localhost"], |_| {});
    let (expired, expired_key) = made(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    for (certificate, key, words) in [
        (&*other, &*fs::read_to_string(pair.path("key.pem")).unwrap(), "private key of another certificate"),
        ("", &other_key, "holds no certificate"),
        (&other, "", "holds no private key"),
        (&expired, &expired_key, "it has expired"),
    ] {
        pair.write(certificate, key);
        server.signal("HUP");
        server.wait_for_log(&["the previous configuration stays in force", words]);
        assert!(shown(&server, "localhost", &pair.pem).is_ok(), "{words}");
    }
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let pairs = [Pair::new(&["localhost"]), Pair::new(&["*.example.com"]), Pair::new(&["other.example"])];
    let server = start(&pairs.each_ref());
    for (name, pair) in ["localhost", "events.example.com", "other.example"].into_iter().zip(&pairs) {
        assert!(shown(&server, name, &pair.pem).is_ok(), "{name}");
    }
    let refused = shown(&server, "unknown.example", &pairs[0].pem).unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
    server.wait_for_metric("fanfare_tls_handshakes_total{outcome=\"refused_by_client\"}", |count| count == 1.0);
}

#[test]
fn the_expiry_of_each_certificate_is_a_metric_and_a_warning() {
    let day = |year| move |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let [valid, expired] = [(); 2].map(|()| Pair::new(&["localhost"]));
    let (certificate, key) = made(&["localhost"], day(2040));
    valid.write(&certificate, &key);
    let (certificate, key) = made(&["localhost"], day(2020));
    expired.write(&certificate, &key);
    // It starts all the same: plain listeners may serve others.
    let server = start(&[&valid, &expired]);
    for (pair, seconds) in [(&valid, 2_208_988_800.0), (&expired, 1_577_836_800.0)] {
        let file = pair.path("certificate.pem");
        let sample = format!("fanfare_tls_certificate_expires_seconds{{certificate=\"{file}\"}}");
        assert!((server.metric(&sample) - seconds).abs() < 0.5, "{sample} is {}", server.metric(&sample));
    }
    server.wait_for_log(&["a certificate has expired", &expired.path("certificate.pem")]);
}

#[test]
fn a_key_that_others_may_read_is_a_warning() {
    let pair = Pair::new(&["localhost"]);
    fs::set_permissions(Path::new(&pair.path("key.pem")), fs::Permissions::from_mode(0o644)).unwrap();
    let server = start(&[&pair]);
    server.wait_for_log(&["every user of this host may read it", "chmod o-r"]);
    let key = fs::read_to_string(pair.path("key.pem")).unwrap();
    assert!(key.lines().filter(|line| line.len() > 40).all(|line| !server.log().text().contains(line)));
}
