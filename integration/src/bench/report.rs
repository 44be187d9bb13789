//! The figures of a run as Markdown for people and as JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::figures::{Round, Spread, names};

/// One run.
#[derive(Debug, Default)]
pub struct Report {
    /// Of the machine and the programs: name and value.
    pub environment: Vec<(&'static str, String)>,
    pub measures: Vec<Measure>,
    /// Peers that were asked for and are not here, and why.
    pub missing: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub struct Measure {
    pub name: &'static str,
    pub what: &'static str,
    pub rows: Vec<Row>,
}

/// What one peer did in one measure.
#[derive(Debug)]
pub struct Row {
    pub peer: &'static str,
    pub rounds: Vec<Round>,
    /// Rounds that came to no figures.
    pub failures: Vec<String>,
}

/// One table for each measure.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for (name, value) in &report.environment {
        writeln!(text, "- {name}: {value}").unwrap();
    }
    for (peer, why) in &report.missing {
        writeln!(text, "- **not measured: {peer}** — {why}").unwrap();
    }
    for measure in &report.measures {
        table(&mut text, measure);
    }
    text
}

fn table(text: &mut String, measure: &Measure) {
    let figures = names(measure.rows.iter().flat_map(|row| &row.rounds));
    let (head, rule) = (figures.join(" | "), "---|".repeat(figures.len() + 1));
    write!(text, "\n### {}: {}\n\n| peer | {head} |\n|{rule}\n", measure.name, measure.what).unwrap();
    for row in &measure.rows {
        let cell = |name: &&str| Spread::over(&row.rounds, name).map_or("–".to_owned(), cell);
        let cells: Vec<_> = figures.iter().map(cell).collect();
        writeln!(text, "| {} | {} |", row.peer, cells.join(" | ")).unwrap();
    }
    for row in &measure.rows {
        for failure in &row.failures {
            // A proxy's words may be anything.
            writeln!(text, "\n{}: a round failed: {}", row.peer, failure.escape_default()).unwrap();
        }
    }
}

fn cell(Spread { median, least, most }: Spread) -> String {
    if least == most {
        return short(median);
    }
    format!("{} ({} – {})", short(median), short(least), short(most))
}

/// Three digits or more that say something, none that do not.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Everything, with every round.
pub fn json(report: &Report) -> Value {
    let pairs = |pairs: &[(&'static str, String)]| -> Value {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let measure = |measure: &Measure| {
        let rows: Vec<_> = measure.rows.iter().map(json_row).collect();
        json!({ "measure": measure.name, "what": measure.what, "peers": rows })
    };
    json!({
        "environment": pairs(&report.environment),
        "missing": pairs(&report.missing),
        "measures": report.measures.iter().map(measure).collect::<Vec<_>>(),
    })
}

fn json_row(row: &Row) -> Value {
    let round = |round: &Round| -> Value {
        round
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let spread = |name: &'static str| {
        let Spread { median, least, most } = Spread::over(&row.rounds, name)?;
        Some((name.to_owned(), json!({ "median": median, "least": least, "most": most })))
    };
    let figures: serde_json::Map<_, _> = names(&row.rounds).into_iter().filter_map(spread).collect();
    json!({
        "peer": row.peer,
        "figures": figures,
        "rounds": row.rounds.iter().map(round).collect::<Vec<_>>(),
        "failures": row.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = |peer, rounds: Vec<Round>, failures| Row { peer, rounds, failures };
        let rows = vec![
            row("direct", vec![vec![("per second", 20_045.0)], vec![("per second", 18_000.4)]], vec![]),
            row(
                "postern",
                vec![vec![("per second", 99.96), ("CPU-s", 1.234)]],
                vec!["line\nbreak".to_owned()],
            ),
        ];
        Report {
            environment: vec![("kernel", "6.1".to_owned())],
            measures: vec![Measure { name: "connect-1", what: "one at a time", rows }],
            missing: vec![("envoy", "not on the PATH".to_owned())],
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_peer_and_a_dash_for_what_it_does_not_have() {
        let expected = "- kernel: 6.1\n- **not measured: envoy** — not on the PATH\n\
            \n### connect-1: one at a time\n\n| peer | per second | CPU-s |\n|---|---|---|\n\
            | direct | 19023 (18000 – 20045) | – |\n| postern | 100.0 | 1.23 |\n\
            \npostern: a round failed: line\\nbreak\n";
        assert_eq!(markdown(&report()), expected);
    }

    #[test]
    fn json_has_every_round_and_what_is_missing() {
        let json = json(&report());
        assert_eq!(json["missing"]["envoy"], "not on the PATH");
        let peers = &json["measures"][0]["peers"];
        assert_eq!(peers[0]["rounds"][1]["per second"], 18_000.4);
        assert_eq!(peers[0]["figures"]["per second"]["most"], 20_045.0);
        assert_eq!(peers[1]["failures"][0], "line\nbreak");
    }

    #[test]
    fn numbers_are_short_and_keep_their_sign() {
        let shorts = [0.0, 1.005, 12.34, 123.4, -0.5].map(short);
        assert_eq!(shorts, ["0.00", "1.00", "12.3", "123", "-0.50"]);
    }
}
