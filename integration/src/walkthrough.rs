//! A README whose commands are run exactly as it shows them, and whose output is compared with what it shows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::process::Command;

use crate::program::{PATIENCE, Program, about_our_package, eventually};

/// A block of commands, and the output that the README shows below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub commands: String,
    /// Lines; `…` stands for any text.
    pub shown: Vec<String>,
}

/// The `sh` blocks of a README, each with the `text` block that follows it.
pub fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, block) in readme.split("```").enumerate() {
        let inside = at % 2 == 1;
        if let (true, Some(commands)) = (inside, block.strip_prefix("sh\n")) {
            steps.push(Step { commands: commands.to_owned(), shown: Vec::new() });
        } else if let (true, Some(shown)) = (inside, block.strip_prefix("text\n")) {
            let step = steps.last_mut().expect("output is shown of some commands");
            step.shown.extend(shown.lines().map(str::to_owned));
        }
    }
    steps
}

/// Types steps one after another, each in a shell of its own at the root of the repository. What does not end by
/// itself goes on in the background.
#[derive(Debug)]
pub struct Typist {
    root: PathBuf,
    running: Vec<Terminal>,
    /// Walkthroughs have fixed ports: one at a time on this machine.
    _turn: File,
}

/// A shell and whatever it has started. Dropping it kills them all.
#[derive(Debug)]
struct Terminal(Program);

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.0.ended().is_none() {
            self.0.signal_group("KILL");
        }
    }
}

impl Typist {
    pub async fn new(root: &Path) -> Self {
        let turn = File::create(std::env::temp_dir().join("postern-walkthrough.lock")).unwrap();
        let turn = tokio::task::spawn_blocking(move || turn.lock().map(|()| turn)).await.unwrap().unwrap();
        Self { root: root.to_owned(), running: Vec::new(), _turn: turn }
    }

    /// Runs one step until it has ended well, or, if it goes on, has printed what the README shows.
    pub async fn step(&mut self, step: &Step) {
        let mut command = Command::new("bash");
        command.args(["-euc", &step.commands]).current_dir(&self.root).process_group(0);
        about_our_package().iter().for_each(|name| {
            command.env_remove(name);
        });
        let mut terminal = Terminal(Program::start_command(&step.commands, command));
        let program = &mut terminal.0;
        let begun = Instant::now();
        loop {
            let missing = missing(&step.shown, &program.output());
            match program.ended() {
                Some(status) => {
                    // The rest of its output is collected once it has ended.
                    assert!(status.success(), "{}: {status}\n{}", step.commands, program.output());
                    let shown = &step.shown;
                    eventually(&format!("{missing:?} in the output of {}", step.commands), async || {
                        self::missing(shown, &program.output()).is_empty().then_some(())
                    })
                    .await;
                    return;
                }
                None if missing.is_empty() && !step.shown.is_empty() => return self.running.push(terminal),
                None => {}
            }
            let patience = begun.elapsed() < PATIENCE * 5;
            assert!(patience, "{} never printed {missing:?}:\n{}", step.commands, program.output());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Presses Ctrl-C in every terminal, the newest first.
    pub async fn end(&mut self) {
        for mut terminal in self.running.drain(..).rev() {
            terminal.0.signal_group("INT");
            terminal.0.exit().await;
        }
    }
}

/// Which of the shown lines are in no line of the output.
fn missing<'a>(shown: &'a [String], output: &str) -> Vec<&'a str> {
    let found = |shown: &str| output.lines().any(|line| matches(shown, line));
    shown.iter().map(String::as_str).filter(|shown| !found(shown)).collect()
}

/// The parts between `…` occur in this order.
fn matches(shown: &str, line: &str) -> bool {
    let mut rest = line;
    shown.split('…').map(str::trim).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_with_the_output_shown_below_them() {
        let readme = "a\n```sh\none\n```\n```text\n1 … 2\n```\nb `c`\n```toml\nx\n```\n```sh\ntwo\n```\n";
        let step = |commands: &str, shown: &[&str]| Step {
            commands: commands.to_owned(),
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(steps(readme), [step("one\n", &["1 … 2"]), step("two\n", &[])]);
    }

    #[test]
    fn a_shown_line_must_be_there_part_by_part() {
        assert!(matches("a … c", "x a b c"));
        assert!(!matches("c … a", "x a b c"));
        assert!(!matches("d", "x a b c"));
    }
}
