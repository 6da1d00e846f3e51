//! Command lines: the options of each command, their values, and the configuration that
//! they make.
//!
//! Imports: nothing of the program.

pub mod backup_name;
pub mod command_template;
pub mod configuration;
pub mod option_values;
pub mod options;
