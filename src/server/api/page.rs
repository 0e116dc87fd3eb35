//! The page's files, embedded and compressed at build time, the client script that any page may use, and the description of
//! all routes (OpenAPI).
//!
//! Invariant: a browser runs only what this server serves; the policy permits no other origin and no inline code.

use super::json;
use crate::protocol::head::RequestHead;
use crate::protocol::response::Response;

/// Everything comes from this server: no inline scripts or styles, no frames, no requests to other servers.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                                       connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One embedded file.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    path: &'static str,
    content_type: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    fingerprint: u64,
}

macro_rules! file {
    ($folder:literal, $name:literal, $content_type:literal) => {
        File {
            path: concat!($folder, $name),
            content_type: $content_type,
            plain: include_bytes!(concat!("../../../web/", $name)),
            gzip: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
            fingerprint: fingerprint(include_bytes!(concat!("../../../web/", $name))),
        }
    };
}

static FILES: [File; 10] = [
    File { path: "/dashboard", ..file!("", "index.html", "text/html; charset=utf-8") },
    file!("/", "fanfare.js", "text/javascript; charset=utf-8"),
    file!("/", "fanfare.d.ts", "text/plain; charset=utf-8"),
    file!("/dashboard/page/", "page.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "charts.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "figures.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "inspector.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "page.css", "text/css; charset=utf-8"),
    file!("/dashboard/page/", "icon.svg", "image/svg+xml"),
    file!("/", "openapi.json", "application/json"),
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// All files.
#[cfg(test)]
pub(super) fn files() -> impl Iterator<Item = &'static File> {
    FILES.iter()
}

/// `GET /`: the page for browsers, `list` for other clients.
pub(super) fn index(head: &RequestHead, list: &serde_json::Value) -> Response {
    let response = if head.accepts_html { FILES[0].response(head) } else { json(200, list) };
    response.with_header("Vary", "Accept")
}

impl File {
    /// Where it is.
    #[cfg(test)]
    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    /// Its content.
    #[cfg(test)]
    pub(super) fn text(&self) -> &'static str {
        std::str::from_utf8(self.plain).expect("all files are text")
    }

    /// The file, or 304 if the client has it already.
    pub(super) fn response(&self, head: &RequestHead) -> Response {
        let (body, suffix) = if head.accepts_gzip { (self.gzip, "-gzip") } else { (self.plain, "") };
        let tag = format!("\"{:016x}{suffix}\"", self.fingerprint);
        let is_known = head.if_none_match.as_deref().is_some_and(|known| matches_tag(known, &tag));
        let mut response = match is_known {
            true => Response::new(304),
            false => Response::new(200).with_body(self.content_type, body),
        };
        if head.accepts_gzip && !is_known {
            response = response.with_header("Content-Encoding", "gzip");
        }
        response
            .with_header("ETag", tag)
            // Requested each time and answered with 304: a new version of the server shows its new files at once.
            .with_header("Cache-Control", "no-cache")
            .with_header("Vary", "Accept-Encoding")
            .with_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            .with_header("X-Content-Type-Options", "nosniff")
            .with_header("Referrer-Policy", "no-referrer")
    }
}

/// Weak comparison with a list of tags (RFC 9110, 13.1.2).
fn matches_tag(known: &str, tag: &str) -> bool {
    known.split(',').map(str::trim).any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// FNV-1a: distinguishes versions of one file, and can be computed at compile time.
#[allow(long_running_const_eval, reason = "a few ten thousand bytes")]
const fn fingerprint(bytes: &[u8]) -> u64 {
    let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_the_description_stay_small_and_compress() {
        let (page, description): (Vec<_>, Vec<_>) = FILES.iter().partition(|file| file.path != "/openapi.json");
        for (files, bytes_max) in [(page, 60_000), (description, 90_000)] {
            let sum = |bytes: fn(&&File) -> usize| files.iter().map(bytes).sum::<usize>();
            let (plain, gzip) = (sum(|file| file.plain.len()), sum(|file| file.gzip.len()));
            assert!(plain < bytes_max && gzip < plain / 2, "{plain} bytes, compressed {gzip}");
        }
    }

    #[test]
    fn tags_are_found_in_lists_and_weak_ones_too() {
        let check = |known: &str, expected: bool| assert_eq!(matches_tag(known, "\"a\""), expected, "{known}");
        check("\"a\"", true);
        check("\"b\", W/\"a\"", true);
        check("*", true);
        check("\"b\"", false);
        check("a", false);
        check("", false);
    }
}
