//! The admin socket: a Unix socket for the user that runs the CA, and for root.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tracing::warn;

const ROOT: u32 = 0;

/// Opens the socket. One that a dead CA left behind is replaced; one that answers, and a file that is no socket, stay.
pub(super) async fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            let what = "there is something else than a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => remove_stale(path).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn remove_stale(socket: &Path) -> io::Result<()> {
    match UnixStream::connect(socket).await {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(socket),
        Err(error) => Err(error),
    }
}

/// The connections of those who may.
pub(super) fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    let own = own_user();
    UnixListenerStream::new(listener).filter(move |connected| {
        let Ok(stream) = connected else { return true };
        match stream.peer_cred().map(|peer| peer.uid()) {
            Ok(user) if user == ROOT || Some(user) == own => true,
            user => {
                warn!(?user, "refused at the admin socket");
                false
            }
        }
    })
}

/// The user that runs this process, as the owner of its own entry in `/proc`.
fn own_user() -> Option<u32> {
    std::fs::metadata("/proc/self").map(|own| own.uid()).ok()
}

/// Takes the socket away, so that nobody waits at a closed door.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        warn!(%error, path = %path.display(), "cannot remove the admin socket");
    }
}
