//! Values as text: durations, sizes, counts, addresses, origins and log filters, parsed strictly and with advice.
//!
//! Every parser states what is allowed when it refuses; the caller adds which option it was. Independent of options,
//! files and environment.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::event::{NameError, Topic};

/// Largest allowed count: every count fits in a `u32` and in an `int` of the kernel.
pub const COUNT_MAX: u32 = i32::MAX as u32;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];

const SIZE_UNITS: [(&str, usize); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads a duration with its unit: `500ms`, `3s`, `5m`, `1h`, `2d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const ADVICE: &str = "write a whole number and its unit, such as 500ms, 3s, 5m or 1h";
    let (digits, unit) = split_number(text).ok_or(ADVICE)?;
    if unit.is_empty() {
        return Err(format!("a duration needs a unit, such as {digits}s or {digits}ms"));
    }
    let number: u64 = digits.parse().map_err(|_| ADVICE)?;
    let (_, unit_ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or(ADVICE)?;
    number.checked_mul(*unit_ms).map(Duration::from_millis).ok_or_else(|| ADVICE.to_owned())
}

/// A reader of durations from `min` to `max`, both included.
pub fn duration_within(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let value = duration(text)?;
        if (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(format!("allowed is {} to {}", duration_text(min), duration_text(max)))
    }
}

/// Writes a duration as [`duration`] reads it, in the largest unit that holds it exactly.
pub fn duration_text(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let (unit, unit_ms) = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, unit_ms)| ms > 0 && ms.is_multiple_of(*unit_ms))
        .unwrap_or(&DURATION_UNITS[1]); // zero is `0s`
    format!("{}{unit}", ms / unit_ms)
}

/// Reads a size: bytes, or with one of the units B, KB, MB, GB, KiB, MiB, GiB in any case.
pub fn size(text: &str) -> Result<usize, String> {
    const ADVICE: &str = "write a whole number of bytes, or one with its unit, such as 64KiB, 1MiB or 10MB";
    let (digits, unit) = split_number(text).ok_or(ADVICE)?;
    let number: usize = digits.parse().map_err(|_| ADVICE)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(ADVICE)?;
    number.checked_mul(*unit_bytes).ok_or_else(|| ADVICE.to_owned())
}

/// A reader of sizes from `min_bytes` to `max_bytes`, both included.
pub fn size_within(min_bytes: usize, max_bytes: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let bytes = size(text)?;
        if (min_bytes..=max_bytes).contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!("allowed is {} to {}", size_text(min_bytes), size_text(max_bytes)))
    }
}

/// Writes a size as [`size`] reads it: in binary units where they hold it exactly, else in bytes.
pub fn size_text(bytes: usize) -> String {
    let binary = &SIZE_UNITS[4..];
    match binary.iter().rev().find(|(_, unit_bytes)| bytes > 0 && bytes.is_multiple_of(*unit_bytes)) {
        Some((unit, unit_bytes)) => format!("{}{unit}", bytes / unit_bytes),
        None => format!("{bytes}B"),
    }
}

/// How many event loops there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loops {
    /// One for each core that the process may use.
    Auto,
    /// This number.
    Count(usize),
}

impl Loops {
    /// Each takes some megabytes, and every event costs every loop something.
    const MAX: usize = 64;

    /// Reads `auto` or a number.
    pub fn read(text: &str) -> Result<Loops, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Loops::Auto),
            Ok(count) if (1..=Loops::MAX).contains(&count) => Ok(Loops::Count(count)),
            _ => Err(format!("allowed is auto or a number from 1 to {}", Loops::MAX)),
        }
    }

    /// The number, where the process may use this many cores.
    pub fn count(self, cores: usize) -> usize {
        match self {
            Loops::Auto => cores.clamp(1, Loops::MAX),
            Loops::Count(count) => count,
        }
    }
}

/// A reader of whole numbers from `min` to `max`, both included.
pub fn count_within(min: u32, max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    number_within(min, max)
}

/// The same for numbers of another type, which `max` names.
pub fn number_within<T>(min: T, max: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + FromStr + PartialOrd + fmt::Display,
{
    move |text| match text.parse() {
        Ok(count) if (min..=max).contains(&count) => Ok(count),
        _ => Err(format!("allowed is a whole number from {min} to {max}")),
    }
}

/// Reads a topic's name, or a name with the same rules: a Redis channel, or a pattern of channels.
pub fn topic(text: &str) -> Result<Topic, String> {
    Topic::new(text).map_err(|error| format!("a topic's name {error}"))
}

/// Reads the name of a topic that clients may subscribe to.
pub(super) fn exact_topic(text: &str) -> Result<Topic, String> {
    match Topic::looks_like_pattern(text) {
        true => {
            Err("a topic's name here has no *: names are exact; --redis-pattern takes patterns of channels".to_owned())
        }
        false => topic(text),
    }
}

/// Reads the name of a Redis channel that is not a topic: the bus, whose name may be a reserved one.
pub fn channel(text: &str) -> Result<String, String> {
    match Topic::new(text) {
        Ok(_) | Err(NameError::Reserved) => Ok(text.to_owned()),
        Err(error) => Err(format!("a channel's name {error}")),
    }
}

/// Reads a pattern of topics.
pub(super) fn pattern_of_topics(text: &str) -> Result<String, String> {
    Topic::new(text).map(|_| text.to_owned()).map_err(|error| format!("a pattern of topics {error}"))
}

/// Reads the name of a bus, which is a part of its keys.
pub fn bus_name(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    match (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err("the name of a bus has 1 to 64 letters, digits, and - _ . : alone".to_owned()),
    }
}

/// Splits leading ASCII digits from what follows; none when there are no digits.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| text.split_at(digits))
}

/// The path of one more stream route: absolute, without query, and not one that the server uses for something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPath(String);

impl EndpointPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EndpointPath {
    type Err = String;

    fn from_str(text: &str) -> Result<EndpointPath, String> {
        const TAKEN: [&str; 11] = [
            "/",
            "/publish",
            "/disconnect",
            "/metrics",
            "/dashboard",
            "/dashboard/debug",
            "/dashboard/data",
            "/kafka/status",
            "/fanfare.js",
            "/fanfare.d.ts",
            "/openapi.json",
        ];
        const TAKEN_TREES: [&str; 3] = ["/health", "/topics", "/dashboard/page"];
        if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\"<>^`{}".contains(&b)) {
            return Err(
                "allowed is a path such as /sse: it starts with a slash, and has no query, no escape, and nothing that browsers escape".into()
            );
        }
        let in_tree =
            |tree: &&str| text.strip_prefix(*tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let is_client = text.starts_with("/fanfare-") && text.ends_with(".js"); // of any version
        if TAKEN.contains(&text) || TAKEN_TREES.iter().any(in_tree) || is_client {
            return Err("that path is the server's own; allowed is any other, such as /sse".into());
        }
        Ok(EndpointPath(text.to_owned()))
    }
}

