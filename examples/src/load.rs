//! Steady requests that count what went wrong.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::http;

/// So many at once.
const CLIENTS: usize = 4;
/// Between two requests of one client: the load shall be steady, not hard.
const BREATH: Duration = Duration::from_millis(10);

/// What came of the requests so far.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: Cell<u64>,
    pub(crate) failed: Cell<u64>,
}

/// Sends requests, each on a connection of its own, as long as `meanwhile` takes.
pub(crate) async fn during<T>(
    address: SocketAddr,
    meanwhile: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Rc<Count>)> {
    let count = Rc::new(Count::default());
    let local = tokio::task::LocalSet::new();
    let stop = Rc::new(Cell::new(false));
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| local.spawn_local(client(address, count.clone(), stop.clone()))).collect();
    let done = local
        .run_until(async {
            let done = meanwhile.await;
            stop.set(true);
            for client in clients {
                // A client cannot fail other than by a panic, which must be seen.
                client.await?;
            }
            done
        })
        .await?;
    Ok((done, count))
}

async fn client(address: SocketAddr, count: Rc<Count>, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let good = matches!(http::get(address, "/").await, Ok((200, body)) if body == "this is payments\n");
        count.sent.set(count.sent.get() + 1);
        count.failed.set(count.failed.get() + u64::from(!good));
        tokio::time::sleep(BREATH).await;
    }
}
