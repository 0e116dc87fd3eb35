//! What a reload takes away: the streams that a key, a token or a claim let in which is no longer there.

use std::cell::Cell;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::forge::{OTHER_SECRET, SECRET, Shown, ask, only, signed_with, with};
use crate::support::server::{Server, TOKEN, loops};
use crate::support::stream::Subscriber;
use crate::support::wait::{eventually, wait_until};

const REVOKED: &str = ": access was revoked\n";
pub(crate) const ORDERS: &str = "/events?topic=orders.1";

/// A server whose settings are all in a file, to be changed by a reload.
struct Reloadable {
    server: Server,
    folder: tempfile::TempDir,
    reloads: Cell<usize>,
}

impl Reloadable {
    #[track_caller]
    fn start(settings: &[&str]) -> Reloadable {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fanfare.toml");
        let text = Reloadable::text(&folder, settings);
        std::fs::write(&path, text).unwrap();
        let env = [("FANFARE_PUBLISH_TOKEN", TOKEN)];
        let server = Server::start_with_env(&["--config", path.to_str().unwrap(), "--log-level", "debug"], &env);
        Reloadable { server, folder, reloads: Cell::new(0) }
    }

    /// The lines of a file; one that names a file's content has that put into one first.
    fn text(folder: &tempfile::TempDir, settings: &[&str]) -> String {
        let line = |setting: &&str| {
            let (name, value) = setting.split_once('=').unwrap();
            if !name.ends_with("-file") {
                return format!("{name} = [\"{}\"]\n", value.replace(',', "\", \""));
            }
            let path = folder.path().join(name);
            std::fs::write(&path, value.replace(',', "\n")).unwrap();
            let path = path.to_str().unwrap();
            if name == "jwt-key-file" { format!("{name} = [\"{path}\"]\n") } else { format!("{name} = \"{path}\"\n") }
        };
        settings.iter().map(line).collect()
    }

    /// Reloads, and waits until that is over.
    #[track_caller]
    fn reload(&self, settings: &[&str]) {
        let text = Reloadable::text(&self.folder, settings);
        std::fs::write(self.folder.path().join("fanfare.toml"), text).unwrap();
        self.reloads.set(self.reloads.get() + 1);
        self.server.signal("HUP");
        let reloads = || self.server.log().text().matches(" reloaded ").count();
        wait_until("it is reloaded", || reloads() == self.reloads.get());
    }
}

/// Claims for servers without audience and issuer.
fn claims(grants: Value) -> Value {
    with(with(only(grants), "aud", Value::Null), "iss", Value::Null)
}

fn signed_by(secret: &str, claims: &Value) -> String {
    signed_with(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[track_caller]
pub(crate) fn open(server: &Server, target: &str, token: &str) -> Subscriber {
    let (target, lines) = Shown::Header.place(target, token);
    Subscriber::over(server.connect(), &target, &lines)
}

#[track_caller]
pub(crate) fn ends(mut subscriber: Subscriber, last_word: &str) {
    assert_eq!(subscriber.block().raw, last_word);
    assert_eq!(subscriber.try_block(), None, "it ends without an error");
}

#[track_caller]
pub(crate) fn stays(server: &Server, subscribers: &mut [Subscriber], topic: &str) {
    server.publish(topic, "still here");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["still here"]));
}

pub(crate) fn status(server: &Server, target: &'static str, token: &str) -> u16 {
    ask(server, ("GET", target), Shown::Header, token).status
}

/// Waits until `expected` streams have closed for this reason.
#[track_caller]
pub(crate) fn closed(server: &Server, reason: &str, expected: usize) {
    server.wait_for_metric(&format!("fanfare_closed_total{{reason=\"{reason}\"}}"), |count| count == expected as f64);
}

#[test]
fn a_reload_without_a_key_ends_the_streams_that_it_let_in() {
    let both = format!("jwt-key-file={SECRET},{OTHER_SECRET}");
    let node = Reloadable::start(&[&both]);
    let server = &node.server;
    let claims = claims(json!({ "subscribe": ["*"] }));
    let [old, new] = [SECRET, OTHER_SECRET].map(|secret| signed_by(secret, &claims));
    let gone = open(server, ORDERS, &old);
    let mut kept = [open(server, ORDERS, &new)];
    node.reload(&[&both]);
    server.publish("orders.1", "nothing has changed");
    kept[0].expect(&["nothing has changed"]);

    node.reload(&[&format!("jwt-key-file={OTHER_SECRET}")]);
    stays(server, &mut kept, "orders.1");
    let mut gone = gone;
    gone.expect(&["nothing has changed"]);
    ends(gone, REVOKED);
    assert_eq!((status(server, ORDERS, &old), status(server, ORDERS, &new)), (401, 200));
    closed(server, "revoked", 1);
    server.wait_for_log(&["reviewed all streams", "ended=1"]);
}

#[test]
fn a_reload_with_other_parties_ends_the_streams_whose_tokens_do_not_name_them() {
    let key = format!("jwt-key-file={SECRET}");
    let check = |before: &str, after: &str, name: &str, values: [&str; 2]| {
        let node = Reloadable::start(&[&key, before]);
        let [gone, kept] = values.map(|value| {
            let token = signed_by(SECRET, &with(claims(json!({ "subscribe": ["*"] })), name, json!(value)));
            open(&node.server, ORDERS, &token)
        });
        node.reload(&[&key, after]);
        stays(&node.server, &mut [kept], "orders.1");
        ends(gone, REVOKED);
    };
    check("jwt-audience=a,b", "jwt-audience=b,c", "aud", ["a", "b"]);
    check("jwt-issuer=a,b", "jwt-issuer=b", "iss", ["a", "b"]);
}