impl fmt::Display for EndpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One value of `--allowed-host`: a name without scheme and port, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<HostName, String> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        match text.strip_suffix('.').unwrap_or(text) {
            name if !name.is_empty() && name.bytes().all(is_name) => Ok(HostName(name.to_ascii_lowercase())),
            _ => Err("allowed is a host name without scheme and port, such as events.example.com".to_owned()),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One value of `--cors-origin`, as a browser writes it in its `Origin` header (RFC 6454 section 6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsOrigin(String);

impl CorsOrigin {
    /// The value that stands for every origin.
    pub const ANY: &str = "*";

    /// The origin: `scheme://host[:port]`, or `*`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `*`.
    pub fn is_any(&self) -> bool {
        self.0 == CorsOrigin::ANY
    }
}

impl FromStr for CorsOrigin {
    type Err = String;

    /// Exact and lower-case, because it is compared byte for byte with what the browser sends.
    fn from_str(text: &str) -> Result<CorsOrigin, String> {
        if text == CorsOrigin::ANY {
            return Ok(CorsOrigin(text.to_owned()));
        }
        let advice =
            || "allowed is scheme://host or scheme://host:port, such as https://app.example.com, or *".to_owned();
        let url = url::Url::parse(text).map_err(|_| advice())?;
        let origin = url.origin();
        if !origin.is_tuple() || text.contains('*') {
            return Err(advice());
        }
        match origin.ascii_serialization() {
            serialized if serialized == text => Ok(CorsOrigin(serialized)),
            serialized => Err(format!("browsers send that origin as {serialized}; write it so")),
        }
    }
}

/// What is logged: a level, or filter directives such as `info,fanfare::sources=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives.
    pub fn directives(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// A single word must be a level: the filter's own syntax would take a misspelt level for the name of a module and
    /// then log only that module.
    fn from_str(text: &str) -> Result<LogFilter, String> {
        let advice =
            "allowed is trace, debug, info, warn, error or off, or directives such as info,fanfare::sources=debug";
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "trace" | "debug" | "info" | "warn" | "error" | "off" => Ok(LogFilter(lower)),
            "warning" => Ok(LogFilter("warn".into())), // what Ruby's and Python's loggers call it
            _ if !text.contains(['=', ',']) => Err(advice.to_owned()),
            _ => tracing_subscriber::EnvFilter::builder()
                .parse(text)
                .map(|_| LogFilter(text.to_owned()))
                .map_err(|error| format!("{error}; {advice}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text`; a refusal is compared by the words it must hold.
    fn check<T: PartialEq + fmt::Debug>(
        read: impl Fn(&str) -> Result<T, String>,
        text: &str,
        expected: Result<T, &str>,
    ) {
        match (read(text), expected) {
            (Err(refusal), Err(words)) => assert!(refusal.contains(words), "{text:?}: {refusal:?} lacks {words:?}"),
            (read, expected) => assert_eq!(read, expected.map_err(str::to_owned), "{text:?}"),
        }
    }

    #[test]
    fn durations_have_units() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        check(duration, "500ms", ms(500));
        check(duration, "3s", ms(3_000));
        check(duration, "5m", ms(300_000));
        check(duration, "1h", ms(3_600_000));
        check(duration, "2d", ms(172_800_000));
        check(duration, "0s", ms(0));
        check(duration, "30", Err("30s or 30ms"));
        for bad in ["", "s", "1.5s", "-1s", " 1s", "1 s", "1S", "1min", "99999999999999999999s", "9999999999999999999h"]
        {
            check(duration, bad, Err("whole number and its unit"));
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_units() {
        check(size, "512", Ok(512));
        check(size, "512B", Ok(512));
        check(size, "64KiB", Ok(65_536));
        check(size, "64kib", Ok(65_536));
        check(size, "1MiB", Ok(1_048_576));
        check(size, "10MB", Ok(10_000_000));
        check(size, "2GiB", Ok(2_147_483_648));
        for bad in ["", "KiB", "64K", "64M", "1.5MiB", "-1", "1 KiB", "99999999999999999999", "99999999999999999GB"] {
            check(size, bad, Err("whole number of bytes"));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for ms in [0, 1, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000, 86_400_001] {
            check(duration, &duration_text(Duration::from_millis(ms)), Ok(Duration::from_millis(ms)));
        }
        for bytes in [0, 1, 1_000, 1_024, 1_536, 1 << 20, (1 << 20) + 1, 3 << 30] {
            check(size, &size_text(bytes), Ok(bytes));
        }
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::ZERO), "0s");
        assert_eq!(size_text(16 << 10), "16KiB");
    }

    #[test]
    fn bounds_are_named() {
        let second = Duration::from_secs(1);
        check(duration_within(second, second * 60), "0s", Err("1s to 1m"));
        check(duration_within(second, second * 60), "60s", Ok(second * 60));
        check(size_within(1 << 10, 1 << 20), "2MiB", Err("1KiB to 1MiB"));
        check(count_within(1, 10), "10", Ok(10));
        for bad in ["0", "11", "ten", "", "-1"] {
            check(count_within(1, 10), bad, Err("from 1 to 10"));
        }
    }

    #[test]
    fn an_endpoint_is_a_free_path() {
        let path = |text: &str| text.parse::<EndpointPath>().map(|path| path.to_string());
        for good in ["/sse", "/dashboard/stream", "/events", "/healthy", "/a/b"] {
            check(path, good, Ok(good.to_owned()));
        }
        for bad in ["", "sse", "/a?b", "/a b", "/ä", "/a%20", "/a{b}", "http://host/sse"] {
            check(path, bad, Err("starts with a slash"));
        }
        for taken in ["/", "/publish", "/disconnect", "/health", "/health/live", "/topics/a", "/metrics", "/dashboard"]
        {
            check(path, taken, Err("server's own"));
        }
        for client in ["/fanfare.js", "/fanfare-0.0.7.js", "/fanfare.d.ts"] {
            check(path, client, Err("server's own"));
        }
    }

    #[test]
    fn a_host_is_a_name_alone() {
        let host = |text: &str| text.parse::<HostName>().map(|host| host.as_str().to_owned());
        check(host, "events.example.com", Ok("events.example.com".to_owned()));
        check(host, "Events.Example.COM.", Ok("events.example.com".to_owned()));
        for bad in ["", ".", "*", "a:80", "https://a", "a/b", "[::1]", "ä"] {
            check(host, bad, Err("without scheme and port"));
        }
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        let origin = |text: &str| text.parse::<CorsOrigin>().map(|origin| origin.as_str().to_owned());
        for good in ["https://app.example.com", "http://localhost:5173", "http://[::1]:8080", "*"] {
            check(origin, good, Ok(good.to_owned()));
        }
        check(origin, "https://app.example.com/", Err("as https://app.example.com;"));
        check(origin, "https://App.example.com", Err("as https://app.example.com;"));
        check(origin, "https://app.example.com:443", Err("as https://app.example.com;"));
        for bad in ["app.example.com", "null", "file:///x", "", "https://*"] {
            check(origin, bad, Err("allowed is scheme://host"));
        }
    }

    #[test]
    fn log_filters_are_levels_or_directives() {
        let filter = |text: &str| text.parse::<LogFilter>().map(|filter| filter.directives().to_owned());
        check(filter, "INFO", Ok("info".to_owned()));
        check(filter, "warning", Ok("warn".to_owned()));
        check(filter, "info,fanfare::sources=debug", Ok("info,fanfare::sources=debug".to_owned()));
        check(filter, "infoo", Err("trace, debug"));
        check(filter, "fanfare=loud", Err("trace, debug"));
    }
}
