//! Where the listeners are open.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::observability::Direction;

/// Where each listener really listens: the port may have been the system's choice.
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
