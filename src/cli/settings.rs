//! `settings`: the table in the README, written from what the command line itself knows.

use std::process::ExitCode;

use clap::{Arg, Args as _, Command};

use super::Done;
use super::output::line;
use crate::config::Settings;
use crate::telemetry::LogSettings;

pub(super) fn run() -> Done {
    line(table().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// A row for each setting of `serve`.
fn table() -> String {
    let command = LogSettings::augment_args(Settings::augment_args(Command::new("serve")));
    let mut table =
        String::from("| Flag | Environment | Default | What it sets |\n|---|---|---|---|\n");
    for argument in command.get_arguments() {
        if let Some(row) = row(argument) {
            table.push_str(&row);
        }
    }
    table
}

fn row(argument: &Arg) -> Option<String> {
    let (flag, variable) = (argument.get_long()?, argument.get_env()?.to_string_lossy());
    let help = argument.get_long_help().or_else(|| argument.get_help())?.to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let (help, told) = match help.split_once(" [default: ") {
        Some((help, default)) => (help.to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let values = argument.get_default_values();
    let values = values.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
    let default = match told {
        Some(told) => told,
        None if values.is_empty() => String::new(),
        None => format!("`{values}`"),
    };
    let help = if help.ends_with(['.', '…']) { help } else { format!("{help}.") };
    Some(format!("| `--{flag}` | `{variable}` | {default} | {help} |\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_as_it_is() {
        let readme = include_str!("../../README.md");
        let table = table();
        assert!(
            readme.contains(&table),
            "put what `engagement-bridge settings` prints into README.md:\n{table}"
        );
    }

    #[test]
    fn every_setting_is_a_flag_and_an_environment_variable_of_the_same_name() {
        let command = LogSettings::augment_args(Settings::augment_args(Command::new("serve")));
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let name = flag.replace('-', "_").to_uppercase();
            // Azure sets these, under names of its own.
            let is_azures = flag.starts_with("identity-");
            let variable = if is_azures { name } else { format!("ENGAGEMENT_BRIDGE_{name}") };
            assert_eq!(argument.get_env().unwrap(), &*variable, "of --{flag}");
        }
    }
}
