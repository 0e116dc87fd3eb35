//! Keys, tokens that say anything, and a server that has every kind of key.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare::auth::SigningKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::http::Answer;
use crate::support::server::{Server, publish_request};

/// The secret that servers here accept, long enough for every HMAC.
pub(crate) const SECRET: &str = "a-secret-that-is-long-enough-for-hs512-and-then-some-0123456789abcdef";
/// One that they don't.
pub(crate) const OTHER_SECRET: &str = "another-secret-that-is-long-enough-for-hs512-0123456789abcdefghijklm";
pub(crate) const AUDIENCE: &str = "fanfare-tests";
pub(crate) const ISSUER: &str = "https://issuer.example";
/// The id of the RSA key, which servers here have from a JWKS.
pub(crate) const KEY_ID: &str = "rsa-2026";

/// A folder of keys: `rsa`, `ec` and `ed`, which servers here accept, and `stranger-rsa`, which they don't.
pub(crate) struct KeyRing(tempfile::TempDir);

impl KeyRing {
    /// The same for all tests.
    pub(crate) fn get() -> &'static KeyRing {
        static KEYS: OnceLock<KeyRing> = OnceLock::new();
        KEYS.get_or_init(KeyRing::make)
    }

    fn make() -> KeyRing {
        let ring = KeyRing(tempfile::tempdir().unwrap());
        for (name, kind) in [
            ("rsa", &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
            ("stranger-rsa", &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"]),
            ("small-rsa", &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"]),
            ("ec", &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
            ("ec384", &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
            ("ed", &["-algorithm", "ed25519"]),
        ] {
            let (private, public) = (ring.path(name, "private.pem"), ring.path(name, "public.pem"));
            openssl(&[&["genpkey", "-out", &private][..], kind].concat());
            openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
        }
        std::fs::write(ring.path("secret", "txt"), format!("# for tests\n{SECRET}\n")).unwrap();
        std::fs::write(ring.path("rsa", "jwks"), ring.rsa_jwks().to_string()).unwrap();
        ring
    }

    /// A file's path, as text.
    pub(crate) fn path(&self, name: &str, kind: &str) -> String {
        let path: PathBuf = self.0.path().join(format!("{name}.{kind}"));
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn public_pem(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name, "public.pem")).unwrap()
    }

    /// A set with the RSA key, and some that are for encryption or of other kinds, as providers have them.
    fn rsa_jwks(&self) -> Value {
        let output = openssl(&["rsa", "-pubin", "-in", &self.path("rsa", "public.pem"), "-noout", "-modulus"]);
        let hex = output.trim().strip_prefix("Modulus=").unwrap();
        let digits: Vec<_> = hex.bytes().map(|b| char::from(b).to_digit(16).unwrap() as u8).collect();
        let modulus: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let modulus = base64_url(&modulus);
        json!({ "keys": [
            { "kty": "RSA", "use": "enc", "kid": "enc", "alg": "RSA-OAEP", "n": modulus, "e": "AQAB" },
            { "kty": "EC", "crv": "P-521", "kid": "odd", "x": "AA", "y": "AA" },
            { "kty": "OKP", "crv": "X25519", "use": "enc", "kid": "odd", "x": "AA" },
            { "kty": "OKP", "crv": "Ed448", "kid": "odd", "x": "AA" },
            { "kty": "EC", "crv": "secp256k1", "kid": "odd", "x": "AA", "y": "AA" },
            { "kty": "RSA", "kid": 7, "n": modulus, "e": "AQAB" },
            { "kty": "RSA", "use": "sig", "kid": KEY_ID, "alg": "RS256", "n": modulus, "e": "AQAB" },
        ]})
    }

    /// The private key of a name, for an algorithm.
    pub(crate) fn signing(&self, name: &str) -> EncodingKey {
        let pem = std::fs::read_to_string(self.path(name, "private.pem")).unwrap();
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64(&text);
        match name {
            "ec" => EncodingKey::from_ec_der(&der),
            "ed" => EncodingKey::from_ed_der(&der),
            _ => EncodingKey::from_rsa_der(&der),
        }
    }
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().expect("tests/setup has installed openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 as tokens have it, without padding (RFC 7515, 2).
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|n| text.push(ALPHABET[(bits >> (18 - 6 * n)) as usize & 63] as char));
    }
    text
}

/// Bytes of base64 of either alphabet.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte| match byte {
        b'+' => 62,
        b'/' => 63,
        other => ALPHABET.iter().position(|known| *known == other).unwrap() as u32,
    };
    let text = text.trim_end_matches('=').as_bytes();
    let decode = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 6 | value(*byte)) << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    };
    text.chunks(4).flat_map(decode).collect()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that let their holder do everything, for an hour.
