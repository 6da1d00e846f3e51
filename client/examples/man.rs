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

use std::io::{self, Write as _};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

/// One page for all commands.
fn main() -> io::Result<()> {
    let mut program = options::CommandLine::command();
    program.build();
    let commands: Vec<_> = program.get_subcommands().cloned().collect();
    // Here they have sections rather than pages of their own.
    let mut page = render(|output| Man::new(program.clone()).render(output))?;
    let mut sections = String::new();
    for command in &commands {
        let name = command.get_name();
        page = page.replace(&format!("pg_parallel_backup\\-{name}(1)"), name);
        sections.push_str(&section(command)?);
    }
    let end = page.find(".SH EXTRA").unwrap_or(page.len());
    page.insert_str(end, &sections);
    io::stdout().lock().write_all(page.as_bytes())
}

fn section(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone());
    let parts = render(|output| {
        man.render_synopsis_section(output)?;
        man.render_options_section(output)
    })?;
    let name = command.get_name();
    Ok(format!(
        ".SH \"COMMAND {}\"\n{}",
        name.to_uppercase(),
        parts.replace(".SH ", ".SS ")
    ))
}

fn render(work: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut output = Vec::new();
    work(&mut output)?;
    String::from_utf8(output).map_err(io::Error::other)
}
