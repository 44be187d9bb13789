//! The file as written: every key known, every value of its type, every part with its place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};
use toml::value::Datetime;

use super::problem::ProblemKind;
use super::problems::{Problems, did_you_mean};

/// A list has at most this many entries.
pub const LIST_ENTRIES_MAX: usize = 1_000;
/// A file has at most this many rules.
pub const RULES_MAX: usize = 10_000;
/// A file has at most this many expectations.
pub const EXPECTATIONS_MAX: usize = 10_000;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Range<usize>,
}

/// A key's value: absent, unusable (and reported), or given.
#[derive(Debug)]
pub(super) enum Field<T> {
    Absent,
    Broken,
    Given(At<T>),
}

impl<T> Field<T> {
    pub(super) fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            _ => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

pub(super) type Text<'a> = Field<&'a str>;
pub(super) type Texts<'a> = Field<Vec<At<&'a str>>>;

#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) trust_domain: Text<'a>,
    pub(super) require: Texts<'a>,
    pub(super) services: Vec<RawService<'a>>,
    pub(super) expectations: Vec<RawExpectation<'a>>,
}

#[derive(Debug)]
pub(super) struct RawService<'a> {
    pub(super) name: At<&'a str>,
    pub(super) identity: Text<'a>,
    pub(super) ports: Field<Vec<(At<&'a str>, Text<'a>)>>,
    pub(super) mode: Text<'a>,
    pub(super) rules: Vec<RawRule<'a>>,
}

#[derive(Debug)]
pub(super) struct RawRule<'a> {
    pub(super) place: Range<usize>,
    pub(super) from: Texts<'a>,
    pub(super) calls: Texts<'a>,
    pub(super) port: Text<'a>,
    pub(super) owner: Text<'a>,
    pub(super) reason: Text<'a>,
    pub(super) expires: Field<Datetime>,
}

#[derive(Debug)]
pub(super) struct RawExpectation<'a> {
    pub(super) place: Range<usize>,
    pub(super) from: Text<'a>,
    pub(super) to: Text<'a>,
    pub(super) call: Text<'a>,
    pub(super) port: Text<'a>,
    pub(super) verdict: Text<'a>,
}

type Value<'a> = Spanned<DeValue<'a>>;

/// Reads the whole document, reporting what is unknown or of another type.
pub(super) fn read<'a>(root: &'a DeTable<'_>, problems: &mut Problems<'_>) -> Document<'a> {
    known_keys(root, &["trust_domain", "require", "service", "expect"], "a policy file", problems);
    let mut services: Vec<_> = match named(root, "service") {
        None => Vec::new(),
        Some((_, value)) => match value.get_ref() {
            DeValue::Table(table) => {
                let mut rules_left = RULES_MAX;
                let by_place = in_file_order(table);
                by_place.filter_map(|(name, value)| service(name, value, &mut rules_left, problems)).collect()
            }
            _ => {
                wrong_type(value, "`service`", "a table of services: [service.NAME]", problems);
                Vec::new()
            }
        },
    };
    services.sort_by_key(|service| service.name.place.start);
    let expectations = tables(root, "expect", EXPECTATIONS_MAX, problems);
    Document {
        trust_domain: text(root, "trust_domain", problems),
        require: texts(root, "require", problems),
        services,
        expectations: expectations
            .into_iter()
            .map(|(table, place)| expectation(table, place, problems))
            .collect(),
    }
}

fn in_file_order<'t, 'a>(
    table: &'t DeTable<'a>,
) -> impl Iterator<Item = (&'t Spanned<DeString<'a>>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter()
}

fn service<'a>(
    name: &'a Spanned<DeString<'_>>,
    value: &'a Value<'_>,
    rules_left: &mut usize,
    problems: &mut Problems<'_>,
) -> Option<RawService<'a>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(value, "a service", "a table: [service.NAME]", problems);
        return None;
    };
    known_keys(table, &["identity", "ports", "mode", "allow"], "a service", problems);
    let rules = tables(table, "allow", *rules_left, problems);
    *rules_left -= rules.len();
    Some(RawService {
        name: At { value: name.get_ref(), place: name.span() },
        identity: text(table, "identity", problems),
        ports: ports(table, problems),
        mode: text(table, "mode", problems),
        rules: rules.into_iter().map(|(table, place)| rule(table, place, problems)).collect(),
    })
}

fn ports<'a>(table: &'a DeTable<'_>, problems: &mut Problems<'_>) -> Field<Vec<(At<&'a str>, Text<'a>)>> {
    let Some((_, value)) = named(table, "ports") else { return Field::Absent };
    let DeValue::Table(ports) = value.get_ref() else {
        wrong_type(value, "`ports`", "a table like { api = \"http\" }", problems);
        return Field::Broken;
    };
    if too_many(ports.len(), "`ports`", value.span(), problems) {
        return Field::Broken;
    }
    let entries = in_file_order(ports).map(|(name, value)| {
        let name = At { value: name.get_ref().as_ref(), place: name.span() };
        (name, text_of(value, "a port's protocol", problems))
    });
    let entries = entries.collect();
    Field::Given(At { value: entries, place: value.span() })
}

fn rule<'a>(table: &'a DeTable<'_>, place: Range<usize>, problems: &mut Problems<'_>) -> RawRule<'a> {
    known_keys(table, &["from", "calls", "port", "owner", "reason", "expires"], "a rule", problems);
    RawRule {
        place,
        from: texts(table, "from", problems),
        calls: texts(table, "calls", problems),
        port: text(table, "port", problems),
        owner: text(table, "owner", problems),
        reason: text(table, "reason", problems),
        expires: datetime(table, "expires", problems),
    }
}

