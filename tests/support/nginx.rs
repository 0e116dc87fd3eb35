//! nginx in front of a server: over TLS, its bodies in chunks; and a port without TLS that redirects there.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::certificates;
use super::wait::wait_until;

/// A running nginx, killed when dropped.
pub struct Nginx {
    folder: TempDir,
    child: Child,
    secured: SocketAddr,
    plain: SocketAddr,
}

impl Nginx {
    /// Starts one in front of `upstream`.
    pub fn start(upstream: SocketAddr) -> Nginx {
        // Between choosing ports and binding them another process may take one: then nginx ends at once.
        for _ in 0..10 {
            if let Some(nginx) = Nginx::try_start(upstream) {
                return nginx;
            }
        }
        panic!("nginx ended at once, ten times");
    }

    /// A URL on its port with TLS.
    pub fn https(&self, path: &str) -> String {
        format!("https://{}{path}", self.secured)
    }

    /// A URL on its port that redirects.
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.plain)
    }

    /// One of the files of [`certificates::write_into`].
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn try_start(upstream: SocketAddr) -> Option<Nginx> {
        let folder = tempfile::tempdir().unwrap();
        certificates::write_into(folder.path());
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [secured, plain] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        drop(listeners);
        let configuration = folder.path().join("nginx.conf");
        let text = CONFIGURATION
            .replace("FOLDER", folder.path().to_str().unwrap())
            .replace("SECURED_PORT", &secured.port().to_string())
            .replace("PLAIN", &plain.to_string())
            .replace("UPSTREAM", &upstream.to_string());
        std::fs::write(&configuration, text).unwrap();
        let child = Command::new("nginx")
            .arg("-e")
            .arg(folder.path().join("errors"))
            .arg("-c")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs nginx on the PATH (Debian: apt-get install nginx-light)");
        let mut nginx = Nginx { folder, child, secured, plain };
        let mut ended = false;
        wait_until("nginx accepts", || {
            ended = nginx.child.try_wait().unwrap().is_some();
            ended || TcpStream::connect(nginx.plain).is_ok()
        });
        (!ended).then_some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One process, in the foreground, that writes nowhere but in its folder. It listens on every address of loopback, so
/// that a client may come by one that its certificate does not name.
const CONFIGURATION: &str = "
daemon off;
master_process off;
pid FOLDER/pid;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen SECURED_PORT ssl;
        ssl_certificate FOLDER/server.pem;
        ssl_certificate_key FOLDER/server.key;
        location / {
            proxy_pass http://UPSTREAM;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
        }
    }
    server {
        listen PLAIN;
        return 301 https://127.0.0.1:SECURED_PORT$request_uri;
    }
}
";
