//! What a dial that fails teaches about an address whose open connections are all in use.

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{HostPort, Http, Limits};
use crate::network::resolver::NameServers;
use crate::observability::Direction;
use crate::observability::metrics::Metrics;
use crate::proxy::http::client::{Http1Sender, http1_builder};

/// An app of HTTP/1.1 that may be exchanged for another.
#[derive(Clone)]
struct Http1App {
    upstreams: Arc<Upstreams>,
    tasks: ConnectionTasks,
    /// As which further dials fail, if they do.
    fails_as: Arc<Mutex<Option<DialResult>>>,
}

impl PoolTarget for Http1App {
    type Epoch = ();

    fn upstreams(&self) -> &Arc<Upstreams> {
        &self.upstreams
    }

    async fn dial(
        &self,
        mut leased: upstream::SelectedAddress,
        _: Kind,
        path: ConnectionType,
    ) -> Result<Dialed, DialError> {
        if let Some(result) = *self.fails_as.lock().unwrap() {
            let failure = DialFailure::new(self.unreached("not now".to_owned()), None);
            return Err(DialError::Failed(failure.counted_as(result)));
        }
        if path == ConnectionType::Shared {
            leased.handle().learn(Some(HttpVersion::Http1));
            return Err(DialError::Http1 { refused: None, is_guess: true });
        }
        let (stream, end) =
            (leased.connect().await.unwrap(), ServerEnd::new(&leased, CancellationToken::new()));
        let sender = Http1Sender::begin(&http1_builder(&Http::default()), stream, &self.tasks).await;
        Ok(Dialed::Single(sender.unwrap(), end))
    }

    fn is_exchangeable(&self) -> bool {
        true
    }

    fn report(&self, _: Refusal) {}

    fn unreached(&self, detail: String) -> Failure {
        Failure::unreachable("app_unreachable", detail)
    }
}

#[tokio::test]
async fn a_fault_of_this_machine_does_not_make_the_version_of_an_app_unknown() {
    // Its connections wait in the kernel.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let to = HostPort { host: at.ip().to_string(), port: at.port() };
    for (result, http_version) in
        [(DialResult::LocalFault, Some(HttpVersion::Http1)), (DialResult::Failed, None)]
    {
        let metrics = Arc::<Metrics>::default();
        let series = metrics.series.listener(Direction::Inbound, "api");
        let limits = Limits::default();
        let upstreams =
            Upstreams::new(std::slice::from_ref(&to), series, limits, NameServers::default(), metrics);
        let tasks = ConnectionTasks::new(&TaskTracker::new(), &CancellationToken::new());
        let bounds = Bounds { idle_timeout: Duration::from_secs(60), shared_max: 1 };
        let pool = Pool::new(upstreams.clone(), bounds, tasks.clone());
        let app = Http1App { upstreams: upstreams.clone(), tasks, fails_as: Arc::default() };
        let lease = || pool.lease(&(), Kind::Any, OffsetDateTime::UNIX_EPOCH, &app);
        let _in_use = lease().await.unwrap();
        *app.fails_as.lock().unwrap() = Some(result);
        lease().await.unwrap_err();
        assert_eq!(upstreams.known()[0].handle.http_version(), http_version, "{result:?}");
    }
}
