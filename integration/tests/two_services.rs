//! The README of `examples/two-services/` works as it is written: its commands, its output.

use std::path::Path;

use postern_integration::walkthrough::{Typist, steps};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_does_what_the_readme_shows() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let readme = std::fs::read_to_string(root.join("examples/two-services/README.md")).unwrap();
    let steps = steps(&readme);
    assert_eq!(steps.len(), 10, "{steps:#?}");
    let (clean_up, steps) = steps.split_last().unwrap();
    let mut typist = Typist::new(root).await;
    for step in steps {
        typist.step(step).await;
    }
    typist.end().await;
    typist.step(clean_up).await;
    assert!(!root.join("examples/two-services/state").exists());
}
