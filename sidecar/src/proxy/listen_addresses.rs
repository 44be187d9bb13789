//! The bound addresses of the listeners.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::observability::Direction;

/// The bound address of each listener. Port 0 is replaced by the port that the kernel chose.
#[derive(Debug, Default)]
pub struct ListenAddresses(Mutex<HashMap<(Direction, usize), SocketAddr>>);

impl ListenAddresses {
    pub fn enter(&self, direction: Direction, listener: usize, address: SocketAddr) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((direction, listener), address);
    }

    /// None for a listener that is not open.
    pub fn of(&self, direction: Direction, listener: usize) -> Option<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(direction, listener)).copied()
    }
}
