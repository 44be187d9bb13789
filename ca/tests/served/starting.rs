//! How a CA starts: alone in its directory, without touching what is not its own, and saying what people need.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use crate::fixture::{Home, postern_ca};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What a CA that does not start says.
fn refused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn keys_records_and_socket_are_their_owners_alone() {
    let home = Home::new();
    let ca = home.start("");
    for dir in ["", "authority"] {
        assert_eq!(mode(&ca.data_dir.join(dir)), 0o700, "{dir}");
    }
    for file in ["lock", "store.sqlite", "admin.sock", "authority/root.pem", "authority/issuer.pem"] {
        assert_eq!(mode(&ca.data_dir.join(file)), 0o600, "{file}");
    }
}

#[test]
fn two_cas_do_not_share_a_directory() {
    let home = Home::new();
    let ca = home.start("");
    let pin = ca.told(&["status"]);
    let said = refused(home.serve("").output().unwrap());
    assert!(said.contains("another postern-ca uses"), "{said}");
    assert_eq!(ca.told(&["status"]), pin, "the first is undisturbed");
}

#[test]
fn another_trust_domain_does_not_take_over_a_directory() {
    let home = Home::new();
    drop(home.start(""));
    let other = postern_ca()
        .args(["serve", "--trust-domain", "other.example", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(home.path().join("data"))
        .output();
    let said = refused(other.unwrap());
    assert!(said.contains("shop.example") && said.contains("other.example"), "{said}");
}

#[test]
fn the_socket_of_a_killed_ca_is_replaced() {
    let home = Home::new();
    let mut ca = home.start("");
    let pin = ca.told(&["bundle", "show"]);
    ca.signal("-KILL");
    ca.wait();
    assert!(ca.data_dir.join("admin.sock").exists());
    assert_eq!(home.start("").told(&["bundle", "show"]), pin);
}

#[test]
fn a_socket_that_answers_and_a_file_that_is_no_socket_are_left_alone() {
    let home = Home::new();
    let path = home.path().join("taken");
    let extra = "admin_socket = \"taken\"\n";
    std::fs::write(&path, "a file of somebody's").unwrap();
    let said = refused(home.serve(extra).output().unwrap());
    assert!(said.contains("taken") && said.contains("else than a socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file of somebody's");

    std::fs::remove_file(&path).unwrap();
    let _answers = UnixListener::bind(&path).unwrap();
    let said = refused(home.serve(extra).output().unwrap());
    assert!(said.contains("another program answers there"), "{said}");
}

#[test]
fn a_directory_with_other_things_in_it_is_not_closed_to_others_and_one_open_to_all_is_refused() {
    let home = Home::new();
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("letter"), "dear").unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let said = refused(home.serve("").output().unwrap());
    assert!(said.contains("everybody can write"), "{said}");
    assert_eq!((mode(&data), std::fs::read_dir(&data).unwrap().count()), (0o777, 1));

    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _ca = home.start("");
    assert_eq!((mode(&data), mode(&data.join("authority"))), (0o755, 0o700));
}

#[test]
fn a_bad_configuration_is_told_whole_with_exit_code_2() {
    let home = Home::new();
    let output = home.serve("svid_ttl = \"5s\"\n[limits]\nrequests_mox = 3\n").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ca.toml:6:") && said.contains("requests_max"), "{said}");
    let output = home.serve("svid_ttl = \"5s\"\n").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["ca.toml:4:", "svid_ttl", "\"5s\"", "10s", "24h"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn usage_that_makes_no_sense_is_exit_code_2() {
    for args in [&["serve"][..], &["serve", "--trust-domain", "Shop.example", "--data-dir", "d"], &["tokn"]] {
        let output = postern_ca().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
