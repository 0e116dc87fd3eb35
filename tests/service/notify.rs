//! Notifications to systemd: the server serves, reloads, shuts down; and a watchdog message while its loop turns.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::paused::Paused;
use crate::support::server::Server;
use crate::support::wait::{DEADLINE, wait_until};

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

    /// A server with the socket of this manager and the timeout of its watchdog.
    fn command(&self, watchdog: Duration) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.env_clear().env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command
    }

    /// The next notification, or none if there is none within the read timeout.
    fn try_receive(&self) -> Option<Vec<String>> {
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

    /// The next notification that is not a watchdog message.
    #[track_caller]
    fn receive(&self) -> Vec<String> {
        // Signs of life never end: without a deadline this would wait as long as they come.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = self.try_receive().expect("a notification arrives");
            if message[0] != "WATCHDOG=1" {
                return message;
            }
            assert!(Instant::now() < deadline, "only watchdog messages arrive");
        }
    }

    #[track_caller]
    fn wait_for_signs_of_life(&self, count: usize) {
        let is_one = |message: &Vec<String>| message[0] == "WATCHDOG=1" && message[1].starts_with("STATUS=");
        let signs = std::iter::from_fn(|| self.try_receive()).filter(is_one);
        assert_eq!(signs.take(count).count(), count);
    }
}

#[test]
fn systemd_is_notified_of_the_start_reloads_and_the_end_in_this_order() {
    let manager = Manager::start();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fanfare.toml");
    std::fs::write(&config, "retry = \"1s\"").unwrap();
    let mut command = manager.command(DEADLINE);
    command.arg("--config").arg(&config);
    let mut server = Server::launch(command, 2, || {});
    assert_eq!(manager.receive()[0], "READY=1");
    assert_eq!(server.get("/health").status, 200);
    // Also after a mistake, or systemd would wait for the end of the reload.
    for text in ["retry = \"2s\"", "retry = \"soon\""] {
        std::fs::write(&config, text).unwrap();
        server.signal("HUP");
        let reloading = manager.receive();
        assert_eq!(reloading[0], "RELOADING=1");
        let time = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.receive(), ["READY=1"]);
    }
    server.wait_for_log(&["not reloaded", "soon"]);
    server.signal("TERM");
    let stopping = manager.receive();
    assert_eq!(stopping[0], "STOPPING=1");
    assert!(stopping[1].starts_with("EXTEND_TIMEOUT_USEC="), "{stopping:?}");
    assert_eq!(server.wait_for_exit(), Some(0));
}

/// Blocks every process that opens it until it is written to, as a file on a dead NFS does.
fn replace_by_fifo(path: &Path) {
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn signals_do_not_wait_for_a_hanging_reload_and_systemd_gets_the_true_state() {
    for (signal, finishes) in [("TERM", false), ("INT", false), ("TERM", true)] {
        let manager = Manager::start();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("fanfare.toml");
        std::fs::write(&config, "retry = \"1s\"").unwrap();
        let mut command = manager.command(DEADLINE);
        command.args(["--drain-notice", "1h", "--config"]).arg(&config);
        let mut server = Server::launch(command, 2, || {});
        assert_eq!(manager.receive(), ["READY=1", "STATUS=Serving"]);

        replace_by_fifo(&config);
        server.signal("HUP");
        assert_eq!(manager.receive()[0], "RELOADING=1");
        // One more is remembered, and a third is the same one.
        for times in 1..=2 {
            server.signal("HUP");
            let warned = || server.log().text().matches("a reload is under way: the next one waits for it").count();
            wait_until("it is warned of", || warned() == times);
        }
        server.signal(signal);
        assert_eq!(manager.receive()[0], "STOPPING=1", "SIG{signal}");
        server.wait_for_log(&["leaving"]);
        if finishes {
            std::fs::write(&config, "retry = \"2s\"").unwrap();
            server.wait_for_log(&[": reloaded"]);
        }
        server.signal("HUP");
        server.wait_for_log(&["not reloaded", "shutting down"]);
        server.signal(signal);
        assert_eq!(server.wait_for_exit(), Some(0), "the second one ends at once");
        manager.socket.set_nonblocking(true).unwrap();
        let later: Vec<_> = std::iter::from_fn(|| manager.try_receive()).flatten().collect();
        assert!(!later.iter().any(|line| line == "READY=1" || line == "RELOADING=1"), "{later:?}");
    }
}

#[test]
fn reloads_follow_one_another_each_from_its_begin_to_its_end() {
    let manager = Manager::start();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fanfare.toml");
    std::fs::write(&config, "retry = \"1s\"").unwrap();
    let mut command = manager.command(DEADLINE);
    command.arg("--config").arg(&config);
    let server = Server::launch(command, 2, || {});
    assert_eq!(manager.receive()[0], "READY=1");
    replace_by_fifo(&config);
    server.signal("HUP");
    assert_eq!(manager.receive()[0], "RELOADING=1");
    server.signal("HUP");
    server.wait_for_log(&["a reload is under way: the next one waits for it"]);
    std::fs::write(&config, "retry = \"2s\"").unwrap();
    assert_eq!(manager.receive(), ["READY=1"]);
    assert_eq!(manager.receive()[0], "RELOADING=1");
    std::fs::write(&config, "retry = \"3s\"").unwrap();
    assert_eq!(manager.receive(), ["READY=1"]);
    wait_until("both are logged", || server.log().text().matches(": reloaded").count() == 2);
}

#[test]
fn a_loop_that_hangs_gives_no_sign_of_life() {
    let manager = Manager::start();
    let watchdog = Duration::from_secs(3);
    let server = Server::launch(manager.command(watchdog), 2, || {});
    manager.wait_for_signs_of_life(3);

    // All other threads continue: for signals, for the log.
    let hangs = Paused::main_thread(server.process_id());
    manager.socket.set_read_timeout(Some(watchdog)).unwrap();
    while manager.try_receive().is_some() {}

    // And turns again when it can.
    drop(hangs);
    manager.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    manager.wait_for_signs_of_life(2);
}
