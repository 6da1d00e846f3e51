//! Defines `pg16_or_newer`, `pg17_or_newer` and so on according to the server version of the build, so that
//! code tests for a version with one word.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for major in 16..=19 {
        println!("cargo:rustc-check-cfg=cfg(pg{major}_or_newer)");
    }
    let built_for = (15..=19).find(|major| {
        // Cargo sets this variable for each enabled feature.
        std::env::var_os(format!("CARGO_FEATURE_PG{major}")).is_some()
    });
    for major in 16..=built_for.unwrap_or(0) {
        println!("cargo:rustc-cfg=pg{major}_or_newer");
    }
}
