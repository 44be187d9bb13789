//! What each target does with the bytes of the fuzzer: it reads them by the parser of the programs, and checks what must
//! hold of everything that is read. A panic is a find.

mod certificates;
mod documents;
mod http;
mod identities;
mod wire;

pub use certificates::{authenticator, bundle, chain, private_key};
pub use documents::{configuration, policy, problem_document, slice, takeover_message};
pub use http::{http1_heads, http2_frames};
pub use identities::{join_token, spiffe_id};
pub use wire::{tls_records, tunnel_frames};

/// The bytes in pieces, as a connection could deliver them; the first byte chooses how.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (size, rest) = data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first), rest));
    rest.chunks(match size {
        0 => usize::MAX,
        size => size,
    })
}
