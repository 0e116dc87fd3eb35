//! Accepted tokens: every algorithm, every kind of key file, every way to send a token.

use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::forge::{
    AUDIENCE, ISSUER, KEY_ID, KeyRing, SECRET, Shown, ask, everything, guarded_server, now, only, signed, signed_with,
    with,
};
use crate::support::server::Server;

const STREAM: (&str, &str) = ("GET", "/events?topic=orders.1");

#[test]
fn every_algorithm_is_accepted_in_every_place() {
    let server = guarded_server(&[]);
    let keys = KeyRing::get();
    let secret = || EncodingKey::from_secret(SECRET.as_bytes());
    for (algorithm, kid, key) in [
        (Algorithm::HS256, None, secret()),
        (Algorithm::HS384, None, secret()),
        (Algorithm::HS512, Some("whatever"), secret()),
        (Algorithm::RS256, None, keys.signing("rsa")),
        (Algorithm::RS256, Some(KEY_ID), keys.signing("rsa")),
        (Algorithm::ES256, Some("whatever"), keys.signing("ec")),
        (Algorithm::EdDSA, None, keys.signing("ed")),
    ] {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        let token = signed_with(&header, &everything(), &key);
        for shown in Shown::ALL {
            let answer = ask(&server, STREAM, shown, &token);
            assert_eq!(answer.status, 200, "{algorithm:?} {kid:?} {shown:?}: {answer}");
        }
        assert_eq!(ask(&server, ("POST", "/publish"), Shown::Header, &token).status, 202, "{algorithm:?}");
    }
}

#[test]
fn claims_are_read_as_rfc_7519_has_them() {
    let server = guarded_server(&["--jwt-audience", "second"]);
    for (name, value) in [
        ("aud", json!("second")),
        ("aud", json!(["others", AUDIENCE])),
        ("exp", json!(now() as f64 + 60.5)),
        ("exp", json!(1e15)),
        ("exp", json!(now() - 5)),
        ("nbf", json!(now() + 5)),
        ("nbf", json!(0)),
        ("sub", Value::Null),
        ("iat", json!("anything")),
        ("other", json!({ "deep": ["claims"] })),
    ] {
        let token = signed(&with(everything(), name, value.clone()));
        let answer = ask(&server, STREAM, Shown::Header, &token);
        assert_eq!(answer.status, 200, "{name}: {value}: {answer}");
    }
    assert_eq!(ask(&server, STREAM, Shown::Header, &signed(&with(everything(), "iss", json!(ISSUER)))).status, 200);
}

#[test]
fn a_cookie_has_the_name_that_is_configured_and_may_be_quoted() {
    let server = guarded_server(&["--jwt-cookie", "__Host-stream"]);
    let token = signed(&everything());
    let check = |cookie: &str, status: u16| {
        let lines = format!("Cookie: {cookie}\r\n");
        assert_eq!(crate::forge::ask_plainly(&server, "GET", STREAM.1, &lines).status, status, "{cookie}");
    };
    check(&format!("__Host-stream={token}"), 200);
    check(&format!("a=1; __Host-stream=\"{token}\"; b=2"), 200);
    check(&format!("fanfare_token={token}"), 401);
}

#[test]
fn keys_are_rotated_by_having_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    let (old, new) = ("the-old-secret-of-thirty-two-bytes!", "the-new-secret-of-thirty-two-bytes!");
    std::fs::write(&path, format!("{old}\n# from today on\n{new}\n")).unwrap();
    let env = [("FANFARE_JWT_SECRET", SECRET)];
    let server = Server::start_with_env(&["--jwt-key-file", path.to_str().unwrap()], &env);
    let claims = with(with(everything(), "aud", Value::Null), "iss", Value::Null);
    let status = |algorithm, secret: &str| {
        let token = signed_with(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes()));
        ask(&server, STREAM, Shown::Header, &token).status
    };
    for secret in [old, new, SECRET] {
        assert_eq!(status(Algorithm::HS256, secret), 200, "{secret}");
    }
    assert_eq!(status(Algorithm::HS256, "the-odd-secret-of-thirty-two-bytes!"), 401);
    assert_eq!(status(Algorithm::HS512, new), 401, "too short a secret for that (RFC 7518, 3.2)");
    let audience = signed(&with(claims.clone(), "aud", json!("others")));
    assert_eq!(ask(&server, STREAM, Shown::Header, &audience).status, 401, "for another audience (RFC 7519, 4.1.3)");
}