#[test]
fn a_reload_that_closes_topics_ends_the_streams_that_have_them_without_a_token() {
    let key = format!("jwt-key-file={SECRET}");
    let node = Reloadable::start(&[&key, "public-topic=news,public.*"]);
    let server = &node.server;
    let anonymous = |target: &str| Subscriber::open(server, target);
    let token = |grants: Value| signed_by(SECRET, &claims(grants));
    let gone = [
        anonymous("/events?topic=news"),
        anonymous("/events?topic=news&topic=public.a"),
        // The token is for the other topic.
        open(server, "/events?topic=news&topic=orders.1", &token(json!({ "subscribe": ["orders.1"] }))),
    ];
    let mut kept = [
        anonymous("/events?topic=public.a"),
        // The token is for both.
        open(server, "/events?topic=news&topic=public.a&topic=orders.1", &token(json!({ "subscribe": ["*"] }))),
        open(server, "/events?topic=public.a&topic=orders.1", &token(json!({ "subscribe": ["orders.1"] }))),
    ];
    node.reload(&[&key, "public-topic=public.*"]);
    stays(server, &mut kept, "public.a");
    gone.into_iter().for_each(|gone| ends(gone, REVOKED));
    closed(server, "revoked", 3);
}

#[test]
fn the_first_key_ends_every_stream_that_has_no_token() {
    let node = Reloadable::start(&["operator-token-file=operator"]);
    let server = &node.server;
    let gone = [Subscriber::open(server, ORDERS), open(server, ORDERS, "operator")];
    let mixed = open(server, "/events?topic=fanfare:statistics&topic=orders.1", "operator");
    let mut kept = Subscriber::open(server, "/events?topic=news");
    let mut watching = open(server, "/events?topic=fanfare:statistics", "operator");
    node.reload(&["operator-token-file=operator", &format!("jwt-key-file={SECRET}"), "public-topic=news"]);
    stays(server, std::slice::from_mut(&mut kept), "news");
    assert!(watching.event().data().is_some());
    gone.into_iter().for_each(|gone| ends(gone, REVOKED));
    ends_after_statistics(mixed);

    node.reload(&["operator-token-file=another", &format!("jwt-key-file={SECRET}"), "public-topic=news"]);
    ends_after_statistics(watching);
    stays(server, &mut [kept], "news");
}

/// A stream of the statistics, which may have said something before it ends.
#[track_caller]
fn ends_after_statistics(mut subscriber: Subscriber) {
    let end = eventually("its last block", || Some(subscriber.block()).filter(|block| block.data().is_none()));
    assert_eq!(end.raw, REVOKED);
    assert_eq!(subscriber.try_block(), None, "it ends without an error");
}

#[test]
fn an_operators_statistics_end_with_the_key_of_their_token_and_the_admin_listener_keeps_its_own() {
    let node = Reloadable::start(&[&format!("jwt-key-file={SECRET}")]);
    let target = "/events?topic=fanfare:statistics";
    let watching = open(&node.server, target, &signed_by(SECRET, &claims(json!({ "operator": true }))));
    let mut admin = Subscriber::over(node.server.connect_admin(), target, "");
    node.reload(&[&format!("jwt-key-file={OTHER_SECRET}")]);
    ends_after_statistics(watching);
    (0..2).for_each(|_| assert!(admin.event().data().is_some()));
}

/// The number in a log entry's field.
fn field(line: &str, name: &str) -> usize {
    let (_, value) = line.split_once(name).expect("the entry has this field");
    value.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_reload_ends_all_streams_of_a_removed_key_and_no_others() {
    const CROWD: usize = 700;
    let both = format!("jwt-key-file={SECRET},{OTHER_SECRET}");
    let node = Reloadable::start(&[&both]);
    let claims = claims(json!({ "subscribe": ["*"] }));
    let [old, new] = [SECRET, OTHER_SECRET].map(|secret| signed_by(secret, &claims));
    // More than one turn ends, with a survivor among every three.
    let all: Vec<_> = (0..CROWD).map(|n| open(&node.server, ORDERS, if n % 3 == 0 { &new } else { &old })).collect();
    node.reload(&[&format!("jwt-key-file={OTHER_SECRET}")]);
    let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 3 == 0);
    let reviews = || node.server.log().text().matches("reviewed all streams").count();
    wait_until("each loop has reviewed all streams", || reviews() == loops());
    let log = node.server.log().text();
    let ended = log.lines().filter(|line| line.contains("reviewed all streams")).map(|line| field(line, "ended="));
    assert_eq!(ended.sum::<usize>(), gone.len());
    let mut kept: Vec<_> = kept.into_iter().map(|(_, subscriber)| subscriber).collect();
    stays(&node.server, &mut kept, "orders.1");
    gone.into_iter().for_each(|(_, subscriber)| ends(subscriber, REVOKED));
    closed(&node.server, "revoked", CROWD - kept.len());
}
