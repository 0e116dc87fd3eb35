//! The command line from outside: what a user types, what is printed, and the exit code.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

/// Runs the binary with an environment of exactly `env`.
fn fanfare(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(args).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs, and checks the exit code and that the output (standard output when it is 0, else standard error) has `words`.
fn check(args: &[&str], env: &[(&str, &str)], code: i32, words: &[&str]) {
    let output = fanfare(args, env);
    let said = text(if code == 0 { &output.stdout } else { &output.stderr });
    assert_eq!(output.status.code(), Some(code), "{args:?} {env:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?} {env:?}: {word:?} is not in {said}");
    }
}

fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

#[test]
fn help_has_headings_and_examples() {
    check(&["--help"], &[], 0, &["serve", "subscribe", "publish", "Exit codes"]);
    check(&["serve", "--help"], &[], 0, &["Listening:", "Redis:", "Delivery:", "Limits:", "Security:", "Drain:"]);
    check(&["serve", "--help"], &[], 0, &["Logging:", "[default: 30s]", "SSE_HOST", "Examples:"]);
    check(&["serve", "-h"], &[], 0, &["close, skip]", "text, json]"]);
    check(&["serve", "--print-template"], &[], 0, &["# ---- Delivery ----", "\n#stall-timeout = \"30s\"\n"]);
    check(&["subscribe", "--help"], &[], 0, &["--last-event-id", "Examples:"]);
    check(&["publish", "--help"], &[], 0, &["--redis-url", "empty lines are left out", "Examples:"]);
    check(&["disconnect", "--help"], &[], 0, &["--token-id", "FANFARE_OPERATOR_TOKEN", "Exit codes", "Examples:"]);
    check(&["health", "--help"], &[], 0, &["/health/live", "--timeout", "Exit codes", "Examples:"]);
    check(&["doctor", "--help"], &[], 0, &["--connections", "--json", "--sysctl", "[default: 100000]", "Examples:"]);
    check(&["tune", "--help"], &[], 0, &["--connections", "--dry-run", "--remove", "or else 100000", "Examples:"]);
    check(&["--version"], &[], 0, &[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn wrong_usage_exits_2() {
    check(&[], &[], 2, &["Usage:"]);
    check(&["sreve"], &[], 2, &["serve"]);
    check(&["serve", "--hartbeat", "1s"], &[], 2, &["--heartbeat"]);
    check(&["serve", "--dev", "--bind", "127.0.0.1:80"], &[], 2, &["--bind", "Usage: fanfare serve [OPTIONS]\n"]);
    check(&["serve", "--retry", "1s", "--retry", "2s"], &[], 2, &["--retry"]);
    check(&["subscribe"], &[], 2, &["<URL>"]);
    check(&["subscribe", "ftp://host"], &[], 2, &["ftp://host", "http://host", "unix:PATH"]);
    check(&["subscribe", "unix:"], &[], 2, &["unix:PATH"]);
    check(&["subscribe", "host", "--json", "--data-only"], &[], 2, &["--data-only"]);
    check(&["health", "ftp://host"], &[], 2, &["ftp://host", "http://host", "unix:PATH"]);
    check(&["health", "--timeout", "0s"], &[], 2, &["--timeout <TIME>", "0s", "1ms to 1m"]);
    check(&["disconnect"], &[], 2, &["--subject", "--token-id", "--topic", "--address"]);
    check(&["publish", "a\nb", "x"], &[], 2, &["TOPIC"]);
    check(&["publish", "t", "{", "--json"], &[], 2, &["not JSON"]);
    check(&["publish", "t", "-", "--id", "7"], &[], 2, &["--id"]);
    check(&["publish", "t", "x", "--event", "gap"], &[], 2, &["--event", "'gap'", "is reserved", "choose another"]);
    let number = |args: &[&str], value: &str, option: &str, range: &str| {
        let said = format!("invalid value '{value}' for '{option}': allowed is a whole number from {range}");
        check(&[args, &[value]].concat(), &[], 2, &[&said]);
    };
    for wrong in ["10k", "-5", "1.5", "1e5", "", "99999999999999999999"] {
        number(&["load", "h", "--connecting-max"], wrong, "--connecting-max <N>", "1 to 2147483647");
        number(&["load", "h", "--payload-bytes"], wrong, "--payload-bytes <N>", "0 to 2147483647");
        number(&["doctor", "--connections"], wrong, "--connections <N>", "1 to 2147483647");
        number(&["tune", "--connections"], wrong, "--connections <N>", "1 to 2147483647");
        number(&["bus", "check", "--entries"], wrong, "--entries <N>", "0 to ");
    }
    number(&["subscribe", "h", "--count"], "0", "--count <N>", "1 to ");
    for wrong in ["0", "-5", "1.5", "1e5", "", "10 k", "99999999999999999999"] {
        number(&["load", "h", "-n"], wrong, "--clients <N>", "1 to 2147483647, also as 10k or 1m");
    }
    check(
        &["load", "h", "--connect-rate", "x"],
        &[],
        2,
        &["--connect-rate <N>", "'x'", "a number, such as 100 or 0.5"],
    );
    check(&["tune", "--remove", "--connections", "5"], &[], 2, &["--remove", "--connections"]);
    check(&["subscribe", "h", "--idle-timeout", "-5s"], &[], 2, &["--idle-timeout <TIME>", "-5s", "500ms, 3s"]);
    check(&["publish", "t", "x", "--redis-url", "redis://h", "--id", "7"], &[], 2, &["--redis-payload envelope"]);
}

#[test]
fn a_wrong_value_names_the_option_the_value_and_what_is_allowed_and_exits_2() {
    let check = |args: &[&str], env: &[(&str, &str)], words: &[&str]| {
        check(&[&["serve", "--print-config"], args].concat(), env, 2, words);
    };
    check(&["--heartbeat", "0s"], &[], &["--heartbeat 0s", "1s to 1h"]);
    check(&["--listen", "host:1"], &[], &["--listen host:1", "ADDR:PORT"]);
    check(&[], &[("FANFARE_SLOW_POLICY", "drop")], &["FANFARE_SLOW_POLICY=drop", "close or skip"]);
    check(&["--dev", "--listen", "0.0.0.0:1"], &[], &["--dev", "--listen 0.0.0.0:1", "loopback"]);
    check(
        &["--stall-timeout", "2m", "--tcp-user-timeout", "2m"],
        &[],
        &["--stall-timeout 2m", "--tcp-user-timeout 2m"],
    );
    check(&["--max-connections", "-5"], &[], &["--max-connections -5: allowed is a whole number from 1 to "]);
    check(&["--max-connections", "10k"], &[], &["--max-connections 10k: allowed is a whole number from 1 to "]);
    check(&["--retry", "-1s"], &[], &["--retry -1s: ", "500ms, 3s"]);
    check(&["--history-bytes", "--dev"], &[], &["--history-bytes --dev: ", "64KiB"]);
    let (_held, path) = file("# where\nlisten = 127.0.0.1:40003 # here\n");
    let needs_quotes = "line 2: listen = 127.0.0.1:40003: a text needs quotes: listen = \"127.0.0.1:40003\"\n";
    check(&["--config", &path], &[], &[&path, needs_quotes]);
    check(&["--dev=maybe"], &[], &["--dev maybe: allowed is true or false"]);
    check(&["--publish-token-file", ""], &[], &["--publish-token-file : the value is empty"]);
    let wrong_line = |text: &str, words: &str| {
        let (_held, path) = file(text);
        check(&["--config", &path], &[], &[&path, words]);
    };
    wrong_line("max-connections = 10k\n", "line 1: max-connections = 10k: allowed is a whole number, such as 10000");
    wrong_line("max-connections = 99999999999999999999\n", "99999999999999999999: allowed is a whole number");
    wrong_line("max-connections = -5\n", "max-connections = -5 in ");
    wrong_line("dev = yes\n", "line 1: dev = yes: allowed is true or false");
    wrong_line("log-level =\n", "line 1: log-level has no value: write one, or leave the line out");
    wrong_line("[limits]\nmax-connections = 5\n", "unknown key limits; options stand above the first line [[...]]");
    wrong_line("[[topics]]\npattern = \"a\"\nlatest = \"x\"\n", "latest = \"x\" in [[topics]] 1 of ");
    let (_held, path) = file("cors-origin = [https://a, https://b]");
    check(&["--config", &path], &[], &[&path, "line 1: ", "cors-origin = [\"https://a\", \"https://b\"]"]);
    let (_held, path) = file("redis-url = redis://me:hunter2@host");
    check(&["--config", &path], &[], &[&path, "line 1: redis-url needs quotes around its value\n"]);
    let (_held, path) = file("heart-beat = \"1s\"\n");
    check(&["--config", &path], &[], &[&path, "heart-beat", "did you mean heartbeat?"]);
    check(&["--config", "/no/such"], &[], &["/no/such", "No such file"]);

    let redis = |url: &str, ca: &str, words: &[&str]| check(&["--redis-url", url, "--redis-tls-ca", ca], &[], words);
    let (_held, empty) = file("");
    redis("rediss://host", "/no/such", &["--redis-tls-ca /no/such: ", "No such file"]);
    redis("rediss://host", &empty, &["--redis-tls-ca ", &empty, "no certificate", "PEM"]);
    let database = "must be a database number, such as /0";
    check(&["--redis-url", "redis://h/abc"], &[], &["--redis-url redis://h/abc: ", database, "redis://[user"]);
    check(&["--redis-url", "rediss://host/#insecure"], &[], &["--redis-url rediss://host/#insecure: ", "name the CA"]);
}

#[test]
fn an_option_that_is_set_alone_works_and_the_defaults_of_others_follow_it() {
    let check = |option: &[&str], line: &str| check(&[&["serve", "--print-config"], option].concat(), &[], 0, &[line]);
    check(&["--history-bytes", "64KiB"], "event-bytes = \"64KiB\" # default, follows history-bytes\n");
    check(&["--stall-timeout", "60s"], "stall-timeout = \"60s\" # --stall-timeout\n");
    check(&["--event-bytes", "1GiB"], "history-bytes-total = \"1GiB\" # default, follows history-bytes\n");
}

#[test]
fn a_file_that_can_not_be_used_is_named_once_and_exits_2() {
    let check = |args: &[&str], expected: &str| {
        let output = fanfare(args, &[]);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), said.as_str()),
            (Some(2), format!("error: {expected}\n").as_str()),
            "{args:?}"
        );
    };
    const GONE: &str = "/no/such: No such file or directory (os error 2)";
    check(&["serve", "--publish-token-file", "/no/such"], &format!("--publish-token-file {GONE}"));
    check(&["serve", "--jwt-key-file", "/no/such"], &format!("--jwt-key-file {GONE}"));
    let (_held, key) = file(&"x".repeat(32));
    let both = format!("--jwt-key-file {key}, /no/such: {GONE}");
    check(&["serve", "--jwt-key-file", &key, "--jwt-key-file", "/no/such"], &both);
    check(&["subscribe", "h", "--token-file", "/no/such"], &format!("--token-file {GONE}"));
    check(&["subscribe", "h", "--ca", "/no/such"], &format!("--ca {GONE}"));
    check(&["publish", "t", "x", "--token-file", "/no/such"], &format!("--token-file {GONE}"));
    check(&["publish", "t", "x", "--ca", "/no/such"], &format!("--ca {GONE}"));
    let redis = ["publish", "t", "x", "--redis-url", "redis://h", "--redis-password-file", "/no/such"];
    check(&redis, &format!("--redis-password-file {GONE}"));
    check(&["disconnect", "--topic", "t", "--token-file", "/no/such"], &format!("--token-file {GONE}"));
    check(&["token", "--operator", "--key-file", "/no/such"], &format!("--key-file {GONE}"));
    check(&["load", "http://127.0.0.1:1", "--token-file", "/no/such"], &format!("--token-file {GONE}"));
    check(
        &["doctor", "--root", "/no/such"],
        "--root /no/such: /no/such/proc/meminfo: No such file or directory (os error 2)",
    );
}

