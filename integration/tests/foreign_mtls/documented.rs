//! The configurations that `docs/OPERATING.md` shows, with a test's own addresses and files in place of those there.

use std::path::Path;

/// The ports that the document uses, and what a test has instead.
pub(crate) type Ports<'a> = &'a [(u16, u16)];

/// The block of the document that begins with `# title`, for files in `dir`.
pub(crate) fn configuration(title: &str, dir: &Path, ports: Ports<'_>) -> String {
    let block = block(title)
        .replace("/etc/postern", dir.to_str().unwrap())
        .replace("payments.internal", "127.0.0.1")
        .replace("0.0.0.0", "127.0.0.1");
    with_ports(&block, ports)
}

/// The block as it stands there, without its title.
pub(crate) fn block(title: &str) -> &'static str {
    const DOCUMENT: &str = include_str!("../../../docs/OPERATING.md");
    let begun = DOCUMENT.split_once(&format!("# {title}\n"));
    let (_, rest) = begun.unwrap_or_else(|| panic!("docs/OPERATING.md has no block {title:?}"));
    rest.split("```").next().unwrap()
}

/// Replaces whole numbers, all at once: a port of the test may contain one of the document's.
fn with_ports(text: &str, ports: Ports<'_>) -> String {
    let is_digit = |character: char| character.is_ascii_digit();
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_digit) {
        let (before, number) = rest.split_at(start);
        let end = number.find(|character| !is_digit(character)).unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        let here = ports.iter().find(|(there, _)| number == there.to_string());
        replaced.push_str(before);
        replaced.push_str(&here.map_or_else(|| number.to_owned(), |(_, here)| here.to_string()));
        rest = after;
    }
    replaced + rest
}

#[test]
fn a_port_is_replaced_where_it_is_the_whole_number() {
    let text = with_ports("listen 127.0.0.1:8443; # not 18443", &[(8443, 18_444), (18_444, 1)]);
    assert_eq!(text, "listen 127.0.0.1:18444; # not 18443");
}
