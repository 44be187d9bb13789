//! The figures as Markdown for people, or as JSON for machines.

use crate::measure::{Row, Spread};

pub(crate) fn markdown(rows: &[Row], rounds: usize) {
    println!(
        "Medians of {rounds} interleaved rounds (least – most).\n\n| measure | path | figures |\n|---|---|---|"
    );
    for row in rows {
        let figure = |(name, spread): &(&str, Spread)| {
            format!("{name} {} ({} – {})", short(spread.median), short(spread.least), short(spread.most))
        };
        let figures: Vec<_> = row.values.iter().map(figure).collect();
        println!("| {} | {} | {} |", row.what, row.path, figures.join("; "));
    }
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

pub(crate) fn json(rows: &[Row]) {
    let figure = |(name, spread): &(&str, Spread)| {
        let Spread { median, least, most } = spread;
        (name.to_string(), serde_json::json!({ "median": median, "least": least, "most": most }))
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let figures: serde_json::Map<_, _> = row.values.iter().map(figure).collect();
            serde_json::json!({ "measure": row.what, "path": row.path, "figures": figures })
        })
        .collect();
    println!("{}", serde_json::json!({ "rows": rows }));
}