pub(crate) fn everything() -> Value {
    json!({
        "aud": AUDIENCE, "iss": ISSUER, "sub": "tester", "exp": now() + 3600,
        "fanfare": { "subscribe": ["*"], "publish": ["*"], "operator": true },
    })
}

/// Claims that grant just this.
pub(crate) fn only(grants: Value) -> Value {
    with(everything(), "fanfare", grants)
}

/// The claims with another value under a name; null takes it away.
pub(crate) fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
        value => claims[name] = value,
    }
    claims
}

/// A token signed with the secret that servers accept.
pub(crate) fn signed(claims: &Value) -> String {
    signed_with(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

pub(crate) fn signed_with(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    // A user that makes such a key has the tool to sign with it.
    SigningKey::from_secret(SECRET).unwrap();
    encode(header, claims, key).unwrap()
}

/// A header and claims as they are, with a signature as it is.
pub(crate) fn by_hand(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| base64_url(value.to_string().as_bytes());
    format!("{}.{}.{}", part(header), part(claims), base64_url(signature))
}

/// A server with every kind of key, that logs all it can.
#[track_caller]
pub(crate) fn guarded_server(options: &[&str]) -> Server {
    guarded_server_with_env(options, &[])
}

#[track_caller]
pub(crate) fn guarded_server_with_env(options: &[&str], env: &[(&str, &str)]) -> Server {
    let keys = KeyRing::get();
    let files = [
        keys.path("secret", "txt"),
        keys.path("rsa", "jwks"),
        keys.path("ec", "public.pem"),
        keys.path("ed", "public.pem"),
    ];
    let mut all = vec!["--jwt-audience", AUDIENCE, "--jwt-issuer", ISSUER, "--log-level", "trace"];
    files.iter().for_each(|file| all.extend(["--jwt-key-file", file]));
    Server::start_with_env(&[&all, options].concat(), env)
}

/// How a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Header,
    Cookie,
    Query,
}

impl Shown {
    pub(crate) const ALL: [Shown; 3] = [Shown::Header, Shown::Cookie, Shown::Query];

    /// The target and the header lines of a request that shows the token.
    pub(crate) fn place(self, target: &str, token: &str) -> (String, String) {
        match self {
            Shown::Header => (target.to_owned(), format!("Authorization: Bearer {token}\r\n")),
            Shown::Cookie => (target.to_owned(), format!("Cookie: a=b; fanfare_token={token}\r\n")),
            Shown::Query => {
                let joint = if target.contains('?') { '&' } else { '?' };
                (format!("{target}{joint}access_token={token}"), String::new())
            }
        }
    }
}

/// A method and a target.
pub(crate) type Route = (&'static str, &'static str);

/// Asks for a route with further header lines, as EventSource would; of a stream only the head is read.
#[track_caller]
pub(crate) fn ask(server: &Server, (method, target): Route, shown: Shown, token: &str) -> Answer {
    let (target, header_lines) = shown.place(target, token);
    ask_plainly(server, method, &target, &header_lines)
}

#[track_caller]
pub(crate) fn ask_plainly(server: &Server, method: &str, target: &str, header_lines: &str) -> Answer {
    let mut client = server.connect();
    match method {
        "POST" => {
            let request = publish_request(r#"{"topic":"orders.1","data":"x"}"#, header_lines);
            client.send(request.replace("/publish", target));
        }
        method => client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{header_lines}\r\n"
        )),
    }
    let answer = client.head();
    match answer.header("content-length") {
        Some(length) if method != "HEAD" => {
            let body = client.read_exactly(length.parse().unwrap());
            Answer { body, ..answer }
        }
        _ => answer,
    }
}
