//! Each connection is one line of the access log, and nothing ever waits for whoever reads it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postern_sidecar::config::{AccessLogConfig, AccessLogTarget};
use postern_sidecar::observability::Direction;
use postern_sidecar::observability::access_log::{AccessLog, AccessLogEntry, AccessRecord};
use postern_sidecar::observability::refusals::Called;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::apps::{App, echoed};
use crate::authority::Authority;
use crate::sidecar::{Spec, eventually};

fn read(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(log: &AccessLog, connection: u64) {
    log.write(&AccessLogEntry {
        time: OffsetDateTime::UNIX_EPOCH,
        direction: Direction::Inbound,
        protocol: "tcp",
        from: "spiffe://shop.example/orders",
        called: &Called::default(),
        call: None,
        record: &AccessRecord::default(),
        bytes: (1, 2),
        duration: Duration::from_micros(1_500),
        connection: Some(connection),
    });
}

#[tokio::test]
async fn a_connection_is_told_at_its_end_on_both_sides() {
    let (authority, app, dir) = (Authority::new(), App::echo().await, tempfile::tempdir().unwrap());
    let to = |name: &str| {
        let to = AccessLogTarget::File(dir.path().join(name));
        Some(AccessLogConfig { to, lines_waiting_max: 100 })
    };
    let mut payments = Spec::new(&authority, "payments").app(app.address);
    payments.access_log = to("payments");
    let payments = payments.start(&authority);
    let caller = |name: &str| {
        let mut spec = Spec::new(&authority, name).to(&[payments.inbound.unwrap()]);
        spec.access_log = to(name);
        spec.start(&authority)
    };
    let (orders, reports) = (caller("orders"), caller("reports"));

    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream.shutdown().await.unwrap();
    let line = |name: &str| {
        let log = dir.path().join(name);
        async move { eventually("a line", || read(&log).into_iter().next()).await }
    };
    let (inbound, outbound) = (line("payments").await, line("orders").await);
    for (line, direction) in [(&inbound, "inbound"), (&outbound, "outbound")] {
        assert_eq!(line["direction"], direction, "{line}");
        assert_eq!((&line["protocol"], &line["decision"]), (&"tcp".into(), &"allow".into()), "{line}");
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &4.into()), "{line}");
        assert_eq!(line["from"], "spiffe://shop.example/orders");
        assert_eq!(line["to"], "spiffe://shop.example/payments");
    }
    assert_eq!((&inbound["port"], &inbound["rule"]["line"]), (&"api".into(), &6.into()), "{inbound}");
    assert_eq!(inbound["trace_id"].as_str().map(str::len), Some(32), "{inbound}");
    assert_eq!(inbound["trace_id"], outbound["trace_id"], "so both lines are found together");
    assert!(outbound["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{outbound}");

    // What the first connection said has been written; what comes next is the refused one's.
    std::fs::remove_file(dir.path().join("payments")).unwrap();
    payments.proxy.access_log.reopen();
    TcpStream::connect(reports.outbound.unwrap()).await.unwrap().write_all(b"word").await.unwrap();
    let refused = line("payments").await;
    assert_eq!((&refused["decision"], &refused["reason"]), (&"deny".into(), &"denied".into()), "{refused}");
    assert_eq!(refused["from"], "spiffe://shop.example/reports");
    let told = line("reports").await;
    assert_eq!(told["reason"], "access_denied");
    assert_eq!(told["trace_id"], refused["trace_id"]);
    assert_ne!(told["trace_id"], outbound["trace_id"]);
}

#[test]
fn a_reader_who_does_not_read_stalls_nobody_and_lost_lines_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let pipe: PathBuf = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let log = AccessLog::open(&AccessLogTarget::File(pipe.clone()), 64).unwrap();
    // More than pipe, buffer and queue hold together.
    (0..10_000).for_each(|number| write(&log, number));
    let (dropped, failed) = log.lost_lines();
    assert!(dropped > 0, "the queue is bounded");
    assert_eq!(failed, 0);

    let reader = BufReader::new(std::fs::File::open(&pipe).unwrap());
    let kept = 10_000 - usize::try_from(dropped).unwrap();
    let lines: Vec<Value> =
        reader.lines().take(kept).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(lines.len(), kept, "what was taken is written, whole");
    assert_eq!((&lines[0]["connection"], &lines[0]["duration_ms"]), (&0.into(), &1.5.into()));
}

#[test]
fn a_log_that_is_moved_away_and_opened_anew_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = AccessLog::open(&AccessLogTarget::File(path.clone()), 1_000).unwrap();
    (0..100).for_each(|number| write(&log, number));
    log.flush();
    std::fs::rename(&path, &old).unwrap();
    (100..200).for_each(|number| write(&log, number));
    log.reopen();
    (200..300).for_each(|number| write(&log, number));
    log.flush();
    let numbers: Vec<u64> =
        [read(&old), read(&path)].concat().iter().map(|line| line["connection"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    assert_eq!(read(&path).len(), 100, "the new file has what came after");
    assert_eq!(log.lost_lines(), (0, 0));
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let log = AccessLog::open(&AccessLogTarget::File("/dev/full".into()), 1_000).unwrap();
    (0..100).for_each(|number| write(&log, number));
    log.flush();
    assert_eq!(log.lost_lines(), (0, 100));
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let error = AccessLog::open(&AccessLogTarget::File(dir.path().to_owned()), 10).unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}
