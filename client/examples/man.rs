//! Writes the man page, from the options as the program has them, to standard output.

#[path = "../src/options/mod.rs"]
#[allow(dead_code)]
mod options;
#[path = "../src/plan.rs"]
#[allow(dead_code)]
mod plan;
#[path = "../src/template.rs"]
#[allow(dead_code)]
mod template;
#[path = "../src/values.rs"]
#[allow(dead_code)]
mod values;

use clap::CommandFactory;

fn main() -> std::io::Result<()> {
    let page = clap_mangen::Man::new(options::CommandLine::command());
    page.render(&mut std::io::stdout().lock())
}