fn expectation<'a>(
    table: &'a DeTable<'_>,
    place: Range<usize>,
    problems: &mut Problems<'_>,
) -> RawExpectation<'a> {
    known_keys(table, &["from", "to", "call", "port", "verdict"], "an expectation", problems);
    RawExpectation {
        place,
        from: text(table, "from", problems),
        to: text(table, "to", problems),
        call: text(table, "call", problems),
        port: text(table, "port", problems),
        verdict: text(table, "verdict", problems),
    }
}

fn named<'t, 'a>(table: &'t DeTable<'a>, key: &str) -> Option<(&'t Spanned<DeString<'a>>, &'t Value<'a>)> {
    table.get_key_value(key)
}

fn known_keys(table: &DeTable<'_>, known: &[&str], owner: &str, problems: &mut Problems<'_>) {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !known.contains(&name) {
            let absent = known.iter().copied().filter(|known| !table.contains_key(*known));
            let suggestion = problems.speller.nearest(name, absent);
            let message = format!("unknown key {name:?}: {owner} has {}", known.join(", "));
            problems.report_with(ProblemKind::UnknownKey, key.span(), message, did_you_mean(suggestion));
        }
    }
}

/// The tables of an array of tables, at most `most` of them.
fn tables<'t, 'a>(
    table: &'t DeTable<'a>,
    key: &str,
    most: usize,
    problems: &mut Problems<'_>,
) -> Vec<(&'t DeTable<'a>, Range<usize>)> {
    let Some((_, value)) = named(table, key) else { return Vec::new() };
    let DeValue::Array(array) = value.get_ref() else {
        wrong_type(value, &format!("`{key}`"), &format!("an array of tables: [[…{key}]]"), problems);
        return Vec::new();
    };
    if let Some(first_over) = array.get(most) {
        let bound = if key == "expect" { EXPECTATIONS_MAX } else { RULES_MAX };
        let message = format!("more than {bound} entries in `{key}` throughout the file");
        problems.report(ProblemKind::Bound, first_over.span(), message);
    }
    let mut found = Vec::new();
    for entry in array.iter().take(most) {
        match entry.get_ref() {
            DeValue::Table(table) => found.push((table, entry.span())),
            _ => wrong_type(entry, &format!("an entry of `{key}`"), "a table", problems),
        }
    }
    found
}

fn text<'a>(table: &'a DeTable<'_>, key: &str, problems: &mut Problems<'_>) -> Text<'a> {
    match named(table, key) {
        None => Field::Absent,
        Some((_, value)) => text_of(value, &format!("`{key}`"), problems),
    }
}

fn text_of<'a>(value: &'a Value<'_>, what: &str, problems: &mut Problems<'_>) -> Text<'a> {
    match value.get_ref().as_str() {
        Some(text) => Field::Given(At { value: text, place: value.span() }),
        None => {
            wrong_type(value, what, "a string", problems);
            Field::Broken
        }
    }
}

fn texts<'a>(table: &'a DeTable<'_>, key: &str, problems: &mut Problems<'_>) -> Texts<'a> {
    let Some((_, value)) = named(table, key) else { return Field::Absent };
    let what = format!("`{key}`");
    let DeValue::Array(array) = value.get_ref() else {
        wrong_type(value, &what, "an array of strings", problems);
        return Field::Broken;
    };
    if too_many(array.len(), &what, value.span(), problems) {
        return Field::Broken;
    }
    let entry = format!("an entry of `{key}`");
    let texts: Vec<_> = array
        .iter()
        .filter_map(|value| match text_of(value, &entry, problems) {
            Field::Given(at) => Some(at),
            _ => None,
        })
        .collect();
    if texts.len() < array.len() {
        return Field::Broken;
    }
    Field::Given(At { value: texts, place: value.span() })
}

fn datetime(table: &DeTable<'_>, key: &str, problems: &mut Problems<'_>) -> Field<Datetime> {
    let Some((_, value)) = named(table, key) else { return Field::Absent };
    match value.get_ref().as_datetime() {
        Some(datetime) => Field::Given(At { value: *datetime, place: value.span() }),
        None => {
            let expected = "a date like 2027-06-30 or a date-time like 2027-06-30T12:00:00Z, without quotes";
            wrong_type(value, &format!("`{key}`"), expected, problems);
            Field::Broken
        }
    }
}

fn too_many(entries: usize, what: &str, place: Range<usize>, problems: &mut Problems<'_>) -> bool {
    let over = entries > LIST_ENTRIES_MAX;
    if over {
        let message = format!("{what} has {entries} entries, more than the {LIST_ENTRIES_MAX} allowed");
        problems.report(ProblemKind::Bound, place, message);
    }
    over
}

fn wrong_type(value: &Value<'_>, what: &str, expected: &str, problems: &mut Problems<'_>) {
    let found = value.get_ref().type_str();
    problems.report(
        ProblemKind::WrongType,
        value.span(),
        format!("{what} must be {expected}; found {found}"),
    );
}

/// A list that has at least one entry. `None` when it is unusable, which has been told.
pub(super) fn list<'r, 'a>(
    field: &'r Texts<'a>,
    key: &str,
    rule: &Range<usize>,
    problems: &mut Problems<'_>,
) -> Option<&'r [At<&'a str>]> {
    match field.given() {
        Some(list) if list.value.is_empty() => {
            let message = format!("`{key}` is empty; it must have at least one entry");
            problems.report(ProblemKind::Empty, list.place.clone(), message);
            None
        }
        Some(list) => Some(&list.value),
        None => {
            if field.is_absent() {
                problems.report(ProblemKind::Missing, rule.clone(), format!("the rule has no `{key}`"));
            }
            None
        }
    }
}
