//! `quern completions` and `quern man`: the command line, told to shells and to the manual.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// The subcommands that write about the command line itself.
#[derive(Clone, Debug, Subcommand)]
pub enum ManualJob {
    /// Print a script that completes this program's commands and flags in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Print a manual page, or write all of them to a folder
    #[command(after_help = MAN_EXAMPLES)]
    Man(ManArgs),
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  quern completions bash > ~/.local/share/bash-completion/completions/quern
  quern completions zsh > ~/.zfunc/_quern
  quern completions fish > ~/.config/fish/completions/quern.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  quern man serve | man -l -
  quern man --dir ~/.local/share/man/man1";

/// What was typed after `quern completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// What was typed after `quern man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// The command whose page is printed, such as `serve` or `bench serving` [default: the program itself]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,

    /// Write the pages of all commands to this folder, making it if need be
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// There is no such command.
    #[error("quern man {0}: there is no such command (quern --help lists them)")]
    NoCommand(String),
    /// The folder cannot be written to.
    #[error("--dir {dir}: {cause}")]
    Folder {
        /// As typed.
        dir: String,
        /// The operating system's words.
        cause: io::Error,
    },
    /// Standard output cannot be written to.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl ManualJob {
    /// Do what was typed.
    ///
    /// # Errors
    /// If there is no such command, or what was asked for cannot be written.
    pub fn run(&self) -> Result<(), ManualError> {
        let mut command = Cli::full_command();
        let mut text = Vec::new();
        match self {
            Self::Completions(args) => clap_complete::generate(args.shell, &mut command, "quern", &mut text),
            Self::Man(ManArgs { dir: Some(dir), .. }) => {
                let failed = |cause| ManualError::Folder { dir: dir.display().to_string(), cause };
                std::fs::create_dir_all(dir).map_err(failed)?;
                clap_mangen::generate_to(command, dir).map_err(failed)?;
            }
            Self::Man(args) => {
                command.build();
                Man::new(page(&command, &args.command)?).render(&mut text)?;
            }
        }
        Ok(io::stdout().write_all(&text)?)
    }
}

/// The command that `path` leads to.
fn page(root: &Command, path: &[String]) -> Result<Command, ManualError> {
    let inside = |command: &Command, name: &String| command.find_subcommand(name).cloned();
    let found = path.iter().try_fold(root.clone(), |command, name| inside(&command, name));
    found.ok_or_else(|| ManualError::NoCommand(path.join(" ")))
}
