//! Data directories as `initdb` makes them, made once for each set of arguments and then copied.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::program;
use crate::scratch::Folder;

/// Copies a data directory made by `initdb` with these arguments to `target`, which must be empty or
/// not exist.
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
    // A test that failed in here has left no entry behind, so the map is still right.
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
