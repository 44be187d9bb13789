//! Both container images are built, and the two-services example runs in them: read-only, as a numeric user.

use std::process::Command;

use postern_integration::ca_binary;
use postern_integration::tools::has;

#[test]
fn the_two_services_example_runs_in_containers() {
    if !["podman", "runc", "curl"].into_iter().all(has) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/containers/two-services");
    let output = Command::new(script).arg(ca_binary().parent().unwrap()).output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("this is payments"), "{told}");
}
