//! A real PostgreSQL for a test: a cluster of its own on a free port, killed when dropped. Root starts it as another user,
//! because it refuses to run as root.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use super::bus::is_ready;
use super::server::Server;
use super::wait::wait_until;

/// The rights of a node with the role `node`, as docs/scaling.md lists them.
pub const GRANT_TO_NODE: &str = "GRANT EXECUTE ON FUNCTION fanfare.append, fanfare.append_from, fanfare.open, fanfare.read, \
    fanfare.read_cursor, fanfare.delete_entries, fanfare.delete_ids, fanfare.notifies, fanfare.status, fanfare.holder, \
    fanfare.lead, fanfare.ingest, fanfare.resign TO node";

/// A cluster whose server runs or was killed.
pub struct PostgresServer {
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// A connection of the test's own, for transactions.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl PostgresServer {
    /// A server with these settings, `name=value`.
    pub fn start(settings: &[&str]) -> PostgresServer {
        let server = PostgresServer::prepare(settings);
        let options = ["--no-sync", "--no-instructions", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"];
        let output = program("initdb").args(options).arg("-D").arg(server.data()).output();
        checked(output.expect("these tests need PostgreSQL (Debian: apt-get install postgresql)"));
        server.run_on_a_free_port()
    }

    /// A folder for a server.
    fn prepare(settings: &[&str]) -> PostgresServer {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        if let Some((user, group)) = other_user() {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let arguments = settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]).collect();
        PostgresServer { directory, port: 0, arguments, child: None }
    }

    fn run_on_a_free_port(mut self) -> PostgresServer {
        // Between choosing a port and binding it another process may take it: then the server ends at once.
        for _ in 0..10 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if self.run() {
                return self;
            }
        }
        panic!("postgres ended at once, ten times: {}", self.log());
    }

    /// A server with a bus.
    pub fn with_bus(settings: &[&str]) -> PostgresServer {
        let server = PostgresServer::start(settings);
        let (status, output) = server.bus(&["install"]);
        assert_eq!(status, Some(0), "{output}");
        server
    }

    /// A standby that streams from this server.
    pub fn start_standby(&self) -> PostgresServer {
        let standby = PostgresServer::prepare(&[]);
        let (url, data) = (self.url(), standby.data());
        let copy =
            program("pg_basebackup").args(["--no-sync", "-R", "-c", "fast", "-d", &url, "-D"]).arg(data).output();
        checked(copy.unwrap());
        standby.run_on_a_free_port()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        // The processes of the killed server end a moment later.
        wait_until("postgres starts again", || self.run());
    }

    /// Restarts with a certificate, `server.pem` and `server.key`, and lets this role in only over TLS and with a password.
    pub fn demand_tls(&mut self, role: &str, certificates: &Path) {
        let rules = format!("host all postgres 127.0.0.1/32 trust\nhostssl all {role} 127.0.0.1/32 scram-sha-256\n");
        std::fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        for name in ["server.pem", "server.key"] {
            let path = self.directory.path().join(name);
            std::fs::copy(certificates.join(name), &path).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = other_user() {
                chown(&path, Some(user), Some(group)).unwrap();
            }
            let setting = if name == "server.pem" { "ssl_cert_file" } else { "ssl_key_file" };
            self.arguments.extend(["-c".to_owned(), format!("{setting}={}", path.display())]);
        }
        self.arguments.extend(["-c", "ssl=on"].map(str::to_owned));
        self.restart();
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    /// Its URL for a login, which may have a password, and a database.
    pub fn url_of(&self, login: &str, database: &str) -> String {
        format!("postgres://{login}@127.0.0.1:{}/{database}", self.port)
    }

    /// The folder of the cluster.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs statements, each in a transaction of its own; returns what they return, one line for each row.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, or the error.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql(&self.url()).args(["-c", sql]).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// psql for a URL.
    pub fn psql(&self, url: &str) -> Command {
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]).stdin(Stdio::null());
        command
    }

    pub fn session(&self) -> Session {
        let mut command = self.psql(&self.url());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Session { child, input, output }
    }

    /// Runs `fanfare bus`; returns its exit status and output.
    pub fn bus(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = command.arg("bus").args(arguments).args(["--postgres-url", &self.url()]).output();
        let output = output.expect("cargo built it");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    }

    /// A program of PostgreSQL for this server's data.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = program(name);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(self.port.to_string());
        command
    }

    fn run(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let child = program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let mut ended = false;
        wait_until("postgres answers", || {
            ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            ended || self.is_up()
        });
        !ended
    }

    fn is_up(&self) -> bool {
        self.tool("pg_isready").arg("-q").status().unwrap().success()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Session {
    /// Runs statements, and returns what they return.
    pub fn run(&mut self, sql: &str) -> String {
        self.start(sql);
        let mut text = String::new();
        while self.output.read_line(&mut text).unwrap() > 0 {
            if let Some(text) = text.strip_suffix("done\n") {
                return text.trim_end().to_owned();
            }
        }
        panic!("{sql}: the session ended: {text}");
    }

    /// Starts statements, and does not wait for their end.
    pub fn start(&mut self, sql: &str) {
        writeln!(self.input, "{sql}\n;\n\\echo done").unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that a program succeeded.
#[track_caller]
pub fn checked(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A program of the newest PostgreSQL that is installed, run by a user other than root.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let newest = versions.max_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    let mut command = match newest {
        Some(version) => Command::new(version.path().join("bin").join(name)),
        None => Command::new(name),
    };
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
    // The temporary folder is the only one that it surely may enter.
    command.current_dir(std::env::temp_dir());
    command
}

/// The user and group to run as, if this is root.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> u32 {
        checked(Command::new("id").args(arguments).output().unwrap()).trim().parse().unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

// ---- nodes ----

/// A node on the bus, once it may be used.
pub fn node(postgres: &PostgresServer, options: &[&str]) -> Server {
    let server = starting_node(&postgres.url(), options);
    wait_until("the node is ready", || is_ready(&server));
    server
}

pub fn starting_node(url: &str, options: &[&str]) -> Server {
    Server::start(&[&["--postgres-url", url, "--bus", "postgres", "--dev"], options].concat())
}

/// The SQL that publishes this as an event of the topic `a`.
pub fn publishing(data: &str) -> String {
    format!("SELECT fanfare.fanfare_publish('a', '{data}')")
}
