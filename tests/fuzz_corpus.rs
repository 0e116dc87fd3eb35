//! The corpus of the fuzz targets, replayed: what was found once is not found again. `fuzz/run` looks for more.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Checks every file of a target's corpus, and names those that fail.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{} is no corpus", folder.display());
    let fails = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err()
    };
    let failed: Vec<_> = files.iter().filter(|path| fails(path)).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), fuzz::$target::check);
            }
        )*

        #[test]
        fn every_target_has_its_place_here_and_there() {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let here = [$(stringify!($target)),*];
            for folder in ["fuzz_targets", "corpus"] {
                let there = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
                let mut there: Vec<_> = there.map(|path| path.file_stem().unwrap().to_owned()).collect();
                there.sort();
                assert_eq!(there, here, "{folder}");
            }
        }
    };
}

targets! {
    config forwarded glob proxy_header publish redis_address redis_payload redis_replies request sse_decoder sse_encoder token
}
