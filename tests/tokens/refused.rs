//! Every way to be let in wrongly, on every route.

use fanfare::auth::LEEWAY;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::forge::{
    AUDIENCE, KEY_ID, KeyRing, OTHER_SECRET, Route, SECRET, Shown, ask, ask_plainly, base64_url, by_hand, everything,
    guarded_server, guarded_server_with_env, now, only, signed, signed_with, with,
};
use crate::support::server::Server;

/// Everything that is guarded once there is a key.
const ROUTES: [Route; 13] = [
    ("GET", "/events?topic=orders.1"),
    ("GET", "/events"),
    ("GET", "/events?topic=orders.1&topic=fanfare:statistics"),
    ("GET", "/events?topic=fanfare:statistics"),
    ("HEAD", "/events?topic=orders.1"),
    ("GET", "/dashboard/stream"),
    ("GET", "/sse"),
    ("GET", "/dashboard/data"),
    ("GET", "/dashboard/data?topic=orders.1"),
    ("GET", "/topics"),
    ("GET", "/topics/orders.1"),
    ("GET", "/dashboard/debug"),
    ("GET", "/metrics"),
];
const PUBLISH: Route = ("POST", "/publish");

fn every_route() -> impl Iterator<Item = Route> {
    ROUTES.into_iter().chain([PUBLISH])
}

