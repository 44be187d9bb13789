//! A foreign server with the SVID of the service that is called serves a sidecar's outbound.
