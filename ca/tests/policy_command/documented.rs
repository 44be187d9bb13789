//! What docs/POLICY.md shows is what happens.

use crate::run;

const TEXT: &str = include_str!("../../../docs/POLICY.md");

fn example() -> &'static str {
    TEXT.split("```toml\n").nth(1).unwrap().split("```").next().unwrap()
}

#[test]
fn the_documented_file_is_right_and_meets_its_expectation() {
    let (code, out, _) = run(example(), &["check", "policy.toml"]);
    assert!(code == 0 && out.contains("0 errors"), "{out}");
    assert_eq!(run(example(), &["test", "policy.toml"]).0, 0);
}

#[test]
fn the_documented_answers_are_given() {
    let shown: Vec<_> = TEXT.split("$ postern-ca policy explain ").skip(1).collect();
    assert_eq!(shown.len(), 2);
    for shown in shown {
        let mut lines = shown.lines();
        let (words, call) = lines.next().unwrap().split_once(" --call ").unwrap();
        let args = words.split(' ').chain(["--call", call.trim_matches('\'')]);
        let (_, out, _) = run(example(), &std::iter::once("explain").chain(args).collect::<Vec<_>>());
        assert_eq!(out.trim_end(), lines.next().unwrap());
    }
}
