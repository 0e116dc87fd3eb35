//! The real binary: started on free ports, asked over its own wire, and killed when dropped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Answer, Client};
use super::process::{self, Lines};
use super::secured;
use super::wait::eventually;

/// The token with which tests publish.
pub const TOKEN: &str = "blackbox-token";

/// A running server.
pub struct Server {
    child: Child,
    /// What it announced to listen on, without its scheme.
    public: Vec<String>,
    admin: Vec<String>,
    log: Lines,
}

/// How many event loops a server has, unless its test says so: tests/with-loops runs suites with several.
pub fn loops() -> usize {
    std::env::var("FANFARE_TEST_LOOPS").map_or(1, |loops| loops.parse().expect("FANFARE_TEST_LOOPS is a number"))
}

impl Server {
    /// Starts `fanfare serve` with these options; on a free port where they name no listener.
    #[track_caller]
    pub fn start(options: &[&str]) -> Server {
        Server::start_with_env(options, &[("FANFARE_PUBLISH_TOKEN", TOKEN)])
    }

    /// As [`Server::start`], with an environment of exactly `env`.
    #[track_caller]
    pub fn start_with_env(options: &[&str], env: &[(&str, &str)]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.env_clear().envs(env.iter().copied());
        Server::start_command(command, options)
    }