#[test]
fn public_topics_take_no_token_and_the_others_do() {
    let server = guarded_server(&["--public-topic", "news", "--public-topic", "public.*"]);
    for (target, status) in [
        ("/events?topic=news", 200),
        ("/events?topic=public.a&topic=news", 200),
        ("/events?topic=news2", 401),
        ("/events?topic=news&topic=orders.1", 401),
        ("/events?topic=fanfare:statistics", 401),
        ("/dashboard/data", 200),
        ("/dashboard/data?topic=news", 200),
        ("/dashboard/data?topic=orders.1", 401),
        ("/topics/orders.1", 401),
        ("/topics", 401),
    ] {
        let answer = crate::forge::ask_plainly(&server, "GET", target, "");
        assert_eq!(answer.status, status, "{target}: {answer}");
    }
    let token = signed(&only(json!({ "subscribe": ["orders.1"] })));
    let both = ("GET", "/events?topic=news&topic=orders.1");
    assert_eq!(ask(&server, both, Shown::Query, &token).status, 200);
    assert_eq!(crate::forge::ask_plainly(&server, "POST", "/publish", "").status, 401);
}

#[test]
fn without_a_key_subscribing_stays_open_whatever_token_is_sent() {
    let server = Server::start(&[]);
    for shown in Shown::ALL {
        assert_eq!(ask(&server, STREAM, shown, "garbage").status, 200, "{shown:?}");
    }
    assert_eq!(ask(&server, ("POST", "/publish"), Shown::Header, &signed(&everything())).status, 401);
}

/// Runs `fanfare`; its exit code and what it said.
fn fanfare(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let output = command.args(args).env_clear().envs(env.iter().copied()).output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn fanfare_token_makes_what_the_server_accepts() {
    let server = guarded_server(&[]);
    let keys = KeyRing::get();
    let claims = ["--audience", AUDIENCE, "--issuer", ISSUER, "--subject", "me"];
    let mint = |args: &[&str], env: &[(&str, &str)]| {
        let (code, said) = fanfare(&[&["token"], &claims[..], args].concat(), env);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1);
        said.trim().to_owned()
    };
    let [rsa, ec, ed] = ["rsa", "ec", "ed"].map(|name| keys.path(name, "private.pem"));
    let secret = keys.path("secret", "txt");
    let check = |place: &[&str], env: &[(&str, &str)]| {
        let subscribe = mint(&[place, &["--subscribe", "orders.*", "--subscribe", "x"]].concat(), env);
        let publish = mint(&[place, &["--publish", "orders.1", "--expires-in", "1m"]].concat(), env);
        let operator = mint(&[place, &["--operator"]].concat(), env);
        for (route, token, let_in) in [
            (STREAM, &subscribe, true),
            (STREAM, &publish, false),
            (("POST", "/publish"), &publish, true),
            (("POST", "/publish"), &subscribe, false),
            (("GET", "/metrics"), &operator, true),
            (("GET", "/metrics"), &subscribe, false),
        ] {
            let answer = ask(&server, route, Shown::Header, token);
            assert_eq!(
                answer.status,
                if let_in { if route.0 == "GET" { 200 } else { 202 } } else { 403 },
                "{place:?}: {answer}"
            );
        }
    };
    check(&["--key-file", &secret], &[]);
    check(&["--key-file", &secret, "--alg", "HS384"], &[]);
    check(&["--key-file", &rsa, "--key-id", KEY_ID], &[]);
    check(&["--key-file", &ec, "--alg", "ES256"], &[]);
    check(&["--key-file", &ed], &[]);
    check(&["--alg", "HS512"], &[("FANFARE_JWT_SECRET", SECRET)]);
}

