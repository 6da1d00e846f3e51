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

use std::io::Write as _;

use clap::CommandFactory;
use clap_mangen::Man;

fn main() -> std::io::Result<()> {
    let command = options::CommandLine::command();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    // The other commands have no pages of their own.
    for other in command.get_subcommands() {
        let mut section = Vec::new();
        Man::new(other.clone()).render_options_section(&mut section)?;
        let name = other.get_name().to_uppercase();
        let section = String::from_utf8_lossy(&section);
        let section = section.replacen(".SH OPTIONS", &format!(".SH \"OPTIONS OF {name}\""), 1);
        page.extend_from_slice(section.as_bytes());
    }
    std::io::stdout().lock().write_all(&page)
}
