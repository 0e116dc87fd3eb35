//! Certificates for a test: two authorities, and a server that one of them vouches for.

use std::path::Path;
use std::process::Command;

/// Writes `ca.pem`, `other.pem`, and `server.pem` with `server.key`, which is 127.0.0.1, or localhost, and vouched for by `ca`.
pub fn write_into(folder: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for ca in ["ca", "other"] {
        openssl(&format!("req -x509 {KEY} -subj /CN={ca} -days 2 -keyout {0}.key -out {0}.pem", path(ca)));
    }
    openssl(&format!("req {KEY} -subj /CN=server -keyout {0}.key -out {0}.csr", path("server")));
    std::fs::write(path("extensions"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl(&format!(
        "x509 -req -in {0}.csr -CA {1}.pem -CAkey {1}.key -CAcreateserial -days 2 -extfile {2} -out {0}.pem",
        path("server"),
        path("ca"),
        path("extensions"),
    ));
}

fn openssl(arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).output();
    let output = output.expect("this test needs openssl on the PATH (Debian: apt-get install openssl)");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
