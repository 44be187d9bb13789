//! The modules of each crate depend on each other in one direction, and each crate only on what it may. Read from the
//! `use` lines and paths of the source text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate whose modules are checked.
struct Crate {
    /// Its folder in the repository.
    folder: &'static str,
    /// So many levels of modules are looked at for circles.
    depth: usize,
    /// Each top-level module with the top-level modules that it may use.
    arrows: &'static [(&'static str, &'static [&'static str])],
    /// Crates that it must not depend on.
    forbidden: &'static [&'static str],
}

const CRATES: [Crate; 5] = [
    Crate {
        folder: "proto",
        depth: 2,
        arrows: &[
            ("authenticator", &["crypto", "identity", "mtls"]),
            ("crypto", &[]),
            ("identity", &["crypto", "segments"]),
            ("join_token", &["identity"]),
            ("mtls", &["crypto", "identity"]),
            ("policy", &["identity", "segments", "spelling"]),
            ("segments", &[]),
            ("spelling", &[]),
            ("wire", &["identity", "policy"]),
        ],
        forbidden: &["postern-server", "postern-policy-analysis", "postern-ca", "postern-sidecar", "tokio"],
    },
    Crate {
        folder: "proto/server",
        depth: 2,
        arrows: &[("config", &[]), ("handshake_limiter", &[]), ("lingering_close", &[]), ("process", &[])],
        forbidden: &["postern-policy-analysis", "postern-ca", "postern-sidecar"],
    },
    Crate {
        folder: "ca/policy-analysis",
        depth: 2,
        arrows: &[
            ("access_log", &[]),
            ("diff", &["json", "text"]),
            ("explain", &["json", "text"]),
            ("graph", &["json", "text"]),
            ("json", &[]),
            ("replay", &["access_log", "json"]),
            ("suggest", &["access_log", "text"]),
            ("text", &[]),
        ],
        forbidden: &[
            "postern-server",
            "postern-ca",
            "postern-sidecar",
            "tokio",
            "tonic",
            "rusqlite",
            "rcgen",
            "ring",
        ],
    },
    Crate {
        folder: "ca",
        depth: 1,
        arrows: &[
            (
                "api",
                &["attest", "authority", "config", "issue", "rates", "registry", "store", "subscriptions"],
            ),
            ("attest", &["authority"]),
            ("authority", &[]),
            ("cli", &["config", "serve"]),
            ("config", &[]),
            ("issue", &["authority", "registry", "store"]),
            ("rates", &["config"]),
            ("registry", &["attest", "store"]),
            ("serve", &["api", "authority", "config", "store", "subscriptions"]),
            ("store", &[]),
            ("subscriptions", &[]),
        ],
        forbidden: &["postern-sidecar"],
    },
    Crate {
        folder: "sidecar",
        depth: 2,
        arrows: &[
            ("cli", &["admin", "clock", "config", "error_text", "identity", "lifecycle", "observability"]),
            (
                "lifecycle",
                &[
                    "admin",
                    "clock",
                    "config",
                    "control",
                    "error_text",
                    "identity",
                    "network",
                    "observability",
                    "proxy",
                ],
            ),
            ("admin", &["config", "control", "identity", "observability", "proxy"]),
            ("proxy", &["clock", "config", "control", "error_text", "identity", "network", "observability"]),
            ("control", &["clock", "config", "error_text", "identity", "network", "observability"]),
            ("identity", &["clock", "config", "error_text", "network"]),
            ("network", &["config", "error_text", "observability"]),
            ("observability", &["clock", "config"]),
            ("config", &["error_text"]),
            ("clock", &[]),
            ("error_text", &[]),
        ],
        forbidden: &["postern-policy-analysis", "postern-ca"],
    },
];

#[test]
fn modules_use_only_the_modules_that_the_table_allows() {
    for checked in &CRATES {
        let source = Source::read(checked.folder);
        let listed: BTreeSet<_> = checked.arrows.iter().map(|(module, _)| (*module).to_owned()).collect();
        let found = source.modules.iter().filter(|module| !module.is_empty()).map(|module| top(module, 1));
        let found: BTreeSet<_> = found.filter(|module| module != "main").collect();
        assert_eq!(found, listed, "the table lists the top-level modules of {}", checked.folder);
        for ((from, to), file) in source.arrows(1) {
            let allowed = checked.arrows.iter().any(|(module, may)| *module == from && may.contains(&&*to));
            assert!(allowed, "{}: {from} must not use {to}", file.display());
        }
    }
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    for checked in &CRATES {
        for depth in 1..=checked.depth {
            let arrows = Source::read(checked.folder).arrows(depth);
            if let Some(circle) = circle(&arrows) {
                panic!("{}: a circle of modules: {}", checked.folder, circle.join(" -> "));
            }
        }
    }
}

#[test]
fn crates_depend_only_on_crates_below_them() {
    for checked in &CRATES {
        let manifest = fs::read_to_string(root().join(checked.folder).join("Cargo.toml")).unwrap();
        let section = manifest.split("[dependencies]\n").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let dependencies: BTreeSet<_> =
            section.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).collect();
        for forbidden in checked.forbidden {
            assert!(!dependencies.contains(forbidden), "{} must not depend on {forbidden}", checked.folder);
        }
    }
}

