//! What the command line of a benchmark asks for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// A name that an argument may give, and what it stands for.
pub type Choice = (&'static str, &'static str);

const ROUNDS: usize = 5;
const ROUNDS_MAX: usize = 1_000;
const SECONDS: f64 = 2.0;
const SECONDS_MAX: f64 = 600.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// In the order of the choices, as all else would put one in front of its peers.
    pub peers: Vec<&'static str>,
    pub measures: Vec<&'static str>,
    pub rounds: usize,
    /// How long one round of one peer lasts, where time decides.
    pub duration: Duration,
    pub json: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Run(Options),
    Help,
}

/// Reads arguments; the error names what was expected and what was found.
pub fn parse(
    args: impl IntoIterator<Item = String>,
    peers: &[Choice],
    measures: &[Choice],
) -> Result<Asked, String> {
    let all = |choices: &[Choice]| choices.iter().map(|(name, _)| *name).collect();
    let duration = Duration::from_secs_f64(SECONDS);
    let mut options =
        Options { peers: all(peers), measures: all(measures), rounds: ROUNDS, duration, json: None };
    let mut args = args.into_iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} wants a value"));
        match option.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--help" | "-h" => return Ok(Asked::Help),
            "--peers" => options.peers = chosen(&value()?, peers)?,
            "--measures" => options.measures = chosen(&value()?, measures)?,
            "--rounds" => options.rounds = number(&option, &value()?, 1.0, ROUNDS_MAX as f64)? as usize,
            "--seconds" => {
                options.duration = Duration::from_secs_f64(number(&option, &value()?, 0.1, SECONDS_MAX)?);
            }
            "--json" => options.json = Some(value()?.into()),
            other => return Err(format!("{other:?} is no option; --help names all")),
        }
    }
    Ok(Asked::Run(options))
}

fn chosen(list: &str, choices: &[Choice]) -> Result<Vec<&'static str>, String> {
    let given: Vec<&str> = list.split(',').map(str::trim).collect();
    for name in &given {
        if !choices.iter().any(|(choice, _)| choice == name) {
            let choices: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            return Err(format!("{name:?} is none of {}", choices.join(", ")));
        }
    }
    Ok(choices.iter().map(|(name, _)| *name).filter(|name| given.contains(name)).collect())
}

fn number(option: &str, text: &str, least: f64, most: f64) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|number| (least..=most).contains(number));
    parsed.ok_or_else(|| format!("{option} wants a number from {least} to {most}, not {text:?}"))
}

/// All options with their defaults, then the choices.
pub fn help(peers: &[Choice], measures: &[Choice]) -> String {
    let mut text = format!(
        "--peers A,B      only these\n--measures A,B   only these\n--rounds N       interleaved rounds ({ROUNDS})\n\
         --seconds S      how long a round of one peer lasts ({SECONDS})\n\
         --json FILE      all rounds as JSON, too\n--help           this\n"
    );
    for (title, choices) in [("Peers", peers), ("Measures", measures)] {
        write!(text, "\n{title}:\n").unwrap();
        for (name, what) in choices {
            writeln!(text, "  {name:<18} {what}").unwrap();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: &[Choice] = &[("direct", "nothing between"), ("postern", "ours"), ("nginx", "theirs")];
    const MEASURES: &[Choice] = &[("connect-1", "one by one"), ("bulk-1", "one stream")];

    fn run(args: &[&str]) -> Result<Options, String> {
        match parse(args.iter().map(|arg| arg.to_string()), PEERS, MEASURES)? {
            Asked::Run(options) => Ok(options),
            Asked::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn without_arguments_everything_runs() {
        let options = run(&["--bench"]).unwrap();
        assert_eq!(options.peers, ["direct", "postern", "nginx"]);
        assert_eq!(options.measures, ["connect-1", "bulk-1"]);
        assert_eq!((options.rounds, options.duration), (ROUNDS, Duration::from_secs(2)));
    }

    #[test]
    fn arguments_choose_and_the_order_stays() {
        let args = ["--peers", "nginx, direct", "--measures", "bulk-1", "--rounds", "3", "--seconds", "0.5"];
        let options = run(&[&args[..], &["--json", "out.json"]].concat()).unwrap();
        assert_eq!(options.peers, ["direct", "nginx"]);
        assert_eq!(options.measures, ["bulk-1"]);
        assert_eq!((options.rounds, options.duration), (3, Duration::from_millis(500)));
        assert_eq!(options.json, Some(PathBuf::from("out.json")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (args, words) in [
            (&["--peers", "apache"][..], "\"apache\" is none of direct, postern, nginx"),
            (&["--peers", ""], "\"\" is none of"),
            (&["--measures", "bulk"], "\"bulk\" is none of connect-1, bulk-1"),
            (&["--rounds", "0"], "--rounds wants a number from 1 to 1000, not \"0\""),
            (&["--seconds", "NaN"], "--seconds wants a number from 0.1 to 600, not \"NaN\""),
            (&["--json"], "--json wants a value"),
            (&["http"], "\"http\" is no option"),
        ] {
            let error = run(args).unwrap_err();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[test]
    fn help_names_every_choice() {
        let asked = parse(["--rounds", "2", "--help"].map(str::to_owned), PEERS, MEASURES);
        assert_eq!(asked, Ok(Asked::Help));
        let help = help(PEERS, MEASURES);
        for (name, what) in PEERS.iter().chain(MEASURES) {
            assert!(help.contains(name) && help.contains(what), "{help}");
        }
    }
}
