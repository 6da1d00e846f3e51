//! Generates the man page or a shell completion from the program's own definition of its options, and
//! writes it to standard output.
//!
//! usage: generate man|bash|zsh|fish

#[path = "../src/cli/mod.rs"]
#[allow(dead_code)]
mod cli;

use std::io::{self, Write as _};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command, CommandFactory, ValueEnum as _};
use clap_complete::Shell;
use clap_mangen::Man;

/// End of a generated fish function that parses the words before the one to complete. argparse fails if
/// the last of them is an option without its value, and fish would then offer no value.
const FISH_FAILS: &str = "-- $cmd 2>/dev/null\n    or return\n";
const FISH_GOES_ON: &str = "-- $cmd 2>/dev/null\n    or return 0\n";

fn main() -> io::Result<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let text = match wanted.as_str() {
        "man" => man_page()?,
        shell => completion(Shell::from_str(shell, false).map_err(io::Error::other)?)?,
    };
    io::stdout().lock().write_all(text.as_bytes())
}

/// Completion script of a shell.
fn completion(shell: Shell) -> io::Result<String> {
    let mut program = cli::options::CommandLine::command();
    // The other generators would offer the value of --progress=json as a separate word.
    if shell != Shell::Zsh {
        program = program
            .mut_args(without_optional_value)
            .mut_subcommands(|command| command.mut_args(without_optional_value));
    }
    if shell == Shell::Fish {
        program = program.mut_args(without_question_mark);
    }
    let text = render(|output| {
        clap_complete::generate(shell, &mut program, "pg_parallel_backup", output);
        Ok(())
    })?;
    Ok(text.replace(FISH_FAILS, FISH_GOES_ON))
}

fn without_optional_value(arg: Arg) -> Arg {
    if !arg.is_require_equals_set() {
        return arg;
    }
    arg.action(ArgAction::SetTrue)
        .num_args(0)
        .require_equals(false)
        .value_parser(clap::value_parser!(bool))
        .default_missing_value(Resettable::Reset)
}

/// fish before version 4 treats `?` as a wildcard, and the generator does not quote it.
fn without_question_mark(arg: Arg) -> Arg {
    match arg.get_short() {
        Some('?') => arg.short(Resettable::Reset),
        _ => arg,
    }
}

/// One page for all commands.
fn man_page() -> io::Result<String> {
    let mut program = cli::options::CommandLine::command();
    program.build();
    let commands: Vec<_> = program.get_subcommands().cloned().collect();
    // Commands have sections here instead of pages of their own.
    let mut page = render(|output| Man::new(program.clone()).render(output))?;
    let mut sections = String::new();
    for command in &commands {
        let name = command.get_name();
        page = page.replace(&format!("pg_parallel_backup\\-{name}(1)"), name);
        sections.push_str(&section(command)?);
    }
    let end = page.find(".SH EXTRA").unwrap_or(page.len());
    page.insert_str(end, &sections);
    Ok(page)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::process::{Command, Stdio};

    use super::*;

    /// Completions by bash of the last word.
    fn offers(words: &[&str]) -> Vec<String> {
        let script = r#"
            eval "$COMPLETION"
            complete -p pg_parallel_backup >/dev/null || exit
            COMP_WORDS=(pg_parallel_backup "$@")
            COMP_CWORD=$#
            before=${COMP_WORDS[COMP_CWORD-1]}
            _pg_parallel_backup pg_parallel_backup "${COMP_WORDS[COMP_CWORD]}" "$before" 2>/dev/null
            printf '%s\n' "${COMPREPLY[@]}""#;
        let output = Command::new("bash")
            .args(["-c", script, "bash"])
            .args(words)
            .env("COMPLETION", completion(Shell::Bash).unwrap())
            .stderr(Stdio::inherit())
            .output()
            .expect("bash");
        assert!(output.status.success(), "{output:?}");
        let offered = String::from_utf8(output.stdout).unwrap();
        offered.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_options_values_and_commands() {
        assert_eq!(offers(&["--che"]), ["--checkpoint"]);
        assert_eq!(offers(&["--checkpoint", "f"]), ["fast"]);
        assert_eq!(offers(&["che"]), ["check"]);
        assert_eq!(offers(&["verify", "--exit"]), ["--exit-on-error"]);
        assert_eq!(offers(&["--exit"]), [""]);
        assert_eq!(offers(&["check", "--max"]), ["--max-rate"]);
        // A value that must follow an equals sign, as in --progress=json.
        for command in [&["-P", "js"][..], &["check", "--progress", "js"]] {
            assert_eq!(offers(command), [""]);
        }
    }

    #[test]
    fn fish_gets_no_wildcards_and_offers_values() {
        let text = completion(Shell::Fish).unwrap();
        assert!(text.contains(FISH_GOES_ON), "{text}");
        assert!(!text.contains(['?', '*']), "{text}");
    }

    #[test]
    fn every_shell_knows_every_long_option() {
        let program = cli::options::CommandLine::command();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completion(shell).unwrap();
            let commands = program.get_subcommands();
            let options = commands.flat_map(clap::Command::get_arguments);
            for option in options.chain(program.get_arguments()) {
                let Some(name) = option.get_long() else {
                    continue;
                };
                assert!(text.contains(name), "{shell}: {name}");
            }
        }
    }
}
