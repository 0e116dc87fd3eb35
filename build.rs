//! Compresses the page's files, so that the server need not: the same bytes from the same files, always.

use std::io::Write;
use std::path::Path;
use std::{env, fs};

use flate2::{Compression, GzBuilder};

fn main() {
    println!("cargo::rerun-if-changed=web");
    let folder = env::var_os("OUT_DIR").expect("cargo names the folder");
    for entry in fs::read_dir("web").expect("web/ is beside this file") {
        let path = entry.expect("its entries can be read").path();
        let (name, bytes) = (path.file_name().expect("a file"), fs::read(&path).expect("a file"));
        let packed = Path::new(&folder).join(name).with_extension(match path.extension() {
            Some(extension) => format!("{}.gz", extension.display()),
            None => "gz".to_owned(),
        });
        // No name and no time go into the head, or every build would differ.
        let mut packer = GzBuilder::new().write(Vec::new(), Compression::best());
        packer.write_all(&bytes).expect("a Vec takes all bytes");
        fs::write(packed, packer.finish().expect("a Vec takes all bytes")).expect("cargo's folder can be written");
    }
}