#[test]
fn the_other_commands_accept_json_web_tokens_as_bearer_tokens() {
    let server = guarded_server(&[]);
    let token = |grants: Value| signed(&only(grants));
    let (reads, writes) = (token(json!({ "subscribe": ["a"] })), token(json!({ "publish": ["a"] })));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, token: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{token}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (read_file, write_file) = (file("reads", &reads), file("writes", &writes));
    let publish = |token: &str| {
        fanfare(&["publish", "--url", &server.url(""), "a", "hello"], &[("FANFARE_PUBLISH_TOKEN", token)])
    };
    let (code, said) = publish(&writes);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = publish(&reads);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("403") && said.contains("not for publishing"), "{said}");

    let stream = server.url("/events?topic=a&replay=all");
    let subscribe = ["subscribe", &stream, "--count", "1", "--data-only"];
    assert_eq!(fanfare(&subscribe, &[("FANFARE_TOKEN", &reads)]), (Some(0), "hello\n".to_owned()));
    let by_file = [&subscribe[..], &["--token-file", &read_file]].concat();
    assert_eq!(fanfare(&by_file, &[]), (Some(0), "hello\n".to_owned()));
    let (code, said) = fanfare(&subscribe, &[("FANFARE_TOKEN", &writes)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("403") && said.contains("topic a"), "{said}");

    let (target, publish_url) = (server.url("/events?topic=a"), server.url("/publish"));
    let load =
        ["load", &target, "-n", "5", "--publish-topic", "a", "--publish-url", &publish_url, "--publish-count", "3"];
    let tokens = ["--publish-rate", "100", "--token-file", &read_file, "--publish-token-file", &write_file];
    let (code, said) = fanfare(&[&load[..], &tokens].concat(), &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_unusable_key_is_reported_with_its_remedy_and_without_its_text() {
    let keys = KeyRing::get();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let refuses = |args: &[&str], env: &[(&str, &str)], words: &[&str]| {
        let (code, said) = fanfare(args, env);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: {word:?} is not in {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    };
    let serve = |path: &str, words: &[&str]| {
        refuses(
            &["serve", "--print-config", "--jwt-key-file", path],
            &[],
            &[&["--jwt-key-file", path], words].concat(),
        );
    };
    serve("/no/such", &["No such file"]);
    serve(&file("empty", "# nothing\n"), &["holds no key"]);
    serve(&file("short", "hunter2"), &["7 bytes", "at least 32", "openssl rand"]);
    serve(&keys.path("rsa", "private.pem"), &["private key", "-pubout"]);
    serve(&keys.path("small-rsa", "public.pem"), &["2048"]);
    serve(&keys.path("ec384", "public.pem"), &["P-256"]);
    serve(&file("torn.pem", "-----BEGIN PUBLIC KEY-----\nhunter2!\n"), &["is not PEM"]);
    serve(&file("set.json", "{\"keys\": [\"hunter2\"\n"), &["is not valid JSON (line"]);
    serve(&file("none.json", "{\"keys\": []}"), &["holds no key"]);
    let others = r#"{"keys": [{"kty": "OKP", "crv": "X25519", "x": "hunter2"}, {"kty": "RSA", "use": "enc", "n": "AA", "e": "AA"}]}"#;
    serve(&file("others.json", others), &["no usable key", "1 that are not for signatures", "1 of other kinds"]);
    serve(&file("many", &format!("{SECRET}\n").repeat(33)), &["above 32"]);
    refuses(&["serve", "--print-config"], &[("FANFARE_JWT_SECRET", "hunter2")], &["FANFARE_JWT_SECRET: holds", "32"]);
    refuses(&["serve", "--print-config", "--jwt-cookie", "a b"], &[], &["--jwt-cookie a b", "cookie's name"]);

    let token = |args: &[&str], words: &[&str]| refuses(&[&["token", "--subscribe", "a"], args].concat(), &[], words);
    token(&[], &["--key-file", "FANFARE_JWT_SECRET"]);
    token(&["--key-file", &keys.path("ed", "public.pem")], &["no key to sign with"]);
    token(&["--key-file", &keys.path("ec384", "private.pem")], &["unsupported kind", "P-256"]);
    token(&["--key-file", &file("short", "hunter2")], &["no key to sign with"]);
    token(&["--key-file", &keys.path("ed", "private.pem"), "--alg", "HS256"], &["can't sign with HS256", "EdDSA"]);
    token(&["--alg", "none"], &["none", "HS256"]);
    refuses(&["token"], &[("FANFARE_JWT_SECRET", SECRET)], &["--subscribe"]);

    let (code, printed) = fanfare(&["serve", "--print-config", "--jwt-key-file", &keys.path("secret", "txt")], &[]);
    assert_eq!(code, Some(0));
    assert!(printed.contains("# JWT keys: 1") && !printed.contains(SECRET), "{printed}");
}