#[test]
fn a_circle_and_every_form_of_use_are_found() {
    let modules = ["a", "a::x", "b", "b::y", "c"].map(str::to_owned).into();
    let text =
        "use crate::{b::{y::Thing, other}, c};\n// use crate::nothing;\nfn f() { super::super::c::g(); }";
    let used: BTreeSet<_> = used_modules("a::x", text, &modules).collect();
    assert_eq!(used, ["b", "b::y", "c"].map(str::to_owned).into());
    let arrow = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), PathBuf::new());
    assert_eq!(circle(&[arrow("a", "b"), arrow("b", "c")].into()), None);
    assert_eq!(circle(&[arrow("a", "b"), arrow("b", "c"), arrow("c", "b")].into()).unwrap(), ["b", "c", "b"]);
}

type Arrows = BTreeMap<(String, String), PathBuf>;

/// The files of a crate without its tests.
struct Source {
    /// By path, as in `mtls::config`; the crate itself is the empty one.
    modules: BTreeSet<String>,
    files: Vec<(PathBuf, String)>,
}

impl Source {
    fn read(folder: &str) -> Self {
        let source = root().join(folder).join("src");
        let mut files = Vec::new();
        collect(&source, &source, &mut files);
        Self { modules: files.iter().map(|(_, module)| module.clone()).collect(), files }
    }

    /// Who uses whom, with the modules cut to so many levels, and a file that does.
    fn arrows(&self, depth: usize) -> Arrows {
        let mut arrows = Arrows::new();
        for (file, module) in self.files.iter().filter(|(_, module)| !module.is_empty() && module != "main") {
            let text = fs::read_to_string(file).unwrap();
            for used in used_modules(module, &text, &self.modules) {
                let (from, to) = (top(module, depth), top(&used, depth));
                if from != to {
                    arrows.entry((from, to)).or_insert_with(|| file.clone());
                }
            }
        }
        arrows
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn collect(source: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(source, &path, files);
            continue;
        }
        let Ok(inside) = path.strip_prefix(source).unwrap().with_extension("").into_os_string().into_string()
        else {
            continue;
        };
        let module = inside.replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module);
        if path.extension().is_some_and(|ending| ending == "rs") && !module.ends_with("tests") {
            files.push((path, if module == "lib" { String::new() } else { module.to_owned() }));
        }
    }
}

fn top(module: &str, depth: usize) -> String {
    module.split("::").take(depth).collect::<Vec<_>>().join("::")
}

/// The modules of the same crate that a module's text names, by `use` or in a path.
fn used_modules<'a>(
    module: &'a str,
    text: &str,
    modules: &'a BTreeSet<String>,
) -> impl Iterator<Item = String> + use<'a> {
    let text = without_comments_and_tests(text);
    let mut paths = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = ["crate::", "super::", "self::"].iter().filter_map(|start| rest.find(start)).min() {
        let begins = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let end = path_end(&rest[at..]);
        if begins {
            expand("", &rest[at..at + end], &mut paths);
        }
        rest = &rest[at + end.max(1)..];
    }
    paths.into_iter().filter_map(move |path| resolve(module, &path, modules))
}

fn without_comments_and_tests(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Where a path ends that may have a tree in braces.
fn path_end(text: &str) -> usize {
    let mut open = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' if open > 0 || text[..at].ends_with("::") => open += 1,
            '}' if open > 0 => {
                open -= 1;
                if open == 0 {
                    return at + 1;
                }
            }
            _ if open > 0 || character.is_alphanumeric() || character == '_' || character == ':' => {}
            _ => return at,
        }
    }
    text.len()
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        paths.push(format!("{prefix}{name}"));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let body = body.strip_suffix('}').unwrap_or(body);
    let (mut open, mut start) = (0, 0);
    for (at, character) in body.char_indices().chain([(body.len(), ',')]) {
        match character {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 0 => {
                if !body[start..at].trim().is_empty() {
                    expand(&prefix, &body[start..at], paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The longest module that a path from a module begins with; none if it is the crate itself.
fn resolve(module: &str, path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut at: Vec<&str> = module.split("::").collect();
    for (number, segment) in path.split("::").enumerate() {
        match (number, segment) {
            (0, "crate") => at.clear(),
            (0, "self") => {}
            (_, "super") => drop(at.pop()),
            _ => at.push(segment),
        }
    }
    while !at.is_empty() && !modules.contains(&at.join("::")) {
        at.pop();
    }
    (!at.is_empty()).then(|| at.join("::"))
}

/// Modules of which each uses the next, and the last is the first.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    let all: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).collect();
    all.into_iter().find_map(|start| way(start, start, arrows, &mut BTreeSet::new())).map(|mut way| {
        way.reverse();
        way
    })
}

/// From a module to another, last first.
fn way(from: &String, to: &String, arrows: &Arrows, seen: &mut BTreeSet<String>) -> Option<Vec<String>> {
    for (_, next) in arrows.keys().filter(|(user, _)| user == from) {
        if next == to {
            return Some(vec![to.clone(), from.clone()]);
        }
        if seen.insert(next.clone())
            && let Some(mut found) = way(next, to, arrows, seen)
        {
            found.push(from.clone());
            return Some(found);
        }
    }
    None
}
