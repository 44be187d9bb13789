//! The commands of `examples/two-services/README.md` do what it says, typed exactly as they stand there.

use std::path::Path;
use std::process::Command;

use postern_integration::ca_binary;
use postern_integration::tools::has;

/// The code blocks, without the one that builds: the test has built already.
fn commands(readme: &str) -> String {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commands_of_the_readme_work_as_they_stand() {
    if !["bash", "curl"].into_iter().all(has) {
        return;
    }
    let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/two-services"));
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(example.join(".")).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    let script = commands(&std::fs::read_to_string(example.join("README.md")).unwrap());
    assert!(script.contains("postern-ca serve") && script.contains("postern-sidecar run"), "{script}");
    let path = format!("{}:{}", ca_binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-m", "-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = format!("{out}\n{}", String::from_utf8_lossy(&output.stderr));
    for expected in
        ["spiffe://shop.example/payments", "urn:postern:denied", "deny on port \"api\"", "the stream was cut"]
    {
        assert!(out.contains(expected), "{expected:?} is missing:\n{told}");
    }
    let charged = "this is payments, called by spiffe://shop.example/orders\n";
    assert!(out.matches(charged).count() == 2, "what stays allowed goes on:\n{told}");
    assert!(!dir.path().join("run").exists(), "nothing is left:\n{told}");
}
