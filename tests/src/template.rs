//! Data directories created by `initdb`, once per set of arguments, and then copied.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::program;
use crate::scratch::Folder;

/// Copies a data directory created by `initdb` with these arguments to `target`, which must be
/// empty or absent.
pub fn copy_to(target: &Path, initdb_args: &[String]) {
    let template = template(initdb_args);
    program::succeed(
        program::command("cp")
            .args(["-a", "--reflink=auto", "--"])
            .arg(template.join("."))
            .arg(target),
    );
}

fn template(initdb_args: &[String]) -> Arc<Folder> {
    static TEMPLATES: Mutex<Option<HashMap<Vec<String>, Arc<Folder>>>> = Mutex::new(None);
    // A test that failed here has added no entry, so the map is still valid.
    let mut guard = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    let templates = guard.get_or_insert_default();
    if let Some(template) = templates.get(initdb_args) {
        return Arc::clone(template);
    }
    let dir = Arc::new(Folder::new("template"));
    program::succeed(
        program::command("initdb")
            .args(["--no-sync", "--no-instructions"])
            .args(["--username=postgres", "--auth=trust"])
            .args(["--encoding=UTF8", "--locale=C"])
            .args(initdb_args)
            .arg("-D")
            .arg(&**dir),
    );
    templates.insert(initdb_args.to_vec(), Arc::clone(&dir));
    dir
}