    /// Starts in a shell that `prepare`s first, such as by lowering a limit.
    #[track_caller]
    pub fn start_after(prepare: &str, options: &[&str]) -> Server {
        let mut command = Command::new("bash");
        let script = format!("{prepare}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_fanfare")]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("FANFARE_PUBLISH_TOKEN", TOKEN);
        Server::start_command(command, options)
    }

    #[track_caller]
    fn start_command(mut command: Command, options: &[&str]) -> Server {
        command.arg("serve").args(options);
        if loops() > 1 && !options.contains(&"--loops") {
            command.args(["--loops", &loops().to_string()]);
        }
        if secured::is_usual() && !options.contains(&"--listen") {
            command.args(secured::certificate().options());
        }
        for listener in ["--listen", "--admin-listen"] {
            if !command.get_args().any(|arg| arg == listener) {
                command.args([listener, "127.0.0.1:0"]);
            }
        }
        let listeners = command.get_args().filter(|arg| *arg == "--listen" || *arg == "--admin-listen").count();
        Server::launch(command, listeners, || {})
    }

    /// Runs a command that becomes a server; `then` is done when it runs, and again every second until it has announced
    /// this number of listeners.
    #[track_caller]
    pub fn launch(command: Command, listeners: usize, then: impl FnMut()) -> Server {
        Server::launch_logging_to(Stdio::piped(), command, listeners, then)
    }

    /// As [`Server::launch`], with this for its standard error; what it logs there is the test's to read.
    #[track_caller]
    pub fn launch_logging_to(
        stderr: impl Into<Stdio>,
        mut command: Command,
        listeners: usize,
        mut then: impl FnMut(),
    ) -> Server {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        if let Some(backend) = io_under_test() {
            command.env("FANFARE_IO", backend);
        }
        let mut child = command.spawn().expect("the binary was built");
        drop(command); // with its own copy of what was passed on
        let log = child.stderr.take().map(Lines::collect).unwrap_or_default();
        then();
        let mut done_at = Instant::now();

        let mut server = Server { child, public: Vec::new(), admin: Vec::new(), log };
        let said = Lines::collect(server.child.stdout.take().expect("it is piped"));
        eventually("the server says where it listens", || {
            let ended = server.child.try_wait().unwrap();
            let has_said = said.text().lines().count() >= listeners;
            assert!(has_said || ended.is_none(), "the server did not start: {ended:?} {}", server.log.text());
            // A first client may have met another test's listener, which had the port for a moment.
            if !has_said && done_at.elapsed() >= Duration::from_secs(1) {
                then();
                done_at = Instant::now();
            }
            has_said.then_some(())
        });
        for line in said.text().lines().take(listeners) {
            let (role, address) = line
                .split_once("listening on ")
                .or_else(|| Some(("", line.strip_prefix("redirecting from ")?)))
                .unwrap_or_else(|| panic!("odd line: {line}"));
            let (scheme, address) = address.split_once("://").unwrap_or(("", address));
            let address = address.to_owned();
            if let Ok(address) = address.parse() {
                secured::note_address(address, scheme == "https");
            }
            if role.is_empty() { server.public.push(address) } else { server.admin.push(address) }
        }
        server
    }

    // ---- where it is ----

    /// The first public listener's address.
    pub fn address(&self) -> SocketAddr {
        self.public[0].parse().expect("the first listener is TCP")
    }

    /// The admin listener's address: of TCP, or `unix:` and a path.
    pub fn admin_address(&self) -> &str {
        &self.admin[0]
    }

    pub fn url(&self, target: &str) -> String {
        self.url_of(0, target)
    }

    /// As [`Server::url`], at the admin listener.
    pub fn admin_url(&self, target: &str) -> String {
        format!("http://{}{target}", self.admin[0])
    }

    /// As [`Server::url`], at another of its public listeners.
    pub fn url_of(&self, listener: usize, target: &str) -> String {
        let address = &self.public[listener];
        let speaks_tls = address.parse().is_ok_and(|address| secured::is_address(&address));
        format!("{}://{address}{target}", if speaks_tls { "https" } else { "http" })
    }

    /// Its memory, as the kernel counts it.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// How many of the descriptors below a limit are open; inherited ones may lie above it.
    pub fn descriptors_below(&self, limit: u32) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|number| *number < limit).count()
    }

    pub fn log(&self) -> &Lines {
        &self.log
    }

    // ---- asking it ----

    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    pub fn connect_admin(&self) -> Client {
        match self.admin_address().strip_prefix("unix:") {
            Some(path) => Client::connect_unix(Path::new(path)),
            None => Client::connect(self.admin_address().parse().unwrap()),
        }
    }

    /// Sends one request on a connection of its own.
    #[track_caller]
    pub fn request(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Asks the admin listener.
    #[track_caller]
    pub fn get_admin(&self, target: &str) -> Answer {
        let mut client = self.connect_admin();
        client.get(target);
        client.answer()
    }

    /// Posts a body to `/publish` with the token.
    #[track_caller]
    pub fn post(&self, body: &str) -> Answer {
        self.request(&publish_request(body, &format!("Authorization: Bearer {TOKEN}\r\n")))
    }

    /// Publishes data, as a string, and gives the id.
    #[track_caller]
    pub fn publish(&self, topic: &str, data: &str) -> String {
        let answer = self.post(&serde_json::json!({ "topic": topic, "data": data }).to_string());
        assert_eq!(answer.status, 202, "{answer}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    // ---- watching it ----

    /// A sample of the metrics page, named with its labels as it stands there.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> f64 {
        let page = self.get_admin("/metrics");
        let line = page.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {page}")).parse().unwrap()
    }

    /// How much was refused for this reason.
    #[track_caller]
    pub fn refused(&self, reason: &str) -> f64 {
        self.metric(&format!("fanfare_refused_total{{reason=\"{reason}\"}}"))
    }

    #[track_caller]
    pub fn wait_for_metric(&self, sample: &str, mut is_so: impl FnMut(f64) -> bool) -> f64 {
        eventually(sample, || Some(self.metric(sample)).filter(|value| is_so(*value)))
    }

    /// Waits for an entry of the log that has all these words.
    #[track_caller]
    pub fn wait_for_log(&self, words: &[&str]) -> String {
        self.log.wait_for(words)
    }

    #[track_caller]
    pub fn debug(&self) -> Value {
        self.get_admin("/dashboard/debug").json()
    }

    // ---- ending it ----

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        process::signal(self.child.id(), name);
    }

    /// Waits until it has ended; its exit code, if it was no signal.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        eventually("the server ends", || self.child.try_wait().unwrap()).code()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) -> SocketAddr {
        let address = self.address();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        address
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.text());
        }
    }
}

/// What each server is given as `--io`, unless its test names another: tests/on-io-uring sets it.
pub fn io_under_test() -> Option<String> {
    std::env::var("FANFARE_TEST_IO").ok()
}

/// A `POST /publish` with further header lines.
pub fn publish_request(body: &str, header_lines: &str) -> String {
    let length = body.len();
    format!("POST /publish HTTP/1.1\r\nHost: localhost\r\n{header_lines}Content-Length: {length}\r\n\r\n{body}")
}