/// Tokens that would let their holder do everything but for one flaw, by that flaw.
fn flawed_tokens() -> Vec<(&'static str, String)> {
    let keys = KeyRing::get();
    let leeway = LEEWAY.as_secs();
    let hs256 = Header::new(Algorithm::HS256);
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let claim = |name: &str, value: Value| signed(&with(everything(), name, value));
    let good = signed(&everything());
    let parts: Vec<&str> = good.split('.').collect();
    let none = |name: &str| by_hand(&json!({ "alg": name, "typ": "JWT" }), &everything(), b"");
    let confused = |pem: &str| signed_with(&hs256, &everything(), &EncodingKey::from_secret(pem.as_bytes()));
    let rsa = |kid: Option<&str>, key: &str| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::RS256) };
        signed_with(&header, &everything(), &keys.signing(key))
    };
    let mut crit = hs256.clone();
    crit.crit = Some(vec!["b64".to_owned()]);
    let embedded = json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": base64_url(OTHER_SECRET.as_bytes()) } });
    let stranger = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let more = by_hand(&json!({}), &with(everything(), "sub", json!("somebody else")), b"");
    vec![
        ("expired", claim("exp", json!(now() - leeway - 1))),
        ("long expired", claim("exp", json!(0))),
        ("expired before 1970", claim("exp", json!(-1e300))),
        ("not valid yet", claim("nbf", json!(now() + leeway + 60))),
        ("no exp", claim("exp", Value::Null)),
        ("exp is null", signed(&json!({ "exp": null, "aud": AUDIENCE, "fanfare": { "subscribe": ["*"] } }))),
        ("exp is text", claim("exp", json!((now() + 3600).to_string()))),
        ("nbf is text", claim("nbf", json!("0"))),
        ("no audience", claim("aud", Value::Null)),
        ("another audience", claim("aud", json!("others"))),
        ("other audiences", claim("aud", json!(["others", format!("{AUDIENCE}2"), AUDIENCE.to_uppercase()]))),
        ("odd audience", claim("aud", json!({ "of": AUDIENCE }))),
        ("no issuer", claim("iss", Value::Null)),
        ("another issuer", claim("iss", json!("https://issuer.example.evil.test"))),
        ("odd grants", claim("fanfare", json!(["*"]))),
        ("odd patterns", claim("fanfare", json!({ "subscribe": "*", "publish": "*", "operator": true }))),
        ("wrong secret", signed_with(&hs256, &everything(), &stranger)),
        ("wrong secret, HS512", signed_with(&Header::new(Algorithm::HS512), &everything(), &stranger)),
        ("wrong RSA key", rsa(None, "stranger-rsa")),
        ("wrong RSA key under the right id", rsa(Some(KEY_ID), "stranger-rsa")),
        ("right RSA key under a wrong id", rsa(Some("rsa-2025"), "rsa")),
        ("right RSA key under the id of one for encryption", rsa(Some("enc"), "rsa")),
        ("alg none", none("none")),
        ("alg None", none("None")),
        ("alg NONE", none("NONE")),
        ("alg nothing", none("")),
        ("alg none with a signature", by_hand(&json!({ "alg": "none" }), &everything(), b"signature")),
        ("no alg", by_hand(&json!({ "typ": "JWT" }), &everything(), b"")),
        ("alg of another kind", by_hand(&json!({ "alg": ["HS256"] }), &everything(), b"")),
        ("unknown alg", by_hand(&json!({ "alg": "HS1" }), &everything(), b"signature")),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("without its third part", format!("{}.{}", parts[0], parts[1])),
        ("a fourth part", format!("{good}.{}", parts[2])),
        ("RS256 public PEM as HS256 secret", confused(&keys.public_pem("rsa"))),
        ("RS256 public PEM, trimmed, as HS256 secret", confused(keys.public_pem("rsa").trim())),
        ("ES256 public PEM as HS256 secret", confused(&keys.public_pem("ec"))),
        ("EdDSA public PEM as HS256 secret", confused(&keys.public_pem("ed"))),
        ("HS256 signature as RS256", format!("{}.{}.{}", base64_url(br#"{"alg":"RS256"}"#), parts[1], parts[2])),
        ("HS256 signature as HS384", format!("{}.{}.{}", base64_url(br#"{"alg":"HS384"}"#), parts[1], parts[2])),
        ("an empty ES256 signature", by_hand(&json!({ "alg": "ES256" }), &everything(), &[0; 64])),
        ("an empty EdDSA signature", by_hand(&json!({ "alg": "EdDSA" }), &everything(), &[0; 64])),
        ("other claims under a signature", format!("{}.{}.{}", parts[0], more.split('.').nth(1).unwrap(), parts[2])),
        ("a key of its own", by_hand(&embedded, &everything(), b"")),
        ("critical header", signed_with(&crit, &everything(), &secret)),
        ("truncated", good[..good.len() - 1].to_owned()),
        ("half", good[..good.len() / 2].to_owned()),
        ("longer", format!("{good}A")),
        ("padded", format!("{good}=")),
        ("a flipped bit", flipped(&good)),
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("not base64", "a.b.c".to_owned()),
        ("not text", by_hand(&json!("x"), &json!("y"), &[0xff; 32])),
        ("huge", format!("{good}{}", "A".repeat(7000))),
        ("deep", format!("{}.{}.{}", parts[0], base64_url("[".repeat(4000).as_bytes()), parts[2])),
    ]
}

/// The token with another first letter of its signature.
fn flipped(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{other}{}", &signature[1..])
}

/// The token is in nothing that the server writes.
fn is_in_no_log(server: &Server, tokens: &[String]) {
    server.wait_for_log(&["request", "path"]);
    let debug = server.get_admin("/dashboard/debug").text().to_owned();
    let metrics = server.get_admin("/metrics").text().to_owned();
    let log = server.log().text();
    assert!(log.contains("denied"), "the log is at its fullest: {log}");
    for written in [&log, &debug, &metrics] {
        assert!(!written.contains("access_token"), "a query is shown");
        for token in tokens {
            let shown = token.split('.').filter(|part| part.len() >= 16).find(|part| written.contains(part));
            assert_eq!(shown, None, "a part of a token is shown");
        }
    }
}

#[test]
fn flawed_tokens_are_accepted_nowhere_and_shown_nowhere() {
    let server = guarded_server(&["--stream-endpoint", "/sse", "--max-connections-per-ip", "100000"]);
    let tokens = flawed_tokens();
    let mut asked = 0;
    for (flaw, token) in &tokens {
        for route in every_route() {
            let answer = ask(&server, route, Shown::Header, token);
            assert_eq!(answer.status, 401, "{flaw}: {route:?}: {answer}");
            let challenge = answer.header("www-authenticate").unwrap();
            let is_explained =
                challenge.starts_with("Bearer realm=\"") && challenge.contains(", error=\"invalid_token\"");
            assert!(is_explained, "{flaw}: {challenge}");
            if route.0 != "HEAD" {
                assert_eq!(answer.problem(), "Not authorized");
            }
            asked += 1;
        }
        for shown in [Shown::Cookie, Shown::Query] {
            assert_eq!(ask(&server, ROUTES[0], shown, token).status, 401, "{flaw} {shown:?}");
            asked += 1;
        }
    }
    assert_eq!(server.metric("fanfare_denied_total{reason=\"invalid_token\"}"), f64::from(asked));
    assert_eq!(server.metric("fanfare_connections{kind=\"stream\"}"), 0.0);
    assert_eq!(server.metric("fanfare_broadcasts_total"), 0.0);
    is_in_no_log(&server, &tokens.into_iter().map(|(_, token)| token).collect::<Vec<_>>());
}

#[test]
fn requests_without_a_token_are_refused_everywhere() {
    let server = guarded_server(&["--stream-endpoint", "/sse"]);
    let token = signed(&everything());
    for route in every_route() {
        for lines in [
            String::new(),
            format!("Authorization: Basic {token}\r\n"),
            format!("Authorization: {token}\r\n"),
            format!("Authorization: Bearer{token}\r\n"),
            format!("Proxy-Authorization: Bearer {token}\r\n"),
            format!("Cookie: token={token}\r\n"),
            format!("Cookie: fanfare_token2={token}\r\n"),
            "Cookie: fanfare_token\r\n".to_owned(),
        ] {
            let answer = ask_plainly(&server, route.0, route.1, &lines);
            assert_eq!(answer.status, 401, "{route:?} {lines}: {answer}");
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Bearer realm=\"") && !challenge.contains("error"), "{challenge}");
        }
        let twice = format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n");
        assert_eq!(ask_plainly(&server, route.0, route.1, &twice).status, 400);
    }
    for open in ["/", "/dashboard", "/health", "/health/live", "/health/ready", "/fanfare.js"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    for admin in ["/metrics", "/dashboard/debug", "/topics", "/health"] {
        assert_eq!(server.get_admin(admin).status, 200, "{admin}: who reaches that listener is an operator");
    }
}

#[test]
fn a_token_in_a_place_that_is_not_read_is_ignored() {
    let server = guarded_server(&["--stream-endpoint", "/sse"]);
    let token = signed(&everything());
    let check = |route: Route, shown: Shown, is_let_in: bool| {
        let answer = ask(&server, route, shown, &token);
        assert_eq!(answer.status < 300, is_let_in, "{route:?} {shown:?}: {answer}");
        assert!(is_let_in || answer.status == 401, "{answer}");
    };
    server.post(r#"{"topic":"orders.1","data":"x"}"#);
    check(PUBLISH, Shown::Header, true);
    for route in ROUTES {
        check(route, Shown::Header, true);
        let is_stream =
            !route.1.starts_with("/dashboard/d") && !route.1.starts_with("/topics") && route.1 != "/metrics";
        check(route, Shown::Query, is_stream);
        let is_for_operators = ["/topics", "/metrics", "/dashboard/debug"].contains(&route.1);
        check(route, Shown::Cookie, !is_for_operators);
    }
    // A page of any site can make a browser send these along: they publish nothing.
    check(PUBLISH, Shown::Cookie, false);
    check(PUBLISH, Shown::Query, false);
    let spare = "Authorization: Bearer garbage\r\n";
    let (_, cookie) = Shown::Cookie.place("", &token);
    assert_eq!(ask_plainly(&server, "GET", "/events", &format!("{spare}{cookie}")).status, 401, "the header wins");
    is_in_no_log(&server, &[token]);
}

#[test]
fn a_cookie_is_not_taken_from_pages_of_other_sites() {
    let server = guarded_server(&["--cors-origin", "https://app.example"]);
    let public = guarded_server(&["--cors-origin", "*"]);
    let (_, cookie) = Shown::Cookie.place("", &signed(&everything()));
    let check = |server: &Server, origin: &str, status: u16, allowed: [Option<&str>; 2]| {
        let lines = format!("{cookie}{origin}");
        let answer = ask_plainly(server, "GET", "/events", &lines);
        assert_eq!(answer.status, status, "{origin}: {answer}");
        let headers = ["access-control-allow-origin", "access-control-allow-credentials"];
        assert_eq!(headers.map(|name| answer.header(name)), allowed, "{origin}");
    };
    let app = Some("https://app.example");
    check(&server, "", 200, [None, None]);
    check(&server, "Origin: https://app.example\r\n", 200, [app, Some("true")]);
    check(&server, "Origin: http://localhost\r\n", 200, [None, None]);
    for foreign in ["https://evil.test", "http://app.example", "null", "https://localhost.evil.test"] {
        check(&server, &format!("Origin: {foreign}\r\n"), 401, [None, None]);
    }
    // What is for every page never is for who its visitor happens to be.
    check(&public, "Origin: https://app.example\r\n", 401, [Some("*"), None]);
    check(&public, "Origin: http://localhost\r\n", 200, [Some("*"), None]);
}

#[test]
fn claims_bind_every_route() {
    let server = guarded_server(&["--stream-endpoint", "/sse", "--default-topic", "orders.1"]);
    let publisher = signed(&everything());
    for topic in ["orders.1", "orders.2", "secret"] {
        let body = json!({ "topic": topic, "data": format!("of {topic}") }).to_string();
        let request = crate::support::server::publish_request(&body, &format!("Authorization: Bearer {publisher}\r\n"));
        assert_eq!(server.request(&request).status, 202);
    }
    let streams =
        [ROUTES[0], ROUTES[1], ("GET", "/sse"), ("HEAD", "/events"), ("GET", "/dashboard/data?topic=orders.1")];
    let check = |grants: Value, routes: &[Route], status: u16| {
        let token = signed(&only(grants.clone()));
        for route in routes {
            let answer = ask(&server, *route, Shown::Header, &token);
            assert_eq!(answer.status, status, "{grants}: {route:?}: {answer}");
            if status == 403 {
                assert!(
                    answer.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\""),
                    "{answer}"
                );
            }
        }
    };
    let operators = [("GET", "/topics"), ("GET", "/dashboard/debug"), ("GET", "/metrics"), ROUTES[3]];
    let topic = ("GET", "/topics/orders.1");

    for covering in ["orders.1", "orders.*", "orders.1*", "o*", "*"] {
        check(json!({ "subscribe": ["x", covering] }), &streams, 200);
        check(json!({ "subscribe": [covering] }), &[topic], 200);
        check(json!({ "publish": ["x", covering] }), &[PUBLISH], 202);
        // What is for one thing is for nothing else.
        check(json!({ "publish": [covering] }), &streams, 403);
        check(json!({ "publish": [covering] }), &[topic], 403);
        check(json!({ "subscribe": [covering] }), &[PUBLISH], 403);
        check(json!({ "subscribe": [covering], "publish": [covering] }), &operators, 403);
    }
    for trick in
        ["orders", "orders.", "orders.10*", "orders.1.*", "*.1", "o*1", "Orders.1", "orders.?", "", " *", "orders.2"]
    {
        check(json!({ "subscribe": [trick], "publish": [trick] }), &streams, 403);
        check(json!({ "subscribe": [trick], "publish": [trick] }), &[topic, PUBLISH], 403);
    }
    check(json!({ "operator": true }), &operators, 200);
    check(json!({ "operator": true }), &[topic], 200);
    check(json!({ "operator": true }), &streams, 403);
    let own = [("GET", "/topics/fanfare:statistics")];
    check(json!({ "subscribe": ["*", "fanfare:*", "fanfare:statistics"] }), &own, 403);
    check(json!({ "operator": true }), &[PUBLISH], 403);
    check(json!({}), &streams, 403);
    check(json!({}), &operators, 403);
    check(json!({}), &[topic, PUBLISH], 403);
    check(json!({ "subscribe": ["*"] }), &[("GET", "/events?topic=orders.1&topic=fanfare:statistics")], 403);
    // One topic too many is too many.
    let two = [("GET", "/events?topic=orders.1&topic=secret"), ("GET", "/dashboard/data?topic=orders.1&topic=secret")];
    check(json!({ "subscribe": ["orders.*"] }), &two, 403);
    check(json!({ "subscribe": ["orders.*", "secret"] }), &two, 200);
    // A name is compared as it is decoded.
    check(
        json!({ "subscribe": ["orders.*"] }),
        &[("GET", "/events?topic=orders%2E1"), ("GET", "/topics/orders%2e1")],
        200,
    );
    check(json!({ "subscribe": ["orders%2E1"] }), &streams, 403);
}

#[test]
fn the_snapshot_holds_only_what_the_claims_name() {
    let server = guarded_server_with_env(&[], &[("FANFARE_PUBLISH_TOKEN", crate::support::server::TOKEN)]);
    for topic in ["orders.1", "orders.2", "secret"] {
        server.publish(topic, "x");
    }
    let check = |grants: Value, expected: &[&str]| {
        let answer = ask(&server, ("GET", "/dashboard/data"), Shown::Header, &signed(&only(grants)));
        let snapshot = answer.json();
        let mut topics: Vec<_> = snapshot["topics"].as_object().unwrap().keys().collect();
        topics.sort();
        assert_eq!(topics, expected, "{answer}");
    };
    check(json!({ "subscribe": ["*"] }), &["orders.1", "orders.2", "secret"]);
    check(json!({ "subscribe": ["orders.*"] }), &["orders.1", "orders.2"]);
    check(json!({ "subscribe": ["secret", "none"] }), &["secret"]);
    check(json!({ "publish": ["*"], "operator": true }), &[]);
}

#[test]
fn an_array_is_published_whole_or_not_at_all() {
    let server = guarded_server(&[]);
    let token = signed(&only(json!({ "publish": ["orders.*"] })));
    let body = json!([{ "topic": "orders.1", "data": "a" }, { "topic": "secret", "data": "b" }]).to_string();
    let request = crate::support::server::publish_request(&body, &format!("Authorization: Bearer {token}\r\n"));
    let answer = server.request(&request);
    assert_eq!((answer.status, answer.problem().as_str()), (403, "Not permitted"));
    assert!(answer.text().contains("secret"), "{answer}");
    assert_eq!(server.metric("fanfare_broadcasts_total"), 0.0);
}

#[test]
fn the_configured_tokens_stay_what_they_are() {
    let env = [("FANFARE_PUBLISH_TOKEN", "publishers"), ("FANFARE_OPERATOR_TOKEN", "operators")];
    let server = guarded_server_with_env(&[], &env);
    let check = |route: Route, shown: Shown, token: &str, status: u16| {
        assert_eq!(ask(&server, route, shown, token).status, status, "{route:?} {shown:?} {token}");
    };
    check(PUBLISH, Shown::Header, "publishers", 202);
    check(PUBLISH, Shown::Header, "operators", 401);
    for route in [("GET", "/metrics"), ("GET", "/dashboard/debug"), ("GET", "/topics"), ("GET", "/topics/orders.1")] {
        check(route, Shown::Header, "operators", 200);
        check(route, Shown::Header, "publishers", 401);
        check(route, Shown::Query, "operators", 401);
    }
    check(ROUTES[3], Shown::Header, "operators", 200);
    check(ROUTES[3], Shown::Query, "operators", 401);
    for token in ["operators", "publishers"] {
        check(ROUTES[0], Shown::Header, token, 401);
        check(("GET", "/dashboard/data"), Shown::Header, token, 401);
    }
    is_in_no_log(&server, &["publishers".to_owned()]);
}

#[test]
fn the_token_is_checked_before_the_topics_and_the_refusal_names_the_places_for_it() {
    let server = guarded_server(&["--jwt-cookie", "session"]);
    let many: String = (0..65).map(|n| format!("topic={n}&")).collect();
    for target in ["/events?topic=orders.1", &format!("/events?{many}"), "/events?topic=a*", "/events?topic=%0A"] {
        let answer = server.get(target);
        assert_eq!(answer.status, 401, "{target}: {answer}");
        for place in ["Authorization: Bearer", "cookie session", "access_token="] {
            assert!(answer.text().contains(place), "{answer}");
        }
    }
    let snapshot = server.get("/dashboard/data").text().to_owned();
    assert!(snapshot.contains("cookie session") && !snapshot.contains("access_token"), "{snapshot}");
}
