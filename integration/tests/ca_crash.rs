//! `kill -9` of the CA in the middle of a thousand issuances: whatever a client received is on record, the store opens
//! clean, and renewals go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_integration::{CaOptions, Mesh, eventually, tls};
use postern_proto::identity::Svid;
use tokio::task::JoinSet;

const ISSUANCES: usize = 1_000;
const CLIENTS: usize = 100;

fn serial(svid: &Svid) -> String {
    let serial = svid.verified().serial();
    serial.strip_prefix(&[0]).unwrap_or(serial).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_certificate_that_was_received_is_on_record_after_kill_9() {
    let mesh = Mesh::default();
    let extra = "[limits]\nidentity_per_second = 100000\nidentity_burst = 100000\naddress_per_second = 100000\n\
        address_burst = 100000\n";
    let mut ca = mesh.ca(CaOptions { extra, ..CaOptions::default() }).await;
    let token = ca.run(&["token", "create", "--id", "orders", "--uses", &ISSUANCES.to_string()]);
    let (received, client) = (Arc::new(AtomicUsize::new(0)), Arc::new(tls::Enroller::new(&ca)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, token, received) = (client.clone(), token.clone(), received.clone());
        clients.spawn(async move {
            let mut svids = Vec::new();
            for _ in 0..ISSUANCES / CLIENTS {
                match client.redeem(&token).await {
                    Ok(svid) => {
                        received.fetch_add(1, Ordering::Relaxed);
                        svids.push(svid);
                    }
                    Err(_) => break,
                }
            }
            svids
        });
    }
    eventually("a third of them issued", async || {
        (received.load(Ordering::Relaxed) >= ISSUANCES / 3).then_some(())
    })
    .await;
    ca.program.kill().await;
    let svids = clients.join_all().await.concat();
    assert!(svids.len() < ISSUANCES, "the kill came in the middle: {}", svids.len());

    ca.restart().await;
    let list: serde_json::Value =
        serde_json::from_str(&ca.run(&["cert", "list", "--format", "json"])).unwrap();
    let records = list["certificates"].as_array().unwrap();
    let on_record: HashSet<_> = records.iter().map(|record| record["serial"].as_str().unwrap()).collect();
    for svid in &svids {
        assert!(
            on_record.contains(serial(svid).as_str()),
            "{} was received and is not on record",
            serial(svid)
        );
    }
    tls::renew(&ca, svids.last().unwrap()).await.unwrap();
    ca.stop().await;
}
