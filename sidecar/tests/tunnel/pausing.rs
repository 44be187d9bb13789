//! Tasks that are not polled for a while, as if their side were busy elsewhere.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// One for all tasks of a side.
#[derive(Debug, Default)]
pub struct Gate {
    closed: Mutex<(bool, Vec<Waker>)>,
}

impl Gate {
    pub fn close(&self) {
        self.closed.lock().unwrap().0 = true;
    }

    pub fn open(&self) {
        let wakers = {
            let mut closed = self.closed.lock().unwrap();
            closed.0 = false;
            std::mem::take(&mut closed.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Polls the future only while the gate is open.
pub async fn pausing<T>(gate: Arc<Gate>, future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |cx| poll(&gate, future.as_mut(), cx)).await
}

fn poll<T>(gate: &Gate, future: Pin<&mut impl Future<Output = T>>, cx: &mut Context<'_>) -> Poll<T> {
    {
        let mut closed = gate.closed.lock().unwrap();
        if closed.0 {
            closed.1.push(cx.waker().clone());
            return Poll::Pending;
        }
    }
    future.poll(cx)
}
