//! A Sentinel of a test's own, which watches one redis-server and its replicas, and decides alone.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use redis::Client;
use tempfile::TempDir;

use super::redis::RedisServer;
use super::wait::{DEADLINE, wait_until};

/// A redis-server in the role of a Sentinel; killed when dropped.
pub struct Sentinel {
    _directory: TempDir,
    port: u16,
    child: Child,
}

impl Sentinel {
    /// One that knows this primary as `main`, with the password that the Sentinel itself and the server want.
    pub fn start(primary: &RedisServer, password: Option<&str>) -> Sentinel {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("sentinel monitor main 127.0.0.1 {} 1", primary.address().port()),
            "sentinel down-after-milliseconds main 500".to_owned(),
            "sentinel failover-timeout main 2000".to_owned(),
        ];
        if let Some(password) = password {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("sentinel auth-pass main {password}"));
        }
        let file = directory.path().join("sentinel.conf");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server on the PATH");
        let sentinel = Sentinel { _directory: directory, port, child };
        let client = Client::open(format!("redis://:{}@127.0.0.1:{port}", password.unwrap_or(""))).unwrap();
        wait_until("the Sentinel knows the primary", || {
            let connection = client.get_connection_with_timeout(DEADLINE);
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg("main");
            connection.is_ok_and(|mut own| command.query::<Vec<String>>(&mut own).is_ok())
        });
        sentinel
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many replicas of the primary it knows: it can only promote one of them.
    pub fn replicas(&self) -> usize {
        let client = Client::open(format!("redis://{}", self.address())).unwrap();
        let mut connection = client.get_connection_with_timeout(DEADLINE).unwrap();
        let replicas: Vec<redis::Value> =
            redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut connection).unwrap();
        replicas.len()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
