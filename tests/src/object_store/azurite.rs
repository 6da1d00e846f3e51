//! Azure's blob storage: Azurite, from the npm registry.

use std::process::Command;

use super::served::Served;
use super::{BUCKET, installed};
use crate::scratch::Folder;

/// Account that Azurite has from the start, with a key that everybody knows.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Azurite with an empty container.
#[derive(Debug)]
pub struct Azurite {
    served: Served,
    _folder: Folder,
}

impl Azurite {
    /// Starts a server, if Azurite is installed.
    pub fn start() -> Option<Self> {
        let found = installed::find("azurite")?;
        let folder = Folder::new("azure");
        let mut node = Command::new(&found[0]);
        node.args(["-e", include_str!("../../servers/azurite.js"), &found[1]])
            .arg(&*folder)
            .args([BUCKET, ACCOUNT, KEY])
            // It keeps a file in the current directory.
            .current_dir(&*folder);
        Some(Self {
            served: Served::start(&mut node, ""),
            _folder: folder,
        })
    }

    /// Variables with which a client reaches the server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", self.served.port);
        vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", endpoint),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// URL of the container.
    pub fn url(&self) -> String {
        format!("az://{BUCKET}")
    }
}
