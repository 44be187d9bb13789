//! Programs that know nothing of Postern but hold SVIDs of its CA call a sidecar and are called by one: nginx,
//! haproxy, Envoy, Go, curl and openssl, as `docs/OPERATING.md` configures them.

mod alpn;
mod app;
mod called;
mod calling;
mod distrust;
mod documented;
mod impostors;
mod kept_svid;
mod openssl;
mod papers;
mod program;
mod requests;
mod strangers;
mod traffic;
