//! The proxies of docs/proxies, from Debian's packages and with the very files of that folder, between real clients and
//! the real server.

#[path = "../support/mod.rs"]
mod support;

/// Runs each of the functions as a test for each proxy.
macro_rules! for_each_proxy {
    ($($test:ident),* $(,)?) => {
        for_each_proxy! { @ nginx = Nginx: $($test),* }
        for_each_proxy! { @ haproxy = HaProxy: $($test),* }
        for_each_proxy! { @ caddy = Caddy: $($test),* }
    };
    (@ $module:ident = $kind:ident: $($test:ident),*) => {
        mod $module {
            use crate::support::proxy::Kind;
            $(
                #[test]
                fn $test() {
                    super::$test(Kind::$kind);
                }
            )*
        }
    };
}

mod browser;
mod errors;
mod streams;