#[test]
fn a_port_that_is_taken_is_explained() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let check = |option: &str, args: &[&str]| {
        let advice = format!("perhaps by another server; choose another port with {option} ADDR:PORT");
        check(&[&["serve"], args].concat(), &[], 1, &["can't listen on", &taken, "in use", &advice]);
    };
    check("--listen", &["--listen", &taken]);
    check("--admin-listen", &["--listen", "127.0.0.1:0", "--admin-listen", &taken]);
}

#[test]
fn a_socket_in_a_folder_that_is_not_there_is_explained() {
    let held = tempfile::tempdir().unwrap();
    let folder = held.path().join("not there").display().to_string();
    let listen = format!("unix:{folder}/fanfare.sock");
    let words = ["can't listen on", &listen, &format!("the folder {folder} does not exist;"), "sudo install -d -o"];
    check(&["serve", "--listen", &listen], &[], 1, &words);
}

/// The block of shell commands in a document that starts a server on a unix socket.
fn documented_start(document: &str) -> &str {
    let blocks = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut starts = blocks.filter(|block| block.contains("fanfare serve --listen unix:"));
    starts.next().expect("the document starts a server")
}

#[test]
fn documented_commands_for_a_unix_socket_run_as_written() {
    for document in [include_str!("../docs/migrating.md"), include_str!("../docs/proxies.md")] {
        let held = tempfile::tempdir().unwrap();
        let folder = held.path().join("fanfare").display().to_string();
        let binary = env!("CARGO_BIN_EXE_fanfare");
        // Only what this host may hold already is replaced: the folder, the ports, and whom the folder is to belong to.
        let written = documented_start(document);
        let script =
            written.replace("sudo ", "").replace("/run/fanfare", &folder).replace("127.0.0.1:3002", "127.0.0.1:0");
        let script = script.replace("fanfare serve", &format!("exec {binary} serve"));
        let mut child = Command::new("bash").args(["-ec", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut announced = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut announced).unwrap();
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(announced, format!("listening on unix:{folder}/fanfare.sock\n"), "{script}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (_held, path) = file("retry = \"7s\"\ndrain = \"7s\"\nheartbeat = \"7s\"\n");
    let env = [("FANFARE_RETRY", "6s"), ("FANFARE_DRAIN", "6s"), ("SSE_PORT", "80"), ("SSE_HOST", "sse.example.com")];
    let from_file = format!("heartbeat = \"7s\" # {path}\n");
    let lines = [
        "retry = \"5s\" # --retry\n",
        "drain = \"6s\" # FANFARE_DRAIN\n",
        &from_file,
        "stall-timeout = \"30s\" # default\n",
        "listen = [\"127.0.0.1:80\"] # SSE_PORT\n",
    ];
    check(&["serve", "--config", &path, "--print-config", "--retry", "5s"], &env, 0, &lines);
    check(&["serve", "--print-config"], &[("FANFARE_CONFIG", &path)], 0, &["retry = \"7s\""]);
}

#[test]
fn the_printed_configuration_is_a_configuration_file() {
    let values = |printed: &str| -> Vec<String> {
        let lines = printed.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
    };
    let args = ["serve", "--print-config", "--dev", "--listen", "127.0.0.1:0", "--listen", "unix:/run/f.sock"];
    let first = text(&fanfare(&args, &[("REDIS_URL", "redis://me:hunter2@host/1")]).stdout);
    assert!(first.contains("redis://me:***@host/1") && !first.contains("hunter2"), "{first}");
    let (_held, path) = file(&first);
    let again = text(&fanfare(&["serve", "--print-config", "--config", &path], &[]).stdout);
    assert_eq!(values(&again), values(&first));
    assert!(again.contains("dev = true"), "{again}");
}

#[test]
fn secrets_are_in_no_message() {
    let check = |args: &[&str], shown: &str| {
        let output = fanfare(args, &[]);
        let said = text(&output.stderr);
        assert!(said.contains(shown) && !said.contains("hunter2"), "{said}");
        assert_eq!(output.status.code(), Some(2), "{said}");
    };
    let redis = "http://me:hunter2@host";
    check(&["serve", "--redis-url", redis], "--redis-url http://me:***@host");
    check(&["publish", "t", "x", "--redis-url", redis], "--redis-url http://me:***@host");
    check(&["load", "http://127.0.0.1:1/", "--redis-url", redis], "--redis-url http://me:***@host");
    let url = "ftp://me:hunter2@host/e?access_token=hunter2";
    let shown = "ftp://me:***@host/e?access_token=***";
    check(&["subscribe", url], shown);
    check(&["publish", "--url", url, "t", "x"], shown);
    check(&["disconnect", "--url", url, "--topic", "t"], shown);
    check(&["load", url], shown);
    check(&["load", "http://127.0.0.1:1/", "--publish-url", url], shown);
    let (header, advice) = ("Authorization Bearer hunter2", "--header: allowed is 'Name: value'");
    check(&["subscribe", "127.0.0.1:1", "-H", header], advice);
    check(&["load", "127.0.0.1:1", "-H", header], advice);
    let publish = ["--publish-url", "127.0.0.1:1", "--publish-header", header];
    check(&[&["load", "127.0.0.1:1"], &publish[..]].concat(), "--publish-header: allowed is 'Name: value'");
}

#[test]
fn completions_are_there_for_the_usual_shells() {
    for (shell, words) in [("bash", "complete -F"), ("zsh", "#compdef fanfare"), ("fish", "complete -c fanfare")] {
        check(&["completions", shell], &[], 0, &[words, "stall-timeout", "print-config"]);
    }
    check(&["completions", "tcl"], &[], 2, &["bash"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let held = tempfile::tempdir().unwrap();
    let folder = held.path().join("man1");
    check(&["man", folder.to_str().unwrap()], &[], 0, &[]);
    let page =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let help = text(&fanfare(&["--help"], &[]).stdout);
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().map_while(|line| line.split_whitespace().next());
    let commands: Vec<_> = commands.filter(|name| *name != "help").collect();
    assert!(commands.contains(&"serve"), "{help}");
    for command in commands {
        assert!(page("fanfare.1").contains(&format!("fanfare\\-{command}(1)")), "{command}");
        assert!(page(&format!("fanfare-{command}.1")).contains(".TH"), "{command}");
    }
    assert!(page("fanfare-serve.1").contains("stall\\-timeout"));
}
