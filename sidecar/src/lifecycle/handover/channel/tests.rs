//! Tests of message boundaries, socket passing and channel errors.

use rustix::net::socketpair;

use super::*;

fn pair() -> (Channel, Channel) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let side = |socket| Channel::new(UnixStream::from_std(net::UnixStream::from(socket)).unwrap()).unwrap();
    (side(one), side(other))
}

const SOON: Duration = Duration::from_secs(10);

async fn raw(channel: &Channel, bytes: &[u8], sockets: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(sockets.is_empty() || control.push(SendAncillaryMessage::ScmRights(sockets)));
    sendmsg(&channel.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

#[tokio::test]
async fn messages_stay_whole_and_a_socket_comes_with_its_own() {
    let (one, other) = pair();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    one.send(&Message::Ready).await.unwrap();
    one.send_with_socket(&Message::Yours, listener.as_fd()).await.unwrap();
    one.send(&Message::Serving).await.unwrap();
    assert_eq!(other.receive(SOON).await.unwrap(), Message::Ready);
    let (message, mut sockets) = other.receive_with_sockets(SOON).await.unwrap();
    assert_eq!((message, sockets.len()), (Message::Yours, 1));
    let same = std::net::TcpListener::from(sockets.remove(0));
    assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
    assert_eq!(other.receive(SOON).await.unwrap(), Message::Serving);
    assert_eq!(one.peer.uid(), super::super::socket::own_uid());
}

#[tokio::test]
async fn foreign_long_and_overloaded_messages_are_errors() {
    let (one, other) = pair();
    raw(&one, b"GET / HTTP/1.1\r\n\r\n", &[]).await;
    let received = other.receive(SOON).await;
    assert!(
        matches!(received, Err(ChannelError::Message(MessageError::Unreadable { bytes: 18, .. }))),
        "{received:?}"
    );
    raw(&one, &vec![b' '; 64 * 1024], &[]).await;
    let received = other.receive(SOON).await;
    assert!(matches!(received, Err(ChannelError::Message(MessageError::TooLong))), "{received:?}");
    let socket = one.socket.as_fd();
    raw(&one, b"\"ready\"", &[socket; 8]).await;
    let received = other.receive(SOON).await;
    assert!(matches!(received, Err(ChannelError::Io(_))), "{received:?}");
    one.send(&Message::Refuse { reason: "no".into() }).await.unwrap();
    let received = other.receive(SOON).await;
    assert!(matches!(received, Err(ChannelError::Refused { ref reason }) if reason == "no"), "{received:?}");
}

#[tokio::test]
async fn timeout_and_end_are_distinguished() {
    let (one, other) = pair();
    let received = other.receive(Duration::from_millis(1)).await;
    assert!(matches!(received, Err(ChannelError::Silent { .. })), "{received:?}");
    one.send(&Message::Ready).await.unwrap();
    drop(one);
    assert_eq!(
        other.receive(SOON).await.unwrap(),
        Message::Ready,
        "a message sent before the end is received"
    );
    assert!(matches!(other.receive(SOON).await, Err(ChannelError::BrokenOff)));
    assert!(matches!(other.send(&Message::Ready).await, Err(ChannelError::BrokenOff)));
}
