//! The page's files, embedded and compressed at build time, the client script that any page may use, and the description of
//! all routes (OpenAPI).
//!
//! Invariant: a browser runs only what this server serves; the policy permits no other origin and no inline code.

use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::digest::{SHA384, digest};

use super::json;
use super::origins::ALLOW_ORIGIN;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{Response, problem};

/// Everything comes from this server: no inline scripts or styles, no frames, no requests to other servers.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                                       connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where the client is for as long as this version of it: its bytes never change.
pub(super) const VERSIONED_CLIENT: &str = concat!("/fanfare-", env!("CARGO_PKG_VERSION"), ".js");

/// What pages name in `integrity`, so that they run only this version of the client (W3C Subresource Integrity).
pub(super) static CLIENT_INTEGRITY: LazyLock<String> =
    LazyLock::new(|| format!("sha384-{}", BASE64_STANDARD.encode(digest(&SHA384, CLIENT.plain))));

/// One embedded file.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    path: &'static str,
    origins: Origins,
    lifetime: Lifetime,
    content_type: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    fingerprint: u64,
}

/// Whose pages may load a file.
#[derive(Debug, PartialEq, Eq)]
enum Origins {
    /// This server's, and those of --cors-origin.
    Allowed,
    /// Every origin's. The answer does not depend on the request's origin, so that a cache may give it to all of them.
    All,
}

/// For how long a browser may use a file without a request.
#[derive(Debug, PartialEq, Eq)]
enum Lifetime {
    /// Not at all, and mostly it is answered with 304: a new version of the server shows its new page at once.
    Request,
    /// A year.
    Version,
}

macro_rules! file {
    ($folder:literal, $name:literal, $content_type:literal) => {
        File {
            path: concat!($folder, $name),
            origins: Origins::Allowed,
            lifetime: Lifetime::Request,
            content_type: $content_type,
            plain: include_bytes!(concat!("../../../web/", $name)),
            gzip: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
            fingerprint: fingerprint(include_bytes!(concat!("../../../web/", $name))),
        }
    };
}

const CLIENT: File = File { origins: Origins::All, ..file!("/", "fanfare.js", "text/javascript; charset=utf-8") };

static FILES: [File; 18] = [
    File { path: "/dashboard", ..file!("", "index.html", "text/html; charset=utf-8") },
    CLIENT,
    File { path: VERSIONED_CLIENT, lifetime: Lifetime::Version, ..CLIENT },
    File { origins: Origins::All, ..file!("/", "fanfare.d.ts", "text/plain; charset=utf-8") },
    file!("/dashboard/page/", "page.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "charts.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "figures.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "inspector.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "details.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "disconnect.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "dom.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "eventlist.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "publish.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "topics.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "tree.js", "text/javascript; charset=utf-8"),
    file!("/dashboard/page/", "page.css", "text/css; charset=utf-8"),
    file!("/dashboard/page/", "icon.svg", "image/svg+xml"),
    File { origins: Origins::All, ..file!("/", "openapi.json", "application/json") },
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

/// The answer to a path without a file: for another version of the client, it names the version that is here.
pub(super) fn not_found(path: &str) -> Response {
    if !path.starts_with("/fanfare-") || !path.ends_with(".js") {
        return problem(404, "Not found", &format!("nothing is at {path:?}; GET / lists what there is"));
    }
    let detail = format!("this server's version of fanfare.js is {}, at {VERSIONED_CLIENT}", env!("CARGO_PKG_VERSION"));
    // During an upgrade of several nodes, one answers this and the next has the file: no cache may keep it.
    problem(404, "Not found", &detail).with_header("Cache-Control", "no-store")
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
        if self.origins == Origins::All {
            response = response.with_header(ALLOW_ORIGIN, "*");
        }
        let cache_control = match self.lifetime {
            Lifetime::Request => "no-cache",
            Lifetime::Version => "public, max-age=31536000, immutable",
        };
        response
            .with_header("ETag", tag)
            .with_header("Cache-Control", cache_control)
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
