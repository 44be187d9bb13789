//! A sidecar without listeners keeps an SVID for a program that has none, as `docs/OPERATING.md` says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postern_integration::{CaOptions, SidecarSpec, tools};
use tokio::process::Command;

use crate::called::Payments;
use crate::documented;
use crate::papers::Papers;
use crate::program::{Foreign, Kind, Role};
use crate::traffic;

#[tokio::test]
async fn the_documented_commands_make_papers_of_a_sidecars_state() {
    if !tools::has("jq") || !tools::has("openssl") {
        return;
    }
    let mut payments = Payments::start(CaOptions::default()).await;
    let keeper = payments.mesh.sidecar(&payments.ca, &SidecarSpec::new("orders"));
    keeper.program.line_with(&["identity in place"]).await;
    let dir = payments.mesh.path().join("made");
    std::fs::create_dir(&dir).unwrap();
    let script = documented::configuration("an SVID out of a sidecar's state", &dir, &[]);
    let script = script.replace("state/identity.json", "orders.state/identity.json");
    let mut shell = Command::new("bash");
    let ran = shell.args(["-euo", "pipefail", "-c", &script]).current_dir(payments.mesh.path()).output();
    let ran = ran.await.unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(mode(&dir.join("orders.pem.key")), 0o600);
    let papers = Papers { dir };
    for kind in Kind::here() {
        println!("{kind:?}");
        let caller = Foreign::start(kind, Role::Client, &papers, payments.places()).await;
        traffic::bulk_passes(caller.at.tcp).await;
        let _of_the_bulk = payments.app.end().await;
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
