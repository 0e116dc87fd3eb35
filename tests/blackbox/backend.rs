//! `--io`: reports and the log name the backend in use, and epoll replaces io_uring where that is forbidden.

use std::process::Command;

use crate::support::server::{Server, TOKEN, io_under_test};
use crate::support::stream::Subscriber;

const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// Runs its arguments under a seccomp filter as of Docker's default profile: io_uring_setup(2) and its two neighbours fail
/// with EPERM.
const WITHOUT_IO_URING: &str = r#"
import ctypes, os, struct, sys
allow, refuse = 0x7fff0000, 0x00050001
steps = [(0x20, 0, 0, 0), (0x35, 0, 2, 425), (0x25, 1, 0, 427), (0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
kernel = ctypes.CDLL(None, use_errno=True)
assert kernel.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
assert kernel.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn without_io_uring(arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", WITHOUT_IO_URING, FANFARE]).args(arguments).env_clear();
    command
}

#[track_caller]
fn assert_uses(server: &Server, backend: &str) {
    let debug = server.debug();
    let loops = debug["loops"].as_array().unwrap().len();
    assert_eq!(server.metric(&format!("fanfare_io_backend{{backend=\"{backend}\"}}")), loops as f64);
    assert_eq!(debug["io"], backend);
    server.wait_for_log(&["the kernel's interface for IO is chosen", &format!("backend=\"{backend}\"")]);
}

#[test]
fn reports_and_the_log_name_the_backend_in_use() {
    let under_test = io_under_test().unwrap_or_else(|| "epoll".to_owned());
    assert_uses(&Server::start(&[]), &under_test);
    assert_uses(&Server::start(&["--io", "epoll"]), "epoll");
    assert_uses(&Server::start(&["--io", "auto"]), "epoll");
}

#[test]
fn where_io_uring_is_forbidden_epoll_replaces_it_and_the_log_says_why() {
    let mut command =
        without_io_uring(&["serve", "--io", "io_uring", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.env("FANFARE_PUBLISH_TOKEN", TOKEN);
    let server = Server::launch(command, 2, || {});
    server.wait_for_log(&["WARN", "--io io_uring can't be used here: epoll replaces it", "seccomp"]);
    assert_uses(&server, "epoll");
    let mut subscribers: Vec<_> = (0..3).map(|_| Subscriber::open(&server, "/events?topic=t")).collect();
    server.publish("t", "through epoll");
    subscribers.iter_mut().for_each(|subscriber| subscriber.expect(&["through epoll"]));
}

#[test]
fn the_doctor_says_whether_io_uring_can_be_used() {
    let doctor = |mut command: Command| {
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["io_uring"].as_str().unwrap().to_owned()
    };
    let forbidden = doctor(without_io_uring(&["doctor", "--json"]));
    assert!(forbidden.contains("can't be used") && forbidden.contains("seccomp"), "{forbidden}");
    if io_under_test().as_deref() == Some("io_uring") {
        let mut here = Command::new(FANFARE);
        here.args(["doctor", "--json"]);
        assert_eq!(doctor(here), "can be used");
    }
}
