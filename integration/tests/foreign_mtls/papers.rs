//! What a foreign program holds to be somebody: an SVID and the trust bundle as files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_integration::certs::{chain_pem, key_pem};
use postern_integration::{Ca, Mesh, tls};
use postern_proto::identity::Svid;

/// A directory with the files that `docs/OPERATING.md` names. Those of `orders` and of `payments` are the same, so
/// that a program can also be somebody whom it should not be.
#[derive(Debug)]
pub(crate) struct Papers {
    pub(crate) dir: PathBuf,
}

impl Papers {
    /// Those of `id`, as the mesh's CA issues them.
    pub(crate) async fn of(mesh: &Mesh, ca: &Ca, id: &str) -> Self {
        Self::with(mesh, ca, &tls::enrol(ca, id).await)
    }

    pub(crate) fn with(mesh: &Mesh, ca: &Ca, svid: &Svid) -> Self {
        Self::with_bundle(mesh, svid, &ca.run(&["bundle", "show"]))
    }

    /// With roots of its own choice.
    pub(crate) fn with_bundle(mesh: &Mesh, svid: &Svid, bundle: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let dir = mesh.path().join(format!("papers-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&dir).unwrap();
        for name in ["orders", "payments"] {
            std::fs::write(dir.join(format!("{name}.pem")), chain_pem(svid)).unwrap();
            std::fs::write(dir.join(format!("{name}.pem.key")), key_pem(svid)).unwrap();
        }
        std::fs::write(dir.join("bundle.pem"), bundle).unwrap();
        Self { dir }
    }
}
