//! The leased tunnel `postern/1` (docs/WIRE.md): one TLS connection carries app connections one after the other.

mod closing;
mod connection;
mod frame;
mod lease;
mod note;
mod open;
mod pool;
mod reader;
mod reauthentication;
mod replay;
mod retired;

pub use closing::{SETTLE_TIMEOUT, end, retire, settle};
pub use connection::{TunnelConnection, TunnelError};
pub use frame::{Decoder, Event, Frame, FrameError, HEADER_BYTES, header};
pub use lease::{Lease, Role, Violation};
pub use note::Note;
pub use open::{Open, OpenError};
pub use pool::{Pool, PoolRegister, TUNNELS_SHOWN_MAX, Tunnel};
pub use reauthentication::{AUTH_FRAMES_MAX, Reauthentication, ReauthenticationError};
pub use replay::ReplayBuffer;
pub use retired::{RETIRED_BYTES_MAX, RETIRED_TIMEOUT};

/// What both sides must name in ALPN (RFC 7301) to speak this instead of the app's plain bytes.
pub const ALPN: &[u8] = b"postern/1";
