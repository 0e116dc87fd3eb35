//! The peers' servers, as `benches/peers/run` builds and installs them; none where that has not been done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{SERVER_CORE, pinned};
use super::redis::{Redis, free_address};
use super::server::Server;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a server has to do beyond `POST /publish`.
#[derive(Clone, Copy, Default)]
pub struct Task<'a> {
    /// Where it subscribes, if it can.
    pub redis: Option<&'a Redis>,
    /// How many events it may hold for who is behind, where that is a setting; otherwise, what one would choose.
    pub history: Option<usize>,
}

/// nginx with Nchan. Its Redis store speaks to other Nchan servers alone, so it is always published to over HTTP.
pub fn nchan(task: Task<'_>) -> Option<Server> {
    const HISTORY: usize = 1000;
    let module = Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so");
    let program = Path::new("/usr/sbin/nginx");
    if !module.exists() || !program.exists() {
        return None;
    }
    let folder = built("nchan");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let address = free_address();
    let template = fs::read_to_string(Path::new(ROOT).join("benches/peers/nchan/nginx.conf")).expect("it is committed");
    let text = template
        .replace("PORT", &address.port().to_string())
        .replace("FOLDER", &folder.display().to_string())
        .replace("HISTORY", &task.history.unwrap_or(HISTORY).to_string());
    fs::write(folder.join("nginx.conf"), text).expect("the folder is writable");
    let mut command = pinned(SERVER_CORE, program.as_os_str());
    command.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
    Some(Server::found_at(command, address))
}

pub fn axum(task: Task<'_>) -> Option<Server> {
    announced(&built("axum/release/axum-peer"), task, |_| {})
}

pub fn go(task: Task<'_>) -> Option<Server> {
    announced(&built("go-peer"), task, |command| {
        command.env("GOMAXPROCS", "1");
    })
}

pub fn node(task: Task<'_>) -> Option<Server> {
    announced(Path::new("/usr/bin/node"), task, |command| {
        command.arg(Path::new(ROOT).join("benches/peers/node/server.js"));
    })
}

pub fn bun(task: Task<'_>) -> Option<Server> {
    announced(&built("bun"), task, |command| {
        command.arg(Path::new(ROOT).join("benches/peers/bun/server.js"));
    })
}

fn announced(program: &Path, task: Task<'_>, adjust: impl FnOnce(&mut Command)) -> Option<Server> {
    let mut command = pinned(SERVER_CORE, program.as_os_str());
    command.env("PORT", "0");
    if let Some(redis) = task.redis {
        command.env("REDIS_URL", redis.url());
    }
    if let Some(history) = task.history {
        command.env("HISTORY", history.to_string());
    }
    adjust(&mut command);
    program.exists().then(|| Server::announced_by(command))
}

/// What `benches/peers/run` has built, by name.
fn built(name: &str) -> PathBuf {
    Path::new(ROOT).join("target/peers").join(name)
}
