//! The circumstances of a test: when it ran, which version, with which command, and on which machine.

use std::fs;
use std::time::SystemTime;

use crate::config::{REDACTED, redact_url};

/// What a report says about the run, apart from its figures. Texts without secrets.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// When it began (an HTTP date, in UTC).
    pub date: String,
    /// This program's.
    pub version: &'static str,
    /// As it was typed.
    pub command: String,
    /// Processor, cores and memory of this host.
    pub machine: String,
    /// Name and release.
    pub kernel: String,
}

/// The long options whose value is a header; the short one is -H.
const HEADER_OPTIONS: [&str; 2] = ["--header", "--publish-header"];

impl Circumstances {
    /// Those of this process.
    pub fn now(arguments: impl IntoIterator<Item = String>) -> Circumstances {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Circumstances {
            date: httpdate::fmt_http_date(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            command: command(arguments),
            machine: machine(&read("/proc/cpuinfo"), &read("/proc/meminfo"), cores),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim_end()),
        }
    }

    /// Each with the name that it has in a report.
    pub fn named(&self) -> [(&'static str, &str); 5] {
        [
            ("date", &self.date),
            ("version", self.version),
            ("command", &self.command),
            ("machine", &self.machine),
            ("kernel", &self.kernel),
        ]
    }
}

fn machine(cpuinfo: &str, meminfo: &str, cores: usize) -> String {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let processor = field(cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kib = field(meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<f64>().ok());
    let memory = kib.map_or_else(String::new, |kib| format!(", {:.1} GiB", kib / f64::from(1 << 20)));
    format!("{processor}, {cores} {}{memory}", if cores == 1 { "core" } else { "cores" })
}

/// The command line, quoted for a shell. The values of headers and the secrets in addresses are left out.
fn command(arguments: impl IntoIterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_header = false;
    for argument in arguments {
        let was_option = std::mem::take(&mut is_header);
        let shown = match argument.split_once('=') {
            _ if was_option => redact_header(&argument),
            // Also behind other short options: -qH.
            _ if argument.starts_with('-') && !argument.starts_with("--") && argument.contains('H') => {
                let (options, header) = argument.split_at(argument.find('H').map_or(0, |at| at + 1));
                is_header = header.is_empty();
                if is_header { argument } else { format!("{options}{}", redact_header(header)) }
            }
            Some((option, header)) if HEADER_OPTIONS.contains(&option) => format!("{option}={}", redact_header(header)),
            Some((option, value)) if option.starts_with("--") => format!("{option}={}", redact_url(value)),
            _ => {
                is_header = HEADER_OPTIONS.contains(&&*argument);
                redact_url(&argument)
            }
        };
        words.push(quoted(shown));
    }
    words.join(" ")
}

fn redact_header(header: &str) -> String {
    let name = header.split_once(':').map_or("", |(name, _)| name);
    format!("{name}: {REDACTED}")
}

fn quoted(word: String) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_its_secrets() {
        let check = |arguments: &[&str], expected: &str| {
            assert_eq!(command(arguments.iter().map(ToString::to_string)), expected);
        };
        check(&["fanfare", "load", "http://h/?topic=a&b", "-n", "10k"], "fanfare load 'http://h/?topic=a&b' -n 10k");
        check(&["load", "-H", "Cookie: hunter2", "h"], "load -H 'Cookie: ***' h");
        check(&["--header=Cookie: hunter2", "-HA: hunter2"], "'--header=Cookie: ***' '-HA: ***'");
        check(&["-qH", "Cookie: hunter2", "-vHCookie: hunter2", "h"], "-qH 'Cookie: ***' '-vHCookie: ***' h");
        check(&["--publish-header", "hunter2"], "--publish-header ': ***'");
        check(&["https://me:hunter2@h/a?access_token=hunter2"], "'https://me:***@h/a?access_token=***'");
        check(&["--redis-url", "redis://:hunter2@h"], "--redis-url 'redis://:***@h'");
        check(&["--redis-url=redis://:hunter2@h"], "'--redis-url=redis://:***@h'");
        check(&["--fail-if", "p99_latency>1s", "it's", ""], r"--fail-if 'p99_latency>1s' 'it'\''s' ''");
    }

    #[test]
    fn a_machine_is_described() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A processor @ 2 GHz\n";
        assert_eq!(machine(cpuinfo, "MemTotal:       25165824 kB\n", 2), "A processor @ 2 GHz, 2 cores, 24.0 GiB");
        assert_eq!(machine("", "", 1), format!("{}, 1 core", std::env::consts::ARCH));
    }
}
