//! S3 server of another maker: moto, from PyPI.

use std::process::Command;

use super::served::Served;
use super::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY, installed, s3_environment};

/// moto's server with an empty bucket. It accepts any keys.
#[derive(Debug)]
pub struct Moto(Served);

impl Moto {
    /// Starts a server, if moto is installed.
    pub fn start() -> Option<Self> {
        let found = installed::find("moto")?;
        let mut python = Command::new(&found[0]);
        python
            .args(["-c", include_str!("../../servers/moto.py"), BUCKET, REGION])
            // Python writes nothing beside the installed files.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Some(Self(Served::start(&mut python, "")))
    }

    /// Variables with which a client reaches the server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        s3_environment(self.0.port, ACCESS_KEY, SECRET_KEY)
    }

    /// URL of the bucket.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }
}
