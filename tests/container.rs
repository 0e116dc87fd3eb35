//! The container image and its compose file: what they say about the user, signals, stopping, health and options. They need no
//! container to run; tests/acceptance/fresh-container starts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Standard output of a command that has to succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see tests/setup"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The compose file, as the library reads it that podman-compose uses.
fn compose() -> Value {
    const AS_JSON: &str = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let file = fs::File::open(root().join("packaging/container/compose.yaml")).unwrap();
    // Debian's, which has the library; another may come first on the PATH.
    let json = output(Command::new("/usr/bin/python3").args(["-c", AS_JSON]).stdin(file));
    serde_json::from_str(&json).unwrap()
}

/// The lines of `serve --print-config`, under these variables.
fn print_config(env: &[(&str, &str)]) -> String {
    output(Command::new(FANFARE).args(["serve", "--print-config"]).env_clear().envs(env.iter().copied()))
}

/// The default of an option that is a time in seconds.
fn default_seconds(option: &str) -> Duration {
    let printed = print_config(&[]);
    let line = printed.lines().find(|line| line.starts_with(&format!("{option} = "))).unwrap();
    seconds(line.split('"').nth(1).unwrap())
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap())
}

/// A tarball as packaging/dist makes it, as far as the image is concerned. The binary is not static: it is not started.
fn tarball(folder: &Path) -> PathBuf {
    let (version, architecture) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let name = format!("fanfare-{version}-{architecture}-linux");
    let bin = folder.join(&name).join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(FANFARE, bin.join("fanfare")).unwrap();
    for name_of_text in ["LICENSE", "THIRD-PARTY-NOTICES.txt"] {
        fs::copy(root().join("LICENSE"), folder.join(&name).join(name_of_text)).unwrap();
    }
    let archive = folder.join(format!("{name}.tar.gz"));
    output(
        Command::new("tar")
            .args(["--create", "--use-compress-program", "gzip -1", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(folder)
            .arg(&name),
    );
    archive
}

#[test]
fn the_image_has_an_unprivileged_user_a_health_check_and_a_stop_signal() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("storage.conf");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let content =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n", place("graph"), place("run"));
    fs::write(&store, content).unwrap();
    output(
        Command::new(root().join("packaging/image"))
            .arg(tarball(folder.path()))
            .env("CONTAINER_TOOL", "buildah")
            .env("CONTAINERS_STORAGE_CONF", &store),
    );
    let name = concat!("fanfare:", env!("CARGO_PKG_VERSION"));
    let inspected = output(
        Command::new("buildah").args(["inspect", "--type", "image", name]).env("CONTAINERS_STORAGE_CONF", &store),
    );
    let image: Value = serde_json::from_str(&inspected).unwrap();
    let config = &image["Docker"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/fanfare"]));
    assert_eq!(config["Cmd"], serde_json::json!(["serve"]));

    // The health check asks where the server listens, and outlives its own timeout.
    let check = &config["Healthcheck"];
    assert_eq!(check["Test"], serde_json::json!(["CMD", "/fanfare", "health"]));
    let help = output(Command::new(FANFARE).args(["health", "--help"]));
    assert!(help.contains("[default: http://127.0.0.1:3001]") && help.contains("[default: 5s]"), "{help}");
    assert!(check["Timeout"].as_u64().unwrap() > Duration::from_secs(5).as_nanos() as u64);
    let env: Vec<_> = config["Env"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    assert!(env.contains(&"FANFARE_LISTEN=0.0.0.0:3001"), "{env:?}");
    // Docker and podman kill after 10 s, unless they are configured.
    let drain = env.iter().find_map(|entry| entry.strip_prefix("FANFARE_DRAIN=")).unwrap();
    assert!(seconds(drain) + default_seconds("drain-notice") < Duration::from_secs(10));
    assert!(
        print_config(&[("FANFARE_LISTEN", "0.0.0.0:3001")]).contains("listen = [\"0.0.0.0:3001\"] # FANFARE_LISTEN\n")
    );
}

#[test]
fn the_compose_file_gives_a_drain_its_time_and_sets_options_that_exist() {
    let compose = compose();
    let fanfare = &compose["services"]["fanfare"];
    let longest = default_seconds("drain") + default_seconds("drain-notice");
    assert!(seconds(fanfare["stop_grace_period"].as_str().unwrap()) > longest);
    assert_eq!(fanfare["read_only"], true);
    assert_eq!(fanfare["cap_drop"], serde_json::json!(["ALL"]));

    let environment = fanfare["environment"].as_object().unwrap();
    let env: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let printed = print_config(&env);
    for (name, _) in &env {
        assert!(printed.contains(&format!("# {name}\n")), "{name} is not in force: {printed}");
    }

    // The proxy and the server share the folder of the socket that the proxy's own file names.
    let caddy = &compose["services"]["caddy"];
    let has_volume =
        |service: &Value, volume: &str| service["volumes"].as_array().unwrap().iter().any(|it| it == volume);
    assert!(has_volume(fanfare, "fanfare:/run/fanfare") && has_volume(caddy, "fanfare:/run/fanfare"));
    let caddyfile = fs::read_to_string(root().join("packaging/container/Caddyfile")).unwrap();
    assert!(caddyfile.contains("unix//run/fanfare/fanfare.sock"));
    assert!(environment["FANFARE_LISTEN"].as_str().unwrap().contains("unix:/run/fanfare/fanfare.sock"));
    for name in caddy["environment"].as_object().unwrap().keys() {
        assert!(caddyfile.contains(&format!("{{${name}:")), "the Caddyfile does not use {name}");
    }
}
