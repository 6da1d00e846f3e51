//! Archives of this crate, read by the `tar` crate and GNU tar.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod members;
mod properties;
mod readers;

use backup_format::archive::{Attributes, file_header, padding};

const ATTRIBUTES: Attributes = Attributes {
    mode: 0o640,
    uid: 117,
    gid: 123,
    mtime: 951_827_696,
};

fn add_file(out: &mut Vec<u8>, path: &[u8], data: &[u8]) {
    let size = data.len() as u64;
    file_header(out, path, size, &ATTRIBUTES);
    out.extend_from_slice(data);
    out.resize(out.len() + padding(size), 0);
}
