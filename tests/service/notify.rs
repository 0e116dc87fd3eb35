//! What systemd is told: that the server serves, reloads and leaves; and that its loop turns, for as long as it does.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::server::Server;
use crate::support::wait::DEADLINE;

/// Where systemd would listen.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn start() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket, folder }
    }

    /// A server that is told of this manager, and of the time that its watchdog waits.
    fn command(&self, watchdog: Duration) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.env_clear().env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command
    }

    /// What is told next, or none if nothing is for as long as the read timeout.
    fn try_told(&self) -> Option<Vec<String>> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// What is told next that is no sign of life.
    #[track_caller]
    fn told(&self) -> Vec<String> {
        loop {
            let told = self.try_told().expect("something is told");
            if told[0] != "WATCHDOG=1" {
                return told;
            }
        }
    }

    #[track_caller]
    fn wait_for_signs_of_life(&self, count: usize) {
        let is_one = |told: &Vec<String>| told[0] == "WATCHDOG=1" && told[1].starts_with("STATUS=");
        let signs = std::iter::from_fn(|| self.try_told()).filter(is_one);
        assert_eq!(signs.take(count).count(), count);
    }
}

#[test]
fn systemd_is_told_of_the_start_reloads_and_the_end_in_this_order() {
    let manager = Manager::start();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fanfare.toml");
    std::fs::write(&config, "retry = \"1s\"").unwrap();
    let mut command = manager.command(DEADLINE);
    command.arg("--config").arg(&config);
    let mut server = Server::launch(command, 2, || {});
    assert_eq!(manager.told()[0], "READY=1");
    assert_eq!(server.get("/health").status, 200);
    // Also after a mistake, or systemd would wait for the end of the reload.
    for text in ["retry = \"2s\"", "retry = \"soon\""] {
        std::fs::write(&config, text).unwrap();
        server.signal("HUP");
        let reloading = manager.told();
        assert_eq!(reloading[0], "RELOADING=1");
        let time = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.told(), ["READY=1"]);
    }
    server.wait_for_log(&["not reloaded", "soon"]);
    server.signal("TERM");
    let stopping = manager.told();
    assert_eq!(stopping[0], "STOPPING=1");
    assert!(stopping[1].starts_with("EXTEND_TIMEOUT_USEC="), "{stopping:?}");
    assert_eq!(server.wait_for_exit(), Some(0));
}

#[test]
fn a_loop_that_hangs_gives_no_sign_of_life() {
    let manager = Manager::start();
    let watchdog = Duration::from_secs(3);
    let mut command = manager.command(watchdog);
    command.args(["--log-level", "trace"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Ended(command.spawn().unwrap());
    let mut announced = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let first = announced.next().unwrap().unwrap();
    let address = first.strip_prefix("listening on http://").expect("where it listens");
    manager.wait_for_signs_of_life(3);

    // Nobody reads the log: once its pipe is full, the loop waits in a write for ever, as it might for any other bug.
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000).as_bytes()).unwrap();
    manager.socket.set_read_timeout(Some(watchdog)).unwrap();
    while manager.try_told().is_some() {}

    // And turns again when it can.
    let mut log = server.0.stderr.take().unwrap();
    let reader = std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
    manager.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    manager.wait_for_signs_of_life(2);
    drop(server);
    reader.join().unwrap().unwrap();
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
