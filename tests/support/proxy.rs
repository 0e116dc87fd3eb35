//! The proxies of docs/proxies, each run from its very file there: only what docs/proxies.md tells to change is changed.

use std::fs::{File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::certificates;
use super::process;
use super::wait::wait_until;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    HaProxy,
    Caddy,
}

/// A proxy, running or killed.
pub struct Proxy {
    kind: Kind,
    /// Holds its configuration, certificate and log, and the socket on which Fanfare is to listen.
    folder: TempDir,
    port: u16,
    changes: Vec<(String, String)>,
    child: Option<Child>,
}

impl Proxy {
    pub fn start(kind: Kind) -> Proxy {
        Proxy::start_with(kind, &[])
    }

    /// Starts it with further changes to its file. Each is what stands there and what shall, in which `{folder}` is the
    /// proxy's folder.
    pub fn start_with(kind: Kind, changes: &[(&str, &str)]) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        // The proxies give up being root, and need to reach the socket all the same.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        certificates::write_into(folder.path());
        let both = ["server.pem", "server.key"].map(|name| std::fs::read(folder.path().join(name)).unwrap()).concat();
        std::fs::write(folder.path().join("both.pem"), both).unwrap();
        let changes = changes.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let mut proxy = Proxy { kind, folder, port: 0, changes, child: None };
        // Between choosing a port and binding it another process may take it: then the proxy ends at once.
        for _ in 0..10 {
            proxy.port = free_port();
            if proxy.run() {
                return proxy;
            }
        }
        panic!("{kind:?} ended at once, ten times: {}", proxy.log());
    }

    /// Where Fanfare is to listen.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("fanfare.sock")
    }

    /// The same, as an option of Fanfare's.
    pub fn listen(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn url(&self, target: &str) -> String {
        format!("https://localhost:{}{target}", self.port)
    }

    /// curl, which trusts who vouches for this proxy.
    pub fn curl(&self, arguments: &[&str], target: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(self.folder.path().join("ca.pem"));
        curl.args(arguments).arg(self.url(target));
        curl
    }

    /// Starts it again with other changes to its file than before, as [`Proxy::start_with`].
    pub fn reconfigure(&mut self, changes: &[(&str, &str)]) {
        self.changes = changes.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        self.restart();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "{:?} did not start again: {}", self.kind, self.log());
    }

    /// Ends it, and with it every connection.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SIGKILL would leave nginx's workers behind. To all of them SIGTERM means at once, or nearly so.
        let has_ended = |child: &mut Child| child.try_wait().is_ok_and(|ended| ended.is_some());
        if !has_ended(&mut child) {
            process::signal(child.id(), "TERM");
            wait_until("the proxy ends", || has_ended(&mut child));
        }
    }

    fn run(&mut self) -> bool {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (config, log) = (path("config"), File::create(path("log")).unwrap());
        std::fs::write(&config, self.configuration()).unwrap();
        let mut command = match self.kind {
            Kind::Nginx => {
                let mut nginx = Command::new("nginx");
                nginx.args(["-e", "stderr", "-g", "daemon off;", "-c"]);
                nginx
            }
            Kind::HaProxy => {
                let mut haproxy = Command::new("haproxy");
                haproxy.args(["-db", "-f"]);
                haproxy
            }
            Kind::Caddy => {
                let mut caddy = Command::new("caddy");
                // What it keeps for itself.
                caddy.envs([("XDG_DATA_HOME", self.folder.path()), ("XDG_CONFIG_HOME", self.folder.path())]);
                caddy.args(["run", "--adapter", "caddyfile", "--config"]);
                caddy
            }
        };
        // nginx is where only root has it on the PATH.
        let search = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.arg(config).env("PATH", search).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}; see tests/setup", self.kind)));
        let mut ended = false;
        wait_until("the proxy listens", || {
            ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            ended || TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        !ended
    }

    /// The file, with the changes that docs/proxies.md lists: where Fanfare's socket, the certificate and the logs are,
    /// the site's name and port, and how many connections this host allows.
    fn configuration(&self) -> String {
        let (file, changes): (&str, &[(&str, &str)]) = match self.kind {
            Kind::Nginx => (
                "nginx.conf",
                &[
                    ("/run/fanfare/", "{folder}/"),
                    ("/etc/ssl/fanfare/fullchain.pem", "{folder}/server.pem"),
                    ("/etc/ssl/fanfare/privkey.pem", "{folder}/server.key"),
                    ("/var/log/nginx/", "{folder}/"),
                    ("/run/nginx.pid", "{folder}/nginx.pid"),
                    ("fanfare.example.com", "localhost"),
                    ("listen 443", "listen 127.0.0.1:{port}"),
                    ("worker_processes auto", "worker_processes 2"),
                    ("worker_rlimit_nofile 250000;", ""),
                    ("worker_connections 120000", "worker_connections 1000"),
                ],
            ),
            Kind::HaProxy => (
                "haproxy.cfg",
                &[
                    ("/run/fanfare/", "{folder}/"),
                    ("/etc/haproxy/fanfare.pem", "{folder}/both.pem"),
                    ("bind :443", "bind 127.0.0.1:{port}"),
                    ("maxconn 110000", "maxconn 1000"),
                ],
            ),
            Kind::Caddy => (
                "Caddyfile",
                &[
                    ("/run/fanfare/", "{folder}/"),
                    ("/etc/ssl/fanfare/fullchain.pem", "{folder}/server.pem"),
                    ("/etc/ssl/fanfare/privkey.pem", "{folder}/server.key"),
                    ("fanfare.example.com", "localhost"),
                    ("http_port 80", "http_port {http_port}"),
                    ("https_port 443", "https_port {port}"),
                    ("admin localhost:2019", "admin off"),
                    ("grace_period 10s", "grace_period 500ms"),
                ],
            ),
        };
        let text = std::fs::read_to_string(format!("{}/docs/proxies/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let given = self.changes.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        let mut text = changes.iter().copied().chain(given).fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{file} has no {from:?} to change");
            text.replace(from, to)
        });
        if !is_root() {
            // Only root can become another user.
            for line in ["user www-data;\n", "    user haproxy\n    group haproxy\n"] {
                text = text.replace(line, "");
            }
        }
        text.replace("{folder}", self.folder.path().to_str().unwrap())
            .replace("{http_port}", &free_port().to_string())
            .replace("{port}", &self.port.to_string())
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("log") + &read("error.log")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of {:?}:\n{}", self.kind, self.log());
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
