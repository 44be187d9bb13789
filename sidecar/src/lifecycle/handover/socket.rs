//! The restart socket, a Unix socket of mode 0600. It is created atomically and never replaces a socket in use by
//! another process.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use rustix::net::{SocketAddrUnix, bind, listen};
use rustix::process::geteuid;
use thiserror::Error;
use tokio::net::UnixListener;
use tracing::warn;

use super::channel::{Channel, socket};

const MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Length of the listen queue.
const BACKLOG: i32 = 8;

/// Why the restart socket cannot be created or used.
#[derive(Debug, Error)]
pub enum HandoverSocketError {
    #[error("restart.socket {}: cannot {doing}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("restart.socket {}: is there and no socket; it is left alone", path.display())]
    NoSocket { path: PathBuf },
    #[error("restart.socket {}: belongs to a process of user {peer}, not of this one's, {own}", path.display())]
    Foreign { path: PathBuf, own: u32, peer: u32 },
}

/// An open restart socket. A process that crashes leaves the file, which the next one replaces.
#[derive(Debug)]
pub(super) struct HandoverSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode number of the file.
    inode: (u64, u64),
    published: bool,
}

impl HandoverSocket {
    /// Creates the socket under a temporary name, so that an existing one stays until [`Self::publish`].
    pub(super) fn open(path: &Path) -> Result<Self, HandoverSocketError> {
        let failed = |doing| move |cause| HandoverSocketError::Io { doing, path: path.to_owned(), cause };
        let new = temporary_path(path);
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(DIR_MODE)
                .create(dir)
                .map_err(failed("make the directory"))?;
        }
        remove(&new).map_err(failed("remove what an earlier start left"))?;
        let socket = socket().map_err(failed("make a socket"))?;
        let address = SocketAddrUnix::new(&new).map_err(|error| failed("use the path")(error.into()))?;
        bind(&socket, &address).map_err(|error| failed("make the file")(error.into()))?;
        // Set the mode before listen: nobody can connect earlier.
        fs::set_permissions(&new, Permissions::from_mode(MODE)).map_err(failed("protect the file"))?;
        listen(&socket, BACKLOG).map_err(|error| failed("listen")(error.into()))?;
        let inode = inode(&new).map_err(failed("look at the file"))?;
        let listener = UnixListener::from_std(net::UnixListener::from(socket)).map_err(failed("listen"))?;
        Ok(Self { listener, path: path.to_owned(), inode, published: false })
    }

    /// Renames the socket to its path. It replaces nothing, the file of a process that has ended, or the socket of the
    /// process whose listeners were taken over.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        fs::rename(temporary_path(&self.path), &self.path)?;
        self.published = true;
        Ok(())
    }

    pub(super) async fn accept(&self) -> io::Result<Channel> {
        let (socket, _) = self.listener.accept().await?;
        Channel::new(socket)
    }

    /// Removes the file if it is still this process's. It is removed while still listening, so that no other process
    /// can have replaced it meanwhile.
    pub(super) fn close(self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            log_failed_removal(&self.path, fs::remove_file(&self.path));
        }
    }
}

/// Removes the temporary file of a socket that was never published.
impl Drop for HandoverSocket {
    fn drop(&mut self) {
        if !self.published {
            let path = temporary_path(&self.path);
            log_failed_removal(&path, remove(&path));
        }
    }
}

fn log_failed_removal(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        warn!(path = %path.display(), %error, "the restart socket's file stays");
    }
}

/// Connects to the process that listens at the path, if there is one.
pub(super) fn connect(path: &Path) -> Result<Option<Channel>, HandoverSocketError> {
    let failed = |doing| move |cause| HandoverSocketError::Io { doing, path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(HandoverSocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("look at the file")(error)),
    }
    let channel = match Channel::connect(path) {
        Ok(channel) => channel,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed("ask the process that listens there")(error)),
    };
    let (own, peer) = (own_uid(), channel.peer.uid());
    if peer == own || peer == ROOT || own == ROOT {
        return Ok(Some(channel));
    }
    Err(HandoverSocketError::Foreign { path: path.to_owned(), own, peer })
}

/// Whether a process of that user may take over the listeners.
pub(super) fn may_take_over(peer: u32) -> bool {
    allows(own_uid(), peer)
}

fn allows(own: u32, peer: u32) -> bool {
    peer == own || peer == ROOT
}

const ROOT: u32 = 0;

pub(super) fn own_uid() -> u32 {
    geteuid().as_raw()
}

/// Whether the file does not exist, or the process that created it has ended.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    new.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_take_over() {
        assert!(allows(1000, 1000) && allows(1000, 0) && allows(0, 0));
        assert!(!allows(1000, 1001) && !allows(0, 1000) && !allows(1000, 65534));
    }

    #[tokio::test]
    async fn a_door_is_for_its_owner_only_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/restart.sock");
        assert!(connect(&path).unwrap().is_none(), "nobody, and no file");
        let handover_socket = HandoverSocket::open(&path).unwrap();
        assert!(connect(&path).unwrap().is_none(), "not published");
        drop(handover_socket);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "and never was");
        let mut handover_socket = HandoverSocket::open(&path).unwrap();
        handover_socket.publish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(connect(&path).unwrap().is_some());
        assert_eq!(handover_socket.accept().await.unwrap().peer.uid(), own_uid());
        handover_socket.close();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_file_of_a_process_that_is_gone_is_replaced_and_that_of_another_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restart.sock");
        let mut gone = HandoverSocket::open(&path).unwrap();
        gone.publish().unwrap();
        drop(gone);
        assert!(path.exists() && connect(&path).unwrap().is_none());
        let mut old = HandoverSocket::open(&path).unwrap();
        old.publish().unwrap();
        let mut new = HandoverSocket::open(&path).unwrap();
        new.publish().unwrap();
        old.close();
        assert!(connect(&path).unwrap().is_some(), "the new one's file stays");
        new.close();
    }

    #[tokio::test]
    async fn file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restart.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(connect(&path), Err(HandoverSocketError::NoSocket { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(connect(&path), Err(HandoverSocketError::NoSocket { .. })));
    }
}
