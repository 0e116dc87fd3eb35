//! The publish body's tables.

use super::*;

const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 10, data_bytes_max: 20, batch_max: 3 };

fn event(topic: &str, data: &str) -> Event {
    Event::message(Topic::new(topic).unwrap(), data)
}

fn check(body: &str, expected: &[Event]) {
    assert_eq!(parse(body.as_bytes(), &LIMITS).as_deref(), Ok(expected), "{body}");
}

fn check_refused(body: impl AsRef<[u8]>, (status, message): (u16, &str)) {
    let shown = String::from_utf8_lossy(body.as_ref());
    let error = parse(body.as_ref(), &LIMITS).expect_err(&shown);
    assert_eq!((error.status(), error.to_string().as_str()), (status, message), "{shown}");
}

#[test]
fn strings_are_taken_as_text_and_other_json_as_it_is() {
    let check_data = |data: &str, expected: &str| {
        check(&format!(r#"{{"topic":"t","data":{data}}}"#), &[event("t", expected)]);
    };
    check_data(r#""plain""#, "plain");
    check_data(r#""a\nb\u00e9\ud83d\ude00""#, "a\nbé😀");
    check_data(r#""""#, "");
    check_data("null", "null");
    check_data("true", "true");
    check_data("1.10e+400", "1.10e+400");
    check_data("12345678901234567890", "12345678901234567890");
    check_data(r#" {"b" :1.0, "a":2} "#, r#"{"b" :1.0, "a":2}"#);
    check_data("[\n1,\r\n2]", "[\n1,\r\n2]");
    check_data(r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#);
}

#[test]
fn every_field_is_taken() {
    let full = Event {
        id: Some(EventId::new("i-1").unwrap()),
        event_type: Some(EventType::new("tick").unwrap()),
        retry: Some(Duration::from_millis(1500)),
        ..event("tö", "x")
    };
    check(r#" {"retry":1500,"id":"i-1","event":"tick","data":"x","t\u006fpic":"t\u00f6"} "#, &[full]);
    let retry = Some(Duration::from_millis(1500));
    check(r#"{"topic":"t","data":"x","retry":1.5e3}"#, &[Event { retry, ..event("t", "x") }]);
    check(r#"{"topic":"t","data":"x","id":null,"event":null,"retry":null}"#, &[event("t", "x")]);
    check(r#"[{"topic":"a","data":1},{"topic":"b","data":"2"}]"#, &[event("a", "1"), event("b", "2")]);
}

#[test]
fn refusals_name_the_mistake_its_place_and_what_is_allowed() {
    let check = |body: &str, message: &str| check_refused(body, (400, message));
    let object = "an event is a JSON object with \"topic\" and \"data\"";
    check("7", object);
    check("\"x\"", object);
    check("[[]]", &format!("event 0: {object}"));
    check("{}", "field \"topic\" is missing");
    check(r#"{"topic":"t"}"#, "field \"data\" is missing");
    check(r#"[{"topic":"t","data":1},{"data":1}]"#, "event 1: field \"topic\" is missing");
    check(
        r#"{"topic":"t","data":1,"payload\n":2}"#,
        "unknown field \"payload\\n\": the fields are topic, data, event, id and retry",
    );
    check(
        r#"{"topic":"t","data":1,"event":"e","id":"i","retry":1,"x":1}"#,
        "unknown field \"x\": the fields are topic, data, event, id and retry",
    );
    check(r#"{"topic":"t","data":1,"data":1}"#, "field \"data\" appears more than once");
    check(
        r#"{"topic":"t","data":1,"data":1,"data":1,"a":1,"b":1,"c":1,"d":1}"#,
        "field \"data\" appears more than once",
    );
    check(r#"{"topic":1,"data":1}"#, "field \"topic\" must be a string of Unicode text");
    check(r#"{"topic":"","data":1}"#, "field \"topic\" must not be empty: \"\"");
    check(r#"{"topic":"12345678901","data":1}"#, "field \"topic\" is longer than 10 bytes: \"12345678901\"");
    check(r#"{"topic":"a\nb","data":1}"#, "field \"topic\" holds a character that is not allowed: \"a\\nb\"");
    check(r#"{"topic":"t","data":"\ud800"}"#, "field \"data\" must be a string of Unicode text");
    check(
        r#"{"topic":"t","data":1,"event":"gap"}"#,
        "field \"event\" is reserved for the server itself (choose another): \"gap\"",
    );
    check(r#"{"topic":"t","data":1,"id":"a b"}"#, "field \"id\" holds a character that is not allowed: \"a b\"");
    check(r#"{"topic":"t","data":1,"id":7}"#, "field \"id\" must be a string of Unicode text");
    for retry in ["-1", "1.5", "\"1\"", "4294967296"] {
        let body = format!(r#"{{"topic":"t","data":1,"retry":{retry}}}"#);
        check(&body, "field \"retry\" must be whole milliseconds from 0 to 4294967295");
    }
    check("[]", "the array is empty: at least one event is expected");
    check(
        "",
        "the body is not JSON, but must be a JSON object, or an array of objects: EOF while parsing a value at line 1 column 0",
    );
    check(
        "[{}]x",
        "the body is not JSON, but must be a JSON object, or an array of objects: trailing characters at line 1 column 5",
    );
    check(
        "{\"topic\"}",
        "the body is not JSON, but must be a JSON object, or an array of objects: expected `:` at line 1 column 9",
    );
    check_refused(b"{\"a\xff", (400, "the body is not UTF-8 at byte 3"));
}

#[test]
fn limits_are_413() {
    let data = |bytes| format!(r#"{{"topic":"t","data":"{}"}}"#, "x".repeat(bytes));
    check(&data(20), &[event("t", &"x".repeat(20))]);
    check_refused(data(21), (413, "field \"data\" holds 21 bytes: at most 20 are accepted"));
    check(r#"{"topic":"t","data":"ab\nde\nfg"}"#, &[event("t", "ab\nde\nfg")]);
    check_refused(
        r#"{"topic":"t","data":"ab\nde\nfgh"}"#,
        (413, "field \"data\" holds 21 bytes: at most 20 are accepted"),
    );
    check_refused(format!("[{}]", data(21)), (413, "event 0: field \"data\" holds 21 bytes: at most 20 are accepted"));
    check_refused("[1,2,3,4,5]", (413, "the array holds 5 events: at most 3 are accepted at once"));
}
